//! Files of settings that the programs of boot read from several directories, in the order in which they read them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::root::Root;

pub(super) const SYSCTL_DIRS: &[&str] =
    &["etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d"];
pub(super) const TMPFILES_DIRS: &[&str] =
    &["etc/tmpfiles.d", "run/tmpfiles.d", "usr/local/lib/tmpfiles.d", "usr/lib/tmpfiles.d", "lib/tmpfiles.d"];
pub(super) const LIMITS_DIRS: &[&str] = &["etc/security/limits.d"];

/// Where systemd looks for `system.conf.d` and `user.conf.d`.
pub(super) fn systemd_dirs(manager: &str) -> Vec<String> {
    let bases = ["etc", "run", "usr/local/lib", "usr/lib", "lib"];
    bases.iter().map(|base| format!("{base}/systemd/{manager}.conf.d")).collect()
}

/// A file of settings, and its text.
pub(super) struct Dropin {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) text: String,
}

/// All `.conf` files of the directories, by name. One in an earlier directory takes the place of those of its name in
/// later ones, so it does not matter where /lib is /usr/lib; a link to /dev/null has no lines
/// (sysctl.d(5), tmpfiles.d(5), systemd-system.conf(5)).
pub(super) fn dropins<S: AsRef<str>>(root: &Root, dirs: &[S]) -> Vec<Dropin> {
    let mut found: Vec<Dropin> = Vec::new();
    for dir in dirs {
        for entry in fs::read_dir(root.path(dir.as_ref())).into_iter().flatten().filter_map(Result::ok) {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.extension().is_some_and(|ending| ending == "conf")
                && !found.iter().any(|other| other.name == name)
            {
                let text = lines_of(&path);
                found.push(Dropin { path, name, text });
            }
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// The text of a plain file; nothing of what cannot be read, or would never end.
pub(super) fn lines_of(path: &Path) -> String {
    let is_file = fs::metadata(path).is_ok_and(|file| file.is_file());
    if is_file { fs::read_to_string(path).unwrap_or_default() } else { String::new() }
}

/// The lines that are no comments, without space around.
pub(super) fn directives(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
}
