//! The directory that stands for `/`: what is read of the host is read below it, so that tests have hosts of their own.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// No file of the kernel's that is read here is longer on any machine; one that is gets cut at this many bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// `/`, or a tree in its form.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    /// This host.
    pub(crate) fn host() -> Self {
        Self::new("/")
    }

    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The real path of a path of the host, absolute or not.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file's text, with a mark where it is no UTF-8.
    ///
    /// # Errors
    /// As the system says.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(self.path(path))?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The same; `None` if it is not there or cannot be read.
    pub(crate) fn known(&self, path: impl AsRef<Path>) -> Option<String> {
        self.text(path).ok()
    }

    /// A host of files and their texts, which lasts as long as the directory.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> (tempfile::TempDir, Self) {
        let dir = tempfile::tempdir().unwrap();
        let root = Self::new(dir.path());
        for (path, text) in files {
            let path = root.path(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        (dir, root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_host_is_below_the_root() {
        assert_eq!(Root::new("/r").path("/proc/stat"), Path::new("/r/proc/stat"));
        assert_eq!(Root::new("/").path("proc/stat"), Path::new("/proc/stat"));
    }

    #[test]
    fn what_is_not_there_is_said_and_what_is_no_text_is_read_all_the_same() {
        let (_dir, root) = Root::of(&[("proc/stat", "cpu 1\n")]);
        assert_eq!(root.text("/proc/stat").unwrap(), "cpu 1\n");
        assert_eq!(root.text("/proc/none").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(root.known("/proc/none"), None);
        std::fs::write(root.path("odd"), [b'a', 0xff, b'b']).unwrap();
        assert_eq!(root.text("odd").unwrap(), "a\u{fffd}b");
    }
}
