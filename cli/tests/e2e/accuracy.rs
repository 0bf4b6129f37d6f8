//! Are the figures true? Latencies, weights and counts of a report, held against servers whose latencies are
//! known and which keep a log of their own.
//!
//! Lower bounds are exact: no request can be faster than its server. Upper bounds leave room for a machine that
//! others use too, and are relative to what the server measured wherever that is possible.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::figures::{Figures, bench, command, crowd};
use crate::sandbox::{Sandbox, wait_for};
use crate::servers::{Act, Server};

const ALL: [&str; 2] = ["http_req_duration", "http_req_total_duration"];

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A bound that a moment of somebody else's load can break is tried once more before it counts.
#[track_caller]
fn in_two_tries(check: impl Fn() -> Result<(), String>) {
    if let Err(first) = check() {
        check().unwrap_or_else(|second| panic!("twice: {first}; {second}"));
    }
}

/// What holds of any run without a warm-up that came to its end.
#[track_caller]
fn expect_all_counted(figures: &Figures, server: &Server) {
    let requests = figures.counter("http_reqs");
    assert!(requests > 0);
    wait_for("the server's own count", || (server.log.dealt_with() == requests).then_some(()));
    assert_eq!(server.log.requests(), requests);
    let classes: u64 = figures.outcomes().iter().map(|(_, count)| count).sum();
    assert_eq!(classes, requests, "{:?}", figures.outcomes());
}

#[test]
fn fixed_delays_are_measured() {
    let measure = |delay: u64| {
        let server = Server::always(Act::ok_after(millis(delay)));
        let figures = bench(&server.url, &crowd(20, "50ms", "1500ms"));
        expect_all_counted(&figures, &server);
        let truth = server.log.percentile_ms(50.0);
        for metric in ALL {
            let (min, p50) = (figures.value(metric, "min"), figures.value(metric, "med"));
            // The lower end of its bucket, which three digits make at most a thousandth lower.
            assert!(min >= 0.999 * delay as f64, "{metric}: {min} ms of {delay} ms");
            assert!(p50 >= delay as f64, "{metric}: {p50} ms of {delay} ms");
            // The slack is what it takes to wake the generator while other tests run.
            if p50 > truth + f64::max(5.0, 0.03 * truth) {
                return Err(format!("{metric}: p50 {p50} ms where the server took {truth} ms"));
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        for delay in [0, 5, 50] {
            scope.spawn(move || in_two_tries(|| measure(delay)));
        }
    });
}

/// Milliseconds and the probability of each mode.
const MODES: [(u64, f64); 3] = [(5, 0.90), (50, 0.09), (500, 0.01)];

#[test]
fn a_mixture_keeps_its_modes_and_their_weights() {
    let mut random = fastrand::Rng::with_seed(1);
    let server = Server::start(move |_| {
        let draw = random.f64();
        let delay = if draw < 0.90 {
            5
        } else if draw < 0.99 {
            50
        } else {
            500
        };
        Act::ok_after(millis(delay))
    });
    let figures = bench(&server.url, &crowd(100, "50ms", "4s"));
    expect_all_counted(&figures, &server);
    let total = figures.counter("http_reqs") as f64;
    for metric in ALL {
        // The modes lie a factor of ten apart; each of these quantiles is far from where one passes to the next.
        for (percent, low, high) in [(50.0, 5.0, 45.0), (95.0, 50.0, 450.0), (99.5, 500.0, 5000.0)] {
            let value = figures.percentile(metric, percent);
            assert!((low..high).contains(&value), "{metric}: p({percent}) is {value} ms");
        }
        for (index, (delay, weight)) in MODES.into_iter().enumerate() {
            let next = MODES.get(index + 1).map_or(f64::INFINITY, |(next, _)| *next as f64);
            let share = figures.samples_within(metric, delay as f64, next) as f64 / total;
            // Five standard deviations of the binomial distribution, and one request in a hundred that the
            // machine held up into the next mode.
            let bound = 5.0 * (weight * (1.0 - weight) / total).sqrt() + 0.01;
            assert!(
                (share - weight).abs() < bound,
                "{metric}: {delay} ms has a share of {share}, not {weight}"
            );
        }
    }
}

#[test]
fn littles_law_holds() {
    const USERS: f64 = 100.0;
    in_two_tries(|| {
        let server = Server::always(Act::ok_after(millis(30)));
        // In the warm-up the users come in one by one; the law is about a state that does not change.
        let mut flags = crowd(100, "70ms", "4s");
        flags.extend(["--warmup", "1s"].map(str::to_owned));
        let figures = bench(&server.url, &flags);
        let rate = figures.value("http_reqs", "rate");
        let response = figures.value("http_req_total_duration", "avg");
        // Users held up across an end of the measured part are in it for longer, or shorter, than their requests
        // tell: by the longest stall at most, which is next to nothing if the machine was quiet.
        let iteration = |statistic| figures.value("iteration_duration", statistic);
        let stall = (iteration("max") - iteration("med")) / 4000.0;
        // R + Z, computed and as measured. The total begins when the request was due; an iteration when it was begun, by
        // a generator that may have been late.
        for cycle in [response + 70.0, iteration("avg") + figures.value("loadgen_lag", "avg")] {
            let users = rate * cycle / 1000.0;
            if (users - USERS).abs() > (0.02 + stall) * USERS {
                return Err(format!("{rate}/s x {cycle} ms are {users} users"));
            }
        }
        Ok(())
    });
}

#[test]
fn no_percentile_is_below_the_servers() {
    let mut random = fastrand::Rng::with_seed(2);
    let server = Server::start(move |_| Act::ok_after(millis(random.u64(0..40))));
    let figures = bench(&server.url, &crowd(50, "10ms", "2s"));
    expect_all_counted(&figures, &server);
    // Each request took its user at least as long as the server, so this holds of all order statistics.
    for metric in ALL {
        for percent in [1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 100.0] {
            let (client, server) = (figures.percentile(metric, percent), server.log.percentile_ms(percent));
            assert!(client >= server, "{metric}: p({percent}) is {client} ms, the server's {server} ms");
        }
    }
}

#[test]
fn every_request_that_the_server_saw_is_accounted_for() {
    // Every third is an error; long enough that most users wait for an answer at any time.
    let server = Server::start(|number| match number % 3 {
        0 => Act::raw("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
        _ => Act::ok_after(millis(300)),
    });
    let sandbox = Sandbox::new();
    let mut run = sandbox.start(sandbox.command(&command(&sandbox, &server.url, &crowd(40, "10ms", "10m"))));
    wait_for("requests", || (server.log.requests() > 400).then_some(()));
    run.signal(Signal::SIGINT);
    let output = run.wait();
    // What was in flight is in no figure; it is said in a note.
    let note = output.stderr.lines().find(|line| line.contains("requests were under way")).unwrap_or("");
    let aborted: u64 = note.split(' ').nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
    assert!((1..=40).contains(&aborted), "{}", output.stderr);
    let figures = Figures::of(&sandbox, output);
    assert_eq!(figures.json()["run"]["interrupted"], true);
    let (ok, failed) = (figures.outcome("ok"), figures.value("http_req_failed", "passes") as u64);
    assert!(ok > 0 && failed > 0);
    assert_eq!(figures.counter("http_reqs"), ok + failed);
    wait_for("the server's own count", || (server.log.requests() == ok + failed + aborted).then_some(()));
}
