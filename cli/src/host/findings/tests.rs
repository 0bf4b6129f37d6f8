//! Each class of bottleneck on a series that has it, and a healthy run.

mod noise;
mod order;
mod remedies;

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
fn each_class_is_found_before_the_knee_and_named() {
    use Severity::{Error, Saturation, Utilisation};
    let rising = || line(3.0, 0.0, 18, 40.0);
    for (resource, severity, counter, columns) in [
        (
            Resource::AcceptQueue,
            Error,
            "tcp.listen_overflows",
            vec![("tcp.listen_overflows", Counter, rising())],
        ),
        (
            Resource::AcceptQueue,
            Saturation,
            "listener.waiting[0.0.0.0:8080]",
            vec![("listener.waiting[0.0.0.0:8080]", Gauge, turning(1.0, 17, 103.0))],
        ),
        (Resource::SynQueue, Error, "tcp.syn_queue_drops", vec![("tcp.syn_queue_drops", Counter, rising())]),
        (
            Resource::SynQueue,
            Saturation,
            "tcp.syn_queue_cookies",
            vec![("tcp.syn_queue_cookies", Counter, rising())],
        ),
        (
            Resource::SynQueue,
            Error,
            "tcp.listen_drops_other",
            vec![("tcp.listen_drops_other", Counter, rising())],
        ),
        (
            Resource::Ports,
            Utilisation,
            "ports.used[10.0.0.1 > 10.0.0.2:27017]",
            vec![("ports.used[10.0.0.1 > 10.0.0.2:27017]", Gauge, turning(3000.0, 18, 24_500.0))],
        ),
        (
            Resource::OpenFiles,
            Utilisation,
            "process.open_files",
            vec![("process.open_files", Gauge, turning(100.0, 18, 1000.0))],
        ),
        (
            Resource::OpenFiles,
            Saturation,
            "process.open_files",
            vec![("process.open_files", Gauge, turning(100.0, 18, 1024.0))],
        ),
        (
            Resource::Ports,
            Error,
            "generator.no_free_port",
            vec![("generator.no_free_port", Counter, turning(0.0, 18, 7.0))],
        ),
        (
            Resource::OpenFiles,
            Error,
            "generator.too_many_files",
            vec![("generator.too_many_files", Counter, turning(0.0, 18, 7.0))],
        ),
        (Resource::Conntrack, Error, "conntrack.dropped", vec![("conntrack.dropped", Counter, rising())]),
        (
            Resource::Conntrack,
            Utilisation,
            "conntrack.entries",
            vec![("conntrack.entries", Gauge, turning(10.0, 18, 901.0))],
        ),
        (
            Resource::CpuQuota,
            Saturation,
            "cgroup.cpu_throttled[/app]",
            vec![("cgroup.cpu_throttled[/app]", Counter, line(3.0, 0.0, 18, 4.0))],
        ),
        (
            Resource::Cpu,
            Saturation,
            "pressure.cpu_some_us",
            vec![
                ("pressure.cpu_some_us", Counter, line(0.0, 50_000.0, 18, 400_000.0)),
                ("cpu.busy", Counter, line(0.0, 100.0, 18, 300.0)),
            ],
        ),
        (Resource::Cpu, Utilisation, "cpu.busy", vec![("cpu.busy", Counter, line(0.0, 100.0, 18, 390.0))]),
        (Resource::Cpu, Saturation, "cpu.stolen", vec![("cpu.stolen", Counter, line(0.0, 0.0, 18, 80.0))]),
        (
            Resource::Ports,
            Utilisation,
            "tcp.time_wait_overflows",
            vec![("tcp.time_wait_overflows", Counter, rising())],
        ),
        (
            Resource::Disk,
            Utilisation,
            "pressure.io_full_us",
            vec![("pressure.io_full_us", Counter, line(0.0, 0.0, 18, 250_000.0))],
        ),
        (
            Resource::Disk,
            Saturation,
            "cgroup.io_stall_us[/app]",
            vec![("cgroup.io_stall_us[/app]", Counter, line(0.0, 0.0, 18, 250_000.0))],
        ),
        (
            Resource::Memory,
            Error,
            "cgroup.memory_oom_kills[/app]",
            vec![("cgroup.memory_oom_kills[/app]", Counter, turning(0.0, 19, 1.0))],
        ),
        (
            Resource::Memory,
            Saturation,
            "cgroup.memory_max_events[/app]",
            vec![("cgroup.memory_max_events[/app]", Counter, rising())],
        ),
        (
            Resource::TcpMemory,
            Error,
            "tcp.aborts_on_memory",
            vec![("tcp.aborts_on_memory", Counter, rising())],
        ),
        (
            Resource::TcpMemory,
            Utilisation,
            "tcp.memory_pages",
            vec![("tcp.memory_pages", Gauge, turning(10.0, 18, 850.0))],
        ),
        (
            Resource::Disk,
            Saturation,
            "cgroup.io_writes[/app 254:0]",
            vec![("cgroup.io_writes[/app 254:0]", Counter, line(0.0, 50.0, 18, 96.0))],
        ),
        (
            Resource::Disk,
            Saturation,
            "disk.operations[254:0]",
            vec![("disk.operations[254:0]", Counter, line(0.0, 51.0, 18, 99.0))],
        ),
        (Resource::NetworkBacklog, Error, "softnet.dropped", vec![("softnet.dropped", Counter, rising())]),
    ] {
        let found = judge(&with(columns), &latency(Some(KNEE)));
        assert_eq!(found.knee.map(|knee| knee.at_s), Some(KNEE));
        let [finding] = &found.findings[..] else { panic!("{counter}: {:#?}", found.findings) };
        let seen = (finding.resource, finding.severity, finding.counter.as_str(), finding.before_knee);
        assert_eq!(seen, (resource, severity, counter, Some(true)));
        assert!((17.0..=19.0).contains(&finding.at_s), "{finding:?}");
        assert!(finding.after > finding.before, "{finding:?}");
        assert!(!finding.advice.is_empty());
        assert!(found.summary().contains(counter), "{}", found.summary());
    }
}

