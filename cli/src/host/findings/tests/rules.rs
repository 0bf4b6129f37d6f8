//! Each rule above its threshold and at it, and the names that the table has.

use std::collections::BTreeSet;

use super::super::rule::{Fact, Fills, GIVEN_CAP, Guard, Presence};
use super::*;
use crate::host::counters::names;

/// A counter, its severity, and its columns when it is over the threshold and when it is not.
type Row = (&'static str, Severity, Columns, Columns);

/// What may not rise at all.
fn rises(counter: &'static str, name: &'static str, severity: Severity) -> Row {
    (counter, severity, vec![(name, Counter, line(3.0, 0.0, 18, 40.0))], vec![(name, Counter, flat(3.0))])
}

/// A gauge's values that are over, and not, of another's.
fn gauge(
    (counter, name): (&'static str, &'static str),
    severity: Severity,
    (over, under): (f64, f64),
    (of, limit): (&'static str, f64),
) -> Row {
    let columns = |value| vec![(name, Gauge, turning(0.0, 18, value)), (of, Gauge, flat(limit))];
    (counter, severity, columns(over), columns(under))
}

/// A counter's growth a second that is over, and not, with the others that belong to it.
fn growth(
    (counter, name): (&'static str, &'static str),
    severity: Severity,
    (over, under): (f64, f64),
    others: &Columns,
) -> Row {
    let columns = |rate| [vec![(name, Counter, line(0.0, 0.0, 18, rate))], others.clone()].concat();
    (counter, severity, columns(over), columns(under))
}

fn same(name: &'static str) -> (&'static str, &'static str) {
    (name, name)
}

fn table() -> Vec<Row> {
    use Severity::{Error, Saturation, Utilisation};
    let busy = vec![("cpu.busy", Counter, line(0.0, 300.0, 0, 300.0))];
    let reads = vec![("cgroup.io_max_reads_per_s[/app 254:0]", Gauge, flat(100.0))];
    let ended = (
        "process.alive",
        Error,
        vec![("process.alive", Gauge, turning(1.0, 18, 0.0))],
        vec![("process.alive", Gauge, flat(0.0))],
    );
    let waiting = ("listener.waiting", "listener.waiting[0.0.0.0:8080]");
    let files = || same("process.open_files");
    let (max_files, all_files) = (("process.max_open_files", 1024.0), ("files.max", 100_000.0));
    let memory = ("tcp.memory_pressure_pages", 1000.0);
    vec![
        ended,
        rises("generator.no_free_port", "generator.no_free_port", Error),
        rises("generator.too_many_files", "generator.too_many_files", Error),
        rises("tcp.listen_overflows", "tcp.listen_overflows", Error),
        gauge(waiting, Saturation, (103.0, 102.0), ("listener.backlog[0.0.0.0:8080]", 128.0)),
        rises("tcp.syn_queue_drops", "tcp.syn_queue_drops", Error),
        growth(same("tcp.listen_drops_other"), Error, (2.0, 1.0), &Vec::new()),
        rises("tcp.syn_queue_cookies", "tcp.syn_queue_cookies", Saturation),
        rises("tcp.time_wait_overflows", "tcp.time_wait_overflows", Utilisation),
        gauge(("ports.used", "ports.used[a > b]"), Utilisation, (850.0, 849.0), ("ports.available", 1000.0)),
        rises("conntrack.dropped", "conntrack.dropped", Error),
        rises("conntrack.early_dropped", "conntrack.early_dropped[host]", Error),
        gauge(same("conntrack.entries"), Utilisation, (900.0, 899.0), ("conntrack.max", 1000.0)),
        rises("tcp.aborts_on_memory", "tcp.aborts_on_memory", Error),
        rises("tcp.memory_pressures", "tcp.memory_pressures", Saturation),
        gauge(same("tcp.memory_pages"), Utilisation, (850.0, 849.0), memory),
        growth(same("softnet.dropped"), Error, (0.6, 0.5), &Vec::new()),
        gauge(files(), Saturation, (1014.0, 870.0), max_files),
        gauge(files(), Utilisation, (1013.0, 870.0), max_files),
        gauge(same("files.open"), Error, (99_000.0, 84_999.0), all_files),
        gauge(same("files.open"), Utilisation, (98_999.0, 84_999.0), all_files),
        growth(("cgroup.cpu_throttled", "cgroup.cpu_throttled[/app]"), Saturation, (3.0, 2.5), &Vec::new()),
        growth(same("pressure.cpu_some_us"), Saturation, (210_000.0, 200_000.0), &busy),
        growth(same("cpu.stolen"), Saturation, (41.0, 40.0), &Vec::new()),
        growth(same("cpu.busy"), Utilisation, (361.0, 360.0), &Vec::new()),
        rises("cgroup.memory_oom_kills", "cgroup.memory_oom_kills[/app]", Error),
        rises("cgroup.memory_max_events", "cgroup.memory_max_events[/app]", Saturation),
        rises("cgroup.memory_high_events", "cgroup.memory_high_events[/app]", Saturation),
        growth(same("pressure.memory_full_us"), Saturation, (210_000.0, 200_000.0), &Vec::new()),
        growth(("cgroup.io_writes", "cgroup.io_writes[/app 254:0]"), Saturation, (95.0, 94.0), &Vec::new()),
        growth(("cgroup.io_reads", "cgroup.io_reads[/app 254:0]"), Saturation, (95.0, 94.0), &reads),
        growth(("disk.operations", "disk.operations[254:0]"), Saturation, (95.0, 94.0), &Vec::new()),
        growth(
            ("cgroup.io_stall_us", "cgroup.io_stall_us[/app]"),
            Saturation,
            (210_000.0, 200_000.0),
            &Vec::new(),
        ),
        growth(same("pressure.io_full_us"), Utilisation, (210_000.0, 200_000.0), &Vec::new()),
        rises("redis.rejected_connections", "redis.rejected_connections[journal]", Error),
        gauge(same("redis.connected_clients"), Utilisation, (80.0, 79.0), ("redis.max_clients", 100.0)),
        rises("redis.aof_delayed_fsync", "redis.aof_delayed_fsync", Saturation),
        rises("redis.evicted_keys", "redis.evicted_keys", Error),
        gauge(same("redis.used_memory"), Utilisation, (80.0, 79.0), ("redis.max_memory", 100.0)),
        gauge(same("mongo.connections_current"), Utilisation, (80.0, 79.0), ("mongo.connections_max", 100.0)),
        rises("mongo.cache_application_evictions", "mongo.cache_application_evictions", Saturation),
        gauge(same("mongo.cache_used_bytes"), Utilisation, (95.0, 94.0), ("mongo.cache_max_bytes", 100.0)),
    ]
}

#[test]
fn each_rule_finds_what_is_over_its_threshold_and_nothing_else() {
    let mut left: Vec<(&str, Severity)> = table::rules().map(|rule| (rule.counter, rule.severity)).collect();
    for (counter, severity, over, under) in table() {
        let place = left.iter().position(|rule| *rule == (counter, severity));
        left.remove(place.unwrap_or_else(|| panic!("{counter}, {severity:?}: there is no such rule")));
        let found = judge(&with(over), &latency(Some(KNEE)));
        let [finding] = &found.findings[..] else { panic!("{counter}: {:#?}", found.findings) };
        let name = finding.counter.split('[').next();
        assert_eq!((name, finding.severity, finding.before_knee), (Some(counter), severity, Some(true)));
        assert_eq!(finding.at_s, 18.0, "{finding:?}");
        assert!(!finding.advice.is_empty() && found.summary().contains(counter), "{}", found.summary());
        assert_eq!(judge(&with(under), &latency(Some(KNEE))).findings, [], "{counter}");
    }
    assert_eq!(left, [], "rules without a row");
}

/// Counters that a rule judges by.
pub(super) fn read_by(rule: &Rule) -> Vec<&'static str> {
    let of = match rule.test {
        Test::Share { of, .. } | Test::Part { of, .. } | Test::Cap { of, .. } => Some(of),
        Test::Rises | Test::Ends | Test::Stall { .. } => None,
    };
    let guards = rule.guards.iter().flat_map(|guard| match *guard {
        Guard::Rate { counter, .. } | Guard::Stall { counter, .. } => vec![counter],
        Guard::Part { counter, of, .. } => vec![counter, of],
        Guard::AtLeast { gauge, .. } => vec![gauge],
    });
    [rule.counter].into_iter().chain(of).chain(guards).collect()
}

/// The source of what is counted outside of `host`, each with the way in which its names are written there.
const OTHERS: [(&str, &str, &str); 3] = [
    ("redis.", "", include_str!("../../../backends/redis.rs")),
    ("mongo.", "mongo.", include_str!("../../../backends/mongo.rs")),
    ("generator.", "generator.", include_str!("../../../commands/watching.rs")),
];

#[test]
fn each_name_in_the_table_is_one_that_is_counted() {
    let known: BTreeSet<String> = names();
    let is_known = |name: &str| {
        known.contains(name)
            || name == GIVEN_CAP
            || OTHERS.iter().any(|(group, prefix, source)| {
                // The part before the tests.
                let source = source.split("#[cfg(test)]").next().unwrap();
                name.strip_prefix(group).is_some_and(|rest| source.contains(&format!("\"{prefix}{rest}\"")))
            })
    };
    let mut unknown: Vec<&str> = Vec::new();
    for rule in table::rules() {
        let presence = match rule.presence {
            Presence::Unless(gauge) | Presence::With(gauge) => Some(gauge),
            Presence::Always | Presence::Optional => None,
        };
        let fills: &[&str] = match rule.fills {
            Fills::Nothing => &[],
            Fills::Counters(names) | Fills::AllBut(names) => names,
        };
        let facts = rule.instead.iter().filter_map(|(fact, _)| match fact {
            Fact::Is(gauge, _) => Some(*gauge),
            Fact::OwnBacklog => None,
        });
        let all = read_by(rule).into_iter().chain(presence).chain(fills.iter().copied()).chain(facts);
        unknown.extend(all.filter(|name| !is_known(name)));
    }
    for name in ["cgroup.version", "listener.backlog", "listener.somaxconn", "tcp.syncookies"] {
        unknown.extend((!is_known(name)).then_some(name));
    }
    assert_eq!(unknown, Vec::<&str>::new());
    assert!(!is_known("tcp.listen_overflow") && !is_known("redis.clients"));
}
