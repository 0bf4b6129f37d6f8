//! Where the operations of a database's device are read: what a path that somebody named stands for.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

use super::disks::{self, Layers};
use super::{Device, Group, Hierarchy, Operations, mounts};

/// A place that was named and found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    root: PathBuf,
    kind: Kind,
}

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The whole disks below a device or a path. Everybody's operations count.
    Disks(Disks),
    /// A control group: the operations of its processes.
    Group(Group),
}

/// What a device or a path is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disks {
    /// The whole disks at the bottom.
    pub disks: Vec<Device>,
    /// What is stacked on them and holds the path: volumes, encryption, RAID.
    pub above: Vec<Device>,
}

/// A named path is no place where operations are counted.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: {problem}; expected a block device (/dev/sdb), a file or directory on one, or the directory of the database's \
     control group",
    path.display()
)]
pub struct PlaceError {
    path: PathBuf,
    problem: String,
}

/// Its operations cannot be told now.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(String);

/// What the system calls say of a path.
enum Origin {
    Device(Device),
    Group(Hierarchy),
    /// On a file system without a device of its own.
    Nameless,
}

impl Place {
    /// Finds what a path of this host stands for.
    ///
    /// # Errors
    /// It is not there, or is none of what can be read.
    pub fn find(path: &Path) -> Result<Self, PlaceError> {
        let problem = |problem: String| PlaceError { path: path.to_owned(), problem };
        let root = PathBuf::from("/");
        let device = match origin(path).map_err(|error| problem(error.to_string()))? {
            Origin::Group(hierarchy) if path.is_dir() => {
                let directory = fs::canonicalize(path).map_err(|error| problem(error.to_string()))?;
                return Ok(Self { root, kind: Kind::Group(Group { directory, hierarchy }) });
            }
            Origin::Group(_) => {
                return Err(problem("is a file of a control group, not its directory".into()));
            }
            Origin::Device(device) => device,
            Origin::Nameless => mounted_from(path).map_err(problem)?,
        };
        Self::on(root, device)
            .map_err(|error| problem(format!("is on the device {device}, which /sys does not show: {error}")))
    }

    fn on(root: PathBuf, device: Device) -> io::Result<Self> {
        let Layers { all, disks } = disks::below(&root, device)?;
        let above = all.difference(&disks).copied().collect();
        Ok(Self { root, kind: Kind::Disks(Disks { disks: disks.into_iter().collect(), above }) })
    }

    /// A control group of version 2 that is made of files.
    #[cfg(test)]
    pub(crate) fn of_files(directory: &Path) -> Self {
        let group = Group { directory: directory.to_owned(), hierarchy: Hierarchy::V2 };
        Self { root: directory.to_owned(), kind: Kind::Group(group) }
    }

    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Operations so far: completed by the disks, or given to them by the group.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub fn read(&self) -> Result<Operations, ReadError> {
        match &self.kind {
            Kind::Disks(Disks { disks, .. }) => disks
                .iter()
                .map(|disk| {
                    disks::read(&self.root, *disk).map_err(|error| {
                        ReadError(format!("the disk {disk}: /sys/dev/block/{disk}/stat: {error}"))
                    })
                })
                .sum(),
            Kind::Group(group) => {
                group.read(&self.root).map_err(|problem| ReadError(format!("{self}: {problem}")))
            }
        }
    }
}

impl Disks {
    /// Those that a file or directory is on, or a device's node stands for.
    ///
    /// # Errors
    /// It is not there, or on no block device.
    pub fn of(path: &Path) -> Result<Self, PlaceError> {
        match Place::find(path)?.kind {
            Kind::Disks(disks) => Ok(disks),
            Kind::Group(_) => Err(PlaceError { path: path.to_owned(), problem: "is on no disk".into() }),
        }
    }
}

