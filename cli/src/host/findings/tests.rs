//! Each class of bottleneck on a series that has it, and a healthy run.

mod noise;
mod order;
mod remedies;
mod rules;

use proptest::prelude::*;

use super::*;
use crate::host::counters::Kind::{self, Counter, Gauge};

const SECONDS: usize = 40;
const KNEE: i64 = 20;

type Columns = Vec<(&'static str, Kind, Vec<Option<f64>>)>;

/// A line from its value at second 0, with its growth a second before and from `turn` on.
fn line(start: f64, before: f64, turn: usize, after: f64) -> Vec<Option<f64>> {
    let mut value = start;
    let step = |second: usize| if second >= turn { after } else { before };
    (0..SECONDS)
        .map(|second| {
            let now = value;
            value += step(second + 1);
            Some(now)
        })
        .collect()
}

fn flat(value: f64) -> Vec<Option<f64>> {
    line(value, 0.0, 0, 0.0)
}

/// Until `turn` the one value, from then on the other.
fn turning(before: f64, turn: usize, after: f64) -> Vec<Option<f64>> {
    (0..SECONDS).map(|second| Some(if second >= turn { after } else { before })).collect()
}

/// Everything known, and nothing full.
fn healthy() -> Columns {
    let mut columns: Columns = [
        "tcp.listen_overflows",
        "tcp.syn_queue_drops",
        "tcp.syn_queue_cookies",
        "tcp.listen_drops_other",
        "tcp.time_wait_overflows",
        "conntrack.dropped",
        "conntrack.early_dropped",
        "cgroup.cpu_throttled[/app]",
        "cpu.stolen",
        "cgroup.memory_oom_kills[/app]",
        "cgroup.memory_max_events[/app]",
        "cgroup.memory_high_events[/app]",
        "tcp.aborts_on_memory",
        "tcp.memory_pressures",
        "softnet.dropped",
        "pressure.memory_full_us",
        "pressure.io_full_us",
    ]
    .map(|name| (name, Counter, flat(3.0)))
    .to_vec();
    columns.extend([
        ("process.alive", Gauge, flat(1.0)),
        ("softnet.processed", Counter, line(0.0, 5000.0, 0, 5000.0)),
        ("listener.most_waiting", Gauge, flat(1.0)),
        ("listener.waiting[0.0.0.0:8080]", Gauge, flat(1.0)),
        ("listener.backlog[0.0.0.0:8080]", Gauge, flat(128.0)),
        ("ports.most_used", Gauge, flat(100.0)),
        ("ports.available", Gauge, flat(28_232.0)),
        ("process.open_files", Gauge, flat(100.0)),
        ("process.max_open_files", Gauge, flat(1024.0)),
        ("files.open", Gauge, flat(500.0)),
        ("files.max", Gauge, flat(100_000.0)),
        ("conntrack.entries", Gauge, flat(10.0)),
        ("conntrack.max", Gauge, flat(1000.0)),
        ("cgroup.cpu_periods[/app]", Counter, line(0.0, 10.0, 0, 10.0)),
        ("cpu.total", Counter, line(0.0, 400.0, 0, 400.0)),
        ("cpu.busy", Counter, line(0.0, 100.0, 0, 100.0)),
        ("pressure.cpu_some_us", Counter, line(0.0, 50_000.0, 0, 50_000.0)),
        ("tcp.memory_pages", Gauge, flat(10.0)),
        ("tcp.memory_pressure_pages", Gauge, flat(1000.0)),
        ("cgroup.io_reads[/app 254:0]", Counter, line(0.0, 1.0, 0, 1.0)),
        ("cgroup.io_writes[/app 254:0]", Counter, line(0.0, 50.0, 0, 50.0)),
        ("cgroup.io_max_writes_per_s[/app 254:0]", Gauge, flat(100.0)),
        ("disk.operations[254:0]", Counter, line(0.0, 51.0, 0, 51.0)),
    ]);
    columns
}

fn with(changed: Columns) -> Series {
    let mut columns = healthy();
    columns.retain(|(name, ..)| changed.iter().all(|(other, ..)| other != name));
    columns.extend(changed);
    Series::of(SECONDS as u64, &columns)
}

fn latency(knee: Option<i64>) -> Vec<Latency> {
    let p99 = |at_s| if knee.is_some_and(|knee| at_s >= knee) { 900.0 } else { 12.0 };
    (0..SECONDS as i64).map(|at_s| Latency { at_s, p99_ms: Some(p99(at_s)) }).collect()
}

fn judge(series: &Series, latency: &[Latency]) -> Attribution {
    let cap = DiskCap { device: "254:0".to_owned(), operations_per_s: 100.0 };
    attribute(Evidence { series, latency, measured_from_ms: 0, disk_cap: Some(&cap) })
}

#[test]
fn a_healthy_run_has_no_finding_and_nothing_unknown() {
    for latency in [latency(None), latency(Some(KNEE)), Vec::new()] {
        let found = judge(&with(Vec::new()), &latency);
        assert_eq!(found.findings, []);
        assert_eq!(found.unknown, []);
        assert_eq!(found.summary(), "No saturated resource found");
    }
}

#[test]
fn a_second_crossing_before_the_knee_counts_and_one_long_before_does_not() {
    // Over at 3 s, back, and over again at 17 s.
    let mut values = turning(1.0, 17, 120.0);
    values[3] = Some(120.0);
    let found = judge(&with(vec![("listener.waiting[0.0.0.0:8080]", Gauge, values)]), &latency(Some(KNEE)));
    assert_eq!((found.findings[0].at_s, found.findings[0].before_knee), (17.0, Some(true)));
    let early = with(vec![("listener.waiting[0.0.0.0:8080]", Gauge, turning(1.0, 14, 120.0))]);
    let found = judge(&early, &latency(Some(KNEE)));
    assert_eq!((found.findings[0].at_s, found.findings[0].before_knee), (14.0, Some(false)));
    assert!(found.summary().starts_with("Nothing was found full"), "{}", found.summary());
    assert_eq!(judge(&early, &latency(None)).findings[0].before_knee, None, "no knee");
}

#[test]
fn the_clock_of_the_run_is_that_of_the_findings() {
    let series = with(vec![("tcp.listen_overflows", Counter, line(3.0, 0.0, 28, 40.0))]);
    let latency: Vec<Latency> = latency(Some(KNEE)).into_iter().take(30).collect();
    let evidence = Evidence { series: &series, latency: &latency, measured_from_ms: 10_000, disk_cap: None };
    let found = attribute(evidence);
    assert_eq!((found.findings[0].at_s, found.findings[0].before_knee), (18.0, Some(true)));
}

#[test]
fn what_nobody_could_read_is_named_as_unknown() {
    let mut columns = healthy();
    columns.retain(|(name, ..)| !name.starts_with("conntrack.") && !name.starts_with("listener."));
    for (name, _, values) in &mut columns {
        if *name == "pressure.cpu_some_us" {
            values.fill(None);
        }
    }
    let found = judge(&Series::of(SECONDS as u64, &columns), &latency(Some(KNEE)));
    assert_eq!(found.findings, []);
    let unknown = |resource| {
        found.unknown.iter().find(|unknown| unknown.resource == resource).map(|found| &found.counters[..])
    };
    assert_eq!(unknown(Resource::Cpu), Some(&["pressure.cpu_some_us".to_owned()][..]));
    assert_eq!(unknown(Resource::AcceptQueue), Some(&["listener.most_waiting".to_owned()][..]));
    assert_eq!(unknown(Resource::Conntrack).map(<[String]>::len), Some(4));
    assert_eq!(unknown(Resource::Disk), None);
    let summary = found.summary();
    assert!(
        summary.starts_with("No saturated resource found; unknown: accept queue (listener.most_waiting)"),
        "{summary}"
    );
    let nothing = judge(&Series::default(), &[]);
    assert_eq!(nothing.unknown.len(), 12, "without a sample each resource is unknown");
}

#[test]
fn what_is_not_there_cannot_be_full_and_is_not_unknown() {
    let judged = |gone: &[&str], there: Columns| {
        let mut columns = healthy();
        columns.retain(|(name, ..)| !gone.iter().any(|gone| name.starts_with(gone)));
        columns.extend(there);
        judge(&Series::of(SECONDS as u64, &columns), &[]).unknown
    };
    for (gone, gauge, resource) in [
        ("conntrack.", "conntrack.tracked", Resource::Conntrack),
        ("cgroup.cpu_", "cgroup.cpu_limited", Resource::CpuQuota),
    ] {
        assert_eq!(judged(&[gone], vec![(gauge, Gauge, flat(0.0))]), []);
        for there in [vec![(gauge, Gauge, flat(1.0))], vec![(gauge, Gauge, vec![None; SECONDS])], Vec::new()]
        {
            let unknown = judged(&[gone], there);
            assert_eq!(unknown.iter().map(|unknown| unknown.resource).collect::<Vec<_>>(), [resource]);
        }
    }
    // Version 1 does not tell.
    let stall = ("cgroup.io_stall_us[/app]", Counter, vec![None; SECONDS]);
    assert_eq!(judged(&[], vec![stall]), []);
    // Nobody listens, and that is known.
    assert_eq!(judged(&["listener.waiting", "listener.backlog"], Vec::new()), []);
}

#[test]
fn what_was_too_much_to_be_kept_is_said() {
    let series = Series { left_out: 7, ..with(Vec::new()) };
    let summary = judge(&series, &[]).summary();
    assert!(summary.starts_with("No saturated resource found; not all was looked at"), "{summary}");
    assert!(summary.ends_with(": 7"), "{summary}");
}

proptest! {
    #[test]
    fn any_series_is_judged_without_a_panic(
        values in proptest::collection::vec(proptest::option::of(any::<f64>()), SECONDS),
        place in 0_usize..64,
    ) {
        let mut columns = healthy();
        let count = columns.len();
        let changed = &mut columns[place % count];
        changed.2 = values;
        let changed = changed.0.split('[').next().unwrap();
        let found = judge(&Series::of(SECONDS as u64, &columns), &latency(Some(KNEE)));
        // Only what reads that counter can say anything.
        let reads = |rule: &Rule| rules::read_by(rule).contains(&changed);
        for (at, finding) in found.findings.iter().enumerate() {
            prop_assert!(table::rules().any(|rule| rule.resource == finding.resource && reads(rule)), "{finding:?}");
            prop_assert!((0.0..SECONDS as f64).contains(&finding.at_s), "{finding:?}");
            prop_assert!(finding.before_knee.is_some());
            prop_assert!(found.findings[..at].iter().all(|other| other.counter != finding.counter), "told of twice");
        }
    }
}
