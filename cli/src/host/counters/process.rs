//! Files and limits of one process, and the machine's open files.

use std::fs;

use serde::Serialize;

use super::text::number;
use super::watched::Life;
use crate::root::Root;

/// Directory entries counted, where the kernel does not tell their number.
pub(super) const MAX_FILES: usize = 2_000_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Process {
    /// Whether it is still the process that it was at first.
    pub(crate) is_alive: Option<bool>,
    /// Processor time of all its threads, in µs.
    pub(crate) cpu_us: Option<u64>,
    /// Open file descriptors; `None`: not looked at this time, or unknown.
    pub(crate) open_files: Option<u64>,
    /// Soft limits.
    pub(crate) max_open_files: Option<Limit>,
    pub(crate) max_processes: Option<Limit>,
}

/// A limit of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Limit {
    At(u64),
    Unlimited,
}

impl Limit {
    pub(crate) fn value(self) -> Option<u64> {
        match self {
            Self::At(value) => Some(value),
            Self::Unlimited => None,
        }
    }
}

impl Process {
    /// With its limits; counting the descriptors may be costly, and is left to [`open_files`].
    pub(super) fn read(root: &Root, pid: u32, life: Life) -> Self {
        if life.is_alive == Some(false) {
            // Its number may be another's by now.
            return Self { is_alive: life.is_alive, ..Self::default() };
        }
        let limits = root.known(format!("/proc/{pid}/limits"));
        let limit = |name| soft(limits.as_deref()?, name);
        Self {
            is_alive: life.is_alive,
            cpu_us: life.cpu_us,
            open_files: None,
            max_open_files: limit("Max open files"),
            max_processes: limit("Max processes"),
        }
    }
}

/// File descriptors of a process. Linux 6.2 and later give the number as the directory's size; before it was 0, and
/// the entries are counted, which takes tens of milliseconds for tens of thousands.
pub(super) fn open_files(root: &Root, pid: u32) -> Option<u64> {
    let directory = root.path(format!("/proc/{pid}/fd"));
    // Whoever may not look inside is told its size all the same on some kernels.
    let entries = fs::read_dir(&directory).ok()?;
    let size = fs::metadata(&directory).ok().map_or(0, |metadata| metadata.len());
    let is_proc = root.path("/") == std::path::Path::new("/");
    if is_proc && size > 0 {
        return Some(size);
    }
    u64::try_from(entries.take(MAX_FILES).count()).ok()
}

/// The soft limit of a line of `/proc/PID/limits`, whose names have blanks.
fn soft(text: &str, name: &str) -> Option<Limit> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    match rest.split_whitespace().next()? {
        "unlimited" => Some(Limit::Unlimited),
        value => Some(Limit::At(value.parse().ok()?)),
    }
}

/// `/proc/sys/fs/file-nr`: files open on the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Files {
    pub(crate) open: Option<u64>,
    pub(crate) max: Option<u64>,
}

impl Files {
    /// Allocated, free (always 0 since 2.6), limit.
    pub(super) fn parse(text: &str) -> Self {
        Self { open: number(text), max: text.split_whitespace().nth(2).and_then(|max| max.parse().ok()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
        Max cpu time              unlimited            unlimited            seconds   \n\
        Max processes             unlimited            96365                processes \n\
        Max open files            1024                 524288               files     \n";

    #[test]
    fn soft_limits_and_files_are_read() {
        assert_eq!(soft(LIMITS, "Max open files"), Some(Limit::At(1024)));
        assert_eq!(soft(LIMITS, "Max processes"), Some(Limit::Unlimited));
        assert_eq!(soft(LIMITS, "Max pending signals"), None);
        assert_eq!(soft("Max open files", "Max open files"), None);
        assert_eq!(Files::parse("549\t0\t2466183\n"), Files { open: Some(549), max: Some(2_466_183) });
        assert_eq!(Files::parse("549"), Files { open: Some(549), max: None });
    }

    #[test]
    fn descriptors_are_counted() {
        let root = tempfile::tempdir().unwrap();
        let fds = root.path().join("proc/7/fd");
        fs::create_dir_all(&fds).unwrap();
        for fd in 0..3 {
            fs::write(fds.join(fd.to_string()), "").unwrap();
        }
        fs::write(root.path().join("proc/7/limits"), LIMITS).unwrap();
        let found = Process::read(&Root::new(root.path()), 7, Life::default());
        assert_eq!(found.max_open_files, Some(Limit::At(1024)));
        assert_eq!(open_files(&Root::new(root.path()), 7), Some(3));
        assert_eq!(open_files(&Root::new(root.path()), 8), None);
        assert_eq!(Process::read(&Root::new(root.path()), 8, Life::default()), Process::default());
        let gone = Process::read(&Root::new(root.path()), 7, Life { is_alive: Some(false), cpu_us: None });
        assert_eq!(gone, Process { is_alive: Some(false), ..Process::default() });
        let own = open_files(&Root::host(), std::process::id());
        assert!(own >= Some(3), "{own:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[^0-9]{0,300}") {
            let found = soft(&format!("Max open files {text}"), "Max open files");
            prop_assert!(!matches!(found, Some(Limit::At(_))));
            prop_assert_eq!(Files::parse(&text), Files::default());
        }
    }
}
