//! The engine against real sockets: small servers that count what they see, compared with what was recorded.

mod bounds;
mod cookies;
mod crowd;
mod judging;
mod models;
mod outcomes;
mod scale;
mod server;
mod tls_server;
mod transports;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use scalekit_service::contract::operation_id;

use super::trends::{Trend, trend};
use super::*;
use bounds::{alone, check_user_time, expect_time_outs, growth_during, upper_sum, wait_until};
use server::Server;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const ACCEPTED: &str = "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}";

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A plan in which nothing is special, to a port that nobody asks for.
pub(super) fn any_plan() -> Plan {
    let target = Target::parse("http://127.0.0.1:1/").unwrap();
    Plan {
        connecting: Connecting::new(&ConnectOptions::default(), &target).unwrap(),
        target,
        scenario: Scenario::request("GET", vec![], ""),
        users: 1,
        share: Share::ALL,
        arrivals: Arrivals::Think,
        think_time: Duration::ZERO,
        stages: Vec::new(),
        iterations: None,
        seed: 1,
        data: None,
        authorization: None,
        cookies: false,
        warmup: Duration::ZERO,
        duration: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        threads: 1,
    }
}

/// A GET plan for three users on two threads.
fn plan(address: SocketAddr, think_millis: u64, duration_millis: u64) -> Plan {
    let target = Target::parse(&format!("http://{address}/path")).unwrap();
    Plan {
        connecting: Connecting::new(&ConnectOptions::default(), &target).unwrap(),
        target,
        users: 3,
        share: Share::ALL,
        think_time: millis(think_millis),
        duration: millis(duration_millis),
        timeout: Duration::from_secs(20),
        threads: 2,
        ..any_plan()
    }
}

/// The same, which ends after so many iterations, however long they take: what it sends is exact on any machine.
/// As many as there are users or more, and each of them has one: first starts are due before any second.
fn plan_of(address: SocketAddr, think_millis: u64, iterations: u64) -> Plan {
    Plan { iterations: Some(iterations), ..plan(address, think_millis, 100_000) }
}

/// Adds up the seconds of the measured part.
#[derive(Default)]
struct Told {
    sums: BTreeMap<&'static str, Trend>,
    /// By the step's index.
    steps: BTreeMap<usize, Trend>,
    seconds: usize,
}

impl Observer for Told {
    fn tick(&mut self, _: &Tick) {}

    fn second(&mut self, second: Interval) {
        if second.index().is_none() {
            return;
        }
        self.seconds += 1;
        for (name, histogram) in second.latencies().into_iter().flatten() {
            add_to(self.sums.entry(name).or_insert_with(trend), histogram);
        }
        for (step, histogram) in (0..64).filter_map(|step| Some((step, second.step(step)?))) {
            add_to(self.steps.entry(step).or_insert_with(trend), histogram);
        }
    }
}

fn add_to(sum: &mut Trend, histogram: &hdrhistogram::Histogram<u32>) {
    histogram.iter_recorded().for_each(|bucket| {
        sum.record_n(bucket.value_iterated_to(), bucket.count_at_value().into()).unwrap();
    });
}

/// A run of which only ticks are wanted.
fn run(
    plan: &Plan,
    stop: &AtomicBool,
    on_tick: &mut dyn FnMut(&Tick),
) -> Result<Recording, engine::LoadError> {
    super::run(plan, stop, &mut Ticks(on_tick), None)
}

fn record(plan: &Plan) -> Recording {
    plan.check().unwrap();
    let mut told = Told::default();
    let recording = super::run(plan, &AtomicBool::new(false), &mut told, None).unwrap();
    expect_sums(&recording, &told);
    assert!(!recording.interrupted);
    assert_eq!(recording.aborted, 0);
    match plan.iterations {
        None => assert_eq!(recording.measured, plan.duration),
        Some(iterations) => {
            assert!(recording.elapsed <= plan.warmup + plan.duration, "not ended by its iterations");
            assert!(plan.warmup > Duration::ZERO || recording.iterations == iterations);
        }
    }
    check_consistency(&recording);
    check_user_time(plan, &recording);
    recording
}

