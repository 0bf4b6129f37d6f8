//! In which order findings come: causes before what follows from them.

use super::*;

#[test]
fn causes_come_first_then_errors_before_saturation_before_utilisation() {
    let series = with(vec![
        ("tcp.listen_overflows", Counter, line(3.0, 0.0, 30, 40.0)),
        ("cpu.busy", Counter, line(0.0, 100.0, 16, 399.0)),
        ("tcp.memory_pressures", Counter, line(3.0, 0.0, 18, 1.0)),
        ("conntrack.dropped", Counter, line(3.0, 0.0, 19, 1.0)),
        ("softnet.dropped", Counter, line(3.0, 0.0, 5, 1.0)),
    ]);
    let found = judge(&series, &latency(Some(KNEE)));
    let order: Vec<(&str, Option<bool>)> =
        found.findings.iter().map(|finding| (finding.counter.as_str(), finding.before_knee)).collect();
    let expected = [
        ("conntrack.dropped", Some(true)),
        ("tcp.memory_pressures", Some(true)),
        ("cpu.busy", Some(true)),
        ("softnet.dropped", Some(false)),
        ("tcp.listen_overflows", Some(false)),
    ];
    assert_eq!(order, expected);
    assert!(
        found.summary().starts_with("Likely cause of the knee at 20 s: connection tracking"),
        "{}",
        found.summary()
    );
}

/// Names of the counters found, in their order.
fn order(columns: Columns, knee: Option<i64>) -> Vec<String> {
    let found = judge(&with(columns), &latency(knee));
    found.findings.into_iter().map(|finding| finding.counter).collect()
}

#[test]
fn what_fills_because_files_are_used_up_comes_behind_that() {
    let full = ("process.open_files", Gauge, turning(100.0, 18, 1024.0));
    let overflows = |turn| ("tcp.listen_overflows", Counter, line(3.0, 0.0, turn, 40.0));
    let order = |columns| order(columns, Some(KNEE));
    let conntrack = ("conntrack.dropped", Counter, line(3.0, 0.0, 18, 1.0));
    assert_eq!(
        order(vec![full.clone(), overflows(18), conntrack]),
        ["process.open_files", "tcp.listen_overflows", "conntrack.dropped"]
    );
    assert_eq!(order(vec![full, overflows(30)]), ["process.open_files", "tcp.listen_overflows"]);
    // Long after the knee they are not its cause.
    let late = ("process.open_files", Gauge, turning(100.0, 35, 1024.0));
    assert_eq!(order(vec![late, overflows(18)]), ["tcp.listen_overflows", "process.open_files"]);
}

#[test]
fn what_fills_because_the_quota_ran_out_or_the_machine_has_no_file_comes_behind_that() {
    let overflows = |turn| ("tcp.listen_overflows", Counter, line(3.0, 0.0, turn, 40.0));
    let pressure = ("pressure.cpu_some_us", Counter, line(0.0, 50_000.0, 17, 400_000.0));
    let busy = ("cpu.busy", Counter, line(0.0, 320.0, 0, 320.0));
    let throttled = |turn| ("cgroup.cpu_throttled[/app]", Counter, line(3.0, 0.0, turn, 9.0));
    let quota = "cgroup.cpu_throttled[/app]";
    for knee in [None, Some(KNEE)] {
        let columns = vec![overflows(18), pressure.clone(), busy.clone(), throttled(18)];
        assert_eq!(order(columns, knee), [quota, "tcp.listen_overflows", "pressure.cpu_some_us"], "{knee:?}");
        let files = ("files.open", Gauge, turning(500.0, 18, 99_500.0));
        assert_eq!(order(vec![overflows(17), files], knee), ["files.open", "tcp.listen_overflows"]);
    }
    // The one was over long before the other.
    let mut early = line(3.0, 0.0, 2, 40.0);
    let last = early[6];
    early[7..].fill(last);
    let early = vec![("tcp.listen_overflows", Counter, early), throttled(18)];
    assert_eq!(order(early, None), ["tcp.listen_overflows", quota]);
}

#[test]
fn the_end_of_the_process_is_the_likeliest_cause_unless_it_was_killed() {
    let ended = |turn| ("process.alive", Gauge, turning(1.0, turn, 0.0));
    let columns = || {
        vec![
            ended(19),
            ("tcp.listen_overflows", Counter, line(3.0, 0.0, 17, 40.0)),
            ("process.open_files", Gauge, turning(100.0, 17, 1024.0)),
        ]
    };
    for knee in [None, Some(KNEE)] {
        assert_eq!(
            order(columns(), knee),
            ["process.alive", "process.open_files", "tcp.listen_overflows"],
            "{knee:?}"
        );
        let kills = ("cgroup.memory_oom_kills[/app]", Counter, turning(0.0, 18, 1.0));
        let killed = [columns(), vec![kills]].concat();
        let first = order(killed, knee);
        assert_eq!(first[..2], ["cgroup.memory_oom_kills[/app]", "process.alive"], "{knee:?}");
        assert_eq!(first[2..], ["process.open_files", "tcp.listen_overflows"], "{knee:?}");
    }
    // Long after the knee it is not its cause.
    let late = vec![ended(35), ("tcp.listen_overflows", Counter, line(3.0, 0.0, 18, 40.0))];
    assert_eq!(order(late, Some(KNEE)), ["tcp.listen_overflows", "process.alive"]);
    let found = judge(&with(vec![ended(19)]), &latency(Some(KNEE)));
    let message = &found.findings[0].message;
    assert!(message.contains("the service's process ended: process.alive went from 1 to 0"), "{message}");
    assert!(message.ends_with("from 19.0 s on"), "{message}");
}

#[test]
fn of_many_objects_the_one_before_the_knee_is_kept() {
    let names = ["a", "b", "c", "d", "e"].map(|name| format!("ports.used[{name} > z]"));
    let columns: Vec<(&str, Kind, Vec<Option<f64>>)> = names
        .iter()
        .enumerate()
        .map(|(at, name)| (name.as_str(), Gauge, turning(1.0, if at == 4 { 18 } else { at + 2 }, 28_000.0)))
        .collect();
    let mut series = with(Vec::new());
    series.counters.extend(Series::of(SECONDS as u64, &columns).counters);
    let found = judge(&series, &latency(Some(KNEE)));
    assert_eq!((found.findings.len(), found.findings[0].counter.as_str()), (4, "ports.used[e > z]"));
    assert_eq!(found.findings[0].before_knee, Some(true));
}
