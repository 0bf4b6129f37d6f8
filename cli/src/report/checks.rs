//! Whether the load generator's own figures can be believed: one check an instrument, from the report alone, so
//! that a report from its file is judged as the fresh one was.

use super::model::{Check, CheckOutcome, Model, Report};
use crate::criteria::{Criterion, Kind, Operator, Statistic};

/// A generator that wakes later than this share of the tightest latency bound measures itself.
const MAX_LAG_SHARE: f64 = 0.1;
/// The coordinator shares a processor with a generator thread, so that it may wait for its turn for a few ms.
const HEARTBEAT_GRACE_MS: f64 = 20.0;
/// A generator thread this busy cannot be on time.
const MAX_BUSY: f64 = 0.8;
/// Of the measured time.
const MAX_THROTTLED: f64 = 0.01;
/// A wall clock that moved this much against the monotonic one was set during the run.
const MAX_CLOCK_JUMP_MS: f64 = 1000.0;
/// Between the users there were and those that throughput and durations account for.
const MAX_LITTLE_GAP: f64 = 0.05;
/// Below so many iterations chance may explain a gap.
const LITTLE_MIN_ITERATIONS: f64 = 1000.0;
/// Iterations that reach over the ends of the measured part count whole or not at all, which moves the sum by at
/// most one iteration a user. With so many of the longest one in the measured part that is within the limit.
const LITTLE_MIN_LENGTHS: f64 = 20.0;
/// Without a warm-up the users start in the course of the measured part's first second.
const RAMP_MS: f64 = 1000.0;

const NO_BOUND: &str = "no criterion bounds a latency, so nothing says how late is too late";

/// All checks of a report. Those that cannot be made are `unknown`, with the reason.
pub(super) fn checks(report: &Report, criteria: &[Criterion]) -> Vec<Check> {
    vec![
        lag(report, criteria),
        heartbeat(report, criteria),
        busiest_thread(report),
        cpu_throttled(report),
        connects_without(
            "local_ports",
            report.generator.no_free_port,
            "found no free local port",
            "widen net.ipv4.ip_local_port_range, or ask for fewer users",
        ),
        connects_without(
            "open_files",
            report.generator.too_many_files,
            "found the limit on open files reached",
            "raise `ulimit -n`, or ask for fewer users",
        ),
        users(report),
        littles_law(report),
        clock(report),
    ]
}

/// What the failed ones say, each with its remedy.
pub(super) fn failures(checks: &[Check]) -> impl Iterator<Item = String> {
    checks.iter().filter(|check| check.outcome == CheckOutcome::Failed).map(|check| match &check.remedy {
        Some(remedy) => format!("{}; {remedy}", check.reason),
        None => check.reason.clone(),
    })
}

fn unknown(name: &str, limit: Option<f64>, why: impl Into<String>) -> Check {
    let outcome = CheckOutcome::Unknown;
    Check { name: name.to_owned(), value: None, limit, outcome, reason: why.into(), remedy: None }
}

/// A check whose value must not exceed its limit. `reason` is what was found.
fn at_most(name: &str, value: f64, limit: f64, reason: String, remedy: &str) -> Check {
    let failed = value > limit;
    Check {
        name: name.to_owned(),
        value: Some(value),
        limit: Some(limit),
        outcome: if failed { CheckOutcome::Failed } else { CheckOutcome::Ok },
        reason,
        remedy: failed.then(|| remedy.to_owned()),
    }
}

fn lag(report: &Report, criteria: &[Criterion]) -> Check {
    let name = "loadgen_lag";
    let Some(bound) = tightest_latency_ms(criteria) else {
        return unknown(name, None, NO_BOUND);
    };
    let limit = bound * MAX_LAG_SHARE;
    let distribution = report.metrics.get(name).and_then(|metric| metric.distribution.as_ref());
    // In the sum of several machines one that is late may not show.
    let worst = report.agents.iter().filter_map(|agent| agent.lag_ms_p99).reduce(f64::max);
    let Some(lag) = worst.or_else(|| distribution.and_then(|all| all.percentile_ms(99.0))) else {
        return unknown(name, Some(limit), "no request was measured");
    };
    let late = if lag > limit { "woke up late" } else { "woke up in time" };
    let than = if lag > limit { "more than" } else { "within" };
    at_most(
        name,
        lag,
        limit,
        format!(
            "the load generator {late}: p(99) of loadgen_lag is {lag:.1} ms, {than} a tenth of the tightest latency criterion ({bound} ms)"
        ),
        "give it more cores, or run it on another machine",
    )
}

