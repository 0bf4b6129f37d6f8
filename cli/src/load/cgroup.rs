//! The CPU quota of this process's cgroup and of those above it, version 1 and 2: how much it throttled.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::cgroup_path::groups;
use crate::root::Root;

/// What the CPU quota of one cgroup did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Throttling {
    /// How long the quota held its processes up, summed over processors.
    pub(super) time: Duration,
    /// Enforcement periods in which the quota ran out; not every kernel tells.
    pub(super) periods: Option<u64>,
}

/// By the directory of the process's cgroup and of each ancestor that tells; a quota of any of them holds for it.
pub(super) fn throttling_by_cgroup(root: &Root) -> BTreeMap<PathBuf, Throttling> {
    let text = |path: &str| root.known(path).unwrap_or_default();
    groups(&text("proc/self/cgroup"), &text("proc/self/mountinfo"), "cpu")
        .into_iter()
        .filter_map(|group| {
            let stat = root.known(group.directory.join("cpu.stat"))?;
            Some((group.directory, throttling(&stat)?))
        })
        .collect()
}

/// Version 2 counts in microseconds, version 1 in nanoseconds. A root cgroup, or one without the controller, has
/// no such column.
fn throttling(stat: &str) -> Option<Throttling> {
    let column = |name: &str| {
        let value = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.trim().parse::<u64>().ok()
    };
    let time = column("throttled_usec")
        .map(Duration::from_micros)
        .or_else(|| column("throttled_time").map(Duration::from_nanos))?;
    Some(Throttling { time, periods: column("nr_throttled") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttling_has_the_unit_of_its_version_and_is_unknown_without_its_column() {
        let some = |micros, periods| Some(Throttling { time: Duration::from_micros(micros), periods });
        for (stat, expected) in [
            ("usage_usec 9\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2500\n", some(2500, Some(3))),
            ("nr_periods 4\nnr_throttled 3\nthrottled_time 2500000\n", some(2500, Some(3))),
            ("throttled_usec 0\n", some(0, None)),
            ("usage_usec 9\nuser_usec 5\nsystem_usec 4\n", None),
            ("throttled_usec many\n", None),
            ("", None),
        ] {
            assert_eq!(throttling(stat), expected, "{stat}");
        }
    }
}
