//! What a control group did with block devices: version 2, and version 1 with its `blkio` controller.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Device, Disks, Operations, disks};

/// Which of the two forms of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    V1,
    V2,
}

/// A control group, with those below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub directory: PathBuf,
    pub hierarchy: Hierarchy,
}

/// Version 1, with the groups below and, in kernels before 4.16, without.
const SERVICED: [&str; 2] = ["blkio.throttle.io_serviced_recursive", "blkio.throttle.io_serviced"];

impl Group {
    /// What its processes did on disks. Devices that stand on others are left out: what goes through LVM or dm-crypt is
    /// counted again on the disks below.
    ///
    /// # Errors
    /// Why it cannot be told, with what to do about it.
    pub(super) fn read(&self, root: &Path) -> Result<Operations, String> {
        let counts = match self.hierarchy {
            Hierarchy::V2 => parse_v2(&self.text("io.stat").map_err(|error| {
                let advice = match error.kind() {
                    io::ErrorKind::NotFound => {
                        "; the io controller is not on for this group: echo +io > cgroup.subtree_control in the \
                         directory above"
                    }
                    _ => "",
                };
                format!("io.stat: {error}{advice}")
            })?),
            Hierarchy::V1 => {
                let counts = parse_v1(&self.v1_text()?);
                if counts.values().all(|operations| operations.total() == 0) {
                    return Err(SILENT.to_owned());
                }
                counts
            }
        };
        Ok(counts
            .into_iter()
            .filter(|(device, _)| !disks::is_stacked(root, *device))
            .map(|(_, operations)| operations)
            .sum())
    }

    /// What its processes did on these disks, of which it has a limit. What is stacked on disks is counted there and
    /// again below, or below for a thread of the kernel's (dm-crypt's writes): the higher count is the group's.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn read_on(&self, disks: &Disks) -> Result<Operations, String> {
        let counts = match self.hierarchy {
            Hierarchy::V2 => parse_v2(&self.text("io.stat").map_err(|error| format!("io.stat: {error}"))?),
            Hierarchy::V1 => parse_v1(&self.v1_text()?),
        };
        let of = |device: &Device| counts.get(device).copied().unwrap_or_default();
        let bottom: Operations = disks.disks.iter().map(of).sum();
        Ok(disks.above.iter().map(of).fold(bottom, |most, one| Operations {
            reads: most.reads.max(one.reads),
            writes: most.writes.max(one.writes),
        }))
    }

    fn v1_text(&self) -> Result<String, String> {
        match self.text(SERVICED[0]) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.text(SERVICED[1]).map_err(|error| {
                    format!("{}: {error}; expected a group of the blkio controller", SERVICED[1])
                })
            }
            read => read.map_err(|error| format!("{}: {error}", SERVICED[0])),
        }
    }

    fn text(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.directory.join(file))
    }
}

/// With version 1 many kernels count nothing of a device, or show zeros, while the group has no limit on it
/// (canonical/lxd#7627; seen on 6.18, too). That cannot be told from a database that is idle.
const SILENT: &str = "it has counted nothing, as groups of version 1 do on a device that they have no limit for; set one that \
                      is never reached (echo \"MAJOR:MINOR 4000000000\" > blkio.throttle.write_iops_device), or name the \
                      device instead";

/// `io.stat`: `MAJOR:MINOR rbytes=.. wbytes=.. rios=.. wios=.. dbytes=.. dios=..` a line
/// (`Documentation/admin-guide/cgroup-v2.rst`). Some kernels leave out the line break after a device that has done
/// nothing, so several stand on one line, and the counts are those of the last (canonical/lxd#10052). A device without
/// a number is `(unknown)` (containerd/cgroups#393), a layer above others.
fn parse_v2(text: &str) -> BTreeMap<Device, Operations> {
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        let mut device = None;
        for word in line.split_ascii_whitespace() {
            let Some((key, value)) = word.split_once('=') else {
                device = word.parse().ok();
                continue;
            };
            let (Some(device), Ok(value)) = (device, value.parse()) else { continue };
            match key {
                "rios" => counts.entry(device).or_insert_with(Operations::default).reads = value,
                "wios" => counts.entry(device).or_insert_with(Operations::default).writes = value,
                _ => {}
            }
        }
    }
    counts
}