/// What the lag cannot see where users do not pause: a process that did not get to run.
fn heartbeat(report: &Report, criteria: &[Criterion]) -> Check {
    let name = "heartbeat";
    let Some(bound) = tightest_latency_ms(criteria) else {
        return unknown(name, None, NO_BOUND);
    };
    let limit = (bound * MAX_LAG_SHARE).max(HEARTBEAT_GRACE_MS);
    let Some(late) = report.generator.heartbeat_lag_ms else {
        return unknown(name, Some(limit), "the report does not say");
    };
    at_most(
        name,
        late,
        limit,
        format!(
            "the load generator is to wake a hundred times a second whatever the load, and p(99) of how late it did is {late:.1} ms: it cannot tell its own standstill from the server's above {limit} ms (a tenth of the tightest latency criterion, but at least {HEARTBEAT_GRACE_MS} ms)"
        ),
        "give it more cores, or run it on another machine",
    )
}

/// The smallest upper bound that a criterion puts on a request's latency.
fn tightest_latency_ms(criteria: &[Criterion]) -> Option<f64> {
    criteria
        .iter()
        .filter(|criterion| {
            criterion.metric.kind == Kind::Trend && criterion.metric.name.starts_with("http_req_")
        })
        .filter(|criterion| matches!(criterion.operator, Operator::Less | Operator::LessOrEqual))
        .filter(|criterion| !matches!(criterion.statistic, Statistic::Min))
        .map(|criterion| criterion.bound)
        .min_by(f64::total_cmp)
}

fn busiest_thread(report: &Report) -> Check {
    let busy = report.generator.busiest_thread;
    at_most(
        "busiest_thread",
        busy,
        MAX_BUSY,
        format!(
            "a thread of the load generator was busy {:.0}% of the time; above {:.0}% it measures itself",
            busy * 100.0,
            MAX_BUSY * 100.0
        ),
        "raise load.threads, or ask for less load",
    )
}

fn cpu_throttled(report: &Report) -> Check {
    let name = "cpu_throttled";
    let Some(share) = report.generator.throttled_share else {
        let why =
            "the kernel does not say whether a cgroup throttled the load generator (no cpu.stat that tells)";
        return unknown(name, Some(MAX_THROTTLED), why);
    };
    let periods = report.generator.throttled_periods;
    let periods = periods.map_or_else(String::new, |periods| format!(", in {periods} periods"));
    at_most(
        name,
        share,
        MAX_THROTTLED,
        format!(
            "the CPU quota of a cgroup held the load generator up for {:.1}% of the time{periods}",
            share * 100.0
        ),
        "raise the quota (cpu.max, the container's CPU limit, CPUQuota= of the unit), or run it outside of it",
    )
}

fn connects_without(name: &str, count: Option<u64>, what: &str, remedy: &str) -> Check {
    match count {
        None => unknown(name, Some(0.0), "the report does not say"),
        Some(count) => at_most(name, number(count), 0.0, format!("{count} connects {what}"), remedy),
    }
}

/// Users that nobody served are the target's fault if it failed them, each at least once. An answer, whatever its
/// status, serves a user.
fn users(report: &Report) -> Check {
    let name = "users";
    let requested = report.load.requested.vus;
    let achieved = report.load.achieved.vus;
    if let Some(why) = ended_early(report).or_else(|| users_come_and_go(report)) {
        return unknown(name, Some(f64::from(requested)), why);
    }
    let missing = u64::from(requested.saturating_sub(achieved));
    let own = ["no_free_port", "too_many_files"];
    let by_target: u64 = report
        .outcomes
        .iter()
        .filter(|class| class.statuses.is_empty() && class.name != "ok")
        .filter(|class| !own.contains(&class.name.as_str()))
        .map(|class| class.count)
        .sum();
    let failed = missing > 0 && by_target < missing;
    let reason = match (missing, failed) {
        (0, _) => format!("all {requested} users were served"),
        (_, true) => format!(
            "only {achieved} of {requested} users were ever served at once, though the target failed only {by_target} requests"
        ),
        (_, false) => format!(
            "only {achieved} of {requested} users were ever served at once, since the target failed {by_target} requests (refused, reset or not answered)"
        ),
    };
    Check {
        name: name.to_owned(),
        value: Some(f64::from(achieved)),
        limit: Some(f64::from(requested)),
        outcome: if failed { CheckOutcome::Failed } else { CheckOutcome::Ok },
        reason,
        remedy: failed.then(|| "measure or warm up longer, or give the load generator more cores".to_owned()),
    }
}

