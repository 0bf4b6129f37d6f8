//! From what was measured to a report: facts only, no judgement but on the measurement itself.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use hdrhistogram::Histogram;
use scalekit_service::contract::{Stats, StoreStats};

use super::control::Drained;
use super::crowd;
use super::device;
use super::experiment::{Measured, RunName};
use super::operations::{self, Operations, growth};
use crate::criteria::Spec;
use crate::load::{Arrivals, CheckCount, Plan, Recording, SecondLatency, StepRecording};
use crate::profile::{Profile, ScenarioKind};
use crate::report::{
    Achieved, Audit, Cap, CapKind, DeviceCap, ErrorClass, Finding, Generator, Host, Load, Model, Report,
    Requested, Run, SCHEMA_VERSION, Second, Server, Step, StepCheck, Tool,
};

/// Above this share of stolen time the machine was not the one that the report names.
const NOTABLE_STEAL: f64 = 0.1;

/// Puts the facts together; the verdict is still to come.
pub(super) fn report(
    profile: &Profile,
    specs: Vec<Spec>,
    run: &RunName,
    plan: &Plan,
    mut measured: Measured,
) -> Report {
    let watched = measured.watched.take();
    let recording = &measured.recording;
    let rate = recording.requests as f64 / recording.measured.as_secs_f64();
    let mut report = Report {
        schema_version: SCHEMA_VERSION,
        tool: Tool { name: "scalekit".into(), version: env!("CARGO_PKG_VERSION").into() },
        run: Run {
            id: run.id.clone(),
            started_at: crate::report::rfc3339(run.started_at),
            duration_s: measured.took.as_secs_f64(),
            interrupted: measured.interrupted,
            aborted: measured.aborted.clone(),
            profile: profile.name.clone(),
        },
        host: host(),
        // A profile is made of texts and numbers, which JSON can always hold.
        profile: serde_json::to_value(profile).unwrap_or_default(),
        criteria: specs,
        load: Load {
            requested: requested(profile, plan),
            achieved: Achieved {
                vus: recording.users_achieved,
                rate: if rate.is_finite() { rate } else { 0.0 },
                measured_s: recording.measured.as_secs_f64(),
            },
        },
        metrics: BTreeMap::new(),
        series: series(&measured),
        outcomes: outcomes(recording),
        steps: recording.steps.iter().map(step).collect(),
        generator: generator(plan, recording),
        server: Server {
            mode: mode(&measured.before),
            before: counters(&measured.before),
            after: counters(&measured.after),
        },
        cap: cap(
            &measured.before,
            measured.device.as_ref().and_then(|device| device.cap(&profile.deploy.cap)),
        ),
        audit: None,
        counters: None,
        findings: stolen(recording).into_iter().collect(),
        agents: measured.agents.iter().map(crowd::row).collect(),
        validity: crowd::validity(&measured.agents),
        verdict: None,
    };
    load_metrics(&mut report, recording);
    service_metrics(&mut report, &measured);
    report.validity.extend(unproven(profile, &report.cap, !measured.before.is_empty()));
    if let Some(watched) = watched {
        watched.report(&mut report, recording, measured.began);
    }
    report
}

fn requested(profile: &Profile, plan: &Plan) -> Requested {
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    Requested {
        url: plan.target.url().to_owned(),
        scenario: scenario_name(profile).into(),
        vus: plan.users,
        think_time_ms: ms(plan.think_time),
        warmup_s: plan.warmup.as_secs_f64(),
        duration_s: profile.load.duration.as_secs_f64(),
        timeout_ms: ms(plan.timeout),
        model: match plan.arrivals {
            Arrivals::Think => Model::Closed,
            Arrivals::Every(_) => Model::Paced,
            Arrivals::Rate(_) => Model::Open,
        },
        rate_per_s: profile.load.rate_per_s,
        pacing_ms: profile.load.pacing.map(ms),
        stages: profile.load.stages.iter().map(ToString::to_string).collect(),
        iterations: profile.load.iterations,
        seed: profile.load.seed,
    }
}

fn generator(plan: &Plan, recording: &Recording) -> Generator {
    Generator {
        threads: u32::try_from(plan.threads).unwrap_or(u32::MAX),
        busiest_thread: recording.busiest_thread,
        memory_peak_bytes: recording.max_rss_bytes,
        clock_jump_ms: recording.clock_jump_nanos as f64 / 1e6,
        clamped: recording.clamped,
        no_free_port: Some(recording.no_free_port),
        too_many_files: Some(recording.too_many_files),
        throttled_share: recording.withheld.throttled_share,
        throttled_periods: recording.withheld.throttled_periods,
        steal_share: recording.withheld.steal_share,
        run_delay_share: recording.run_delay,
        heartbeat_lag_ms: (!recording.heartbeat.is_empty())
            .then(|| recording.heartbeat.value_at_quantile(0.99) as f64 / 1000.0),
        checks: Vec::new(),
    }
}

