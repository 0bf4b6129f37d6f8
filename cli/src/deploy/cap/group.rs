//! Control groups that limit what their processes do on disks: where one can be made, and the limits of one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use scalekit_service::device_io::{Device, Disks, Group, Hierarchy};
use tokio::time::{Instant, sleep};

use super::CapError;
use super::limits::{self, Limit};

/// Where control groups are mounted, by the file hierarchy of systemd and all distributions.
pub(super) const MOUNTED: &str = "/sys/fs/cgroup";

/// A process that has ended stays in its group for a moment.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// Makes a group below `mounted`, or takes the empty one that an earlier command left.
///
/// # Errors
/// There is no hierarchy that limits I/O, it may not be written, or the group has processes.
pub(super) fn make(mounted: &Path, name: &str) -> Result<Group, CapError> {
    let (parent, hierarchy) = hierarchy(mounted)?;
    if hierarchy == Hierarchy::V2 {
        enable_io(&parent)?;
    }
    let directory = parent.join(name);
    match fs::create_dir(&directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => expect_empty(&directory)?,
        Err(source) => return Err(CapError::refused("cannot make", directory, source)),
    }
    Ok(Group { directory, hierarchy })
}

/// One that is there. A limit of the root, which version 1 takes, would hold up the whole host.
///
/// # Errors
/// It is none, or the root.
pub(super) fn below_root(directory: &Path) -> Result<Group, CapError> {
    let group = Group::at(directory)?;
    match group.directory.parent().map(Group::at) {
        Some(Ok(_)) => Ok(group),
        _ => Err(CapError::Root(group.directory)),
    }
}

/// Version 2 if it has the controller, else version 1's.
fn hierarchy(mounted: &Path) -> Result<(PathBuf, Hierarchy), CapError> {
    let controllers = fs::read_to_string(mounted.join("cgroup.controllers")).unwrap_or_default();
    if controllers.split_ascii_whitespace().any(|name| name == "io") {
        return Ok((mounted.to_owned(), Hierarchy::V2));
    }
    let v1 = mounted.join("blkio");
    if limits::files(Hierarchy::V1).iter().all(|file| v1.join(file).exists()) {
        return Ok((v1, Hierarchy::V1));
    }
    Err(CapError::NoController(mounted.to_owned()))
}

/// Groups below may limit I/O only where their parent passes the controller on. It stays on: others may use it by then.
fn enable_io(parent: &Path) -> Result<(), CapError> {
    let file = parent.join("cgroup.subtree_control");
    let passed_on = fs::read_to_string(&file).unwrap_or_default();
    if passed_on.split_ascii_whitespace().any(|name| name == "io") {
        return Ok(());
    }
    fs::write(&file, "+io").map_err(|source| CapError::refused("cannot write +io to", file, source))
}

fn expect_empty(directory: &Path) -> Result<(), CapError> {
    let members = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    match members.lines().next() {
        None => Ok(()),
        Some(pid) => Err(CapError::InUse { group: directory.to_owned(), pid: pid.to_owned() }),
    }
}

/// All the devices that a limit must be on: dm-crypt writes from threads of the kernel's, which the disk's own limit does
/// not meet, and a limit of a volume alone would miss what is written to its disk directly.
pub(super) fn devices(disks: &Disks) -> impl Iterator<Item = Device> {
    disks.above.iter().chain(&disks.disks).copied()
}

/// # Errors
/// The kernel takes no limit for the device.
pub(super) fn limit(group: &Group, device: Device, limit: Limit) -> Result<(), CapError> {
    for (file, text) in limits::writes(group.hierarchy, device, limit) {
        let file = group.directory.join(file);
        fs::write(&file, &text).map_err(|source| CapError::Limit { file, text, device, source })?;
    }
    Ok(())
}

/// Which limit a group has for a device.
///
/// # Errors
/// Its files cannot be read.
pub(super) fn limit_of(group: &Group, device: Device) -> Result<Limit, CapError> {
    let texts = limits::files(group.hierarchy).iter().map(|file| {
        let file = group.directory.join(file);
        fs::read_to_string(&file).map_err(|source| CapError::refused("cannot read", file, source))
    });
    Ok(limits::read(group.hierarchy, &texts.collect::<Result<Vec<_>, _>>()?, device))
}

/// Takes the group away once its processes are gone.
///
/// # Errors
/// Some stay.
pub(super) async fn remove(directory: &Path) -> Result<(), CapError> {
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) if Instant::now() < deadline => sleep(POLL).await,
            Err(source) => return Err(CapError::refused("cannot remove", directory, source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hierarchy in the form of version 2; the kernel of the test may have none. What it would check, it does not.
    fn version_2(controllers: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), controllers).unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "cpu\n").unwrap();
        dir
    }

    #[tokio::test]
    async fn version_2_gets_a_group_and_its_controller() {
        let mounted = version_2("cpu io memory\n");
        let group = make(mounted.path(), "scalekit-x").unwrap();
        assert_eq!(group.hierarchy, Hierarchy::V2);
        assert_eq!(fs::read_to_string(mounted.path().join("cgroup.subtree_control")).unwrap(), "+io");
        let device: Device = "8:0".parse().unwrap();
        limit(&group, device, Limit::both(100)).unwrap();
        assert_eq!(fs::read_to_string(group.directory.join("io.max")).unwrap(), "8:0 riops=100 wiops=100");
        assert_eq!(limit_of(&group, device).unwrap(), Limit::both(100));
        fs::write(group.directory.join("cgroup.procs"), "4711\n").unwrap();
        let used = make(mounted.path(), "scalekit-x").unwrap_err().to_string();
        assert!(used.contains("4711") && used.contains("scalekit-x"), "{used}");
    }

    #[test]
    fn without_a_controller_it_is_said_what_is_missing() {
        let mounted = version_2("cpu memory\n");
        let error = make(mounted.path(), "scalekit-x").unwrap_err().to_string();
        assert!(error.contains("io controller") && error.contains("deploy.cap.iops"), "{error}");
        assert!(!mounted.path().join("scalekit-x").exists());
    }

    #[test]
    fn a_device_that_takes_no_limit_is_named() {
        let group = Group { directory: "/proc/self".into(), hierarchy: Hierarchy::V2 };
        let error = limit(&group, "7:0".parse().unwrap(), Limit::both(5)).unwrap_err().to_string();
        assert!(
            error.contains("7:0") && error.contains("io.max") && error.contains("another disk"),
            "{error}"
        );
    }
}