/// J. D. C. Little, "A Proof for the Queuing Formula L = λW" (1961): users = throughput x time of a whole cycle. A
/// cycle is an iteration with its pause, a failed connect's longer one included, and the lag until the next. The
/// users are those that were asked for, which no part of the measurement went into.
///
/// Only for a constant number of users that wait for their answers.
fn littles_law(report: &Report) -> Check {
    let name = "littles_law";
    let unknown = |why: &str| unknown(name, Some(MAX_LITTLE_GAP), why);
    if let Some(why) = ended_early(report).or_else(|| users_come_and_go(report)) {
        return unknown(why);
    }
    if report.load.requested.model == Model::Paced {
        return unknown("users with a pace of their own also wait for their turn, which no duration holds");
    }
    let value = |metric: &str, statistic: &str| report.metrics.get(metric)?.values.get(statistic).copied();
    let figures = || {
        Some((
            value("iterations", "count")?,
            value("iteration_duration", "avg")? + value("loadgen_lag", "avg")?,
            value("iteration_duration", "max")? + value("loadgen_lag", "max")?,
        ))
    };
    let Some((iterations, cycle_ms, longest_ms)) = figures() else {
        return unknown("no iteration was measured");
    };
    let load = &report.load;
    let (users, measured_ms) = (f64::from(load.requested.vus), load.achieved.measured_s * 1000.0);
    let edge_ms = longest_ms + if load.requested.warmup_s > 0.0 { 0.0 } else { RAMP_MS };
    if iterations < LITTLE_MIN_ITERATIONS {
        return unknown("fewer than 1000 iterations were measured, of which chance may explain a gap");
    }
    if report.generator.clamped > 0 {
        return unknown("durations above 60 s were recorded as 60 s, so their sum is not known");
    }
    if measured_ms < LITTLE_MIN_LENGTHS * edge_ms || users <= 0.0 {
        return unknown(
            "the measured part is shorter than 20 times the longest iteration (plus a second without a warm-up)",
        );
    }
    let accounted = iterations / measured_ms * cycle_ms;
    let gap = (accounted / users - 1.0).abs();
    at_most(
        name,
        gap,
        MAX_LITTLE_GAP,
        format!(
            "{users} users were asked for, and throughput x duration (Little's law) accounts for {accounted:.1}: a gap of {:.1}%",
            gap * 100.0
        ),
        "the load generator did not do what its figures say: give it more cores, or report it if it had enough",
    )
}

fn clock(report: &Report) -> Check {
    let jump = report.generator.clock_jump_ms;
    at_most(
        "clock",
        jump.abs(),
        MAX_CLOCK_JUMP_MS,
        format!("the wall clock moved by {:.3} s against the monotonic one during the run", jump / 1000.0),
        "keep the clock from being set, and the machine from being suspended, while it measures",
    )
}

fn ended_early(report: &Report) -> Option<&'static str> {
    let early = report.run.interrupted || report.run.aborted.is_some();
    early.then_some("the run ended before its time")
}

/// The number of users is what was asked for only where nothing else decides how many there are.
fn users_come_and_go(report: &Report) -> Option<&'static str> {
    let requested = &report.load.requested;
    if requested.model == Model::Open {
        return Some("in the open model there are as many users as the rate needs");
    }
    if !requested.stages.is_empty() {
        return Some("with stages the number of users changes");
    }
    requested.iterations.map(|_| "users end when the iterations are used up")
}

#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}
