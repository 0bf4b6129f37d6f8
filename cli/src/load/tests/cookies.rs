//! Cookies over real connections.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Response;

use super::super::outcome::Failure;
use super::tls_server::{AsyncServer, Identity, Log, Serve, Stream};
use super::*;

fn step(name: &str) -> Step {
    Step { path: Some(format!("/{name}/${{vu}}/${{iter}}")), ..Step::new(name, "GET") }
}

/// Three users who log in, order and log out, four times in all, with cookies or without.
fn visits(address: SocketAddr, cookies: bool) -> Plan {
    Plan {
        scenario: Scenario::Steps(vec![step("login"), step("order"), step("logout"), step("home")]),
        iterations: Some(8),
        cookies,
        ..plan(address, 1, 60_000)
    }
}

fn carry_out(plan: &Plan) -> Recording {
    plan.check().unwrap();
    let recording = run(plan, &AtomicBool::new(false), &mut |_| {}).unwrap();
    assert_eq!(recording.requests, recording.iterations * plan.scenario.step_names().len() as u64);
    recording
}

/// What is sent with a request for `/STEP/USER/ITERATION`.
fn cookies_of(head: &str) -> (String, String, Option<String>) {
    let mut words = head.split([' ', '/']).skip(2);
    let (step, user, iteration) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    let sent: Vec<_> = head.lines().filter_map(|line| line.strip_prefix("Cookie: ")).collect();
    assert!(sent.len() <= 1, "{head}");
    (step.to_owned(), format!("{user}-{iteration}"), sent.first().map(|text| (*text).to_owned()))
}

/// The `Set-Cookie` values of the response to such a request.
fn set_by(step: &str, who: &str) -> Vec<String> {
    match step {
        "login" => vec![format!("session={who}; Path=/; HttpOnly"), "here=1".into(), "=broken".into()],
        "order" => vec![format!("order={who}; Path=/")],
        "logout" => vec!["session=; Path=/; Max-Age=0".into()],
        _ => vec!["never=seen; Path=/".into()],
    }
}

/// Each request has the cookies of its user's own iteration so far.
fn expect_sessions(heads: &[String]) {
    let mut seen = BTreeMap::<String, u32>::new();
    for (step, who, sent) in heads.iter().map(|head| cookies_of(head)) {
        *seen.entry(step.clone()).or_default() += 1;
        let expected = match step.as_str() {
            "login" => None,
            "order" => Some(format!("session={who}")),
            "logout" => Some(format!("session={who}; order={who}")),
            _ => Some(format!("order={who}")),
        };
        assert_eq!(sent, expected, "{step} of {who}");
    }
    assert_eq!(seen, BTreeMap::from(["login", "order", "logout", "home"].map(|step| (step.to_owned(), 8))));
}

fn cookie_server() -> Server {
    Server::start(|peer| {
        while let Some((head, _)) = peer.request() {
            let (step, who, _) = cookies_of(&head);
            let lines: String =
                set_by(&step, &who).iter().map(|value| format!("sET-cookie:{value}\r\n")).collect();
            if !peer.reply(&format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 5\r\n\r\nhello")) {
                break;
            }
        }
    })
}

#[test]
fn each_user_has_its_own_cookies_and_starts_each_iteration_without() {
    let server = cookie_server();
    let recording = carry_out(&visits(server.address, true));
    assert_eq!((recording.iterations, recording.failed), (8, 0));
    expect_sessions(&server.heads());
    let sent: usize = server.heads().iter().map(|head| head.len() + 4).sum();
    assert_eq!(recording.bytes_sent, sent as u64);
}

#[test]
fn cookies_outlive_a_connection() {
    let server = cookie_server();
    let options = ConnectOptions { reuse: false, ..ConnectOptions::default() };
    let plan = visits(server.address, true);
    let connecting = Connecting::new(&options, &plan.target).unwrap();
    carry_out(&Plan { connecting, ..plan });
    assert_eq!(server.connections(), 32);
    expect_sessions(&server.heads());
}

#[test]
fn nobody_keeps_cookies_unasked() {
    let server = cookie_server();
    carry_out(&visits(server.address, false));
    assert_eq!(server.requests(), 32);
    assert!(server.heads().iter().all(|head| cookies_of(head).2.is_none()));
}

#[test]
fn transactions_do_not_mind() {
    let server = Server::answering(
        "HTTP/1.1 202 Accepted\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\n{}",
        Duration::ZERO,
    );
    let scenario = Scenario::Transactions {
        run: "k3f9x2ab".into(),
        items: 100,
        item_collection: "items".into(),
        write_collection: "orders".into(),
        reads: 1,
        writes: 1,
    };
    let plan = Plan { scenario, cookies: true, iterations: Some(6), ..plan(server.address, 1, 60_000) };
    let recording = carry_out(&plan.below(""));
    assert_eq!((recording.requests, recording.failed), (6, 0));
    // One request an iteration, so none has a cookie.
    assert!(server.heads().iter().all(|head| !head.contains("Cookie:")));
}

