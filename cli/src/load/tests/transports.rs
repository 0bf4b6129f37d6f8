//! The same engine over TLS and HTTP/2, from several addresses, with a connection for each request.

use std::io::Write as _;

use super::super::client::{Progress, Resources};
use super::super::clock::Clock;
use super::super::exchange::Times;
use super::super::head::HeadMemo;
use super::super::http1::Http1;
use super::super::outcome::{Failure, Outcome};
use super::super::scenario::Expectation;
use super::super::tls;
use super::super::transport::{TlsStream, Transport};
use super::outcomes::abort;
use super::tls_server::{Answer, AsyncServer, Identity, Misdeed};
use super::*;

const BOTH: [&str; 2] = ["h2", "http/1.1"];

/// The plan of three users against `https` or `http`.
fn plan_for(server: &AsyncServer, identity: Option<&Identity>, options: ConnectOptions) -> Plan {
    let scheme = if identity.is_some() { "https" } else { "http" };
    let tls = TlsOptions { ca: identity.map(Identity::ca), ..options.tls.clone() };
    over(server.address, scheme, ConnectOptions { tls, ..options })
}

fn over(address: SocketAddr, scheme: &str, options: ConnectOptions) -> Plan {
    let target = Target::parse(&format!("{scheme}://{address}/path?a=b")).unwrap();
    Plan { connecting: Connecting::new(&options, &target).unwrap(), target, ..plan_of(address, 10, 30) }
}

fn http(http: HttpVersion) -> ConnectOptions {
    ConnectOptions { http, ..ConnectOptions::default() }
}

fn expect_success(recording: &Recording, server: &AsyncServer) {
    assert_eq!(recording.failed, 0, "{:?}", recording.by_failure);
    assert_eq!((recording.requests, server.log.requests()), (30, 30));
    assert_eq!(recording.by_status, BTreeMap::from([(200, 30)]));
    assert_eq!(fates(recording), BTreeMap::from([(Fate::Acknowledged, 30)]));
}

fn expect_failure(plan: &Plan, failure: Failure) -> Recording {
    let recording = record(plan);
    assert_eq!(recording.by_failure, BTreeMap::from([(failure, plan.iterations.unwrap())]));
    recording
}

#[test]
fn protocols_are_negotiated() {
    use HttpVersion::{Auto, Http1, Http2};
    for (alpn, asked, spoken) in [
        (&BOTH[..], Auto, "HTTP/2.0"),
        (&BOTH[1..], Auto, "HTTP/1.1"),
        (&[], Auto, "HTTP/1.1"),
        (&BOTH, Http1, "HTTP/1.1"),
        (&BOTH, Http2, "HTTP/2.0"),
    ] {
        let identity = Identity::sound(alpn);
        let server = AsyncServer::start(Some(&identity), false, Answer(5));
        let recording = record(&plan_for(&server, Some(&identity), http(asked)));
        expect_success(&recording, &server);
        assert_eq!(
            (server.log.versions(), server.log.connections()),
            (vec![spoken.to_owned()], 3),
            "{asked:?}"
        );
        let trends = &recording.trends;
        assert!(trends.tls_handshaking.max() > 0 && trends.connecting.max() > 0);
        assert_eq!(trends.tls_handshaking.len() - trends.tls_handshaking.count_at(0), 3);
        assert!(trends.tls_handshaking.max() <= trends.blocked.max());
    }
}

#[test]
fn http2_without_tls_by_prior_knowledge() {
    let server = AsyncServer::start(None, true, Answer(5));
    let recording = record(&plan_for(&server, None, http(HttpVersion::Http2)));
    expect_success(&recording, &server);
    assert_eq!((server.log.versions(), server.log.connections()), (vec!["HTTP/2.0".to_owned()], 3));
    let agent = concat!("scalekit/", env!("CARGO_PKG_VERSION")).to_owned();
    let uri = format!("http://{}/path?a=b", server.address);
    assert!(server.log.heads().iter().all(|head| *head == (uri.clone(), Some(agent.clone()))));
    assert_eq!(recording.trends.tls_handshaking.max(), 0);
    assert!(recording.bytes_sent > 0 && recording.bytes_received >= 5 * recording.requests);
}

