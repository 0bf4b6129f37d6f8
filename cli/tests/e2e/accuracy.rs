//! Are the figures true? Latencies, weights and counts of a report, held against servers whose latencies are
//! known and which keep a log of their own.
//!
//! All bounds are exact on any machine, however slow: no request can be faster than its server, and a user's requests
//! and pauses fill the user's time, which the server's clock measures as well. What the machine held up is in both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::figures::{Figures, bench, command, crowd};
use crate::sandbox::{Sandbox, wait_for};
use crate::servers::{Act, Server};

const ALL: [&str; 2] = ["http_req_duration", "http_req_total_duration"];

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
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

/// The sums are true by the server's clock. A user's next request is due when its last one has ended and the pause is
/// over, so all its requests and the pauses between them are one stretch of time; the server saw the same stretch
/// but for the way of the first request and that of the last answer, each of them shorter than the slowest request
/// less what the server took at least. Of users who paused `think` ms and kept their connection.
#[track_caller]
fn expect_true_sums(figures: &Figures, server: &Server, think: f64, least: f64) {
    let (requests, users) = (figures.counter("http_reqs") as f64, server.log.connections() as f64);
    let pauses = (requests - users) * think;
    let (low, high) = figures.sum("http_req_total_duration");
    let span = server.log.span_ms();
    assert!(high + pauses >= span, "{high} ms and {pauses} ms of pauses, the server's {span} ms");
    let ways = 2.0 * users * (1.001 * figures.value("http_req_total_duration", "max") - least);
    assert!(
        low + pauses <= span + ways,
        "{low} ms and {pauses} ms of pauses, the server's {span} + {ways} ms"
    );
    // The total is made of these three, request by request.
    let parts = ["loadgen_lag", "http_req_blocked", "http_req_duration"].map(|metric| figures.sum(metric));
    let (low_parts, high_parts) = parts.iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    assert!(low_parts <= high && low <= high_parts, "{parts:?} in all, and not {low} to {high} ms");
}

#[test]
fn fixed_delays_are_measured() {
    let measure = |delay: u64| {
        let server = Server::always(Act::ok_after(millis(delay)));
        let figures = bench(&server.url, &crowd(20, "50ms", "1500ms"));
        expect_all_counted(&figures, &server);
        let delay = delay as f64;
        expect_true_sums(&figures, &server, 50.0, delay);
        let requests = figures.counter("http_reqs") as f64;
        for metric in ALL {
            let (min, p50) = (figures.value(metric, "min"), figures.value(metric, "med"));
            // The lower end of its bucket, which three digits make at most a thousandth lower.
            assert!(min >= 0.999 * delay, "{metric}: {min} ms of {delay} ms");
            assert!(p50 >= delay, "{metric}: {p50} ms of {delay} ms");
            // Half of the requests took as long, so what is more than the delay is in the sum.
            let more = figures.sum(metric).1 - requests * delay;
            assert!(
                (0.999 * p50 - delay) * requests / 2.0 <= more,
                "{metric}: {p50} ms, {more} ms more in all"
            );
        }
    };
    std::thread::scope(|scope| {
        for delay in [0, 5, 50] {
            scope.spawn(move || measure(delay));
        }
    });
}

/// Milliseconds of each mode, and its probability in percent.
const MODES: [(u64, u64); 3] = [(5, 90), (50, 9), (500, 1)];

#[test]
fn a_mixture_keeps_its_modes_and_their_weights() {
    let mut random = fastrand::Rng::with_seed(1);
    let drawn: Arc<[AtomicU64; 3]> = Arc::default();
    let server = {
        let drawn = Arc::clone(&drawn);
        Server::start(move |_| {
            let mut draw = random.u64(0..100);
            let mode = MODES.iter().position(|(_, percent)| {
                let holds = draw < *percent;
                draw = draw.saturating_sub(*percent);
                holds
            });
            let mode = mode.unwrap();
            drawn[mode].fetch_add(1, Ordering::SeqCst);
            Act::ok_after(millis(MODES[mode].0))
        })
    };
    let figures = bench(&server.url, &crowd(100, "50ms", "4s"));
    expect_all_counted(&figures, &server);
    expect_true_sums(&figures, &server, 50.0, 5.0);
    let drawn = [0, 1, 2].map(|mode| drawn[mode].load(Ordering::SeqCst));
    assert!(drawn.iter().all(|count| *count > 5), "{drawn:?}");
    assert_eq!(drawn.iter().sum::<u64>(), figures.counter("http_reqs"));
    let delays: f64 = MODES.iter().zip(drawn).map(|((delay, _), count)| (delay * count) as f64).sum();
    for metric in ALL {
        // What the machine held up in all, and with it how many requests at most it can have held up into a higher
        // mode: each of those is as much more than it was drawn as the modes are apart.
        let more = figures.sum(metric).1 - delays;
        for mode in [1, 2] {
            let (here, before) = (MODES[mode].0 as f64, MODES[mode - 1].0 as f64);
            let due = drawn[mode..].iter().sum::<u64>();
            let seen = figures.samples_within(metric, here, f64::INFINITY);
            assert!(seen >= due, "{metric}: {seen} from {here} ms on, {due} were drawn");
            let held_up = (seen - due) as f64;
            assert!(
                held_up * (0.999 * here - before) <= more,
                "{metric}: {seen} from {here} ms on, {due} were drawn, and {more} ms more than was drawn in all"
            );
        }
    }
}

/// Users = throughput x (response time + think time), exactly. Each user begins when it is due, and from then on its
/// requests and pauses follow one another without a gap (what the generator is late counts to the request); only
/// its last cycle reaches over the end of the run. So all cycles fill the users' time from their starts to the end, and
/// at most the longest cycle more for each. An iteration that was due and not started is missing; the generator
/// stood still then, for less than the longest cycle, since some of so many users had a request under way.
#[test]
fn littles_law_holds() {
    const USERS: f64 = 40.0;
    /// In ms.
    const THINK: f64 = 20.0;
    const LENGTH: f64 = 6000.0;
    let server = Server::always(Act::ok_after(millis(20)));
    let figures = bench(&server.url, &crowd(40, "20ms", "6s"));
    expect_all_counted(&figures, &server);
    let requests = figures.counter("http_reqs") as f64;
    assert!((figures.value("http_reqs", "rate") * LENGTH / 1000.0 - requests).abs() < 1e-6 * requests);
    assert_eq!(figures.counter("iterations") as f64, requests);
    let (low, high) = figures.sum("http_req_total_duration");
    let (low, high) = (low + requests * THINK, high + requests * THINK);
    // The starts are spread evenly over the pause.
    let there_is = USERS * LENGTH - THINK * (USERS - 1.0) / 2.0;
    let longest = 1.001 * figures.value("http_req_total_duration", "max") + THINK;
    let missing = figures.counter("dropped_iterations") as f64 * longest;
    let users = |time: f64| time / LENGTH;
    assert!(
        high >= there_is - missing && low <= there_is + USERS * longest,
        "{} users are busy for the time of {} to {}, the longest cycle is {longest} ms",
        users(there_is),
        users(low),
        users(high)
    );
    // As measured: an iteration begins when the generator turned to it, the total when it was due.
    let (iterations, lag) = (figures.sum("iteration_duration"), figures.sum("loadgen_lag"));
    assert!(
        iterations.0 + lag.0 <= high && low <= iterations.1 + lag.1,
        "{iterations:?} {lag:?} {low} {high}"
    );
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
