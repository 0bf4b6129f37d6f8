//! Servers that close, reset, stall, drip, flood and talk nonsense: each ending is counted in its class, exactly
//! as often as the server brought it about, and none of them costs the generator more than a little memory.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::figures::{bench, bench_watched, crowd};
use crate::sandbox::{Sandbox, free_port, wait_for};
use crate::servers::{Act, Blackhole, End, Server};

/// What the generator may take, however much it is sent. A debug build takes 11 MiB with a server that is well.
const MEMORY: u64 = 20 << 20;

/// Five users who give up after a second; the run ends after so many requests, however long they take.
fn few(iterations: u32) -> Vec<String> {
    requests(iterations, "1s")
}

/// Five users with this time-out, for so many requests: it matters only where it is met.
fn requests(iterations: u32, timeout: &'static str) -> Vec<String> {
    let mut flags = crowd(5, "30ms", "90s");
    flags.extend(["--iterations", &iterations.to_string(), "--timeout", timeout].map(str::to_owned));
    flags
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
                // Only what never ends meets its time-out.
                let (planned, timeout) = if class == "request_timeout" { (10, "1s") } else { (25, "30s") };
                let (figures, memory) = bench_watched(&server.url, &requests(planned, timeout));
                assert_eq!(figures.outcomes(), [(class.to_owned(), u64::from(planned))], "{act:?}");
                wait_for("the server's own count", || {
                    (server.log.requests() == u64::from(planned)).then_some(())
                });
                assert!(memory <= MEMORY, "{memory} bytes for {act:?}");
            });
        }
    });
}

#[test]
fn all_kinds_together_are_told_apart() {
    const EACH: u64 = 10;
    let acts: Vec<Act> = kinds().into_iter().map(|(_, act)| act).collect();
    let all = EACH * acts.len() as u64;
    let server = Server::start(move |number| acts[number as usize % acts.len()].clone());
    let mut flags = crowd(20, "10ms", "90s");
    // Long enough for what drips on a slow machine.
    flags.extend(["--iterations", &all.to_string(), "--timeout", "5s"].map(str::to_owned));
    let figures = bench(&server.url, &flags);
    wait_for("the server's own count", || (server.log.requests() == all).then_some(()));
    let mut expected = BTreeMap::<String, u64>::new();
    for (class, _) in kinds() {
        *expected.entry(class.to_owned()).or_default() += EACH;
    }
    assert_eq!(figures.outcomes().into_iter().collect::<BTreeMap<_, _>>(), expected);
    assert_eq!(figures.counter("http_reqs"), all);
    let succeeded = figures.value("http_req_failed", "fails");
    assert_eq!(succeeded, expected["ok"] as f64);
}

#[test]
fn a_refusal_and_a_silence_are_told_apart() {
    let refused = bench(&format!("http://127.0.0.1:{}/", free_port()), &few(25));
    assert_eq!(refused.outcomes(), [("connection_refused".to_owned(), 25)]);
    let blackhole = Blackhole::new();
    let silent = bench(&blackhole.url, &few(10));
    assert_eq!(silent.outcomes(), [("connect_timeout".to_owned(), 10)]);
    assert_eq!(blackhole.entered(), 0);
    // Given up when it was said, and not earlier.
    assert!(silent.value("http_req_total_duration", "min") >= 999.0);
    for figures in [&refused, &silent] {
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
    let pause = Duration::from_millis(10);
    let response = "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n01234567890123456789";
    let server = Server::always(Act::raw(response).dripping(pause));
    let slow = bench(&server.url, &requests(15, "30s"));
    assert_eq!((slow.outcomes(), server.log.requests()), (vec![("ok".to_owned(), 15)], 15));
    // All of the response but its first byte comes after the first byte.
    let whole = 10.0 * (response.len() - 1) as f64;
    assert!(slow.value("http_req_duration", "min") >= 0.999 * whole);
    // Of it, what is no receiving is what the generator was late for the first byte: not half of it for all fifteen.
    assert!(slow.value("http_req_receiving", "max") >= 0.5 * whole);
    let stages =
        ["http_req_sending", "http_req_waiting", "http_req_receiving"].map(|metric| slow.sum(metric));
    let (low, high) = slow.sum("http_req_duration");
    let parts = stages.iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    assert!(parts.0 <= high && low <= parts.1, "{stages:?} in all, and not {low} to {high} ms");

    // Thirty bytes in time, and then more.
    let server = Server::always(Act::raw(response).dripping(Duration::from_millis(30)));
    let endless = bench(&server.url, &few(10));
    assert_eq!(endless.outcomes(), [("request_timeout".to_owned(), 10)]);
    wait_for("the server's own count", || (server.log.requests() == 10).then_some(()));
    // The time-out counts from the moment at which the generator turned to the request, so what the request took
    // from its intended start is never less.
    let min = endless.value("http_req_total_duration", "min");
    assert!(min >= 999.0, "gave up after {min} ms");
    // k6's duration begins with the connection, for which the request was blocked; together they are the time-out.
    let (blocked, duration) = (endless.sum("http_req_blocked"), endless.sum("http_req_duration"));
    assert!(blocked.1 + duration.1 >= 10.0 * 1000.0, "{blocked:?} and {duration:?} ms of ten");
}

#[test]
fn two_gigabytes_are_counted_and_not_kept() {
    const ANNOUNCED: u64 = 2 << 30;
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 2147483648\r\n\r\n";
    let server = Server::always(Act::raw(head).flooding(ANNOUNCED));
    let (figures, memory) = bench_watched(&server.url, &requests(1, "85s"));
    assert_eq!((figures.outcomes(), server.log.requests()), (vec![("ok".to_owned(), 1)], 1));
    let all = head.len() as u64 + ANNOUNCED;
    assert_eq!((figures.counter("data_received"), server.log.sent_bytes()), (all, all));
    assert!(memory <= MEMORY, "{memory} bytes for {all}");
}
