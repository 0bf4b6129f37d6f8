//! Early refresh: a document that many read is read from the database anew before the cache forgets it, by one of
//! them in the background, so that nobody waits when it would expire. Who does it is left to chance (XFetch, Vattani et al.
//! 2015), which needs no word between processes: the nearer the end and the longer a read takes, the likelier.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long reads of the database take lately, waits for the governor included.
#[derive(Debug, Default)]
pub(super) struct Early {
    micros: AtomicU64,
}

impl Early {
    /// A read took so long.
    pub(super) fn took(&self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let before = self.micros.load(Ordering::Relaxed);
        // An eighth of the news; that one of two at once is lost does not matter.
        let smoothed = if before == 0 { time } else { before - before / 8 + time / 8 };
        self.micros.swap(smoothed, Ordering::Relaxed);
    }

    /// Whether a reader refreshes a document that has so long to live.
    pub(super) fn is_due(&self, left: Duration) -> bool {
        // From above 0 up to 1.
        due(left, Duration::from_micros(self.micros.load(Ordering::Relaxed)), 1.0 - fastrand::f64())
    }
}

fn due(left: Duration, read: Duration, chance: f64) -> bool {
    read.as_secs_f64() * -chance.ln() >= left.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_likelier_the_nearer_the_end_and_the_longer_a_read() {
        let share = |left, read| {
            let millis = Duration::from_millis;
            (1..=1000).filter(|n| due(millis(left), millis(read), f64::from(*n) / 1000.0)).count()
        };
        assert_eq!(share(0, 10), 1000);
        // One in e to the power of the reads that still fit.
        assert_eq!([share(10, 10), share(20, 10), share(50, 10), share(500, 10)], [367, 135, 6, 0]);
        assert_eq!([share(20, 20), share(20, 0)], [367, 0]);
    }

    #[test]
    fn the_time_of_reads_is_followed_slowly() {
        let early = Early::default();
        assert!(!early.is_due(Duration::from_nanos(1)), "nothing is known yet");
        early.took(Duration::from_millis(8));
        early.took(Duration::from_millis(16));
        assert_eq!(early.micros.load(Ordering::Relaxed), 9000);
    }
}
