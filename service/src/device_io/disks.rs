//! Disks in sysfs: which ones a device stands on, and what they have done.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Device, Operations};

/// Layers (a volume on encryption on a RAID on partitions are four), and disks under one device.
const MAX_DEPTH: usize = 16;
const MAX_DISKS: usize = 64;

/// What a device consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layers {
    /// Itself, or of a partition the disk, and all it stands on.
    pub(super) all: BTreeSet<Device>,
    /// The lowest of them.
    pub(super) disks: BTreeSet<Device>,
}

/// A device down to whole disks, through partitions and through what is stacked on others: LVM, dm-crypt, RAID. A disk's
/// limit of operations is one for all that is on it, so a partition's own count would say too little.
///
/// # Errors
/// The device, or one below it, is not in sysfs; or there are too many.
pub(super) fn below(root: &Path, device: Device) -> io::Result<Layers> {
    let mut found = Layers::default();
    walk(&of(root, device), MAX_DEPTH, &mut found)?;
    Ok(found)
}

/// Whether it stands on others, so that each of its operations is one of theirs, too.
pub(super) fn is_stacked(root: &Path, device: Device) -> bool {
    fs::read_dir(of(root, device).join("slaves")).is_ok_and(|mut slaves| slaves.next().is_some())
}

/// What a disk has completed.
///
/// # Errors
/// It is gone, or its file has another form than the kernel's documentation shows.
pub(super) fn read(root: &Path, disk: Device) -> io::Result<Operations> {
    let text = fs::read_to_string(of(root, disk).join("stat"))?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "expected at least 7 numbers"))
}

/// `/sys/block/DISK/stat`: the first number is that of completed reads, the fifth that of completed writes
/// (`Documentation/block/stat.rst`). Flushes without data are counted apart, in kernels that do.
fn parse(text: &str) -> Option<Operations> {
    let numbers: Vec<u64> =
        text.split_ascii_whitespace().map_while(|number| number.parse().ok()).take(7).collect();
    (numbers.len() == 7).then(|| Operations { reads: numbers[0], writes: numbers[4] })
}

fn of(root: &Path, device: Device) -> PathBuf {
    root.join("sys/dev/block").join(device.to_string())
}

fn walk(link: &Path, depth: usize, found: &mut Layers) -> io::Result<()> {
    let too_many = || io::Error::other(format!("more than {MAX_DISKS} disks or {MAX_DEPTH} layers below it"));
    let depth = depth.checked_sub(1).ok_or_else(too_many)?;
    let mut directory = fs::canonicalize(link)?;
    // A partition's directory is inside of its disk's.
    if directory.join("partition").exists() {
        directory.pop();
    }
    let mut is_bottom = true;
    for slave in slaves(&directory)? {
        is_bottom = false;
        walk(&slave, depth, found)?;
    }
    let text = fs::read_to_string(directory.join("dev"))?;
    let device = text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    found.all.insert(device);
    if is_bottom {
        found.disks.insert(device);
    }
    if found.disks.len() > MAX_DISKS {
        return Err(too_many());
    }
    Ok(())
}

fn slaves(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory.join("slaves")) {
        Ok(entries) => entries.take(MAX_DISKS + 1).map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::symlink;

    /// A sysfs in the kernel's form. A device is a directory below `devices`, and what it stands on are others of them.
    pub(crate) fn sysfs(devices: &[(&str, &str, &str, &[&str])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let by_number = dir.path().join("sys/dev/block");
        fs::create_dir_all(&by_number).unwrap();
        let place = |name: &str| dir.path().join("sys/devices").join(name);
        for (name, number, stat, slaves) in devices {
            let place_of_it = place(name);
            fs::create_dir_all(place_of_it.join("slaves")).unwrap();
            fs::write(place_of_it.join("dev"), format!("{number}\n")).unwrap();
            fs::write(place_of_it.join("stat"), stat).unwrap();
            if name.contains('/') {
                fs::write(place_of_it.join("partition"), "1\n").unwrap();
                fs::remove_dir(place_of_it.join("slaves")).unwrap();
            }
            for slave in *slaves {
                let target = place(slave);
                symlink(&target, place_of_it.join("slaves").join(target.file_name().unwrap())).unwrap();
            }
            symlink(&place_of_it, by_number.join(number)).unwrap();
        }
        dir
    }

    fn device(text: &str) -> Device {
        text.parse().unwrap()
    }

    #[test]
    fn a_device_is_followed_down_to_whole_disks() {
        let host = sysfs(&[
            ("sda", "8:0", "", &[]),
            ("sda/sda1", "8:1", "", &[]),
            ("sda/sda2", "8:2", "", &[]),
            ("nvme0n1", "259:0", "", &[]),
            ("dm-0", "253:0", "", &["sda/sda2"]),
            ("dm-1", "253:1", "", &["dm-0", "nvme0n1"]),
            ("md0", "9:0", "", &["dm-1", "sda/sda1"]),
        ]);
        for (named, disks, above) in [
            ("8:0", &["8:0"][..], &[][..]),
            ("8:1", &["8:0"], &[]),
            ("253:0", &["8:0"], &["253:0"]),
            ("253:1", &["8:0", "259:0"], &["253:0", "253:1"]),
            ("9:0", &["8:0", "259:0"], &["9:0", "253:0", "253:1"]),
        ] {
            let found = below(host.path(), device(named)).unwrap();
            let expected: BTreeSet<_> = disks.iter().map(|text| device(text)).collect();
            assert_eq!(found.disks, expected, "{named}");
            let all = above.iter().map(|text| device(text)).chain(expected).collect();
            assert_eq!(found.all, all, "{named}");
        }
        let stacked = |text| is_stacked(host.path(), device(text));
        assert!(stacked("253:1") && stacked("253:0"));
        assert!(!stacked("8:0") && !stacked("8:1") && !stacked("1:1"));
        let error = below(host.path(), device("8:16")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_circle_has_an_end() {
        let host = sysfs(&[("dm-0", "253:0", "", &["dm-1"]), ("dm-1", "253:1", "", &["dm-0"])]);
        let error = below(host.path(), device("253:0")).unwrap_err();
        assert!(error.to_string().contains("layers"), "{error}");
    }

    #[test]
    fn each_kernels_columns_are_read() {
        let text = " 1465462    21669 62442850  3797214  3746085   536176 261767800  1761144        0   559932  5853667";
        let discards = format!("{text}   306544       63 204703784    58827");
        let flushes = format!("{discards}  1196304   236480\n");
        for text in [text, &discards, &flushes] {
            assert_eq!(parse(text), Some(Operations { reads: 1_465_462, writes: 3_746_085 }));
        }
        for broken in ["", "1 2 3 4 5 6", "1 2 3 4 x 6 7", "-1 2 3 4 5 6 7"] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_disk_is_read_and_missed() {
        let host = sysfs(&[("sda", "8:0", "5 0 0 0 7 0 0 0 0 0 0\n", &[]), ("sdb", "8:16", "none\n", &[])]);
        assert_eq!(read(host.path(), device("8:0")).unwrap(), Operations { reads: 5, writes: 7 });
        assert_eq!(read(host.path(), device("8:16")).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read(host.path(), device("8:32")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9 a-z\n-]{0,200}") {
            let _ = parse(&text);
        }
    }
}
