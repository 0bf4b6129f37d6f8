//! Keeps database operations at or below a rate: a token bucket for smoothness, and the operations of the last
//! second as a hard bound. Pure; the clock is passed in. [`Limiter`] is the one that waits.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::metrics::{Histogram, SECONDS};
use crate::store::Throttle;

const SECOND: Duration = Duration::from_secs(1);
/// The bucket holds a tenth of a second's tokens: a worker that was late may catch up that far.
const BURST_SECONDS: f64 = 0.1;

/// Decides when an operation may start.
#[derive(Debug)]
pub struct Governor {
    per_second: u32,
    tokens: f64,
    refilled: Duration,
    /// Starts of the operations in the last second, oldest first; never more than the rate.
    recent: VecDeque<Duration>,
    peak: u32,
    started: u64,
}

impl Governor {
    /// At most `per_second` operations start in any second; at least 1.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let per_second = per_second.max(1);
        Self {
            per_second,
            tokens: 1.0,
            refilled: Duration::ZERO,
            recent: VecDeque::new(),
            peak: 0,
            started: 0,
        }
    }

    /// `Ok` takes an operation at `now`, a time on any clock that does not go back; `Err` says how long to wait
    /// before asking again.
    ///
    /// # Errors
    /// The wait.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        let rate = f64::from(self.per_second);
        let capacity = (rate * BURST_SECONDS).max(1.0);
        let passed = now.saturating_sub(self.refilled);
        self.tokens = (self.tokens + passed.as_secs_f64() * rate).min(capacity);
        self.refilled = self.refilled.max(now);
        while self.recent.front().is_some_and(|start| now.saturating_sub(*start) >= SECOND) {
            self.recent.pop_front();
        }
        if self.recent.len() >= self.per_second as usize
            && let Some(oldest) = self.recent.front()
        {
            return Err((*oldest + SECOND).saturating_sub(now));
        }
        if self.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.tokens) / rate) + Duration::from_micros(1));
        }
        self.tokens -= 1.0;
        self.recent.push_back(now);
        self.started += 1;
        self.peak = self.peak.max(u32::try_from(self.recent.len()).unwrap_or(u32::MAX));
        Ok(())
    }

    /// Operations a second.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.per_second
    }

    /// At most `per_second` from now on, those counted that started in the last second; at least 1.
    pub fn set_limit(&mut self, per_second: u32) {
        self.per_second = per_second.max(1);
    }

    /// Most operations that started within any one second so far.
    #[must_use]
    pub fn peak(&self) -> u32 {
        self.peak
    }
}

/// A limit for the sake of the database's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimit {
    /// Operations a second.
    pub per_second: u32,
    /// Whether the device is read now; else it is what was left of an earlier limit.
    pub is_measured: bool,
}

/// Which of the limits is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitedBy {
    /// That of database operations.
    Operations,
    /// That of the device's operations, which somebody reads.
    Device,
    /// There is one for the device's operations, and nobody can read them now.
    Unread,
}

impl LimitedBy {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operations => "database_ops",
            Self::Device => "database_iops",
            Self::Unread => "database_iops_unread",
        }
    }
}

/// What keeps the database operations of a process at a limit, for its counters.
#[async_trait]
pub trait Limit: Throttle {
    /// Operations a second: the lowest of the limits.
    fn limit(&self) -> u32;

    /// The limit of operations alone, which [`Limit::limit`] is never above.
    fn most(&self) -> u32;

    /// Which one is in force.
    fn limited_by(&self) -> LimitedBy;

    /// Sets the limit for the device's sake, if one was found here, for all who share it; learns of that which holds
    /// otherwise. Returns how many operations were started so far, by all who share the limit; that may begin anew.
    ///
    /// # Errors
    /// Why the others cannot be told, or be heard.
    async fn steer(&self, found: Option<DeviceLimit>) -> Result<u64, String>;

    /// Most operations that started within any one second so far, of all that share the limit.
    fn peak(&self) -> u32;

    /// Whether other processes are under the same limit, with this one.
    fn is_shared(&self) -> bool {
        false
    }
}

/// A [`Governor`] on the real clock, for a database that one process uses.
pub struct Limiter {
    governor: Mutex<Governor>,
    /// Whatever the device bears.
    most: u32,
    by: Mutex<LimitedBy>,
    started: Instant,
    /// Of the operations that did not go at once.
    waits: Histogram,
}

impl Limiter {
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self::observed(per_second, Histogram::new(&SECONDS))
    }

    /// As [`Limiter::new`]; how long operations wait is told to `waits`.
    #[must_use]
    pub fn observed(per_second: u32, waits: Histogram) -> Self {
        let most = per_second.max(1);
        let by = Mutex::new(LimitedBy::Operations);
        Self { governor: Mutex::new(Governor::new(most)), most, by, started: Instant::now(), waits }
    }

    /// Until the device is read, at most so many a second.
    #[must_use]
    pub fn while_unread(self, per_second: u32) -> Self {
        self.set(DeviceLimit { per_second, is_measured: false });
        self
    }

    fn set(&self, found: DeviceLimit) {
        self.governor().set_limit(found.per_second.min(self.most));
        *self.by.lock().unwrap_or_else(PoisonError::into_inner) = by(found, self.most);
    }

    fn governor(&self) -> MutexGuard<'_, Governor> {
        // A governor is whole between its calls.
        self.governor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is in force beside a limit of operations.
