//! The watched process: whether it is still the one that it was, and its processor time.

use std::io;
use std::time::SystemTime;

use nix::errno::Errno;

use crate::report::rfc3339;
use crate::root::Root;

/// Microseconds of a tick: `USER_HZ` is 100 on every architecture that Linux still has.
const TICK_US: u64 = 10_000;

/// A process by its number and by when it started, since numbers are given anew.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) pid: u32,
    /// Ticks after the machine's start; `None`: not known yet.
    started: Option<u64>,
    /// When it was found gone.
    ended: Option<SystemTime>,
}

/// What one look tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Life {
    /// `None`: nobody knows.
    pub(super) is_alive: Option<bool>,
    /// Of all its threads, since it started.
    pub(super) cpu_us: Option<u64>,
}

impl Watched {
    pub(super) fn new(root: &Root, pid: u32) -> Self {
        let stat = root.known(format!("/proc/{pid}/stat")).as_deref().and_then(Stat::parse);
        Self { pid, started: stat.map(|stat| stat.started), ended: None }
    }

    pub(super) fn look(&mut self, root: &Root, now: SystemTime) -> Life {
        if self.ended.is_some() {
            return Life { is_alive: Some(false), cpu_us: None };
        }
        let stat = match root.text(format!("/proc/{}/stat", self.pid)) {
            Ok(text) => match Stat::parse(&text) {
                Some(stat) => Some(stat),
                None => return Life::default(),
            },
            Err(error) => {
                let is_gone = error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(Errno::ESRCH as i32);
                // One that was never seen may be hidden.
                if !is_gone || self.started.is_none() {
                    return Life::default();
                }
                None
            }
        };
        match stat.filter(|stat| !stat.has_ended && self.started.is_none_or(|at| at == stat.started)) {
            Some(stat) => {
                self.started = Some(stat.started);
                Life { is_alive: Some(true), cpu_us: Some(stat.cpu_us) }
            }
            None => {
                self.ended = Some(now);
                Life { is_alive: Some(false), cpu_us: None }
            }
        }
    }

    /// What there is to say once it is gone.
    pub(super) fn problem(&self) -> Option<String> {
        let ended = rfc3339(self.ended?);
        Some(format!(
            "process {} ended at {ended}, or shortly before: what is known of it is from until then",
            self.pid
        ))
    }
}

/// Of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    /// A zombie, or dead.
    has_ended: bool,
    cpu_us: u64,
    started: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name of the program may have blanks and parentheses itself.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().take(20).collect();
        // The first one is field 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let ticks = number(14)?.saturating_add(number(15)?);
        Some(Self {
            has_ended: matches!(*fields.first()?, "Z" | "X" | "x"),
            cpu_us: ticks.saturating_mul(TICK_US),
            started: number(22)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    fn stat(state: &str, started: u64) -> String {
        format!("7 (a) b) {state} 1 7 7 0 -1 4194304 1 0 0 0 120 30 0 0 20 0 3 0 {started} 4096 1\n")
    }

    #[test]
    fn a_number_that_is_given_anew_is_another_process() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_763_910_181);
        for (later, is_alive) in [
            (Some(stat("S", 500)), true),
            (Some(stat("R", 501)), false),
            (Some(stat("Z", 500)), false),
            (Some(stat("X", 500)), false),
            (None, false),
        ] {
            let (_dir, root) = Root::of(&[("proc/7/stat", &stat("S", 500))]);
            let mut watched = Watched::new(&root, 7);
            let alive = Life { is_alive: Some(true), cpu_us: Some(1_500_000) };
            assert_eq!(watched.look(&root, at), alive);
            assert_eq!(watched.problem(), None);
            match &later {
                Some(text) => std::fs::write(root.path("proc/7/stat"), text).unwrap(),
                None => std::fs::remove_file(root.path("proc/7/stat")).unwrap(),
            }
            assert_eq!(watched.look(&root, at).is_alive, Some(is_alive), "{later:?}");
            if is_alive {
                continue;
            }
            let problem = watched.problem().unwrap();
            assert!(problem.starts_with("process 7 ended at 2025-11-23T15:03:01Z"), "{problem}");
            // It does not come back, and the text stays the same.
            std::fs::write(root.path("proc/7/stat"), stat("S", 500)).unwrap();
            assert_eq!(watched.look(&root, at + Duration::from_secs(9)).is_alive, Some(false));
            assert_eq!(watched.problem().unwrap(), problem);
        }
    }

    #[test]
    fn one_that_was_never_seen_is_unknown() {
        let (_dir, root) = Root::of(&[("proc/8/stat", "8 (a) S 1\n")]);
        for pid in [7, 8] {
            let mut watched = Watched::new(&root, pid);
            assert_eq!(watched.look(&root, SystemTime::UNIX_EPOCH), Life::default());
            assert_eq!(watched.problem(), None);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,200}") {
            if let Some(found) = Stat::parse(&format!("1 (x) {text}")) {
                prop_assert!(text.split_whitespace().count() >= 20, "{:?}", found);
            }
        }
    }
}
