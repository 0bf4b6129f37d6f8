//! Where root keeps the journal, and that nobody else can write there: rollback does as root what the journal says.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::journal::JournalError;
use crate::root::Root;

/// Apart from any user's home and environment, so that `sudo` and `sudo -E` find the same one.
const ROOTS: &str = "/var/lib/scalekit/tune";
/// Names another directory.
pub(crate) const VARIABLE: &str = "SCALEKIT_TUNE_STATE";
const FILE: &str = "journal.jsonl";
const STICKY: u32 = 0o1000;

/// The journal's path if this is the host's root (not of a user namespace, where the files are another's), by `asked`,
/// the value of [`VARIABLE`].
///
/// # Errors
/// A directory that others can write to, or that is below one.
pub(crate) fn of_root(root: &Root, asked: Option<&OsStr>) -> Result<Option<PathBuf>, JournalError> {
    let all = root.known("proc/self/uid_map").unwrap_or_default();
    let is_mapped = !all.split_whitespace().eq(["0", "0", "4294967295"]);
    if !nix::unistd::geteuid().is_root() || is_mapped {
        return Ok(None);
    }
    let dir = asked.map_or_else(|| PathBuf::from(ROOTS), PathBuf::from);
    check(&dir, 0)?;
    Ok(Some(dir.join(FILE)))
}

/// Where root's journal is by default.
pub(crate) fn roots() -> PathBuf {
    Path::new(ROOTS).join(FILE)
}

/// Refuses a directory that anybody but `owner` can write to, or can replace. What is not there yet is made by `owner`.
fn check(dir: &Path, owner: u32) -> Result<(), JournalError> {
    let unsafe_place =
        |path: &Path, problem| JournalError::Unsafe { path: path.display().to_string(), problem };
    if !dir.is_absolute() {
        return Err(unsafe_place(dir, "is no absolute path".to_owned()));
    }
    let there = dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let real = there.canonicalize().unwrap_or_else(|_| there.to_owned());
    for (path, is_dir) in dir.ancestors().chain(real.ancestors()).map(|path| (path, path == dir)) {
        let Ok(found) = fs::symlink_metadata(path) else { continue };
        if found.uid() != owner && found.uid() != 0 {
            return Err(unsafe_place(path, format!("belongs to user {}", found.uid())));
        }
        // In /tmp nobody can replace what is another's.
        let is_shared = found.mode() & 0o022 != 0 && (is_dir || found.mode() & STICKY == 0);
        if is_shared && !found.is_symlink() {
            return Err(unsafe_place(
                path,
                format!("can be written by others (mode {:o})", found.mode() & 0o7777),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_place_that_others_can_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let me = nix::unistd::geteuid().as_raw();
        let inner = dir.path().join("a/b");
        assert!(check(&inner, me).is_ok(), "what is not there is made");
        fs::create_dir_all(&inner).unwrap();
        assert!(check(&inner, me).is_ok());
        fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o777)).unwrap();
        let error = check(&inner, me).unwrap_err().to_string();
        assert!(error.contains("written by others (mode 777)"), "{error}");
        fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(check(&inner, me).is_ok(), "as /tmp");
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(check(&inner, me).is_err(), "but the directory itself is not shared");
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o700)).unwrap();
        if me == 0 {
            std::os::unix::fs::chown(&inner, Some(1), None).unwrap();
            assert!(check(&inner, me).unwrap_err().to_string().contains("belongs to user 1"));
        }
        assert!(check(Path::new("a/b"), me).is_err());
    }
}
