//! The CPU quota of this process's cgroup and of those above it, version 1 and 2: how much it throttled.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// What the CPU quota of one cgroup did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Throttling {
    /// How long the quota held its processes up, summed over processors.
    pub(super) time: Duration,
    /// Enforcement periods in which the quota ran out; not every kernel tells.
    pub(super) periods: Option<u64>,
}

/// By the directory of the process's cgroup and of each ancestor that tells; a quota of any of them holds for it.
/// Reads below `root`, which is `/` but in tests.
pub(super) fn throttling_by_cgroup(root: &Path) -> BTreeMap<PathBuf, Throttling> {
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    directories(&text("proc/self/cgroup"), &text("proc/self/mountinfo"))
        .into_iter()
        .filter_map(|directory| {
            let stat = fs::read_to_string(below(root, &directory).join("cpu.stat")).ok()?;
            Some((directory, throttling(&stat)?))
        })
        .collect()
}

/// The directories of the process's cgroup and its ancestors in each hierarchy that throttles.
///
/// `cgroup` has `ID:CONTROLLERS:PATH` a line (cgroups(7)), without controllers for version 2; `mountinfo` says
/// where a hierarchy is mounted and which part of it (proc_pid_mountinfo(5)).
fn directories(cgroup: &str, mountinfo: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let is_v2 = controllers.is_empty();
        if !is_v2 && !controllers.split(',').any(|controller| controller == "cpu") {
            continue;
        }
        let Some((mounted, mount_point)) = mountinfo.lines().find_map(|line| mount(line, is_v2)) else {
            continue;
        };
        // A cgroup outside of what is mounted (`/..` in a namespace of its own) cannot be read.
        let Ok(inside) = Path::new(path).strip_prefix(mounted) else { continue };
        if inside.components().all(|part| matches!(part, Component::Normal(_))) {
            let own = Path::new(mount_point).join(inside);
            found.extend(
                own.ancestors().take_while(|part| part.starts_with(mount_point)).map(Path::to_path_buf),
            );
        }
    }
    found
}

/// Which part of a cgroup hierarchy a line of mountinfo mounts, and where; `None` for any other mount.
fn mount(line: &str, is_v2: bool) -> Option<(&str, &str)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut filesystem = filesystem.split(' ');
    let kind = filesystem.next()?;
    let options = filesystem.nth(1).unwrap_or_default();
    let fits = match is_v2 {
        true => kind == "cgroup2",
        false => kind == "cgroup" && options.split(',').any(|option| option == "cpu"),
    };
    let mut fields = mount.split(' ').skip(3);
    fits.then_some((fields.next()?, fields.next()?))
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

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n";

    #[test]
    fn directories_are_found_in_both_versions_and_in_part_of_a_hierarchy() {
        let container = "30 23 0:26 /docker/a1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for (cgroup, mountinfo, expected) in [
            ("0::/a/b\n", V2, &["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"][..]),
            ("0::/\n", V2, &["/sys/fs/cgroup"]),
            (
                "4:cpuset:/x\n3:cpu,cpuacct:/y\n",
                V1,
                &["/sys/fs/cgroup/cpu,cpuacct/y", "/sys/fs/cgroup/cpu,cpuacct"],
            ),
            ("0::/docker/a1/b\n", container, &["/sys/fs/cgroup/b", "/sys/fs/cgroup"]),
            ("0::/docker/other\n", container, &[]),
            ("0::/../x\n", V2, &[]),
            ("0::/a\n", V1, &[]),
            ("4:cpuset:/x\n", V1, &[]),
            ("junk\n\n1\n", V2, &[]),
            ("0::/a\n", "junk - \n", &[]),
        ] {
            let found = directories(cgroup, mountinfo);
            assert_eq!(
                found,
                expected.iter().map(PathBuf::from).collect::<Vec<_>>(),
                "{cgroup:?} {mountinfo:?}"
            );
        }
    }

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
