//! Stalls that a load generator is prone to overlook: a server that freezes, and one that does not accept.

use std::time::Duration;

use crate::figures::{Figures, bench, crowd};
use crate::sandbox::wait_for;
use crate::servers::{Act, PausedAccept, Server};

const FREEZE: Duration = Duration::from_millis(1400);
/// Of a server that is well.
const SERVICE_TIME: Duration = Duration::from_millis(5);

/// A run during which the server freezes once, after so many requests.
fn bench_with_freeze(flags: &[String], after: u64) -> Figures {
    let server = Server::always(Act::ok_after(SERVICE_TIME));
    std::thread::scope(|scope| {
        let run = scope.spawn(|| bench(&server.url, flags));
        wait_for("requests", || (server.log.requests() > after || run.is_finished()).then_some(()));
        server.freeze(FREEZE);
        run.join().unwrap()
    })
}

#[test]
fn an_open_model_sees_the_whole_freeze() {
    let flags = ["--rate", "2000/s", "--vus", "100", "--duration", "10s"].map(str::to_owned);
    let figures = bench_with_freeze(&flags, 6000);
    // The freeze lasts for 14 % of the run, so the hundredth of the requests that is hit most was meant to start
    // within its first tenth. Of what was sent, only the one request of each user saw it: 0.5 %.
    let corrected = figures.percentile("http_req_total_duration", 99.0);
    assert!((900.0..=1500.0).contains(&corrected), "p(99) from the intended start is {corrected} ms");
    let uncorrected = figures.percentile("http_req_duration", 95.0);
    assert!(uncorrected < 100.0, "p(95) from the actual start is {uncorrected} ms");
    for metric in ["http_req_total_duration", "http_req_duration"] {
        let max = figures.value(metric, "max");
        assert!(max >= 1300.0, "{metric}: max is {max} ms");
    }
    // What was to be sent was sent, late or not.
    let planned = 2000.0 * 10.0;
    let requests = figures.value("http_reqs", "count");
    assert!((requests - planned).abs() <= 0.01 * planned, "{requests} requests instead of {planned}");
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
                let figures = bench_with_freeze(&crowd(u32::try_from(vus).unwrap(), think, "15s"), after);
                for metric in ["http_req_total_duration", "http_req_duration"] {
                    let (p99, max) = (figures.value(metric, "p(99)"), figures.value(metric, "max"));
                    assert_eq!(p99 > 500.0, seen, "{vus} users, {think}: p(99) of {metric} is {p99} ms");
                    // Gates that look at p(99) alone would pass the first two.
                    assert!(max >= 1300.0, "{vus} users, {think}: max of {metric} is {max} ms");
                }
            });
        }
    });
}

#[test]
fn a_full_accept_queue_shows_in_what_includes_connecting() {
    let server = PausedAccept::start(Duration::from_millis(300));
    // All within 40 ms of each other, and so within the pause.
    let figures = bench(&server.url, &crowd(50, "40ms", "2s"));
    assert_eq!(figures.outcomes(), [("ok".to_owned(), server.log.requests())]);
    assert_eq!(server.log.connections(), 50);
    // A SYN that finds the queue full is dropped, and comes back after a second (RFC 6298, section 2.1).
    for metric in ["http_req_connecting", "http_req_blocked", "http_req_total_duration"] {
        let max = figures.value(metric, "max");
        assert!(max >= 1000.0, "{metric}: max is {max} ms");
    }
    // The queue takes two beside the one that was accepted; half leaves room for users that came late.
    let late = figures.samples_within("http_req_connecting", 1000.0, f64::INFINITY);
    assert!((25..=49).contains(&late), "{late} of 50 connected late");
    // k6's duration begins with the connection: it sees nothing of it.
    let max = figures.value("http_req_duration", "max");
    assert!(max < 500.0, "http_req_duration: max is {max} ms");
}