/// A large body that goes out in pieces has its cookies once, whatever other users send meanwhile.
#[test]
fn an_interrupted_send_goes_on_with_its_cookies() {
    let server = Server::start(|peer| {
        while let Some((head, body)) = peer.request() {
            let whole = head.contains("Cookie: a=1") == head.starts_with("POST /second")
                && (body.is_empty() || body.iter().all(|byte| *byte == b'x'));
            let status = if whole { "200 OK" } else { "400 Bad" };
            peer.reply(&format!("HTTP/1.1 {status}\r\nSet-Cookie: a=1; Path=/\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    let second =
        Step { path: Some("/second".into()), body: "x".repeat(6_000_000), ..Step::new("second", "POST") };
    let scenario = Scenario::Steps(vec![step("first"), second]);
    let plan = Plan { scenario, cookies: true, iterations: Some(6), ..plan(server.address, 1, 60_000) };
    let recording = carry_out(&plan);
    assert_eq!(recording.by_status, BTreeMap::from([(200, 12)]));
}

#[test]
fn a_flood_of_cookies_is_cut() {
    // A hundred responses with a hundred cookies each, and a hundred with 10 KB in each: what is sent back is bounded.
    let server = Server::start(|peer| {
        let mut count = 0;
        while peer.request().is_some() {
            let value = "v".repeat(if count < 5_000 { 1 } else { 500 });
            let lines: String = (count..count + 100)
                .map(|number| format!("Set-Cookie: c{number}={value}; Path=/\r\n"))
                .collect();
            count += 100;
            if !peer.reply(&format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 0\r\n\r\n")) {
                break;
            }
        }
    });
    let flooded = |number: usize| Step { path: Some("/".into()), ..Step::new(&format!("s{number}"), "GET") };
    let scenario = Scenario::Steps((0..64).map(flooded).collect());
    let plan =
        Plan { scenario, cookies: true, users: 1, iterations: Some(3), ..plan(server.address, 1, 60_000) };
    let recording = carry_out(&plan);
    assert_eq!((recording.requests, recording.failed), (192, 0));
    let longest = server.heads().iter().map(String::len).max().unwrap();
    assert!((500..40_000).contains(&longest), "{longest}");
    assert!(server.heads().iter().all(|head| head.matches('=').count() <= 64));
}

/// HTTP/2, with and without TLS.
#[derive(Clone, Default)]
struct Cookies(Arc<Mutex<Vec<String>>>);

impl Serve for Cookies {
    async fn serve(self, stream: impl Stream, http2: bool, _log: Arc<Log>) {
        assert!(http2);
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let mut head = format!("GET {}", request.uri().path());
            for value in request.headers().get_all("cookie") {
                head += &format!(" \nCookie: {}", value.to_str().unwrap());
            }
            let (step, who, _) = cookies_of(&head);
            self.0.lock().unwrap().push(head);
            let mut response = Response::new(());
            let flood = (0..10_000).map(|number| format!("c{number}=1")).filter(|_| step == "flood");
            for value in set_by(&step, &who).into_iter().chain(flood) {
                response.headers_mut().append("set-cookie", value.parse().unwrap());
            }
            let mut body = respond.send_response(response, false).unwrap();
            body.send_data(Bytes::from_static(b"hello"), true).unwrap();
        }
    }
}

fn http2(plan: Plan, url: &str, tls: TlsOptions) -> Plan {
    let target = Target::parse(url).unwrap();
    let options = ConnectOptions { http: HttpVersion::Http2, tls, ..ConnectOptions::default() };
    Plan { connecting: Connecting::new(&options, &target).unwrap(), target, ..plan }
}

#[test]
fn http2_carries_cookies_as_well() {
    for identity in [None, Some(Identity::sound(&["h2"]))] {
        let service = Cookies::default();
        let server = AsyncServer::start(identity.as_ref(), true, service.clone());
        let scheme = if identity.is_some() { "https" } else { "http" };
        let tls = TlsOptions { ca: identity.as_ref().map(Identity::ca), insecure_skip_verify: false };
        let url = format!("{scheme}://{}/", server.address);
        let recording = carry_out(&http2(visits(server.address, true), &url, tls));
        assert_eq!((recording.iterations, recording.failed), (8, 0), "{:?}", recording.by_failure);
        expect_sessions(&service.0.lock().unwrap());
        assert_eq!(server.log.connections(), 3);
    }
}

#[test]
fn a_flood_of_cookies_over_http2_is_refused() {
    let service = Cookies::default();
    let server = AsyncServer::start(None, true, service.clone());
    let scenario = Scenario::Steps(vec![step("flood"), step("home")]);
    let plan = Plan { scenario, iterations: Some(4), ..visits(server.address, true) };
    let url = format!("http://{}/", server.address);
    let recording = carry_out(&http2(plan, &url, TlsOptions { ca: None, insecure_skip_verify: false }));
    // The head is longer than any that is taken.
    assert_eq!((recording.requests, recording.failed), (8, 4));
    assert_eq!(recording.by_failure, BTreeMap::from([(Failure::Http2Connection, 4)]));
    assert!(service.0.lock().unwrap().iter().all(|head| !head.contains("Cookie")));
}
