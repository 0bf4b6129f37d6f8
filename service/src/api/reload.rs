//! Files that are read again when they change, so that tokens and certificates are rotated without a restart.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How often files are looked at.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// What is read from files.
pub(crate) trait Reload: Send + Sync + 'static {
    fn files(&self) -> Vec<PathBuf>;
    /// Reads them again; after an error what was read before stays in force.
    ///
    /// # Errors
    /// What is wrong with them.
    fn reload(&self) -> Result<(), String>;
}

/// What tells one state of the files from another. Mounted secrets are replaced by a link to another file.
type Stamp = Vec<Option<(u64, u64, i64, i64, u64)>>;

fn stamp(files: &[PathBuf]) -> Stamp {
    let of = |file: &PathBuf| {
        let known = std::fs::metadata(file).ok()?;
        Some((known.dev(), known.ino(), known.mtime(), known.mtime_nsec(), known.size()))
    };
    files.iter().map(of).collect()
}

/// Looks at the files each `interval` until `stop`.
pub(crate) async fn watch(what: Arc<impl Reload>, interval: Duration, stop: CancellationToken) {
    let files = what.files();
    let mut seen = None;
    loop {
        let (shared, paths, before) = (Arc::clone(&what), files.clone(), seen.take());
        let looked = tokio::task::spawn_blocking(move || {
            // Taken before reading, so that a change meanwhile is seen the next time. The first look reads them
            // again, too: they may have changed since they were read at the start.
            let now = stamp(&paths);
            let changed = before.as_ref() != Some(&now);
            (now, changed.then(|| shared.reload()), before.is_some())
        });
        let Ok((now, reloaded, told)) = looked.await else { return };
        let named = || files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
        match reloaded {
            Some(Ok(())) if told => tracing::info!("read {} again", named()),
            Some(Err(problem)) => {
                tracing::error!("{problem}; what was read from it before stays in force");
            }
            _ => {}
        }
        seen = Some(now);
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// The text of a small file.
///
/// # Errors
/// It cannot be read, or is larger than `most` bytes.
pub(crate) fn read(file: &Path, most: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    if bytes.len() as u64 > most {
        return Err(format!("{} is larger than {most} bytes", file.display()));
    }
    Ok(bytes)
}

/// Whether others than owner and group may read the file, or others than the owner change it.
pub(crate) fn too_open(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|known| known.mode() & 0o026 != 0)
}