/// Stolen time hits the service as well as the generator, and where it makes the generator late, its lag says so:
/// a note, and no reason to call the measurement invalid.
fn stolen(recording: &Recording) -> Option<Finding> {
    let share = recording.withheld.steal_share.filter(|share| *share > NOTABLE_STEAL)?;
    Some(Finding {
        id: "cpu-steal".into(),
        message: format!(
            "the hypervisor gave {:.0}% of this machine's processor time to others while measuring",
            share * 100.0
        ),
        advice: "measure on a machine with processors of its own, or when its neighbours are quiet".into(),
        evidence: None,
    })
}

fn load_metrics(report: &mut Report, recording: &Recording) {
    for (name, trend) in recording.trends.named() {
        report.set_trend(name, trend);
    }
    report.set_counter("http_reqs", recording.requests);
    report.set_counter("iterations", recording.iterations);
    let checks = recording.steps.iter().flat_map(|step| &step.checks);
    let (passes, all) =
        checks.fold((0, 0), |(passes, all), check| (passes + check.passes, all + check.passes + check.fails));
    if all > 0 {
        report.set_rate("checks", passes, all);
    }
    report.set_counter("dropped_iterations", recording.dropped);
    report.set_rate("http_req_failed", recording.failed, recording.requests);
    report.set_counter("data_sent", recording.bytes_sent);
    report.set_counter("data_received", recording.bytes_received);
    let users = recording.series.iter().map(|second| u64::from(second.users));
    let now = users.clone().next_back().unwrap_or(0);
    report.set_gauge("vus", now, users.clone().min().unwrap_or(0), users.max().unwrap_or(0));
    let requested = u64::from(recording.users_requested);
    report.set_gauge("vus_max", requested, requested, requested);
}

fn service_metrics(report: &mut Report, measured: &Measured) {
    let seconds = measured.recording.elapsed.as_secs_f64();
    if let Some(iops) = measured.iops().iops() {
        let (count, most) = (iops.count as f64, iops.most as f64);
        report.set("db_iops", [("count", count), ("rate", count / seconds), ("max", most)]);
    }
    match operations::of_load(&measured.before, &measured.loaded, &measured.samples) {
        Operations::NotCounted => {}
        Operations::Counted { count, most } => report
            .set("db_ops", [("count", count as f64), ("rate", count as f64 / seconds), ("max", most as f64)]),
        Operations::StartedAnew(roles) => report.findings.push(operations::started_anew(&roles)),
    }
    let backlog = measured.samples.iter().map(|sample| sample.backlog);
    // Without a journal there is no backlog, not one of 0.
    let has_journal = report.server.mode.as_deref() != Some("direct");
    if let Some(last) = backlog.clone().next_back().filter(|_| has_journal) {
        report.set_gauge(
            "journal_backlog",
            last,
            backlog.clone().min().unwrap_or(0),
            backlog.max().unwrap_or(0),
        );
    }
    match &measured.audit {
        None => {}
        Some(Ok(found)) => {
            report.set_audit(Audit {
                acknowledged: found.acknowledged,
                stored: found.stored,
                lost: found.lost,
                duplicated: found.duplicated,
                unknown: found.unknown,
                unknown_stored: found.unknown_stored,
                refused_stored: found.refused_stored,
                examples: found.examples.clone(),
            });
        }
        Some(Err(reason)) => report.validity.push(format!("the audit could not be made: {reason}")),
    }
    if let Some(Drained::TimedOut { left }) = measured.drained
        && !measured.interrupted
    {
        report.validity.push(format!(
            "the audit could not be made: the journal still held {left} entries when the time to drain was over, and what is missing may only be late; raise deploy.drain_timeout or deploy.database_ops"
        ));
    }
}

/// A cap that the profile requires, and nobody has proven. Of a service that is not scalekit's, nothing is known.
fn unproven(profile: &Profile, cap: &Cap, is_ours: bool) -> Option<String> {
    let wanted = &profile.deploy.cap;
    let iops = wanted.iops_per_s.filter(|_| wanted.required && is_ours)?;
    let problem = match &cap.device {
        None => "what is deployed has none; `scalekit deploy` or `run` with this profile makes one",
        Some(found) if found.iops != iops => "what is deployed has another one; deploy it anew",
        Some(found) => found.problem.as_deref()?,
    };
    Some(format!("the cap of {iops} I/O operations a second on the database's disk is not proven: {problem}"))
}

fn scenario_name(profile: &Profile) -> &'static str {
    match profile.load.scenario {
        ScenarioKind::Transactions => "transactions",
        ScenarioKind::Request => "request",
        ScenarioKind::Steps => "steps",
    }
}

fn step(step: &StepRecording) -> Step {
    let quantile = |trend: &Histogram<u64>, quantile| {
        (!trend.is_empty()).then(|| trend.value_at_quantile(quantile) as f64 / 1000.0)
    };
    let check =
        |check: &CheckCount| StepCheck { name: check.name.clone(), passes: check.passes, fails: check.fails };
    Step {
        name: step.name.clone(),
        requests: step.requests,
        failed: step.failed,
        total_ms_med: quantile(&step.total, 0.5),
        total_ms_p95: quantile(&step.total, 0.95),
        total_ms_p99: quantile(&step.total, 0.99),
        total_ms_max: quantile(&step.total, 1.0),
        duration_ms_p95: quantile(&step.duration, 0.95),
        checks: step.checks.iter().map(check).collect(),
    }
}

