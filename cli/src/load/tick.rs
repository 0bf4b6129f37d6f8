//! Live figures for a progress display.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::{Nanos, SECOND, nanos};
use super::harvest::Shared;
use super::plan::Plan;

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Phase {
    WarmUp,
    Measuring,
    /// The measured part is over; requests in flight are awaited.
    Draining,
}

/// The state of a run at one moment. Counts include the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tick {
    pub(crate) phase: Phase,
    pub(crate) elapsed: Duration,
    /// Warm-up and measured part together.
    pub(crate) planned: Duration,
    /// Users whose last request brought a response.
    pub(crate) users: u32,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// Over the last second.
    pub(crate) requests_per_second: f64,
    /// Of the total duration, in the last whole second; `None` if no request ended in it.
    pub(crate) p95: Option<Duration>,
}

impl Tick {
    pub(super) fn of(
        plan: &Plan,
        shared: &Shared,
        now: Nanos,
        rate: &mut RateWindow,
        p95: Option<Duration>,
    ) -> Self {
        let planned = plan.warmup + plan.duration;
        let requests = shared.live.iter().map(|live| live.requests.load(Ordering::Relaxed)).sum();
        Self {
            phase: if now < nanos(plan.warmup) {
                Phase::WarmUp
            } else if now < nanos(planned) {
                Phase::Measuring
            } else {
                Phase::Draining
            },
            elapsed: Duration::from_nanos(now),
            planned,
            users: shared.online.load(Ordering::Relaxed),
            requests,
            failed: shared.live.iter().map(|live| live.failed.load(Ordering::Relaxed)).sum(),
            requests_per_second: rate.update(now, requests),
            p95,
        }
    }
}

/// The rate of a running total over the last second.
#[derive(Debug, Default)]
pub(super) struct RateWindow {
    samples: VecDeque<(Nanos, u64)>,
}

impl RateWindow {
    /// Adds the total at `now`; returns its growth a second since the sample a second ago, or the oldest one.
    fn update(&mut self, now: Nanos, total: u64) -> f64 {
        if self.samples.is_empty() {
            self.samples.push_back((0, 0));
        }
        // The oldest kept is the youngest that is at least a second old.
        while self.samples.get(1).is_some_and(|&(at, _)| at + SECOND <= now) {
            self.samples.pop_front();
        }
        let (since, before) = self.samples.front().copied().unwrap_or((0, 0));
        self.samples.push_back((now, total));
        if now > since { (total - before.min(total)) as f64 * 1e9 / (now - since) as f64 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_second() {
        let mut window = RateWindow::default();
        let fifth = SECOND / 5;
        // 100/s for two seconds, then nothing.
        for step in 1..=10u64 {
            let rate = window.update(step * fifth, step * 20);
            assert!((rate - 100.0).abs() < 1e-6, "{step}: {rate}");
        }
        let rates: Vec<f64> = (11..=16).map(|step| window.update(step * fifth, 200)).collect();
        assert!(rates.windows(2).all(|pair| pair[1] <= pair[0]) && rates[5] == 0.0, "{rates:?}");
        assert!(window.samples.len() <= 7);
    }
}