/// `blkio.throttle.io_serviced`: `MAJOR:MINOR Read N`, and the same for Write, Sync, Async, Discard and Total, then a
/// `Total N` of all (`Documentation/admin-guide/cgroup-v1/blkio-controller.rst`).
fn parse_v1(text: &str) -> BTreeMap<Device, Operations> {
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(device), Some(kind), Some(count)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let (Ok(device), Ok(count)) = (device.parse::<Device>(), count.parse()) else { continue };
        let operations: &mut Operations = counts.entry(device).or_default();
        match kind {
            "Read" => operations.reads = count,
            "Write" => operations.writes = count,
            _ => {}
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::super::disks::tests::sysfs;
    use super::*;
    use proptest::prelude::*;

    fn rows(counts: &BTreeMap<Device, Operations>) -> Vec<(String, u64, u64)> {
        counts.iter().map(|(device, done)| (device.to_string(), done.reads, done.writes)).collect()
    }

    fn row(device: &str, reads: u64, writes: u64) -> (String, u64, u64) {
        (device.to_owned(), reads, writes)
    }

    #[test]
    fn version_2_is_read_as_the_documentation_shows_it() {
        let text = "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n\
                    8:0 rbytes=90430464 wbytes=299008000 rios=8950 wios=1252 dbytes=50331648 dios=3021\n";
        assert_eq!(rows(&parse_v2(text)), [row("8:0", 8950, 1252), row("8:16", 192, 353)]);
        let without_breaks = "7:1 7:0 253:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0 cost.usage=7\n\
                               (unknown) rbytes=0 wbytes=0 rios=6 wios=0\n9:0 ";
        assert_eq!(rows(&parse_v2(without_breaks)), [row("253:0", 3, 4)]);
        assert!(parse_v2("").is_empty() && parse_v2("rios=1\nx:y rios=2\n8:0 rios=z\n").is_empty());
    }

    #[test]
    fn version_1_is_read_as_the_documentation_shows_it() {
        let text = "254:0 Read 2\n254:0 Write 151\n254:0 Sync 153\n254:0 Async 0\n254:0 Discard 0\n\
                    254:0 Total 153\n8:16 Read 1\n8:16 Write 0\n8:16 Total 1\n(unknown) Read 9\n\
                    Total 154\n";
        assert_eq!(rows(&parse_v1(text)), [row("8:16", 1, 0), row("254:0", 2, 151)]);
        assert!(parse_v1("Total 0\n").is_empty());
    }

    #[test]
    fn what_goes_through_a_volume_is_counted_once() {
        let host = sysfs(&[("sda", "8:0", "", &[]), ("dm-0", "253:0", "", &["sda"])]);
        let directory = host.path().join("group");
        fs::create_dir(&directory).unwrap();
        let group = Group { directory: directory.clone(), hierarchy: Hierarchy::V2 };
        let missing = group.read(host.path()).unwrap_err();
        assert!(missing.contains("io.stat") && missing.contains("+io"), "{missing}");
        fs::write(directory.join("io.stat"), "253:0 rios=5 wios=6\n8:0 rios=7 wios=8\n").unwrap();
        assert_eq!(group.read(host.path()), Ok(Operations { reads: 7, writes: 8 }));
        fs::write(directory.join("io.stat"), "").unwrap();
        assert_eq!(group.read(host.path()), Ok(Operations::default()), "it has done nothing yet");
    }

    #[test]
    fn of_disks_and_what_is_stacked_on_them_the_higher_count_is_the_groups() {
        let dir = tempfile::tempdir().unwrap();
        let group = Group { directory: dir.path().to_owned(), hierarchy: Hierarchy::V2 };
        let devices = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let stacked = Disks { disks: devices(&["8:0", "8:16"]), above: devices(&["253:0"]) };
        let plain = Disks { disks: devices(&["8:0"]), above: vec![] };
        // Writes below an encryption are the kernel's own.
        fs::write(
            dir.path().join("io.stat"),
            "253:0 rios=5 wios=60\n8:0 rios=4 wios=8\n8:16 rios=3 wios=2\n",
        )
        .unwrap();
        assert_eq!(group.read_on(&stacked), Ok(Operations { reads: 7, writes: 60 }));
        assert_eq!(group.read_on(&plain), Ok(Operations { reads: 4, writes: 8 }));
        fs::write(dir.path().join("io.stat"), "").unwrap();
        assert_eq!(group.read_on(&stacked), Ok(Operations::default()));
        fs::remove_file(dir.path().join("io.stat")).unwrap();
        assert!(group.read_on(&plain).unwrap_err().contains("io.stat"));
    }

    #[test]
    fn version_1_is_believed_only_when_it_counts_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let group = Group { directory: dir.path().to_owned(), hierarchy: Hierarchy::V1 };
        let missing = group.read(dir.path()).unwrap_err();
        assert!(missing.contains("blkio controller"), "{missing}");
        for text in ["Total 0\n", "8:0 Read 0\n8:0 Write 0\nTotal 0\n"] {
            fs::write(dir.path().join(SERVICED[1]), text).unwrap();
            let silent = group.read(dir.path()).unwrap_err();
            assert!(silent.contains("write_iops_device"), "{silent}");
        }
        fs::write(dir.path().join(SERVICED[1]), "8:0 Read 1\n8:0 Write 2\nTotal 3\n").unwrap();
        assert_eq!(group.read(dir.path()), Ok(Operations { reads: 1, writes: 2 }));
        fs::write(dir.path().join(SERVICED[0]), "8:0 Read 3\n8:0 Write 4\nTotal 7\n").unwrap();
        assert_eq!(group.read(dir.path()), Ok(Operations { reads: 3, writes: 4 }), "with the groups below");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_passed_over(text in "([0-9a-zA-Z:= .-]{0,40}\n){0,20}") {
            prop_assert!(parse_v2(&text).len() <= 20);
            prop_assert!(parse_v1(&text).len() <= 20);
        }
    }
}
