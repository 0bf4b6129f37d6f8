//! How many database operations a second keep the I/O operations of the database's device at a bound. Pure; clock and
//! counters are passed in.
//!
//! With `c` device operations for each database operation, `r` of those a second, and `n` that others cause, the device
//! does `d = n + c r`, of which only `d` and `r` can be measured. The rate that meets the bound `b` is
//! `r + (b - d) / c`, whatever `n` is. `c` is taken from `d / r`, smoothed: with others on the device that is too much,
//! never too little, and what is too much makes the way up shorter than it could be, and leaves the goal where it is.
//!
//! Down it goes at once, up by a tenth of the whole a second: additive increase and multiplicative decrease, as what
//! shares a resource with others must (Chiu and Jain, Computer Networks and ISDN Systems 17, 1989). Where others have
//! nearly all of the device, `d / r` is so much above `c` that no next operation seems to fit; so now and then one more
//! is tried, after ever longer waits if that was too much (as BBR probes for bandwidth; Cardwell et al., ACM Queue 14,
//! 2016).

use std::collections::VecDeque;
use std::time::Duration;

/// Between two samples. Up to so long the device may be late with what an operation makes it do.
pub const INTERVAL: Duration = Duration::from_millis(250);
/// Rates are over this time.
const WINDOW: Duration = Duration::from_secs(1);
/// Device operations for a database operation before anything is measured: a flush of one small file costs ext4 three to
/// seven writes.
const FIRST_COST: f64 = 8.0;
/// Less cannot be told from nothing, and would be a division by it.
const LEAST_COST: f64 = 0.01;
/// How fast the cost is believed to be higher; lower it is believed sooner, since what was measured is never too low.
const DEARER: Duration = Duration::from_secs(4);
const CHEAPER: Duration = Duration::from_secs(1);
/// Part of the whole that the limit may grow by in a second.
const GROWTH: f64 = 0.1;
/// One more operation a second is tried after so long without growth, if that much of the bound is free.
const FIRST_TRIAL: Duration = Duration::from_secs(5);
const LAST_TRIAL: Duration = Duration::from_secs(300);
const FREE: f64 = 0.05;
/// Rates of two samples that differ by less are of a steady load.
const STEADY: f64 = 0.2;
/// So long a trial may take until it shows: the window, and the device's delay.
const TRIAL: Duration = Duration::from_secs(2);

/// The limit for a device that nobody reads: what a reader begins with, at most `operations`, at least 1.
#[must_use]
pub fn unread(bound: u32, operations: u32) -> u32 {
    whole((f64::from(bound) / FIRST_COST).min(f64::from(operations)))
}

/// Finds the limit, one sample after the other.
#[derive(Debug)]
pub struct Steering {
    bound: f64,
    operations: f64,
    limit: f64,
    cost: Cost,
    /// The oldest is the last one from before the window.
    samples: VecDeque<Sample>,
    /// The one before these.
    older: Option<Sample>,
    /// Device operations in the second that ended a sample ago.
    device_before: Option<f64>,
    is_blind: bool,
    trial: Trial,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    device: u64,
    started: u64,
}

/// Of a second.
#[derive(Clone, Copy, Debug)]
struct Rates {
    device: f64,
    device_before: f64,
    /// Database operations that were started in the same second, and in the one that ended a sample before. What the
    /// device did was for some between the two, as late as it was.
    started: f64,
    started_before: f64,
}

/// Device operations for a database operation: the quotient of two smoothed rates, since single seconds have few
/// operations.
#[derive(Debug)]
struct Cost {
    device: f64,
    started: f64,
}

/// One more operation, although it seems not to fit.
#[derive(Debug)]
struct Trial {
    /// While it is not known what comes of it.
    began: Option<Duration>,
    /// When the limit last grew, or a trial was too much.
    waits_since: Duration,
    wait: Duration,
    /// The last limit that was too much.
    failed: u32,
}

impl Rates {
    fn least(&self) -> f64 {
        self.started.min(self.started_before)
    }

    fn most(&self) -> f64 {
        self.started.max(self.started_before)
    }
}

impl Steering {
    /// At most `bound` device operations and `operations` database operations a second, each at least 1.
    #[must_use]
    pub fn new(bound: u32, operations: u32) -> Self {
        let bound = bound.max(1);
        let limit = f64::from(unread(bound, operations));
        Self {
            bound: f64::from(bound),
            operations: f64::from(operations.max(1)),
            limit,
            cost: Cost { device: limit * FIRST_COST, started: limit },
            samples: VecDeque::new(),
            older: None,
            device_before: None,
            is_blind: false,
            trial: Trial { began: None, waits_since: Duration::ZERO, wait: FIRST_TRIAL, failed: 0 },
        }
    }

    /// Database operations that may start in a second, at least 1.
    #[must_use]
    pub fn limit(&self) -> u32 {
        whole(self.limit)
    }

