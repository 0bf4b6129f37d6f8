//! Where the control groups of a process are: its own and those above it, by controller.

use std::path::{Component, Path, PathBuf};

use serde::Serialize;

/// Ancestors that are looked at. Kubernetes nests five deep.
const MAX_DEPTH: usize = 16;

/// One control group as one controller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Group {
    pub(crate) version: Version,
    pub(crate) directory: PathBuf,
}

/// Of the hierarchy that a controller is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Version {
    V2,
    V1,
}

/// The groups of a process under a controller (`cpu`, `memory`, `io`), its own first.
///
/// `cgroup` has `ID:CONTROLLERS:PATH` a line (cgroups(7)), without controllers for version 2; `mountinfo` says
/// where a hierarchy is mounted and which part of it (proc_pid_mountinfo(5)). A controller is in one hierarchy at a
/// time, so one that a version 1 hierarchy lists is not looked for in version 2.
pub(crate) fn groups(cgroup: &str, mountinfo: &str, controller: &str) -> Vec<Group> {
    let v1_name = if controller == "io" { "blkio" } else { controller };
    let lines = || {
        cgroup.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            Some((fields.next()?, fields.next()?))
        })
    };
    let v1 = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == v1_name));
    let (version, path) = match (v1, lines().find(|(controllers, _)| controllers.is_empty())) {
        (Some((_, path)), _) => (Version::V1, path),
        (None, Some((_, path))) => (Version::V2, path),
        (None, None) => return Vec::new(),
    };
    let mounts = mountinfo.lines().filter_map(|line| mount(line, version, v1_name));
    // The same hierarchy may be mounted several times, in parts.
    mounts
        .filter_map(|(mounted, mount_point)| directories(path, mounted, mount_point))
        .next()
        .unwrap_or_default()
        .into_iter()
        .map(|directory| Group { version, directory })
        .collect()
}

/// The group's directory and those above it; `None` if it is outside of what is mounted (`/..` in a namespace of
/// its own).
fn directories(path: &str, mounted: &str, mount_point: &str) -> Option<Vec<PathBuf>> {
    let inside = Path::new(path).strip_prefix(mounted).ok()?;
    if !inside.components().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    // Joining nothing would leave a slash at the end.
    let own: PathBuf = Path::new(mount_point).join(inside).components().collect();
    let above = own.ancestors().take_while(|part| part.starts_with(mount_point));
    Some(above.take(MAX_DEPTH).map(Path::to_path_buf).collect())
}

/// Which part of a hierarchy a line of mountinfo mounts, and where; `None` for any other mount.
fn mount<'a>(line: &'a str, version: Version, v1_name: &str) -> Option<(&'a str, &'a str)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut filesystem = filesystem.split(' ');
    let kind = filesystem.next()?;
    let options = filesystem.nth(1).unwrap_or_default();
    let fits = match version {
        Version::V2 => kind == "cgroup2",
        Version::V1 => kind == "cgroup" && options.split(',').any(|option| option == v1_name),
    };
    let mut fields = mount.split(' ').skip(3);
    fits.then_some((fields.next()?, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      33 31 0:30 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n";

    #[test]
    fn groups_are_found_in_both_versions_and_in_part_of_a_hierarchy() {
        let container = "30 23 0:26 /docker/a1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for (cgroup, mountinfo, controller, expected) in [
            ("0::/a/b\n", V2, "cpu", &["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"][..]),
            ("0::/\n", V2, "io", &["/sys/fs/cgroup"]),
            (
                "3:cpu,cpuacct:/y\n0::/\n",
                V1,
                "cpu",
                &["/sys/fs/cgroup/cpu,cpuacct/y", "/sys/fs/cgroup/cpu,cpuacct"],
            ),
            ("4:blkio:/\n", V1, "io", &["/sys/fs/cgroup/blkio"]),
            ("4:blkio:/\n", V1, "memory", &[]),
            ("0::/docker/a1/b\n", container, "cpu", &["/sys/fs/cgroup/b", "/sys/fs/cgroup"]),
            ("0::/docker/other\n", container, "cpu", &[]),
            ("0::/../x\n", V2, "cpu", &[]),
            ("0::/a\n", V1, "cpu", &[]),
            ("junk\n\n1\n", V2, "cpu", &[]),
            ("0::/a\n", "junk - \n", "cpu", &[]),
        ] {
            let found: Vec<PathBuf> =
                groups(cgroup, mountinfo, controller).into_iter().map(|group| group.directory).collect();
            assert_eq!(
                found,
                expected.iter().map(PathBuf::from).collect::<Vec<_>>(),
                "{cgroup:?} {controller}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_path_stays_below_its_mount_and_bounded(path in "[a./:]{0,200}", mounts in ".{0,80}") {
            let found = groups(&format!("0::/{path}"), &format!("{mounts}\n{V2}"), "cpu");
            prop_assert!(found.len() <= MAX_DEPTH);
            prop_assert!(found.iter().all(|group| group.directory.starts_with("/sys/fs/cgroup")));
        }
    }
}