impl Group {
    /// The one whose directory this is.
    ///
    /// # Errors
    /// It is not there, or none.
    pub fn at(directory: &Path) -> Result<Self, PlaceError> {
        match Place::find(directory)?.kind {
            Kind::Group(group) => Ok(group),
            Kind::Disks(_) => {
                Err(PlaceError { path: directory.to_owned(), problem: "is no control group".into() })
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Disks(Disks { disks, .. }) => {
                out.write_str(if disks.len() == 1 { "the disk" } else { "the disks" })?;
                disks.iter().try_for_each(|disk| write!(out, " {disk}"))
            }
            Kind::Group(group) => write!(out, "the control group {}", group.directory.display()),
        }
    }
}

fn origin(path: &Path) -> io::Result<Origin> {
    let found = fs::metadata(path)?;
    let numbers = |number: u64| {
        // The kernel's numbers have 12 and 20 bits.
        let part = |part: u64| u32::try_from(part).unwrap_or(u32::MAX);
        Device { major: part(major(number)), minor: part(minor(number)) }
    };
    if found.file_type().is_block_device() {
        return Ok(Origin::Device(numbers(found.rdev())));
    }
    let filesystem = statfs(path)?.filesystem_type();
    if filesystem == CGROUP2_SUPER_MAGIC {
        return Ok(Origin::Group(Hierarchy::V2));
    }
    if filesystem == CGROUP_SUPER_MAGIC {
        return Ok(Origin::Group(Hierarchy::V1));
    }
    // Major 0 is what file systems without a device have, and those on several, such as btrfs.
    let device = numbers(found.dev());
    Ok(if device.major == 0 { Origin::Nameless } else { Origin::Device(device) })
}

/// The device that btrfs, and others that hide theirs, are mounted from. Of an overlay it is that of the directory which
/// takes what is written; inside of a container that directory is usually out of sight.
fn mounted_from(path: &Path) -> Result<Device, String> {
    let whole = fs::canonicalize(path).map_err(|error| error.to_string())?;
    let mountinfo =
        fs::read("/proc/self/mountinfo").map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    let mount = mounts::of(&String::from_utf8_lossy(&mountinfo), &whole)
        .ok_or("is on no file system that /proc/self/mountinfo lists")?;
    let none =
        || format!("is on {} ({}), which is no block device here", mount.filesystem, mount.source.display());
    if let Some(upper) = &mount.upper {
        return match origin(upper) {
            Ok(Origin::Device(device)) => Ok(device),
            // Stacked overlays are not followed.
            _ => Err(format!("{}; its files are in {}, out of sight: use a volume", none(), upper.display())),
        };
    }
    // Only a path names a device; elsewhere it is a word such as `overlay`.
    if !mount.source.is_absolute() {
        return Err(none());
    }
    match origin(&mount.source) {
        Ok(Origin::Device(device)) if is_block(&mount.source) => Ok(device),
        _ => Err(none()),
    }
}

fn is_block(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device())
}

#[cfg(test)]
mod tests {
    use super::super::disks::tests::sysfs;
    use super::*;

    #[test]
    fn a_volume_is_the_sum_of_its_disks() {
        let host = sysfs(&[
            ("sda", "8:0", "5 0 0 0 7 0 0\n", &[]),
            ("sdb", "8:16", "10 0 0 0 20 0 0\n", &[]),
            ("dm-0", "253:0", "9 9 9 9 9 9 9\n", &["sda", "sdb"]),
        ]);
        let place = Place::on(host.path().to_owned(), "253:0".parse().unwrap()).unwrap();
        assert_eq!(place.to_string(), "the disks 8:0 8:16");
        assert_eq!(place.read().unwrap(), Operations { reads: 15, writes: 27 });
        fs::remove_file(host.path().join("sys/devices/sdb/stat")).unwrap();
        let gone = place.read().unwrap_err().to_string();
        assert!(gone.contains("8:16") && gone.contains("No such file"), "{gone}");
    }

    #[test]
    fn what_counts_no_operations_is_told_apart() {
        for (path, says) in [
            ("/no/such/place", "No such file"),
            ("/proc/version", "proc"),
            ("/dev/null", "no block device"),
            ("/dev/shm", "tmpfs"),
        ] {
            let error = Place::find(Path::new(path)).unwrap_err().to_string();
            assert!(
                error.contains(says) && error.contains(path) && error.contains("expected a block device"),
                "{error}"
            );
        }
    }
}