pub(super) fn by(found: DeviceLimit, operations: u32) -> LimitedBy {
    match found {
        DeviceLimit { is_measured: false, .. } => LimitedBy::Unread,
        DeviceLimit { per_second, .. } if per_second >= operations => LimitedBy::Operations,
        DeviceLimit { .. } => LimitedBy::Device,
    }
}

#[async_trait]
impl Limit for Limiter {
    fn limit(&self) -> u32 {
        self.governor().limit()
    }

    fn most(&self) -> u32 {
        self.most
    }

    fn limited_by(&self) -> LimitedBy {
        *self.by.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn steer(&self, found: Option<DeviceLimit>) -> Result<u64, String> {
        if let Some(found) = found {
            self.set(found);
        }
        Ok(self.governor().started)
    }

    fn peak(&self) -> u32 {
        self.governor().peak()
    }
}

#[async_trait]
impl Throttle for Limiter {
    async fn acquire(&self) {
        let asked = self.started.elapsed();
        let mut waited = false;
        loop {
            let now = self.started.elapsed();
            let taken = self.governor().take(now);
            let Err(wait) = taken else {
                if waited {
                    self.waits.observe_time(now.saturating_sub(asked));
                }
                return;
            };
            waited = true;
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs a caller that asks again `late` after it was told to, and returns the starts.
    fn starts(per_second: u32, until: Duration, late: impl Fn(usize) -> Duration) -> Vec<Duration> {
        let mut governor = Governor::new(per_second);
        let mut now = Duration::ZERO;
        let mut starts = Vec::new();
        let mut asked = 0;
        while now < until {
            asked += 1;
            match governor.take(now) {
                Ok(()) => starts.push(now),
                Err(wait) => now += wait + late(asked),
            }
        }
        assert_eq!(governor.peak() as usize, most_in_a_second(&starts));
        starts
    }

    fn most_in_a_second(starts: &[Duration]) -> usize {
        let mut first = 0;
        let mut most = 0;
        for (last, start) in starts.iter().enumerate() {
            while *start - starts[first] >= SECOND {
                first += 1;
            }
            most = most.max(last + 1 - first);
        }
        most
    }

    #[test]
    fn a_greedy_caller_gets_the_whole_rate_and_no_more() {
        let starts = starts(100, Duration::from_secs(10), |_| Duration::ZERO);
        assert!((990..=1000).contains(&starts.len()), "{}", starts.len());
        assert!(most_in_a_second(&starts) <= 100);
    }

    #[test]
    fn late_timers_do_not_cost_the_rate() {
        let starts = starts(100, Duration::from_secs(10), |_| Duration::from_millis(3));
        assert!(starts.len() >= 950, "{}", starts.len());
        assert!(most_in_a_second(&starts) <= 100);
    }

    #[tokio::test(start_paused = true)]
    async fn the_limiter_waits() {
        let limiter = Limiter::new(10);
        let started = Instant::now();
        for _ in 0..21 {
            limiter.acquire().await;
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_millis(2200), "{took:?}");
        assert!(limiter.peak() <= 10);
        assert_eq!(limiter.waits.count(), 20, "all but the first");
        let waited = Duration::from_nanos(limiter.waits.sum());
        assert!(waited <= took && waited > took.mul_f64(0.9), "{waited:?} of {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_device_may_bear_less_and_never_makes_it_more() {
        let limiter = Limiter::new(40).while_unread(5);
        assert_eq!((limiter.limit(), limiter.limited_by()), (5, LimitedBy::Unread));
        let started = Instant::now();
        for _ in 0..15 {
            limiter.acquire().await;
        }
        assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
        let steered = async |per_second, is_measured| {
            let started = limiter.steer(Some(DeviceLimit { per_second, is_measured })).await;
            (started, limiter.limit(), limiter.limited_by())
        };
        assert_eq!(steered(20, true).await, (Ok(15), 20, LimitedBy::Device));
        assert_eq!(steered(41, true).await, (Ok(15), 40, LimitedBy::Operations));
        assert_eq!(steered(10, false).await, (Ok(15), 10, LimitedBy::Unread));
        assert_eq!(limiter.steer(None).await, Ok(15));
        assert_eq!(limiter.limit(), 10);
    }

    #[test]
    fn a_lower_limit_holds_at_once_whatever_started_before() {
        let mut governor = Governor::new(100);
        let mut now = Duration::ZERO;
        let mut starts = Vec::new();
        while now < Duration::from_secs(6) {
            if now >= Duration::from_secs(2) {
                governor.set_limit(10);
            }
            match governor.take(now) {
                Ok(()) => starts.push(now),
                Err(wait) => now += wait,
            }
        }
        let after = |from: u64| starts.iter().filter(|start| **start >= Duration::from_secs(from)).count();
        assert!(starts.len() - after(2) >= 190, "as before");
        let held = starts.iter().filter(|start| start.as_secs() == 2).count();
        assert!(held <= 10, "{held}");
        assert!(
            (28..=31).contains(&after(2)),
            "{}: a pause of a second first, as so many had started",
            after(2)
        );
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_in_any_second(rate in 1..200_u32, pauses in proptest::collection::vec(0..400_u64, 1..50)) {
            let late = |asked: usize| Duration::from_millis(pauses[asked % pauses.len()]);
            let starts = starts(rate, Duration::from_secs(5), late);
            prop_assert!(most_in_a_second(&starts) <= rate as usize);
        }
    }
}