#[test]
fn bodies_are_searched_over_either_version() {
    let step = |name: &str, text: &str| Step {
        checks: vec![Check::BodyContains(text.into())],
        ..Step::new(name, "GET")
    };
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        // More than a frame of HTTP/2.
        let server = AsyncServer::start(None, version == HttpVersion::Http2, Answer(40_000));
        // What one answer has must not be said of the next, on the same connection.
        let steps = vec![step("has", &"x".repeat(1000)), step("lacks", "y"), step("has too", "x")];
        let scenario = Scenario::Steps(steps);
        let recording = record(&Plan { scenario, ..plan_for(&server, None, http(version)) });
        let counts = recording.steps.iter().flat_map(|step| &step.checks).map(|c| (c.passes, c.fails));
        assert_eq!(counts.collect::<Vec<_>>(), [(30, 0), (0, 30), (30, 0)], "{version:?}");
        assert_eq!(server.log.connections(), 3);
    }
}

#[test]
fn certificates_are_checked() {
    let expired = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let sound = Identity::sound(&BOTH);
    for (identity, trusted, failure, code) in [
        (Identity::sound(&BOTH), &sound, Failure::TlsUnknownAuthority, Some(1310)),
        (Identity::new("elsewhere.example", &BOTH, |_| {}), &sound, Failure::TlsUnknownAuthority, Some(1310)),
    ] {
        let server = AsyncServer::start(Some(&identity), false, Answer(5));
        let plan = plan_for(&server, Some(trusted), ConnectOptions::default());
        let recording = expect_failure(&plan, failure);
        assert_eq!(failure.k6_code(), code);
        assert_eq!((server.log.requests(), recording.bytes_sent), (0, 0));
        assert_eq!(fates(&recording), BTreeMap::from([(Fate::NotSent, recording.requests)]));
        assert_eq!(recording.trends.duration.max(), 0, "k6's duration begins with a connection");
    }
    for (identity, failure) in [
        (Identity::new("elsewhere.example", &BOTH, |_| {}), Failure::TlsHostname),
        (Identity::new("127.0.0.1", &BOTH, expired), Failure::TlsCertificate),
    ] {
        let server = AsyncServer::start(Some(&identity), false, Answer(5));
        expect_failure(&plan_for(&server, Some(&identity), ConnectOptions::default()), failure);
        // Whatever is wrong with it.
        let tls = TlsOptions { ca: None, insecure_skip_verify: true };
        let options = ConnectOptions { tls, ..ConnectOptions::default() };
        expect_success(&record(&over(server.address, "https", options)), &server);
    }
}

#[test]
fn no_common_protocol() {
    let identity = Identity::sound(&BOTH[1..]);
    let server = AsyncServer::start(Some(&identity), false, Answer(5));
    expect_failure(&plan_for(&server, Some(&identity), http(HttpVersion::Http2)), Failure::TlsFailed);
    // A server that knows no ALPN leaves it out.
    let identity = Identity::sound(&[]);
    let server = AsyncServer::start(Some(&identity), false, Answer(5));
    expect_failure(&plan_for(&server, Some(&identity), http(HttpVersion::Http2)), Failure::TlsFailed);
}

