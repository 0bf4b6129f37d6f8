//! How often something is read that may be costly: the dearer, the rarer.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// After a reading comes a pause of so many times the processor time that it took: half a percent of a processor,
/// however much there is to read, but for [`LONGEST`].
const TIMES: u32 = 200;
const LONGEST: Duration = Duration::from_secs(10);

/// How long to wait after a reading that took so much processor time.
pub(super) fn pause(cost: Duration) -> Duration {
    cost.saturating_mul(TIMES).min(LONGEST)
}

/// Of the calling thread.
pub(crate) fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// When to read something again.
#[derive(Debug, Default)]
pub(super) struct Pace {
    next: Option<Instant>,
}

impl Pace {
    pub(super) fn is_due(&self) -> bool {
        self.next.is_none_or(|next| Instant::now() >= next)
    }

    /// Works, and tells how much processor time that took. Time on the wall does not count: a thread that was not
    /// let run costs nothing.
    pub(super) fn run<T>(&mut self, work: impl FnOnce() -> T) -> (T, Duration) {
        let before = processor_time();
        let done = work();
        let cost = processor_time().saturating_sub(before);
        self.next = Some(Instant::now() + pause(cost));
        (done, cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_in_proportion_and_bounded() {
        assert_eq!(pause(Duration::ZERO), Duration::ZERO);
        assert_eq!(pause(Duration::from_millis(5)), Duration::from_secs(1));
        assert_eq!(pause(Duration::from_secs(2)), LONGEST);
        assert_eq!(pause(Duration::MAX), LONGEST);
    }

    #[test]
    fn what_waits_is_cheap_however_long_it_takes() {
        let mut pace = Pace::default();
        assert!(pace.is_due());
        let ((), cost) = pace.run(|| std::thread::sleep(Duration::from_millis(60)));
        // Two hundred times sixty milliseconds would be more.
        assert!(cost < Duration::from_millis(45), "{cost:?}");
        assert!(pace.next.unwrap() < Instant::now() + Duration::from_secs(9));
    }
}
