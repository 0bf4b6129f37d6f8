//! Places of this host, with real I/O of a process of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Hierarchy, Kind, Place};

/// So many writes of the child, each on the device before the next.
const WRITES: u64 = 20;

/// Beside this program, since the usual directory may be in memory.
fn directory() -> tempfile::TempDir {
    let program = std::env::current_exe().unwrap();
    tempfile::tempdir_in(program.parent().unwrap()).unwrap()
}

/// Writes from a process, which `enter` puts where it is to be first.
fn write(dir: &Path, enter: &str) {
    let script = format!("{enter} exec dd if=/dev/zero of=file bs=4k count={WRITES} oflag=dsync status=none");
    let status = Command::new("sh").args(["-c", &script]).current_dir(dir).status().unwrap();
    assert!(status.success(), "{script}: {status}");
}

fn skipped(why: &str, what: &str) {
    eprintln!("SKIPPED: {why}; {what} is NOT tested");
}

#[test]
fn writes_to_a_file_show_on_the_disk_that_it_is_on() {
    let dir = directory();
    let place = match Place::find(dir.path()) {
        Ok(place) => place,
        Err(error) => return skipped(&error.to_string(), "the disk of a path"),
    };
    assert!(matches!(place.kind(), Kind::Disks(disks) if !disks.is_empty()), "{place:?}");
    let before = place.read().unwrap();
    write(dir.path(), "");
    let after = place.read().unwrap();
    let written = after.writes - before.writes;
    assert!(written >= WRITES, "{written} writes of the disk, and {WRITES} were made");
    assert!(after.total() >= before.total() + WRITES);
}

/// A group of the test's own, gone with it.
struct OwnGroup(PathBuf);

impl OwnGroup {
    fn new() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("not root, so no control group can be made".into());
        }
        let name = format!("scalekit-test-{}", std::process::id());
        let parents = ["/sys/fs/cgroup", "/sys/fs/cgroup/blkio"].map(Path::new);
        let parent = parents
            .into_iter()
            .find(|parent| {
                ["cgroup.subtree_control", "blkio.throttle.io_serviced"]
                    .iter()
                    .any(|file| parent.join(file).exists())
            })
            .ok_or("neither control groups of version 2 nor the blkio controller of version 1 are mounted")?;
        let directory = parent.join(name);
        fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        Ok(Self(directory))
    }

    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs &&", self.0.display())
    }
}

impl Drop for OwnGroup {
    fn drop(&mut self) {
        // A process that has ended may be in it for a moment.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

#[test]
fn writes_in_a_control_group_show_in_it_and_those_of_others_do_not() {
    let what = "a control group as the database's device";
    let dir = directory();
    let group = match OwnGroup::new() {
        Ok(group) => group,
        Err(why) => return skipped(&why, what),
    };
    let Ok(Kind::Disks(disks)) = Place::find(dir.path()).map(|place| place.kind().clone()) else {
        return skipped("the build is on no disk", what);
    };
    let place = Place::find(&group.0).unwrap();
    let Kind::Group(found) = place.kind() else { panic!("{place:?}") };
    assert_eq!(found.directory, group.0);
    if found.hierarchy == Hierarchy::V1 {
        let silent = place.read().unwrap_err().to_string();
        assert!(silent.contains("counted nothing") && silent.contains("scalekit-test"), "{silent}");
        // As it says.
        let limit = format!("{} 4000000000", disks[0]);
        fs::write(group.0.join("blkio.throttle.write_iops_device"), limit).unwrap();
    } else if let Err(error) = place.read() {
        return skipped(&error.to_string(), what);
    }
    write(dir.path(), &group.enter());
    let own = place.read().unwrap();
    assert!(own.writes >= WRITES, "{own:?}");
    write(dir.path(), "");
    let others = place.read().unwrap();
    assert!(others.writes < own.writes + WRITES, "{others:?} after {own:?}");
    let file = Place::find(&group.0.join("cgroup.procs")).unwrap_err().to_string();
    assert!(file.contains("not its directory"), "{file}");
}