    /// Device operations in the last second, as far as two samples are there.
    #[must_use]
    pub fn device_per_second(&self) -> Option<f64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        (last.at > first.at).then(|| rate(last.device - first.device, last.at - first.at))
    }

    /// Takes what the device has done until `now`, and how many database operations have started until then. Either may
    /// begin anew.
    pub fn sample(&mut self, now: Duration, device: u64, started: u64) {
        if self
            .samples
            .back()
            .is_some_and(|last| device < last.device || started < last.started || now < last.at)
        {
            // What happened in between is not known.
            self.forget();
        }
        self.is_blind = false;
        let last = self.samples.back().copied();
        self.samples.push_back(Sample { at: now, device, started });
        while self.samples.get(1).is_some_and(|second| now.saturating_sub(second.at) >= WINDOW) {
            self.older = self.samples.pop_front();
        }
        let (Some(first), Some(last)) = (self.samples.front().copied(), last) else {
            self.trial.waits_since = now;
            return;
        };
        let (passed, span) = (now - last.at, now - first.at);
        let in_same = rate(started - first.started, span);
        let before = self.older.map(|older| rate(last.started - older.started, last.at - older.at));
        let device = rate(device - first.device, span);
        let rates = Rates {
            device,
            device_before: self.device_before.replace(device).unwrap_or(device),
            started: in_same,
            started_before: before.unwrap_or(in_same),
        };
        if device > self.bound {
            self.cut(now, rates);
        } else if span >= WINDOW {
            // Before, there may be operations whose device operations have not come yet.
            self.grow(now, passed, rates);
        }
        if span >= WINDOW {
            self.cost.learn(passed, rates);
        }
    }

    /// The device cannot be read any more. Half of the limit that was right until now leaves room for what cannot be seen
    /// from now on; it stays until the device can be read again. Less would starve the writes that wait, for no known
    /// reason.
    pub fn lost_sight(&mut self) {
        self.forget();
        if !self.is_blind {
            self.limit = (self.limit / 2.0).max(1.0);
            self.is_blind = true;
        }
    }

    fn forget(&mut self) {
        self.samples.clear();
        self.older = None;
        self.device_before = None;
    }

    fn cut(&mut self, now: Duration, rates: Rates) {
        // After a cut the device may still be busy with what was started before, which is no reason for another.
        let started = rates.most();
        let fits = if started >= 1.0 {
            // The lower of both, since it takes more away.
            let cost = self.cost.get().min(rates.device / started);
            started - (rates.device - self.bound) / cost
        } else {
            // All of it is caused by others.
            1.0
        };
        self.trial.was_too_much(now, self.limit());
        self.limit = self.limit.min(fits).max(1.0);
    }

    fn grow(&mut self, now: Duration, passed: Duration, rates: Rates) {
        let (cost, before) = (self.cost.get(), self.limit());
        let all = self.bound / cost;
        // Of two seconds the busier one, or a single operation at the edge of a second would make room for another.
        let device = rates.device.max(rates.device_before).min(self.bound);
        let room = rates.least() + (self.bound - device) / cost;
        // Even if the device is so late that nothing of it shows.
        let fits = room.min(all * (1.0 + FREE));
        let step = (all.min(self.operations) * GROWTH).max(1.0) * passed.as_secs_f64();
        // What goes on now is evidently not too much, and it is known give or take two operations, one at each end.
        let is_used = rates.most() + 2.0 >= self.limit;
        if fits > self.limit || !is_used {
            self.limit = (self.limit + step).min(fits).clamp(1.0, self.operations);
        }
        if self.limit() > before {
            self.trial.was_needless(now, self.limit());
        } else if self.trial.ends(now) && self.has_more_room(rates) {
            self.limit = f64::from(self.limit() + 1);
            self.trial.began = Some(now);
        }
    }

    /// Whether one more a second is worth a trial: the limit is used, and much is free even if all of it were.
    fn has_more_room(&self, rates: Rates) -> bool {
        let limit = f64::from(self.limit());
        limit < self.operations
            && rates.least() >= limit * 0.9
            && rates.device.max(rates.device_before) * (limit / rates.least()).max(1.0)
                <= self.bound * (1.0 - FREE)
    }
}

impl Cost {
    fn get(&self) -> f64 {
        (self.device / self.started).max(LEAST_COST)
    }

    /// Of a steady load only: elsewhere nobody knows which operations the device's part belongs to.
    fn learn(&mut self, passed: Duration, rates: Rates) {
        let (least, most) = (rates.least(), rates.most());
        if least < 1.0 || most - least > (most * STEADY).max(1.0) {
            return;
        }
        let started = f64::midpoint(least, most);
        let slowness = if rates.device / started > self.get() { DEARER } else { CHEAPER };
        let weight = 1.0 - (-passed.as_secs_f64() / slowness.as_secs_f64()).exp();
        self.device += weight * (rates.device - self.device);
        self.started += weight * (started - self.started);
    }
}

impl Trial {
    fn was_too_much(&mut self, now: Duration, limit: u32) {
        if self.began.take().is_some() {
            self.wait = (self.wait * 2).min(LAST_TRIAL);
            self.waits_since = now;
            self.failed = limit;
        }
    }

    /// The limit grew without.
    fn was_needless(&mut self, now: Duration, limit: u32) {
        self.began = None;
        self.waits_since = now;
        if limit > self.failed {
            self.wait = FIRST_TRIAL;
        }
    }

    /// Whether the next one may begin, since the last one turned out well, or is long ago.
    fn ends(&mut self, now: Duration) -> bool {
        match self.began {
            Some(began) if now.saturating_sub(began) < TRIAL => return false,
            Some(_) => {
                self.began = None;
                self.waits_since = now;
                self.wait = FIRST_TRIAL;
            }
            None => {}
        }
        now.saturating_sub(self.waits_since) >= self.wait
    }
}

/// A second, over a time; over less than the window, of what there is so far.
fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.max(WINDOW).as_secs_f64()
}

/// A limit as a governor takes it. What is hardly below a whole number is meant to be it, since rates are counted in whole
/// operations.
fn whole(limit: f64) -> u32 {
    // Within the bounds of a u32, and no NaN.
    (limit + 0.1).clamp(1.0, f64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests;