/// Answered requests by status, the others by what befell them. k6 gives statuses of 400 and above the code
/// 1000 plus the status.
fn outcomes(recording: &Recording) -> Vec<ErrorClass> {
    let class = |name: &str, code: u32, statuses: BTreeMap<String, u64>| ErrorClass {
        code,
        name: name.into(),
        count: statuses.values().sum(),
        statuses,
    };
    let statuses = |wanted: fn(u16) -> bool| -> BTreeMap<String, u64> {
        recording
            .by_status
            .iter()
            .filter(|(status, _)| wanted(**status))
            .map(|(status, count)| (status.to_string(), *count))
            .collect()
    };
    let mut outcomes = vec![class("ok", 0, statuses(|status| status < 400))];
    for (status, count) in recording.by_status.iter().filter(|(status, _)| **status >= 400) {
        outcomes.push(class(
            "HTTP status",
            1000 + u32::from(*status),
            BTreeMap::from([(status.to_string(), *count)]),
        ));
    }
    for (failure, count) in &recording.by_failure {
        let code = failure.k6_code().map_or(0, u32::from);
        outcomes.push(ErrorClass {
            code,
            name: failure.name().into(),
            count: *count,
            statuses: BTreeMap::new(),
        });
    }
    outcomes
}

/// The measured part, a second an entry.
fn series(measured: &Measured) -> Vec<Second> {
    let Measured { recording, samples, began, .. } = measured;
    let iops = measured.iops();
    let ms = |latency: Option<SecondLatency>, of: fn(SecondLatency) -> Duration| {
        latency.map(|latency| of(latency).as_secs_f64() * 1000.0)
    };
    recording
        .series
        .iter()
        .map(|second| {
            // Samples count from the start of the load, the series from the end of the warm-up.
            let end = recording.warmup + Duration::from_secs(u64::from(second.index) + 1);
            let service = growth(samples, end);
            Second {
                at_s: i64::from(second.index),
                vus: second.users,
                requests: second.requests,
                failed: second.failed,
                total_ms_med: ms(second.latency, |latency| latency.p50),
                total_ms_p95: ms(second.latency, |latency| latency.p95),
                total_ms_p99: ms(second.latency, |latency| latency.p99),
                total_ms_max: ms(second.latency, |latency| latency.max),
                db_ops: service.and_then(|(operations, _)| operations),
                db_iops: iops.growth(*began + end),
                journal_backlog: service.map(|(_, backlog)| backlog),
            }
        })
        .collect()
}

fn counters(stats: &BTreeMap<String, Stats>) -> BTreeMap<String, serde_json::Value> {
    stats
        .iter()
        .map(|(role, stats)| (role.clone(), serde_json::to_value(stats).unwrap_or_default()))
        .collect()
}

/// By the word of the API, whatever the profile says: `bench` may meet another deployment.
fn mode(before: &BTreeMap<String, Stats>) -> Option<String> {
    let first = before.iter().find(|(role, _)| role.as_str() != "worker")?.1;
    (!first.mode.is_empty()).then(|| first.mode.clone())
}

fn cap(before: &BTreeMap<String, Stats>, device: Option<DeviceCap>) -> Cap {
    let probed_per_s = device.as_ref().map(|cap| cap.capped_per_s);
    let kind = device.as_ref().map(device::kind);
    if before.is_empty() {
        return Cap { kind: kind.unwrap_or(CapKind::None), limit_per_s: None, probed_per_s, device };
    }
    // A limit for the device's sake comes and goes; this one stays.
    let limit = |store: &StoreStats| store.operations_most.max(store.operations_limit);
    let limits = || before.values().map(|stats| u64::from(limit(&stats.store)));
    // Processes under one governor each tell the limit of all.
    let limit = match before.values().any(|stats| stats.store.operations_shared) {
        true => limits().max().unwrap_or(0),
        false => limits().sum(),
    };
    Cap { kind: kind.unwrap_or(CapKind::Simulated), limit_per_s: Some(limit), probed_per_s, device }
}

/// The machine that made the load.
fn host() -> Host {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once([':', '='])?.1.trim().trim_matches('"').to_owned())
    };
    let kib: u64 = after(&read("/proc/meminfo"), "MemTotal")
        .and_then(|value| value.trim_end_matches(" kB").parse().ok())
        .unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Host {
        os: after(&read("/etc/os-release"), "PRETTY_NAME").unwrap_or_else(|| "Linux".into()),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        cpu_model: after(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        memory_bytes: kib * 1024,
        hostname: Some(read("/proc/sys/kernel/hostname").trim().to_owned()).filter(|name| !name.is_empty()),
    }
}