#[test]
fn the_wrong_protocol_on_the_port() {
    let plain = Server::start(|peer| {
        let mut some = [0; 64];
        let _ = std::io::Read::read(&mut peer.stream, &mut some);
        peer.reply("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        // The client is the first to close: a close from here could overtake the answer.
        while std::io::Read::read(&mut peer.stream, &mut some).is_ok_and(|count| count > 0) {}
    });
    expect_failure(&over(plain.address, "https", ConnectOptions::default()), Failure::TlsFailed);
    expect_failure(&over(plain.address, "http", http(HttpVersion::Http2)), Failure::Http2Connection);
    let silent = Server::start(|peer| peer.close());
    expect_failure(&over(silent.address, "https", ConnectOptions::default()), Failure::Eof);
}

#[test]
fn a_handshake_that_stalls_is_a_connect_timeout() {
    let server =
        Server::start(
            |peer| while std::io::Read::read(&mut peer.stream, &mut [0; 512]).is_ok_and(|n| n > 0) {},
        );
    let over = over(server.address, "https", ConnectOptions::default());
    let plan = Plan { timeout: millis(150), iterations: Some(6), ..over };
    let recording = expect_failure(&plan, Failure::ConnectTimeout);
    assert_eq!(recording.bytes_sent, 0);
    assert!(recording.trends.total.min() >= 149_800);
    assert_eq!(recording.users_achieved, 0);
}

#[test]
fn a_connection_for_each_request() {
    for (identity, version) in [
        (None, HttpVersion::Http1),
        (Some(Identity::sound(&BOTH)), HttpVersion::Http1),
        (Some(Identity::sound(&BOTH)), HttpVersion::Http2),
        (None, HttpVersion::Http2),
    ] {
        let server = AsyncServer::start(identity.as_ref(), version == HttpVersion::Http2, Answer(5));
        let options = ConnectOptions { reuse: false, ..http(version) };
        let recording = record(&plan_for(&server, identity.as_ref(), options));
        expect_success(&recording, &server);
        assert_eq!(server.log.connections(), recording.requests);
        let fresh = |trend: &super::super::trends::Trend| trend.len() - trend.count_at(0);
        assert_eq!(fresh(&recording.trends.connecting), recording.requests);
        let handshakes = if identity.is_some() { recording.requests } else { 0 };
        assert_eq!(fresh(&recording.trends.tls_handshaking), handshakes);
    }
}

#[test]
fn users_connect_from_their_own_addresses() {
    let identity = Identity::sound(&BOTH);
    for identity in [None, Some(&identity)] {
        let server = AsyncServer::start(identity, false, Answer(5));
        let local_ips = ["127.0.0.2", "127.0.0.3"].map(|ip| ip.parse().unwrap()).to_vec();
        let recording =
            record(&plan_for(&server, identity, ConnectOptions { local_ips, ..ConnectOptions::default() }));
        expect_success(&recording, &server);
        assert_eq!(server.log.remotes(), ["127.0.0.2", "127.0.0.3"]);
    }
}

#[test]
fn a_misbehaving_http2_server_is_counted_in_its_class() {
    for (misdeed, failure, code) in [
        (Misdeed::Reset, Failure::Http2Stream, Some(1630)),
        (Misdeed::GoAway, Failure::Http2GoAway, Some(1610)),
        (Misdeed::HalfAnswer, Failure::Eof, None),
        (Misdeed::Silence, Failure::ResponseTimeout, Some(1050)),
    ] {
        let server = AsyncServer::start(None, true, misdeed);
        let plan = plan_for(&server, None, http(HttpVersion::Http2));
        let plan = match misdeed {
            // Long enough for a server that is late itself: it must have seen what is given up.
            Misdeed::Silence => Plan { timeout: millis(3000), iterations: Some(3), ..plan },
            _ => plan,
        };
        let recording = expect_failure(&plan, failure);
        assert_eq!(failure.k6_code(), code);
        assert_eq!(server.log.requests(), recording.requests, "{misdeed:?}");
        if failure == Failure::ResponseTimeout {
            expect_time_outs(&plan, &recording);
        }
        assert_eq!(fates(&recording), BTreeMap::from([(Fate::Unknown, recording.requests)]), "{misdeed:?}");
    }
}

#[test]
fn a_server_that_goes_away_in_peace_costs_no_request() {
    let server = AsyncServer::start(None, true, Misdeed::AnswerAndGoAway);
    let recording = record(&plan_for(&server, None, http(HttpVersion::Http2)));
    expect_success(&recording, &server);
    assert_eq!(server.log.connections(), recording.requests);
}

#[test]
fn large_answers_take_no_memory() {
    if !alone("load::tests::transports::large_answers_take_no_memory") {
        return;
    }
    const BYTES: usize = 100 << 20;
    let identity = Identity::sound(&BOTH);
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let server = AsyncServer::start(Some(&identity), false, Answer(BYTES));
        let plan =
            Plan { users: 1, iterations: Some(1), ..plan_for(&server, Some(&identity), http(version)) };
        let plan = Plan { timeout: Duration::from_secs(90), ..plan };
        let (recording, growth) = growth_during(|| record(&plan));
        assert_eq!(recording.failed, 0, "{:?}", recording.by_failure);
        assert!(recording.bytes_received >= BYTES as u64, "{}", recording.bytes_received);
        // The server's side included.
        assert!(growth < 8 << 20, "{growth} bytes");
        assert!(recording.trends.receiving.max() > 0);
    }
}

