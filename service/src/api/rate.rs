//! A token's own rate: at most so many requests a second, and as many at once.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// The generic cell rate algorithm, one atomic word; the clock is another in tests.
pub(super) struct RateLimit<C: Clock = DefaultClock> {
    limiter: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    clock: C,
    per_second: NonZeroU32,
}

impl RateLimit {
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        Self::with_clock(per_second, DefaultClock::default())
    }
}

impl<C: Clock + Clone> RateLimit<C> {
    fn with_clock(per_second: NonZeroU32, clock: C) -> Self {
        let limiter = RateLimiter::direct_with_clock(Quota::per_second(per_second), clock.clone());
        Self { limiter, clock, per_second }
    }

    pub(super) fn per_second(&self) -> NonZeroU32 {
        self.per_second
    }

    /// Takes one request.
    ///
    /// # Errors
    /// How long until there is room for one.
    pub(super) fn take(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|full| full.wait_time_from(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn a_second_has_so_many_and_no_more() {
        let clock = FakeRelativeClock::default();
        let limit = RateLimit::with_clock(NonZeroU32::new(5).unwrap(), clock.clone());
        let taken = |most: usize| (0..most).filter(|_| limit.take().is_ok()).count();
        assert_eq!(taken(20), 5);
        let wait = limit.take().unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(200), "{wait:?}");
        clock.advance(wait);
        assert_eq!(taken(20), 1);
        let mut all = 0;
        for _ in 0..100 {
            clock.advance(Duration::from_millis(100));
            all += taken(20);
        }
        assert_eq!(all, 50);
        // What nobody took is not saved up beyond one second's.
        clock.advance(Duration::from_secs(60));
        assert_eq!(taken(20), 5);
    }
}
