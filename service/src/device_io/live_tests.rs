//! Places of this host, with real I/O of a process of the test's own.

use std::path::Path;
use std::process::Command;

use super::{Hierarchy, Kind, Place};
use crate::testing::IoGroup;

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

#[test]
fn writes_in_a_control_group_show_in_it_and_those_of_others_do_not() {
    let what = "a control group as the database's device";
    let dir = directory();
    let group = match IoGroup::new() {
        Ok(group) => group,
        Err(why) => return skipped(&why, what),
    };
    let place = Place::find(group.directory()).unwrap();
    let Kind::Group(found) = place.kind() else { panic!("{place:?}") };
    assert_eq!((&*found.directory, found.hierarchy), (group.directory(), group.hierarchy()));
    if found.hierarchy == Hierarchy::V1 {
        let silent = place.read().unwrap_err().to_string();
        assert!(silent.contains("counted nothing") && silent.contains("scalekit-test"), "{silent}");
    }
    // As it says.
    if let Err(why) = group.count_on(dir.path()) {
        return skipped(&why, what);
    }
    write(dir.path(), &group.enter());
    let own = place.read().unwrap();
    assert!(own.writes >= WRITES, "{own:?}");
    write(dir.path(), "");
    let others = place.read().unwrap();
    assert!(others.writes < own.writes + WRITES, "{others:?} after {own:?}");
    let file = Place::find(&group.directory().join("cgroup.procs")).unwrap_err().to_string();
    assert!(file.contains("not its directory"), "{file}");
}
