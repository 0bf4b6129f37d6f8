//! Servers that close, reset, stall, drip, flood and talk nonsense: each ending is counted in its class, exactly
//! as often as the server brought it about, and none of them costs the generator more than a little memory.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::figures::{Figures, bench, crowd};
use crate::sandbox::{Sandbox, free_port, wait_for};
use crate::servers::{Act, Blackhole, End, Server};

/// What the generator may take in all, however much it is sent. Of a debug build, up to 90 MiB are pages of the program
/// itself, as many as the page cache happens to map at once.
const MEMORY: u64 = 256 << 20;

/// A few users for a second, who give up after another: what drips on a slow machine is done by then.
fn few() -> Vec<String> {
    let mut flags = crowd(5, "30ms", "1s");
    flags.extend(["--timeout", "1s"].map(str::to_owned));
    flags
}

fn memory(figures: &Figures) -> u64 {
    figures.json()["generator"]["memory_peak_bytes"].as_u64().unwrap()
}

/// Some of every kind, each with the class that its requests belong to.
fn kinds() -> Vec<(&'static str, Act)> {
    let drip = Duration::from_millis(1);
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it";
    vec![
        ("ok", Act::ok_after(Duration::ZERO)),
        ("HTTP 500", Act::raw("HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops")),
        ("eof", Act::raw("").then(End::Close)),
        ("ok", Act::ok_after(Duration::ZERO).dripping(drip)),
        ("connection_reset", Act::raw(half).then(End::Reset)),
        ("HTTP 404", Act::raw("HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n")),
        ("malformed_response", Act::raw("SSH-2.0-OpenSSH_9.6\r\n").then(End::Hold)),
        ("eof", Act::raw("HTTP/1.1 200 OK\r\nContent-Le").then(End::Close)),
        ("eof", Act::raw(half).then(End::Close)),
        ("connection_reset", Act::raw("").then(End::Reset)),
        // Of a length that only the end of the connection tells.
        ("ok", Act::raw("HTTP/1.0 200 OK\r\n\r\nuntil the end").then(End::Close)),
        ("malformed_response", Act::raw("HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n").then(End::Hold)),
        ("request_timeout", Act::raw("").then(End::Hold)),
        ("request_timeout", Act::raw(half).then(End::Hold)),
        ("HTTP 503", Act::raw("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusyness").then(End::Hold)),
    ]
}

#[test]
fn each_kind_alone_is_counted_in_its_class() {
    std::thread::scope(|scope| {
        for (class, act) in kinds() {
            scope.spawn(move || {
                let server = Server::always(act.clone());
                let figures = bench(&server.url, &few());
                let requests = figures.counter("http_reqs");
                assert_eq!(figures.outcomes(), [(class.to_owned(), requests)], "{act:?}");
                assert!(requests >= 5, "{requests} of {act:?}");
                wait_for("the server's own count", || (server.log.requests() == requests).then_some(()));
                assert!(memory(&figures) < MEMORY, "{} bytes for {act:?}", memory(&figures));
            });
        }
    });
}

#[test]
fn all_kinds_together_are_told_apart() {
    let acts: Vec<Act> = kinds().into_iter().map(|(_, act)| act).collect();
    let server = Server::start(move |number| acts[number as usize % acts.len()].clone());
    let mut flags = crowd(20, "10ms", "2s");
    // Long enough for what drips on a slow machine.
    flags.extend(["--timeout", "1500ms"].map(str::to_owned));
    let figures = bench(&server.url, &flags);
    let requests = figures.counter("http_reqs");
    wait_for("the server's own count", || (server.log.requests() == requests).then_some(()));
    let mut expected = BTreeMap::<String, u64>::new();
    for ((class, _), number) in kinds().into_iter().cycle().zip(0..requests) {
        assert!(number < requests);
        *expected.entry(class.to_owned()).or_default() += 1;
    }
    assert_eq!(figures.outcomes().into_iter().collect::<BTreeMap<_, _>>(), expected);
    assert!(expected.len() == 8 && requests > 100, "{expected:?}");
    let succeeded = figures.value("http_req_failed", "fails");
    assert_eq!(succeeded, expected["ok"] as f64);
}