/// The seconds add up to the whole, of each metric and of each of several steps.
fn expect_sums(recording: &Recording, told: &Told) {
    let Told { sums, steps, seconds } = told;
    assert_eq!(*seconds, recording.series.len());
    for (name, trend) in recording.trends.named() {
        assert!(sums.get(name).is_none_or(|sum| sum == trend), "the seconds add up to {name}");
    }
    assert!(sums.len() == 2 || recording.requests == 0);
    if recording.steps.len() == 1 {
        assert!(steps.is_empty(), "an only step is the whole");
        return;
    }
    for (index, step) in recording.steps.iter().enumerate() {
        assert_eq!(steps.get(&index).map_or(0, Trend::len), step.requests, "{}", step.name);
        assert!(
            steps.get(&index).is_none_or(|sum| *sum == step.total),
            "the seconds add up to {}",
            step.name
        );
    }
    let of_steps: u64 = steps.values().map(Trend::len).sum();
    assert_eq!(of_steps, recording.requests);
}

/// What must hold of any recording.
fn check_consistency(recording: &Recording) {
    let responses: u64 = recording.by_status.values().sum();
    let failures: u64 = recording.by_failure.values().sum();
    assert_eq!(responses + failures, recording.requests);
    let bad: u64 = recording.by_status.range(400..).map(|(_, count)| count).sum();
    assert_eq!(bad + failures, recording.failed);
    let trends = &recording.trends;
    for (name, trend) in trends.named() {
        let expected = match name {
            "http_req_total_duration{expected_response:true}" => recording.requests - recording.failed,
            "http_req_total_duration{expected_response:false}" => recording.failed,
            "iteration_duration" => recording.iterations,
            _ => recording.requests,
        };
        assert_eq!(trend.len(), expected, "{name}");
    }
    let rows = &recording.series;
    assert_eq!(rows.iter().map(|row| row.requests).sum::<u64>(), recording.requests);
    assert_eq!(rows.iter().map(|row| row.failed).sum::<u64>(), recording.failed);
    assert!(rows.windows(2).all(|pair| pair[0].index < pair[1].index));
    assert_eq!(recording.series_gaps, 0);
    assert!((0.0..=1.01).contains(&recording.busiest_thread), "{}", recording.busiest_thread);
}

fn fates(recording: &Recording) -> BTreeMap<Fate, u64> {
    let mut counts = BTreeMap::new();
    recording.ledger.iter().for_each(|(_, _, fate)| *counts.entry(fate).or_default() += 1);
    counts
}

#[test]
fn a_delay_is_never_undercut() {
    let server = Server::answering(OK, millis(20));
    let recording = record(&plan_of(server.address, 5, 60));
    // Waiting alone may be a little less, if this thread was held up between the send and its time stamp.
    for trend in [&recording.trends.duration, &recording.trends.total] {
        // Three significant digits.
        assert!(trend.min() >= 19_980, "{}", trend.min());
    }
    assert!(
        recording.trends.iteration.min() >= 24_970,
        "think time included: {}",
        recording.trends.iteration.min()
    );
}

#[test]
fn counts_agree_with_the_servers_log() {
    let server = Server::answering(OK, Duration::ZERO);
    let recording = record(&plan_of(server.address, 2, 400));
    assert_eq!((recording.requests, server.requests()), (400, 400));
    assert_eq!(recording.by_status, BTreeMap::from([(200, 400)]));
    assert_eq!(fates(&recording), BTreeMap::from([(Fate::Acknowledged, 400)]));
    let head = server.heads()[0].clone();
    assert!(head.starts_with("GET /path HTTP/1.1\r\nHost: 127.0.0.1:"), "{head}");
    assert_eq!(recording.bytes_sent, (head.len() as u64 + 4) * recording.requests);
    assert_eq!(recording.bytes_received, OK.len() as u64 * recording.requests);
    assert_eq!((recording.users_requested, recording.users_achieved), (3, 3));
}

#[test]
fn a_user_keeps_its_connection() {
    let server = Server::answering(OK, Duration::ZERO);
    let recording = record(&plan_of(server.address, 1, 300));
    assert_eq!((recording.requests, server.connections()), (300, 3));
    let zero_connects = recording.trends.connecting.count_at(0);
    assert!(zero_connects >= 297, "{zero_connects}");
}

