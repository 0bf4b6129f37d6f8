//! What the kernel and the hypervisor kept from the generator: throttling by a cgroup's CPU quota, time stolen
//! from the virtual machine, time that a thread was ready to run and did not. Counters that only grow, read
//! before and after the measured part. What cannot be read is unknown, never zero.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::cgroup::{Throttling, throttling_by_cgroup};
use super::clock::Nanos;
use crate::root::Root;

/// The counters of this process and its machine at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// By the `cpu.stat` of the process's cgroup and of each ancestor; empty: none of them tells.
    cgroups: BTreeMap<PathBuf, Throttling>,
    steal: Option<Steal>,
}

/// Of all processors together, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Steal {
    stolen: u64,
    all: u64,
}

/// What was withheld between two moments; `None` is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Withheld {
    /// Throttled time over the time passed, of the cgroup that throttled most. The kernel sums it over
    /// processors, so it can exceed 1.
    pub(crate) throttled_share: Option<f64>,
    /// Enforcement periods in which a quota ran out.
    pub(crate) throttled_periods: Option<u64>,
    /// Stolen over all processor time of the machine, 0 to 1.
    pub(crate) steal_share: Option<f64>,
}

impl Withheld {
    /// The worst of several machines.
    pub(super) fn worst(self, other: Self) -> Self {
        Self {
            throttled_share: self.throttled_share.into_iter().chain(other.throttled_share).reduce(f64::max),
            throttled_periods: self.throttled_periods.max(other.throttled_periods),
            steal_share: self.steal_share.into_iter().chain(other.steal_share).reduce(f64::max),
        }
    }
}

impl Counters {
    pub(super) fn read(root: &Root) -> Self {
        let stat = root.known("proc/stat").unwrap_or_default();
        Self { cgroups: throttling_by_cgroup(root), steal: steal(&stat) }
    }

    /// What was withheld since `before`, in which `passed` went by.
    pub(super) fn since(&self, before: &Self, passed: Duration) -> Withheld {
        // A cgroup that was not there before is one that the process was moved to: from when on is not known.
        let grown: Vec<Throttling> = self
            .cgroups
            .iter()
            .filter_map(|(directory, now)| {
                let then = before.cgroups.get(directory)?;
                let periods = now.periods.zip(then.periods).map(|(now, then)| now.saturating_sub(then));
                Some(Throttling { time: now.time.saturating_sub(then.time), periods })
            })
            .collect();
        let moved = self.cgroups.len() != before.cgroups.len() || grown.len() != self.cgroups.len();
        let worst = grown.iter().map(|cgroup| cgroup.time).max().filter(|_| !moved);
        let share = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        Withheld {
            throttled_share: worst.and_then(|time| share(time.as_secs_f64(), passed.as_secs_f64())),
            throttled_periods: grown.iter().filter_map(|cgroup| cgroup.periods).max().filter(|_| !moved),
            steal_share: self.steal.zip(before.steal).and_then(|(now, then)| {
                let grown = |now: u64, then: u64| now.saturating_sub(then) as f64;
                share(grown(now.stolen, then.stolen), grown(now.all, then.all))
            }),
        }
    }
}

/// Reads the counters at both ends of the measured part.
#[derive(Debug)]
pub(super) struct Meter<'a> {
    root: &'a Root,
    start: Nanos,
    end: Nanos,
    before: Option<(Nanos, Counters)>,
    withheld: Option<Withheld>,
}

impl<'a> Meter<'a> {
    /// `start`, `end`: of the measured part.
    pub(super) fn new(root: &'a Root, start: Nanos, end: Nanos) -> Self {
        Self { root, start, end, before: None, withheld: None }
    }

    /// When it wants to be asked again.
    pub(super) fn next(&self) -> Nanos {
        match (&self.before, self.withheld) {
            (None, _) => self.start,
            (Some(_), None) => self.end,
            (Some(_), Some(_)) => Nanos::MAX,
        }
    }

    /// Reads what is due.
    pub(super) fn look(&mut self, now: Nanos) {
        if now < self.next() {
            return;
        }
        match &self.before {
            None => self.before = Some((now, Counters::read(self.root))),
            Some((since, before)) => {
                let passed = Duration::from_nanos(now.saturating_sub(*since));
                self.withheld = Some(Counters::read(self.root).since(before, passed));
            }
        }
    }

    /// Of the measured part, or of what there was of it; nothing is known if it never began.
    pub(super) fn finish(mut self, now: Nanos) -> Withheld {
        self.end = self.end.min(now);
        if self.before.is_some() {
            self.look(now);
        }
        self.withheld.unwrap_or_default()
    }
}

/// How long the calling thread has been ready to run and not running, since it was started.
pub(super) fn thread_run_delay(root: &Root) -> Option<Duration> {
    run_delay(&root.known("proc/thread-self/schedstat")?)
}

