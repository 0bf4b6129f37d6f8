//! `/proc/self/mountinfo`: what a path is mounted from.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// What is mounted at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) filesystem: String,
    /// A device's path, or whatever the file system calls its source.
    pub(super) source: PathBuf,
    /// Of an overlay: the directory that takes what is written, as whoever mounted it saw it.
    pub(super) upper: Option<PathBuf>,
}

/// The mount that an absolute path without links is on: the deepest one, and of those at one place the last, which
/// hides the others. The form is in proc_pid_mountinfo(5).
pub(super) fn of(mountinfo: &str, path: &Path) -> Option<Mount> {
    let mut best: Option<(usize, Mount)> = None;
    for (place, mount) in mountinfo.lines().filter_map(line) {
        let depth = place.components().count();
        if path.starts_with(&place) && best.as_ref().is_none_or(|(deepest, _)| depth >= *deepest) {
            best = Some((depth, mount));
        }
    }
    best.map(|(_, mount)| mount)
}

fn line(line: &str) -> Option<(PathBuf, Mount)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let place = plain(mount.split(' ').nth(4)?);
    let mut filesystem = filesystem.split(' ');
    let name = filesystem.next()?.to_owned();
    let source = plain(filesystem.next()?);
    let options = filesystem.next().unwrap_or_default();
    let upper = options.split(',').find_map(|option| option.strip_prefix("upperdir=")).map(plain);
    Some((place, Mount { filesystem: name, source, upper: upper.filter(|path| path.is_absolute()) }))
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn plain(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        27 1 0:20 /@ / rw,relatime - btrfs /dev/sda2 rw,subvol=/@\n\
        40 27 0:44 / /var/lib/docker/merged rw - overlay overlay rw,lowerdir=/a,upperdir=/b\n\
        41 27 0:20 /@db /srv/my\\040db rw shared:3 master:1 - btrfs /dev/mapper/vg-db rw\n\
        42 27 0:50 / /mnt rw - tmpfs none rw\n\
        43 27 0:51 / /mnt rw - nfs4 host:/export rw\n\
        junk\n\n44 27 - \n";

    #[test]
    fn the_deepest_and_last_mount_is_that_of_a_path() {
        for (path, filesystem, source) in [
            ("/etc/passwd", "btrfs", "/dev/sda2"),
            ("/srv/my db/journal", "btrfs", "/dev/mapper/vg-db"),
            ("/srv/my", "btrfs", "/dev/sda2"),
            ("/var/lib/docker/merged/x", "overlay", "overlay"),
            ("/mnt/a", "nfs4", "host:/export"),
            ("/mnt2", "btrfs", "/dev/sda2"),
        ] {
            let upper = (filesystem == "overlay").then(|| PathBuf::from("/b"));
            let expected = Mount { filesystem: filesystem.into(), source: source.into(), upper };
            assert_eq!(of(TEXT, Path::new(path)), Some(expected), "{path}");
        }
        assert_eq!(of("", Path::new("/etc")), None);
        assert_eq!(plain(r"a\134b\04"), PathBuf::from(r"a\b\04"));
        assert_eq!(plain(r"\777\"), PathBuf::from(r"\777\"), "no byte has that number");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_passed_over(text in "([0-9a-z/\\\\: -]{0,60}\n){0,20}", path in "/[a-z/]{0,20}") {
            let _ = of(&text, Path::new(&path));
        }
    }
}
