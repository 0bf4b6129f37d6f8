//! A file that is either there whole or not there: temporary name, fsync, rename.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file on its way. It gets its name when it is finished; dropped before that, it vanishes.
#[derive(Debug)]
pub(crate) struct PendingFile {
    file: BufWriter<File>,
    path: PathBuf,
    temporary: PathBuf,
    finished: bool,
}

impl PendingFile {
    /// Creates the temporary file, beside where `path` will be.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| io::Error::other("it is no name of a file"))?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(".tmp");
        let temporary = path.with_file_name(hidden);
        let file = BufWriter::new(File::create(&temporary)?);
        Ok(Self { file, path: path.to_owned(), temporary, finished: false })
    }

    /// Puts it in its place, for good.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.temporary, &self.path)?;
        self.finished = true;
        // The rename itself lasts only once the folder is on the device.
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Write for PendingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: what remains is hidden, and overwritten by the next one of its name.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_finished_and_never_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latency.hlog");
        let mut file = PendingFile::create(&path).unwrap();
        file.write_all(b"one").unwrap();
        assert!(!path.exists());
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        for content in ["two", "three"] {
            let mut file = PendingFile::create(&path).unwrap();
            file.write_all(content.as_bytes()).unwrap();
            file.finish().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(PendingFile::create(Path::new("..")).is_err());
    }
}