#[test]
fn a_refusal_and_a_silence_are_told_apart() {
    let refused = bench(&format!("http://127.0.0.1:{}/", free_port()), &few());
    let requests = refused.counter("http_reqs");
    assert_eq!(refused.outcomes(), [("connection_refused".to_owned(), requests)]);
    let blackhole = Blackhole::new();
    let silent = bench(&blackhole.url, &few());
    let requests = silent.counter("http_reqs");
    assert_eq!(silent.outcomes(), [("connect_timeout".to_owned(), requests)]);
    assert_eq!(blackhole.entered(), 0);
    // Given up when it was said, and not earlier.
    assert!(silent.value("http_req_total_duration", "min") >= 999.0);
    for figures in [&refused, &silent] {
        assert!(figures.counter("http_reqs") >= 5);
        assert_eq!(figures.counter("data_sent"), 0, "nothing was connected to");
        assert_eq!(figures.json()["load"]["achieved"]["vus"], 0);
        assert_eq!(figures.value("http_req_duration", "max"), 0.0, "k6's begins with a connection");
    }
}

#[test]
fn a_name_that_does_not_resolve_is_found_before_the_start() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("name", "");
    // RFC 6761, section 6.4: .invalid never resolves.
    let output = sandbox.scalekit(&["bench", "-p", &profile, "--url", "http://nowhere.invalid/"]).expect(104);
    output.says(&["nowhere.invalid", "cannot be resolved", "/etc/resolv.conf"]);
    assert!(sandbox.folders().is_empty());
}

#[test]
fn a_slow_body_is_received_slowly_and_an_endless_one_not_for_ever() {
    let pause = Duration::from_millis(3);
    let response = "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n01234567890123456789";
    let server = Server::always(Act::raw(response).dripping(pause));
    let slow = bench(&server.url, &crowd(5, "30ms", "1s"));
    assert_eq!(slow.outcomes(), [("ok".to_owned(), server.log.requests())]);
    // The whole response but its first byte comes after the first byte; the reader may have been late for that.
    let whole = 3.0 * (response.len() - 1) as f64;
    assert!(slow.value("http_req_duration", "min") >= 0.999 * whole);
    assert!(slow.value("http_req_receiving", "max") >= 0.5 * whole);

    // Thirty bytes in time, and then more.
    let server = Server::always(Act::raw(response).dripping(Duration::from_millis(30)));
    let endless = bench(&server.url, &few());
    assert_eq!(endless.outcomes(), [("request_timeout".to_owned(), endless.counter("http_reqs"))]);
    wait_for("the server's own count", || {
        (server.log.requests() == endless.counter("http_reqs")).then_some(())
    });
    for metric in ["http_req_duration", "http_req_total_duration"] {
        let min = endless.value(metric, "min");
        assert!(min >= 999.0, "{metric}: gave up after {min} ms");
    }
}

#[test]
fn two_gigabytes_are_counted_and_not_kept() {
    const ANNOUNCED: u64 = 2 << 30;
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 2147483648\r\n\r\n";
    let server = Server::always(Act::raw(head).flooding(ANNOUNCED));
    let mut flags = crowd(2, "500ms", "1s");
    flags.extend(["--timeout", "2s"].map(str::to_owned));
    let figures = bench(&server.url, &flags);
    let requests = figures.counter("http_reqs");
    // All of it may well arrive in time on a fast machine.
    assert_eq!(figures.outcome("ok") + figures.outcome("request_timeout"), requests);
    assert_eq!(server.log.requests(), requests);
    let (received, sent) = (figures.counter("data_received"), server.log.sent_bytes());
    assert!(received >= 2 * MEMORY, "{received} bytes");
    assert!(received >= figures.outcome("ok") * ANNOUNCED && received <= sent, "{received} of {sent}");
    // What is missing was still in the sockets' buffers.
    assert!(sent - received < requests * (32 << 20), "{received} of {sent}");
    assert!(memory(&figures) < MEMORY, "{} bytes for {received}", memory(&figures));
}
