//! Places of this host, with real I/O of a process of the test's own.

use std::path::Path;
use std::process::Command;

use super::{Disks, Hierarchy, Kind, Place};
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
    assert!(matches!(place.kind(), Kind::Disks(found) if !found.disks.is_empty()), "{place:?}");
    let before = place.read().unwrap();
    write(dir.path(), "");
    let after = place.read().unwrap();
    let written = after.writes - before.writes;
    assert!(written >= WRITES, "{written} writes of the disk, and {WRITES} were made");
    assert!(after.total() >= before.total() + WRITES);
}

/// A disk that is a file, with one partition.
struct Loop {
    disk: String,
    _dir: tempfile::TempDir,
}

/// A program of the system's administration, and what it said.
fn program(words: &[&str]) -> Result<String, String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(words[0]).args(&words[1..]).env("PATH", path).output();
    let output = output.map_err(|error| format!("{}: {error}", words[0]))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(format!("{}: {}", words[0], String::from_utf8_lossy(&output.stderr).trim()))
}

impl Loop {
    fn new() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("not root, so there can be no disk on a file".into());
        }
        let dir = directory();
        let image = dir.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let disk = program(&["losetup", "--show", "-f", image.to_str().unwrap()])?;
        let this = Self { disk, _dir: dir };
        program(&["addpart", &this.disk, "1", "2048", "20480"])?;
        Ok(this)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = program(&["delpart", &self.disk, "1"]);
        let detached = program(&["losetup", "-d", &self.disk]);
        assert!(detached.is_ok() || std::thread::panicking(), "{detached:?}");
    }
}

#[test]
fn a_partition_counts_with_its_disk() {
    let what = "a partition of a real disk";
    let disk = match Loop::new() {
        Ok(disk) => disk,
        Err(why) => return skipped(&why, what),
    };
    let partition = format!("{}p1", disk.disk);
    if !Path::new(&partition).exists() {
        return skipped(&format!("the system has made no {partition}"), what);
    }
    let of_partition = Place::find(Path::new(&partition)).unwrap();
    let of_disk = Place::find(Path::new(&disk.disk)).unwrap();
    assert_eq!(of_partition, of_disk);
    let before = of_partition.read().unwrap();
    let (from, to) = ("if=/dev/zero", format!("of={}", disk.disk));
    // Beside the partition.
    program(&["dd", from, &to, "bs=4k", "count=20", "oflag=direct", "status=none"]).unwrap();
    let after = of_partition.read().unwrap();
    assert!(after.writes >= before.writes + WRITES, "{before:?} {after:?}");
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

/// Gone from the host with the value.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let gone = program(&["umount", self.0.to_str().unwrap()]);
        assert!(gone.is_ok() || std::thread::panicking(), "{gone:?}");
    }
}

#[test]
fn an_overlay_is_where_its_upper_directory_is() {
    let dir = directory();
    let of = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let [lower, upper, work, merged] = ["lower", "upper of it", "work", "merged"].map(of);
    let [low, up, spare] = [&lower, &upper, &work].map(|path| path.display());
    let options = format!("lowerdir={low},upperdir={up},workdir={spare}");
    let mounted = program(&["mount", "-t", "overlay", "-o", &options, "overlay", merged.to_str().unwrap()]);
    if let Err(why) = mounted {
        return skipped(&why, "an overlay");
    }
    let mounted = Mounted(merged);
    let found = Disks::of(&mounted.0).map_err(|error| error.to_string());
    assert_eq!(found.unwrap(), Disks::of(&upper).unwrap());
}