/// The kernel's Documentation/scheduler/sched-stats: time running, time waiting to run (both in ns), time slices.
fn run_delay(schedstat: &str) -> Option<Duration> {
    schedstat.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of
/// the former (proc_stat(5)).
fn steal(stat: &str) -> Option<Steal> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_ascii_whitespace().take(8).map_while(|tick| tick.parse().ok()).collect();
    Some(Steal { stolen: *ticks.get(7)?, all: ticks.iter().fold(0, |sum, tick| sum.saturating_add(*tick)) })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    #[test]
    fn steal_is_the_eighth_column_and_unknown_without_it() {
        for (stat, expected) in [
            ("cpu  10 1 2 80 3 0 4 100 7 7\ncpu0 1 1 1 1 1 1 1 1\n", Some(Steal { stolen: 100, all: 200 })),
            ("cpu  10 1 2 80\n", None),
            ("cpu  10 1 2 80 3 0 x 100\n", None),
            ("intr 1\n", None),
            ("", None),
        ] {
            assert_eq!(steal(stat), expected, "{stat}");
        }
        assert_eq!(run_delay("996326634 70218820 58\n"), Some(Duration::from_nanos(70_218_820)));
        assert_eq!((run_delay(""), run_delay("1"), run_delay("1 x 2")), (None, None, None));
    }

    /// The quota of a parent holds for its children, and says so only in the parent's own file.
    #[test]
    fn the_cgroup_that_throttled_most_counts_be_it_an_ancestor() {
        let own = "sys/fs/cgroup/a/b/cpu.stat";
        let parent = "sys/fs/cgroup/a/cpu.stat";
        let (_dir, root) = Root::of(&[
            ("proc/self/cgroup", "0::/a/b\n"),
            ("proc/self/mountinfo", V2),
            ("proc/stat", "cpu  0 0 0 100 0 0 0 50\n"),
            (own, "nr_throttled 1\nthrottled_usec 1000\n"),
            (parent, "nr_throttled 5\nthrottled_usec 7000\n"),
        ]);
        let before = Counters::read(&root);
        fs::write(root.path(own), "nr_throttled 2\nthrottled_usec 2000\n").unwrap();
        fs::write(root.path(parent), "nr_throttled 35\nthrottled_usec 307000\n").unwrap();
        fs::write(root.path("proc/stat"), "cpu  0 0 0 170 0 0 0 80\n").unwrap();
        let withheld = Counters::read(&root).since(&before, Duration::from_secs(2));
        assert_eq!(withheld.throttled_share, Some(0.15));
        assert_eq!(withheld.throttled_periods, Some(30));
        assert_eq!(withheld.steal_share, Some(0.3));
    }

    #[test]
    fn what_cannot_be_read_is_unknown() {
        let files = [
            ("proc/self/cgroup", "0::/a\n"),
            ("proc/self/mountinfo", V2),
            ("proc/stat", "cpu  0 0 0 100 0 0 0 50\n"),
            ("sys/fs/cgroup/a/cpu.stat", "usage_usec 1\n"),
        ];
        let (_empty_dir, empty) = Root::of(&[]);
        let nothing = Counters::read(&empty);
        assert_eq!(nothing.since(&nothing, Duration::from_secs(1)), Withheld::default());
        assert_eq!(thread_run_delay(&empty), None);

        let (_dir, root) = Root::of(&files);
        let before = Counters::read(&root);
        // No tick passed, no column of throttling.
        assert_eq!(before.since(&before, Duration::from_secs(1)), Withheld::default());
        // The controller was enabled, or the process moved, in between: from when on is not known.
        fs::write(root.path("sys/fs/cgroup/a/cpu.stat"), "nr_throttled 9\nthrottled_usec 9\n").unwrap();
        let after = Counters::read(&root);
        assert_eq!(after.since(&before, Duration::from_secs(1)).throttled_share, None);
        let same = after.since(&after, Duration::from_secs(1));
        assert_eq!((same.throttled_share, same.throttled_periods), (Some(0.0), Some(0)));
        assert_eq!(after.since(&after, Duration::ZERO).throttled_share, None);
    }

    #[test]
    fn the_meter_reads_at_both_ends_of_the_measured_part() {
        let file = "sys/fs/cgroup/cpu.stat";
        let (_dir, root) = Root::of(&[
            ("proc/self/cgroup", "0::/\n"),
            ("proc/self/mountinfo", V2),
            (file, "throttled_usec 0\n"),
        ]);
        let throttled = |usec: u64| {
            fs::write(root.path(file), format!("throttled_usec {usec}\n")).unwrap();
        };
        const SECOND: Nanos = 1_000_000_000;
        // Asked at these seconds, in which so much was throttled by then; the share that is expected.
        for (asked, expected) in [
            (&[(0, 0), (1, 100_000), (3, 300_000), (5, 900_000)][..], Some(0.1)),
            // Ended early: of what there was.
            (&[(1, 100_000), (2, 300_000)], Some(0.2)),
            // Ended in the warm-up.
            (&[(0, 0)], None),
        ] {
            let mut meter = Meter::new(&root, SECOND, 3 * SECOND);
            let mut last = 0;
            for &(second, usec) in asked {
                throttled(usec);
                last = second * SECOND;
                meter.look(last);
            }
            assert_eq!(meter.finish(last).throttled_share, expected, "{asked:?}");
        }
    }

    #[test]
    fn this_machine_has_counters() {
        let counters = Counters::read(&Root::host());
        assert!(counters.steal.is_some(), "{counters:?}");
    }
}
