//! Numbers and files as the kernel writes them. What is missing or unreadable is `None`, never zero.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// No file read here is longer on any machine; one that is gets cut at this many bytes.
const MAX_FILE: u64 = 4 << 20;

/// The directory that stands for `/`: another one in tests.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The real path of a path of the host, absolute or not.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The text of a file; `None` if it is not there or cannot be read.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let mut bytes = Vec::new();
        File::open(self.path(path)).ok()?.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The first word of a text as a number.
pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    text.split_whitespace().next()?.parse().ok()
}

/// The number after a key at the beginning of a line: `nr_periods 4`, `MemTotal:  9 kB`.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (found, rest) = line.split_once([' ', ':', '\t'])?;
        if found == key { number(rest.trim_start_matches(':')) } else { None }
    })
}

/// The number after a word within one line: `inuse 3` of `TCP: inuse 3 orphan 0`.
pub(super) fn after(line: &str, word: &str) -> Option<u64> {
    let mut words = line.split_whitespace();
    words.find(|found| *found == word)?;
    words.next()?.parse().ok()
}

/// The sum of what each processor counted; `None` without a processor, or if one of them cannot be read.
pub(super) fn sum(values: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    let mut total = None;
    for value in values {
        total = Some(total.unwrap_or(0_u64).wrapping_add(value?));
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_unknown() {
        let text = "MemTotal:  9 kB\nnr_periods 4\nbad x\nempty\n";
        for (key, expected) in
            [("MemTotal", Some(9)), ("nr_periods", Some(4)), ("bad", None), ("empty", None), ("Mem", None)]
        {
            assert_eq!(keyed(text, key), expected, "{key}");
        }
        assert_eq!(after("TCP: inuse 3 tw", "inuse"), Some(3));
        assert_eq!(after("TCP: inuse 3 tw", "tw"), None);
        assert_eq!(sum([]), None);
        assert_eq!(sum([Some(1), None]), None);
        assert_eq!(sum([Some(1), Some(2)]), Some(3));
        assert_eq!(Root::new("/nonexistent").read("/proc/stat"), None);
    }

    #[test]
    fn a_path_of_the_host_is_below_the_root() {
        assert_eq!(Root::new("/r").path("/proc/stat"), Path::new("/r/proc/stat"));
        assert_eq!(Root::new("/").path("proc/stat"), Path::new("/proc/stat"));
    }
}
