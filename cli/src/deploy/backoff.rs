//! How long a process that ended stays down before it is started again. Pure.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(30);
/// One that ran so long was sound, and what ended it is news.
const STABLE: Duration = Duration::from_secs(60);

/// Of one process.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// In a row.
    failures: u32,
}

impl Backoff {
    /// The next pause, after it ran for so long: twice the one before, up to a bound. `jitter`, from 0 to 1, takes up to
    /// half of it off, so that processes that fell together do not rise together.
    pub(super) fn next(&mut self, ran: Duration, jitter: f64) -> Duration {
        if ran >= STABLE {
            self.failures = 0;
        }
        let doubled = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(MOST);
        self.failures = self.failures.saturating_add(1);
        doubled.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    #[test]
    fn it_doubles_up_to_a_bound_and_begins_anew_after_a_sound_run() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..11).map(|_| backoff.next(SHORT, 0.0).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        for _ in 0..100 {
            assert_eq!(backoff.next(SHORT, 0.0), MOST, "however often");
        }
        assert_eq!(backoff.next(STABLE, 0.0), FIRST);
        assert_eq!(backoff.next(SHORT, 0.0), 2 * FIRST);
    }

    #[test]
    fn jitter_takes_off_up_to_half() {
        for (jitter, expected) in [(0.0, 100), (0.5, 75), (1.0, 50), (7.0, 50)] {
            assert_eq!(Backoff::default().next(SHORT, jitter).as_millis(), expected);
        }
    }
}
