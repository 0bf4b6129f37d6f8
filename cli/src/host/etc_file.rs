//! One file below /etc: written whole or not at all, and given back with its mode, its owner and the directories.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Whose a file is, and who may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Access {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        Ok(Self { mode: file.mode() & 0o7777, uid: file.uid(), gid: file.gid() })
    }
}

/// The directories above `path` that are not there, the lowest first.
pub(super) fn missing_dirs(path: &Path) -> Vec<PathBuf> {
    path.ancestors().skip(1).take_while(|dir| !dir.exists()).map(Path::to_owned).collect()
}

/// Replaces a file by rename; it is on the device when this returns. Who writes settings for all lets all read them,
/// whatever the umask: 0644 in directories of 0755, or what `access` says.
///
/// # Errors
/// As the system says; the file is then as it was.
pub(super) fn write(path: &Path, text: &str, access: Option<Access>) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    for missing in missing_dirs(path).iter().rev() {
        DirBuilder::new().mode(0o755).create(missing)?;
        fs::set_permissions(missing, Permissions::from_mode(0o755))?;
    }
    // No ending that the readers of these directories would take.
    let draft = path.with_extension("scalekit-draft");
    let written = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft).and_then(
        |mut file| {
            file.write_all(text.as_bytes())?;
            if let Some(access) = access {
                chown(&draft, Some(access.uid), Some(access.gid))?;
            }
            file.set_permissions(Permissions::from_mode(access.map_or(0o644, |access| access.mode)))?;
            file.sync_all()?;
            fs::rename(&draft, path)
        },
    );
    if let Err(error) = written {
        // The draft may not even be there.
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    File::open(dir)?.sync_all()
}

/// Takes a file away, and the directories that were made for it as far as nothing else is in them by now.
///
/// # Errors
/// As the system says.
pub(super) fn remove(path: &Path, made: &[PathBuf]) -> io::Result<()> {
    fs::remove_file(path)?;
    for dir in made {
        if fs::remove_dir(dir).is_err() {
            break;
        }
    }
    Ok(())
}
