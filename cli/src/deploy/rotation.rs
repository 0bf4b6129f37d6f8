//! Keeps logs short. The processes have them open and only ever append, so the file is copied aside and emptied, and they
//! go on at its beginning; what they write between the two is lost, as with logrotate's `copytruncate`.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Of each log; there is one older part of it beside.
pub(super) const MAX_BYTES: u64 = 16 << 20;

/// The older part of a log.
pub(crate) fn older(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Whether it was too long, and is empty now.
pub(super) fn rotate(log: &Path, most: u64) -> io::Result<bool> {
    match fs::metadata(log) {
        Ok(metadata) if metadata.len() > most => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    let copied = fs::copy(log, older(log));
    if copied.is_err() {
        // A full disk gets the room of both.
        let _ = fs::remove_file(older(log));
    }
    OpenOptions::new().write(true).open(log)?.set_len(0)?;
    copied.map(|_| true)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn who_appends_goes_on_in_an_empty_file_and_what_was_is_beside() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("api.log");
        assert!(!rotate(&log, 10).unwrap(), "there is none yet");
        let mut writer = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        writer.write_all(b"0123456789").unwrap();
        assert!(!rotate(&log, 10).unwrap());
        writer.write_all(b"ab").unwrap();
        assert!(rotate(&log, 10).unwrap());
        assert_eq!(fs::read(older(&log)).unwrap(), b"0123456789ab");
        writer.write_all(b"next").unwrap();
        assert_eq!(fs::read(&log).unwrap(), b"next", "and no hole before it");
    }
}