#[test]
fn large_requests_are_sent_whole() {
    const BYTES: usize = 6_000_000;
    let identity = Identity::sound(&BOTH);
    for (identity, version) in [
        (Some(&identity), HttpVersion::Http1),
        (Some(&identity), HttpVersion::Http2),
        (None, HttpVersion::Http2),
    ] {
        let server = AsyncServer::start(identity, version == HttpVersion::Http2, Answer(5));
        let scenario = Scenario::request("POST", vec![], &"7".repeat(BYTES));
        let plan =
            Plan { scenario, users: 2, iterations: Some(4), ..plan_for(&server, identity, http(version)) };
        let recording = record(&plan);
        assert_eq!(recording.failed, 0, "{:?}", recording.by_failure);
        assert_eq!(server.log.body_bytes(), BYTES as u64 * 4);
        assert_eq!(server.log.connections(), 2);
        assert!(recording.bytes_sent >= BYTES as u64 * recording.requests);
        assert!(recording.trends.sending.max() > 0);
    }
}

/// A server that has refused a request and gone, of which the client learns by its send: no event has told it that there
/// is something to read.
#[test]
fn an_answer_over_tls_is_read_though_the_send_fails() {
    let identity = Identity::sound(&BOTH[1..]);
    let config = identity.server_config();
    let server = Server::start(move |peer| {
        let mut session = rustls::ServerConnection::new(config.clone()).unwrap();
        let mut stream = rustls::Stream::new(&mut session, &mut peer.stream);
        std::io::Read::read_exact(&mut stream, &mut [0; 100]).unwrap();
        stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").unwrap();
        abort(peer);
    });
    let socket = std::net::TcpStream::connect(server.address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let watched = socket.try_clone().unwrap();
    let options = TlsOptions { ca: Some(identity.ca()), ..TlsOptions::default() };
    let config = tls::client_config(&options, HttpVersion::Http1).unwrap();
    let mut stream = TlsStream::new(socket, config, tls::server_name("127.0.0.1").unwrap()).unwrap();
    wait_until("the handshake", || {
        stream.on_readable(false);
        stream.handshake().unwrap()
    });
    let mut client = Http1::new(Transport::Tls(Box::new(stream)));
    client.begin(Expectation::default());
    let request = format!("POST / HTTP/1.1\r\nContent-Length: 20000000\r\n\r\n{}", "0".repeat(20_000_000));
    let (mut buffer, mut memo, mut times) = ([0; 4096], HeadMemo::default(), Times::default());
    let mut resources = Resources { clock: Clock::start(), buffer: &mut buffer, memo: &mut memo };
    let outcome = loop {
        match client.send(request.as_bytes(), &mut resources, &mut times) {
            Progress::Ended(outcome) => break outcome,
            // The socket is full; the next send finds it reset.
            _ => wait_until("the reset", || watched.peer_addr().is_err()),
        }
    };
    assert_eq!(outcome, Outcome::Response(413));
}

#[test]
fn a_body_until_close_needs_tls_to_end_properly() {
    // The same bytes, with and without the close_notify that says that they are all.
    for (proper, failure) in [(true, None), (false, Some(Failure::Eof))] {
        let identity = Identity::sound(&BOTH[1..]);
        let config = identity.server_config();
        let server = Server::start(move |peer| {
            let mut session = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::Stream::new(&mut session, &mut peer.stream);
            let mut some = [0; 1024];
            if std::io::Read::read(&mut stream, &mut some).is_ok() {
                stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nuntil the end").unwrap();
                if proper {
                    session.send_close_notify();
                    session.write_tls(&mut peer.stream).unwrap();
                }
            }
            peer.close();
        });
        let tls = TlsOptions { ca: Some(identity.ca()), ..TlsOptions::default() };
        let plan = over(server.address, "https", ConnectOptions { tls, ..ConnectOptions::default() });
        match failure {
            Some(failure) => drop(expect_failure(&plan, failure)),
            None => {
                let recording = record(&plan);
                assert_eq!(
                    (recording.failed, &recording.by_status),
                    (0, &BTreeMap::from([(200, 30)])),
                    "{:?}",
                    recording.by_failure
                );
            }
        }
    }
}
