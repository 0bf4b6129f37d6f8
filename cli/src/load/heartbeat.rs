//! Whether the process got to run at all. A user without a pause starts its next request when the last one ended, by
//! the generator's own clock: a generator that was held up in between sees no lag, and takes its own standstill for
//! the server's. So the coordinator wakes at a steady pace and notes how late.

use super::clock::{Nanos, SECOND};
use super::trends::{Trend, to_micros, trend};

/// Short against the shortest standstill that matters, and 100 wakes a second cost no core a thousandth.
const PACE: Nanos = SECOND / 100;

/// How late the coordinator woke up in the measured part.
#[derive(Debug)]
pub(super) struct Heartbeat {
    start: Nanos,
    end: Nanos,
    lag: Trend,
}

impl Heartbeat {
    /// `start`, `end`: of the measured part.
    pub(super) fn new(start: Nanos, end: Nanos) -> Self {
        Self { start, end, lag: trend() }
    }

    /// How long a wait may be at most that begins `now`.
    pub(super) fn limit(&self, now: Nanos) -> Nanos {
        if now < self.start {
            self.start - now
        } else if now < self.end {
            PACE
        } else {
            Nanos::MAX
        }
    }

    /// Notes a wait that nothing ended but the time: it was to end at `due`, and did at `now`.
    pub(super) fn note(&mut self, due: Nanos, now: Nanos) {
        if (self.start..self.end).contains(&due) {
            self.lag.saturating_record(to_micros(now.saturating_sub(due)));
        }
    }

    /// In µs.
    pub(super) fn finish(self) -> Trend {
        self.lag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_waits_of_the_measured_part_count() {
        let mut heartbeat = Heartbeat::new(SECOND, 2 * SECOND);
        assert_eq!(heartbeat.limit(SECOND / 2), SECOND / 2);
        assert_eq!((heartbeat.limit(SECOND), heartbeat.limit(2 * SECOND - 1)), (PACE, PACE));
        assert_eq!(heartbeat.limit(2 * SECOND), Nanos::MAX);
        let ms = SECOND / 1000;
        for (due, late) in [(SECOND - 1, 900), (SECOND, 3), (2 * SECOND - 1, 90), (2 * SECOND, 900)] {
            heartbeat.note(due, due + late * ms);
        }
        // A clock that is read a little early is no wake before its time.
        heartbeat.note(SECOND, SECOND - 1);
        let lag = heartbeat.finish();
        assert_eq!((lag.len(), lag.min()), (3, 0));
        assert!(lag.max().abs_diff(90_000) <= 90);
    }
}
