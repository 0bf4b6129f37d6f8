//! Whether a cap holds: from what a probe inside of the group got through, with the cap and without. Pure.

use std::time::Duration;

use scalekit_service::device_io::Operations;
use serde::{Deserialize, Serialize};

/// What a probe did: 4 KiB at a time, each write on the device, and each read from it, before the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Trial {
    pub(crate) writes: Part,
    pub(crate) reads: Part,
}

/// The one direction of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Part {
    /// By its own count and clock.
    pub(crate) done: u64,
    pub(crate) took: Duration,
    /// Operations of the disk by the count of the control group, over the same time.
    pub(crate) counted: u64,
}

impl Part {
    fn per_s(self) -> f64 {
        let rate = number(self.counted) / self.took.as_secs_f64();
        if rate.is_finite() { rate } else { 0.0 }
    }
}

/// A disk that does not do this many times the cap by itself cannot show that something caps it.
const FASTER: f64 = 1.5;
/// The kernel hands its tokens out in slices, so a trial may end a little above.
const TOLERANCE: f64 = 1.1;

/// What a probe has shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// Operations a second of the disk in the probe with the cap, by the control group's count: of reads and writes the more.
    pub(crate) capped_per_s: f64,
    /// Without the cap: of reads and writes the fewer.
    pub(crate) uncapped_per_s: f64,
    /// Why this is no proof; `None`: it is.
    pub(crate) problem: Option<String>,
}

/// Judges a cap of so many reads and so many writes a second. `before`: the trial without it, in the same group on the
/// same disk.
pub(super) fn judge(cap_per_s: u32, before: Trial, with: Trial) -> Verdict {
    let kinds = [("writes", before.writes, with.writes), ("reads", before.reads, with.reads)];
    Verdict {
        capped_per_s: with.writes.per_s().max(with.reads.per_s()),
        uncapped_per_s: before.writes.per_s().min(before.reads.per_s()),
        problem: kinds.into_iter().find_map(|(kind, before, with)| problem(cap_per_s, kind, before, with)),
    }
}

