//! Stalls that a load generator is prone to overlook: a server that freezes, and one that does not accept.

use std::time::Duration;

use crate::figures::{Figures, bench, crowd};
use crate::sandbox::wait_for;
use crate::servers::{Act, PausedAccept, Server};

const FREEZE: Duration = Duration::from_millis(1400);
/// Of a server that is well.
const SERVICE_TIME: Duration = Duration::from_millis(5);

/// A run during which the server freezes once, after so many requests; and for how many ms it did by its own clock.
fn bench_with_freeze(flags: &[String], after: u64) -> (Figures, f64) {
    let server = Server::always(Act::ok_after(SERVICE_TIME));
    std::thread::scope(|scope| {
        let run = scope.spawn(|| bench(&server.url, flags));
        wait_for("requests", || (server.log.requests() > after || run.is_finished()).then_some(()));
        server.freeze(FREEZE);
        let figures = run.join().unwrap();
        (figures, server.log.frozen_ms())
    })
}

#[test]
fn an_open_model_sees_the_whole_freeze() {
    const A_SECOND: f64 = 500.0;
    const TOTAL: &str = "http_req_total_duration";
    let measure = || {
        let flags = ["--rate", "500/s", "--vus", "25", "--duration", "10s"].map(str::to_owned);
        let (figures, frozen) = bench_with_freeze(&flags, 1000);
        // Nothing that was to be sent is forgotten.
        assert_eq!(figures.counter("http_reqs") + figures.counter("dropped_iterations"), 5000);
        // What was meant to start in the freeze ended after it: the sooner it was meant to start, the later.
        for ms in [100.0, 400.0, 700.0, 1000.0, 1300.0] {
            let due = (A_SECOND * (FREEZE.as_secs_f64() - ms / 1000.0)).floor() as u64 - 1;
            let seen = figures.samples_within(TOTAL, 0.999 * ms, f64::INFINITY);
            assert!(seen >= due, "{seen} took {ms} ms or more, of at least {due} that were due so early");
        }
        // The freeze lasts for 14 % of the run, so the hundredth of the requests that is hit most was meant to start
        // within its first 102 ms.
        let corrected = figures.percentile(TOTAL, 99.0);
        assert!(corrected >= 1290.0, "p(99) from the intended start is {corrected} ms");
        assert!(figures.value(TOTAL, "max") >= 1390.0, "max is {} ms", figures.value(TOTAL, "max"));
        // Of what was sent, only the one request of each user saw it: 0.5 %.
        let uncorrected = figures.samples_within("http_req_duration", 1290.0, f64::INFINITY);
        assert!((1..=25).contains(&uncorrected), "{uncorrected} took that long from the actual start");
        assert_eq!(figures.outcome("ok"), figures.counter("http_reqs"));
        (corrected, frozen)
    };
    // What the machine itself adds has no bound: it is tried once more before it counts.
    let late = |(corrected, frozen): (f64, f64)| corrected > frozen + 100.0;
    let first = measure();
    if late(first) {
        let second = measure();
        assert!(!late(second), "p(99) and the freeze, twice: {first:?}, {second:?}");
    }
}

/// In a closed model a freeze holds each user up once, so it is seen in (think + service time) / duration of the
/// requests, however many users there are: a p(99) can only see it if that is more than a hundredth.
#[test]
fn a_closed_model_sees_the_freeze_if_its_users_think_long_enough() {
    std::thread::scope(|scope| {
        // Of 30 s, 1,200 users: 0.17 %, 0.35 %, 1.7 % and 3.3 %. Of 15 s, any users: twice as much, each still on
        // its side of 1 %.
        for (vus, think, think_ms, seen) in [
            (20, "45ms", 45, false),
            (40, "100ms", 100, false),
            (100, "500ms", 500, true),
            (100, "1s", 1000, true),
        ] {
            scope.spawn(move || {
                let after = vus * 5000 / (think_ms + 5);
                let (figures, _) =
                    bench_with_freeze(&crowd(u32::try_from(vus).unwrap(), think, "15s"), after);
                for metric in ["http_req_total_duration", "http_req_duration"] {
                    let (p99, max) = (figures.value(metric, "p(99)"), figures.value(metric, "max"));
                    assert_eq!(p99 > 500.0, seen, "{vus} users, {think}: p(99) of {metric} is {p99} ms");
                    let hit = figures.samples_within(metric, 700.0, f64::INFINITY);
                    assert!(hit <= vus, "{vus} users, {think}: {hit} saw half of it, in {metric}");
                    // Gates that look at p(99) alone would pass the first two.
                    assert!(max >= 1300.0, "{vus} users, {think}: max of {metric} is {max} ms");
                }
            });
        }
    });
}

#[test]
fn a_full_accept_queue_shows_in_what_includes_connecting() {
    let server = PausedAccept::start(Duration::from_millis(900));
    // All within 40 ms of each other, and so within the pause; and that is over when the first SYN is repeated.
    let figures = bench(&server.url, &crowd(50, "40ms", "2s"));
    assert_eq!(figures.outcomes(), [("ok".to_owned(), server.log.requests())]);
    assert_eq!(server.log.connections(), 50);
    // A SYN that finds the queue full is dropped, and comes back after a second (RFC 6298, section 2.1).
    for metric in ["http_req_connecting", "http_req_blocked", "http_req_total_duration"] {
        let max = figures.value(metric, "max");
        assert!(max >= 1000.0, "{metric}: max is {max} ms");
    }
    // The queue takes two beside the one that was accepted. A few more get in if the kernel is so busy that their SYNs
    // are under way while the queue is not full yet.
    let late = figures.samples_within("http_req_connecting", 1000.0, f64::INFINITY);
    assert!((40..=47).contains(&late), "{late} of 50 connected late");
    // k6's duration begins with the connection: it sees nothing of it, but for those that were in the queue.
    let slow = figures.samples_within("http_req_duration", 500.0, f64::INFINITY);
    assert!(slow + late <= 50, "{slow} were slow once they were connected, and {late} connected late");
}
