//! Which settings lift what was found here: of a queue that two settings bound, the one that does.

use super::crossing::objects;
use super::rule::{Fact, OF_GROUP, Remedy, Rule};
use crate::host::counters::Series;

/// Gauge of a control group's version.
const GROUP_VERSION: &str = "cgroup.version";

/// The rule's remedy, or the one that fits the facts better.
pub(super) fn remedy(rule: &Rule, series: &Series, counter: &str) -> Remedy {
    let fitting = rule.instead.iter().find(|(fact, _)| holds(*fact, series, counter));
    fitting.map_or((rule.tune, rule.deploy, rule.advice), |(_, remedy)| *remedy)
}

/// Names of settings, those of a control group as files of the one that the counter is of.
pub(super) fn settings(names: &[&str], series: &Series, counter: &str) -> Vec<String> {
    let group = group(series, counter);
    names.iter().map(|name| setting(name, group)).collect()
}

/// What nobody knows does not hold.
fn holds(fact: Fact, series: &Series, counter: &str) -> bool {
    match fact {
        Fact::OwnBacklog => {
            let backlog = listener(series, counter)
                .and_then(|object| last(series, &format!("listener.backlog{object}")));
            backlog.zip(last(series, "listener.somaxconn")).is_some_and(|(backlog, max)| backlog < max)
        }
        Fact::Is(gauge, value) => last(series, gauge) == Some(value),
    }
}

fn last(series: &Series, name: &str) -> Option<f64> {
    series.counters.get(name)?.values.iter().rev().copied().flatten().next()
}

/// The object of the listener that a counter is of; of a counter of all listeners, the one that was fullest.
fn listener<'a>(series: &'a Series, counter: &'a str) -> Option<&'a str> {
    const WAITING: &str = "listener.waiting";
    if let Some(object) = counter.strip_prefix(WAITING) {
        return Some(object);
    }
    let fill = |object: &str, values: &[Option<f64>]| {
        let backlog = last(series, &format!("listener.backlog{object}"))?;
        let waiting = values.iter().copied().flatten().fold(0.0, f64::max);
        Some(waiting / backlog.max(1.0))
    };
    let listeners = objects(series, WAITING).filter_map(|(name, column)| {
        let object = name.strip_prefix(WAITING)?;
        Some((object, fill(object, &column.values)?))
    });
    listeners.max_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(object, _)| object)
}

/// A control group's directory, and whether it is of version 1.
type Group<'a> = (&'a str, bool);

/// The group that a counter is of; a device may stand behind its directory.
fn group<'a>(series: &Series, counter: &'a str) -> Option<Group<'a>> {
    let (name, object) = counter.strip_suffix(']')?.split_once('[')?;
    let directory = object.split(' ').next()?;
    let version = series.counters.get(&format!("{GROUP_VERSION}[{directory}]"));
    let is_v1 = version.is_some_and(|column| column.values.contains(&Some(1.0)));
    name.starts_with("cgroup.").then_some((directory, is_v1))
}

/// A setting's name; of a group's the file.
fn setting(name: &str, group: Option<Group<'_>>) -> String {
    let (Some(file), Some((directory, is_v1))) = (name.strip_prefix(OF_GROUP), group) else {
        return name.to_owned();
    };
    let file = match (is_v1, file) {
        (true, "cpu.max") => "cpu.cfs_quota_us",
        (true, "memory.max") => "memory.limit_in_bytes",
        (true, "io.max") => "blkio.throttle.write_iops_device",
        (_, file) => file,
    };
    format!("{}/{file}", directory.trim_end_matches('/'))
}
