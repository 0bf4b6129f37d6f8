//! Writes the files of a deployment below a root, and takes them away. Who tells systemd is the command.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{FileText, Rendered, Systemd};
use crate::deploy::DeployError;
use crate::root::Root;

/// What was done, as file names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Installed {
    /// New, or another text than before.
    pub(crate) written: Vec<PathBuf>,
    /// Of before, and not wanted any more.
    pub(crate) removed: Vec<PathBuf>,
}

/// Writes what differs, and removes what an earlier deployment had and this one has not.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn install(
    root: &Root,
    rendered: &Rendered,
    before: Option<&Systemd>,
) -> Result<Installed, DeployError> {
    let mut installed = Installed::default();
    for file in &rendered.files {
        let path = root.path(&file.path);
        if fs::read(&path).is_ok_and(|text| text == file.text.as_bytes()) {
            continue;
        }
        write(&path, file).map_err(DeployError::file("cannot write", &path))?;
        installed.written.push(file.path.clone());
    }
    let stale = before.iter().flat_map(|before| &before.files);
    for file in stale.filter(|file| rendered.files.iter().all(|wanted| wanted.path != **file)) {
        remove_file(root, file)?;
        installed.removed.push(file.clone());
    }
    Ok(installed)
}

/// Whole or not at all, and never readable by others for a moment.
fn write(path: &Path, file: &FileText) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let is_ours = !parent.exists();
    fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    if is_ours {
        // Whatever the umask is: the deployment's user reads its profile there.
        for dir in
            [Some(parent), parent.parent().filter(|above| above.ends_with("scalekit"))].into_iter().flatten()
        {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        }
    }
    let mode = if file.is_secret { 0o600 } else { 0o644 };
    let temporary = path.with_extension("scalekit-new");
    let mut options = fs::OpenOptions::new();
    let mut written = options.create(true).truncate(true).write(true).mode(mode).open(&temporary)?;
    written.set_permissions(fs::Permissions::from_mode(mode))?;
    io::Write::write_all(&mut written, file.text.as_bytes())?;
    written.sync_all()?;
    fs::rename(&temporary, path)
}

/// Takes away all files, and directories of ours that are empty then.
///
/// # Errors
/// One that cannot be removed.
pub(crate) fn remove(root: &Root, systemd: &Systemd) -> Result<(), DeployError> {
    for file in &systemd.files {
        remove_file(root, file)?;
        let parent = file.parent().unwrap_or(Path::new("/"));
        if parent.starts_with(super::FILES) {
            // Not empty: somebody else's.
            let _ = fs::remove_dir(root.path(parent));
        }
    }
    Ok(())
}

fn remove_file(root: &Root, file: &Path) -> Result<(), DeployError> {
    let path = root.path(file);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DeployError::File { what: "cannot remove", path, source: error })
        }
        _ => Ok(()),
    }
}