#[test]
fn transactions_carry_their_operation_ids() {
    let server = Server::answering(ACCEPTED, Duration::ZERO);
    let scenario = Scenario::Transactions {
        run: "k3f9x2ab".into(),
        items: 100,
        item_collection: "items".into(),
        write_collection: "orders".into(),
        reads: 2,
        writes: 3,
    };
    let recording = record(&Plan { scenario, ..plan_of(server.address, 2, 100) }.below(""));
    let expected: BTreeSet<String> = recording
        .ledger
        .iter()
        .map(|(user, sequence, fate)| {
            assert_eq!(fate, Fate::Acknowledged);
            operation_id("k3f9x2ab", sequence, user)
        })
        .collect();
    let heads = server.heads();
    let key =
        |head: &String| head.lines().find_map(|l| l.strip_prefix("Idempotency-Key: ")).unwrap().to_owned();
    let seen: BTreeSet<String> = heads.iter().map(key).collect();
    assert_eq!((seen.len(), heads.len(), &seen), (100, 100, &expected));
    assert!(heads[0].starts_with("POST /v1/transactions HTTP/1.1\r\n"));
}

impl Plan {
    fn below(mut self, path: &str) -> Self {
        self.target.path = format!("{path}/");
        self
    }
}

#[test]
fn connections_closed_while_idle_are_renewed_silently() {
    let server = Server::start(|peer| {
        while peer.request().is_some() && peer.reply(OK) {
            peer.close();
        }
    });
    // The pause is long, so that no server is that late to close what it has answered.
    let recording = record(&plan_of(server.address, 600, 9));
    assert_eq!((recording.requests, recording.failed), (9, 0), "{:?}", recording.by_failure);
    assert_eq!(server.connections(), 9);
    assert_eq!(recording.users_achieved, 3);
}

#[test]
fn connection_close_is_obeyed() {
    let server = Server::start(|peer| {
        while peer.request().is_some()
            && peer.reply("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx")
        {}
    });
    let recording = record(&plan_of(server.address, 5, 30));
    assert_eq!((recording.requests, recording.failed), (30, 0), "{:?}", recording.by_failure);
    assert_eq!(server.connections(), 30);
}

#[test]
fn the_warm_up_is_sent_but_not_measured() {
    let server = Server::answering(OK, Duration::ZERO);
    let plan = Plan { warmup: millis(400), ..plan(server.address, 10, 400) };
    let recording = record(&plan);
    let sent = recording.ledger.totals().acknowledged;
    assert_eq!(sent, server.requests());
    assert!(recording.requests > 0 && recording.requests < sent, "{} of {sent}", recording.requests);
    // Connections were made in the warm-up.
    assert_eq!(recording.trends.connecting.max(), 0);
    assert_eq!(recording.warmup, millis(400));
}

#[test]
fn requests_in_flight_at_the_end_are_awaited() {
    let server = Server::answering(OK, millis(500));
    let recording = record(&plan(server.address, 0, 900));
    assert_eq!(recording.requests, server.requests());
    // Three users begin a third of a second apart; each may start a second one in time, and no third.
    assert!((1..=5).contains(&recording.requests), "{}", recording.requests);
    assert!(recording.elapsed > recording.measured);
    assert_eq!(recording.failed, 0);
}

#[test]
fn another_address_is_tried_when_one_refuses() {
    let server = Server::answering(OK, Duration::ZERO);
    let mut plan = plan_of(server.address, 10, 30);
    // As `localhost` with a service on IPv4 alone.
    let closed = SocketAddr::new("::1".parse().unwrap(), server.address.port());
    plan.target.addresses.insert(0, closed);
    let recording = record(&plan);
    assert_eq!((recording.requests, recording.failed), (30, 0), "{:?}", recording.by_failure);
    assert_eq!(server.connections(), 3);
}

#[test]
fn large_bodies_are_sent_whole() {
    // No `$` among them, which begins a variable.
    let body: String = (0..6_000_000u32).map(|i| char::from(b'0' + (i % 71) as u8)).collect();
    let expected = body.clone().into_bytes();
    let server = Server::start(move |peer| {
        while let Some((_, body)) = peer.request() {
            let reply = if body == expected { OK } else { "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n" };
            peer.reply(reply);
        }
    });
    let scenario = Scenario::request("POST", vec![], &body);
    let recording = record(&Plan { scenario, users: 2, ..plan_of(server.address, 100, 6) });
    assert_eq!(recording.by_status, BTreeMap::from([(200, 6)]));
    assert_eq!((server.requests(), server.connections()), (6, 2));
}