fn problem(cap_per_s: u32, kind: &str, before: Part, with: Part) -> Option<String> {
    let cap = f64::from(cap_per_s);
    let most = cap * with.took.as_secs_f64() * TOLERANCE + 1.0;
    if with.done == 0 || before.done == 0 {
        return Some(format!("the probe got no {kind} through, so it shows nothing"));
    }
    if before.counted < before.done || with.counted < with.done {
        return Some(format!(
            "the probe made {} {kind}, and the control group counts only {}: I/O escapes it",
            before.done + with.done,
            before.counted + with.counted
        ));
    }
    let (capped, uncapped) = (with.per_s(), before.per_s());
    if number(with.counted) > most {
        return Some(format!("the probe got {capped:.0} {kind} a second through a cap of {cap_per_s}"));
    }
    (uncapped < cap * FASTER).then(|| {
        format!(
            "without the cap the disk does {uncapped:.0} {kind} a second, one at a time, so nothing shows that a cap of \
             {cap_per_s} is what held the probe to {capped:.0}"
        )
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts of seconds stay below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}

/// How many seconds in a row are looked at together: the kernel allows bursts, and readings are a little apart.
const WINDOW_SECONDS: f64 = 5.0;

/// Whether the cap held while readings of the group were taken: each is the time since the first, and the operations
/// until then. What went through in the worst five seconds, if that is more than the cap allows.
pub(crate) fn exceeded(cap_per_s: u32, readings: &[(Duration, Operations)]) -> Option<String> {
    let cap = f64::from(cap_per_s);
    let mut worst: Option<(f64, &str)> = None;
    let mut start = 0;
    for (place, (at, until)) in readings.iter().enumerate() {
        // The shortest stretch that ends here and is long enough.
        while start < place && (*at - readings[start + 1].0.min(*at)).as_secs_f64() >= WINDOW_SECONDS {
            start += 1;
        }
        let (from, since) = readings[start];
        let seconds = at.saturating_sub(from).as_secs_f64();
        if seconds < WINDOW_SECONDS {
            continue;
        }
        let kinds = [(until.reads, since.reads, "reads"), (until.writes, since.writes, "writes")];
        for (until, since, kind) in kinds {
            let rate = number(until.saturating_sub(since)) / seconds;
            if rate > cap * TOLERANCE + 1.0 && worst.is_none_or(|(most, _)| rate > most) {
                worst = Some((rate, kind));
            }
        }
    }
    let (rate, kind) = worst?;
    Some(format!(
        "the database did {rate:.0} {kind} a second for {WINDOW_SECONDS} s, over a cap of {cap_per_s}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(done: u64, counted: u64, seconds: f64) -> Part {
        Part { done, took: Duration::from_secs_f64(seconds), counted }
    }

    const NONE: Option<&str> = None;

    #[test]
    fn a_cap_is_verified_only_by_a_disk_that_is_held_back() {
        let (fast, held) = (part(2_000, 2_000, 1.0), part(240, 240, 2.5));
        for (with, expected) in [
            (part(490, 490, 5.0), None),
            // A file system that writes its journal, too.
            (part(70, 490, 5.0), None),
            (part(550, 550, 5.0), None),
            (part(560, 560, 5.0), Some("got 112 KIND a second through a cap of 100")),
            (part(2_000, 2_000, 1.0), Some("got 2000 KIND a second through a cap of 100")),
            (part(490, 20, 5.0), Some("I/O escapes it")),
            (part(0, 0, 5.0), Some("got no KIND through")),
        ] {
            let before = Trial { writes: fast, reads: fast };
            for (kind, with) in [
                ("writes", Trial { writes: with, reads: held }),
                ("reads", Trial { writes: held, reads: with }),
            ] {
                let problem = judge(100, before, with).problem;
                match expected {
                    None => assert_eq!(problem.as_deref(), NONE, "{with:?}"),
                    Some(says) => assert!(problem.unwrap().contains(&says.replace("KIND", kind)), "{with:?}"),
                }
            }
        }
    }

    #[test]
    fn of_both_directions_that_counts_which_says_less_for_the_cap() {
        let both = |part| Trial { writes: part, reads: part };
        let (fast, slow) = (part(2_000, 2_000, 1.0), part(120, 120, 1.0));
        let verdict = judge(
            100,
            Trial { writes: fast, reads: slow },
            Trial { writes: part(70, 490, 5.0), reads: part(200, 200, 2.5) },
        );
        assert!((verdict.capped_per_s - 98.0).abs() < 1e-9 && (verdict.uncapped_per_s - 120.0).abs() < 1e-9);
        assert!(verdict.problem.unwrap().contains("without the cap the disk does 120 reads a second"));
        // A cap of one: the first operation is not held back.
        assert_eq!(judge(1, both(fast), both(part(6, 6, 5.0))).problem.as_deref(), NONE);
        assert!(judge(1, both(fast), both(part(7, 7, 5.0))).problem.is_some());
        let no_time = judge(100, both(fast), both(part(1, 1, 0.0))).capped_per_s;
        assert!(no_time.abs() < 1e-9, "no time, no rate");
    }

    fn readings(each_second: &[(u64, u64)]) -> Vec<(Duration, Operations)> {
        let mut sum = Operations { reads: 1_000, writes: 5_000 };
        let mut readings = vec![(Duration::ZERO, sum)];
        for (second, (reads, writes)) in (1..).zip(each_second) {
            sum = Operations { reads: sum.reads + reads, writes: sum.writes + writes };
            readings.push((Duration::from_secs(second), sum));
        }
        readings
    }

    #[test]
    fn a_burst_is_forgiven_and_five_seconds_above_the_cap_are_not() {
        let of = |each: &[(u64, u64)]| exceeded(100, &readings(each));
        assert_eq!(of(&[(100, 100); 30]), None, "each direction has the cap");
        assert_eq!(of(&[(0, 500); 4]), None, "too short to tell");
        assert_eq!(of(&[(0, 0), (0, 0), (0, 200), (0, 0), (0, 100), (0, 100), (0, 100)]), None);
        let mut late = vec![(10, 90); 20];
        late.extend([(10, 180); 6]);
        assert!(of(&late).unwrap().contains("180 writes a second for 5 s, over a cap of 100"));
        assert!(of(&[(130, 0); 7]).unwrap().contains("130 reads"));
        assert_eq!(exceeded(100, &[]), None);
        // Readings that come late say the same.
        let late = [(0, 0), (30, 9_000), (31, 9_300)];
        let late = late.map(|(at, writes)| (Duration::from_secs(at), Operations { reads: 0, writes }));
        assert!(exceeded(100, &late).unwrap().contains("300 writes a second"));
    }
}