#[test]
fn what_stays_below_its_threshold_or_passes_quickly_is_no_finding() {
    let blip = |rate: f64| {
        let mut values = line(0.0, 0.0, 0, 0.0);
        values[18..].fill(Some(rate));
        values
    };
    for columns in [
        vec![("listener.waiting[0.0.0.0:8080]", Gauge, turning(1.0, 18, 102.0))],
        vec![("process.open_files", Gauge, turning(100.0, 18, 870.0))],
        vec![("cgroup.cpu_throttled[/app]", Counter, line(0.0, 0.0, 18, 2.5))],
        // One second of a whole second's wait.
        vec![("pressure.cpu_some_us", Counter, blip(1e6))],
        // On a machine of which a quarter is busy.
        vec![("pressure.cpu_some_us", Counter, line(0.0, 50_000.0, 18, 400_000.0))],
        vec![
            ("pressure.cpu_some_us", Counter, line(0.0, 50_000.0, 18, 400_000.0)),
            ("cpu.busy", Counter, line(0.0, 280.0, 0, 280.0)),
        ],
        // Two seconds without a processor's time, and three of a period each.
        vec![("cgroup.cpu_throttled[/app]", Counter, {
            let mut values = line(0.0, 0.0, 17, 9.0);
            let last = values[18];
            values[19..].fill(last);
            values
        })],
        vec![
            ("cgroup.cpu_throttled[/app]", Counter, line(0.0, 0.0, 36, 1.0)),
            ("cgroup.cpu_periods[/app]", Counter, line(0.0, 0.0, 36, 1.0)),
        ],
        vec![("pressure.io_full_us", Counter, line(0.0, 0.0, 18, 200_000.0))],
        vec![("cgroup.io_stall_us[/app]", Counter, line(0.0, 0.0, 31, 900_000.0))],
        // At the cap, for nine seconds.
        vec![("cgroup.io_writes[/app 254:0]", Counter, {
            let mut values = line(0.0, 0.0, 10, 100.0);
            let last = values[18];
            values[19..].fill(last);
            values
        })],
        // Reads have no cap.
        vec![("cgroup.io_reads[/app 254:0]", Counter, line(0.0, 0.0, 18, 9000.0))],
        // Set back by a restart.
        vec![("tcp.listen_overflows", Counter, turning(9.0, 18, 0.0))],
    ] {
        let found = judge(&with(columns.clone()), &latency(Some(KNEE)));
        assert_eq!(found.findings, [], "{columns:?}");
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
        place in 0_usize..37,
    ) {
        let mut columns = healthy();
        let count = columns.len();
        columns[place % count].2 = values;
        let found = judge(&Series::of(SECONDS as u64, &columns), &latency(Some(KNEE)));
        prop_assert!(found.findings.len() <= 4 * rules().count());
    }
}
