//! Whether one more write is let in, from what was seen of the backlog; time and chance are passed in.
//!
//! The gate closes when the backlog reaches a bound, in entries, bytes or age, and opens again below [`REOPEN`] of it. A
//! crowd that was turned away would then come in at once and close it again; so while there is one, writes are let in as
//! fast as the database takes them, faster the emptier the backlog is, until nobody was turned away for a moment.
//!
//! Whoever is turned away is told when to come back: until the backlog is below the bound at the rate at which it drains
//! now, and then each after the other at that rate, as in a queue.

use std::time::Duration;

use crate::journal::Backlog;
use crate::journal::embedded::BacklogBounds;

/// The gate opens below this part of each bound.
const REOPEN: f64 = 0.9;
/// Over about so many seconds the drain rate is an average: longer than a batch takes, shorter than people wait.
const SMOOTHING_SECONDS: f64 = 5.0;
/// While it reopens, an empty backlog lets in so many times the drain rate; a full one, just the rate. Otherwise the
/// rate, which is measured of what was let in, could never rise again.
const EMPTY_BOOST: f64 = 5.0;
/// Requests a second that are let in at least while it reopens.
const LEAST_RATE: f64 = 10.0;
/// It is open again when nobody was turned away for so long.
const CALM: Duration = Duration::from_secs(2);
/// When to come back if nothing drains: the middle of what may be said, since nobody knows.
const NOTHING_DRAINS: f64 = 30.0;
/// Requests of a look from which it is learned how many share an entry, and how much one such look counts.
const ENOUGH: u64 = 8;
const LOOK_WEIGHT: f64 = 0.25;
/// Of an entry, the least that a request is taken for.
const LEAST_SHARE: f64 = 1.0 / 64.0;
/// Fewer entries a second than this is nothing.
const STANDSTILL: f64 = 0.01;
/// Longest and shortest time that is told.
const LONGEST: f64 = 60.0;
const SHORTEST: f64 = 1.0;

/// What may wait for the database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) backlog: BacklogBounds,
    /// Of the oldest entry.
    pub(crate) age: Duration,
}

/// Why a write is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Entries,
    Bytes,
    Age,
    /// The backlog is below its bounds again, and many want in.
    Reopening,
}

impl Reason {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Entries => "backlog_entries",
            Self::Bytes => "backlog_bytes",
            Self::Age => "backlog_age",
            Self::Reopening => "reopening",
        }
    }
}

/// A write that is not let in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    pub(super) detail: String,
    pub(super) retry_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Open,
    Closed(Reason),
    /// Since when; what may come in at once; when that was reckoned; when somebody was turned away last.
    Reopening {
        tokens: f64,
        at: Duration,
        refused: Duration,
    },
}

#[derive(Debug)]
pub(super) struct Admission {
    bounds: Bounds,
    backlog: Backlog,
    age: Duration,
    /// When that was seen; all times are since some moment.
    seen: Option<Duration>,
    /// Let in since then, and their bytes.
    admitted: u64,
    admitted_bytes: u64,
    /// Entries that leave in a second.
    drain: f64,
    /// Part of an entry that a request takes, since concurrent ones share entries. Those of other processes make it look
    /// larger, which only lets in fewer.
    share: f64,
    state: State,
    /// The next place in the queue of those who were turned away.
    promised: Duration,
}

impl Admission {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            backlog: Backlog::default(),
            age: Duration::ZERO,
            seen: None,
            admitted: 0,
            admitted_bytes: 0,
            drain: 0.0,
            share: 1.0,
            state: State::Open,
            promised: Duration::ZERO,
        }
    }

    /// Entries a second that leave the backlog.
    pub(super) fn drain(&self) -> f64 {
        self.drain
    }

    pub(super) fn age(&self) -> Duration {
        self.age
    }

    /// Takes note of the backlog, and how old its oldest entry is.
    pub(super) fn observe(&mut self, backlog: Backlog, age: Duration, now: Duration) {
        // Of an empty backlog nothing can leave: that says nothing about how fast it would.
        let had_work = self.backlog.entries > 0 || backlog.removed != self.backlog.removed;
        if let Some(seen) = self.seen
            && had_work
            && let Some(left) = backlog.removed.checked_sub(self.backlog.removed)
        {
            let seconds = now.saturating_sub(seen).as_secs_f64().max(0.001);
            let weight = 1.0 - (-seconds / SMOOTHING_SECONDS).exp();
            self.drain += weight * (left as f64 / seconds - self.drain);
            let added = (backlog.entries + left).saturating_sub(self.backlog.entries);
            if self.admitted >= ENOUGH {
                let share = (added as f64 / self.admitted as f64).clamp(LEAST_SHARE, 1.0);
                self.share += LOOK_WEIGHT * (share - self.share);
            }
        }
        (self.backlog, self.age, self.seen) = (backlog, age, Some(now));
        (self.admitted, self.admitted_bytes) = (0, 0);
        let (fill, reason) = self.fill();
        self.state = match self.state {
            State::Open | State::Reopening { .. } if fill >= 1.0 => State::Closed(reason),
            State::Closed(_) if fill < REOPEN => {
                State::Reopening { tokens: self.rate(fill) / 4.0, at: now, refused: now }
            }
            State::Reopening { refused, .. } if now.saturating_sub(refused) >= CALM => State::Open,
            state => state,
        };
    }

    /// Lets a request in that has about so many bytes, or says why not. `chance` is between 0 and 1, and another each time.
    pub(super) fn ask(&mut self, now: Duration, chance: f64, bytes: u64) -> Result<(), Refusal> {
        let (fill, reason) = self.fill();
        if fill >= 1.0 && !matches!(self.state, State::Closed(_)) {
            self.state = State::Closed(reason);
        }
        let rate = self.rate(fill);
        match &mut self.state {
            State::Closed(_) => return Err(self.refuse(now, chance)),
            State::Open => {}
            State::Reopening { tokens, at, refused } => {
                let earned = rate * now.saturating_sub(*at).as_secs_f64();
                // Those who come back come at whole seconds, so a second's may come at once.
                (*tokens, *at) = ((*tokens + earned).min(rate), now.max(*at));
                // Above that level it would be closed before the next look shows what left meanwhile.
                if *tokens < 1.0 || fill >= REOPEN {
                    *refused = now;
                    return Err(self.refuse(now, chance));
                }
                *tokens -= 1.0;
            }
        }
        self.admitted += 1;
        self.admitted_bytes += bytes;
        Ok(())
    }

    /// The journal itself found that it is full.
    pub(super) fn full(&mut self, detail: String, now: Duration, chance: f64) -> Refusal {
        if !matches!(self.state, State::Closed(_)) {
            let reason = if detail.contains(" bytes ") { Reason::Bytes } else { Reason::Entries };
            self.state = State::Closed(reason);
        }
        Refusal { detail, ..self.refuse(now, chance) }
    }

    /// Why no write at all is let in; `None` if some are.
    pub(super) fn closed(&self) -> Option<String> {
        match self.state {
            State::Closed(reason) => Some(self.describe(reason)),
            State::Open | State::Reopening { .. } => None,
        }
    }

    /// The bound that is nearest, and which part of it is reached.
    fn fill(&self) -> (f64, Reason) {
        let parts = [
            (self.entries() / self.bounds.backlog.entries as f64, Reason::Entries),
            (self.bytes() / self.bounds.backlog.bytes as f64, Reason::Bytes),
            (self.age.as_secs_f64() / self.bounds.age.as_secs_f64(), Reason::Age),
        ];
        parts.into_iter().fold((0.0, Reason::Entries), |most, part| if part.0 > most.0 { part } else { most })
    }

    /// With those that were let in since it was seen.
    fn entries(&self) -> f64 {
        self.backlog.entries as f64 + self.admitted as f64 * self.share
    }

    fn bytes(&self) -> f64 {
        (self.backlog.bytes + self.admitted_bytes) as f64
    }

    fn entry_bytes(&self) -> f64 {
        self.backlog.bytes as f64 / self.backlog.entries.max(1) as f64
    }

    /// Requests a second that the database takes.
    fn taken(&self) -> f64 {
        self.drain / self.share
    }

    /// Requests a second that are let in while it reopens.
    fn rate(&self, fill: f64) -> f64 {
        let room = (1.0 - fill / REOPEN).clamp(0.0, 1.0);
        (self.taken() * (1.0 + (EMPTY_BOOST - 1.0) * room)).max(LEAST_RATE)
    }

    /// Seconds until the gate opens at the present rate; `None` if that is never.
    fn opens_in(&self) -> Option<f64> {
        if !matches!(self.state, State::Closed(_)) {
            return Some(0.0);
        }
        if self.drain < STANDSTILL {
            return None;
        }
        let excess = |waiting: f64, bound: f64| (waiting - REOPEN * bound).max(0.0);
        let entries = excess(self.entries(), self.bounds.backlog.entries as f64) / self.drain;
        let bytes = match self.drain * self.entry_bytes() {
            0.0 => 0.0,
            rate => excess(self.bytes(), self.bounds.backlog.bytes as f64) / rate,
        };
        // Entries lie evenly over the age of the oldest, so each second `advance` seconds of them leave, while the rest
        // grows older by one. At the latest it is empty.
        let age = self.age.as_secs_f64();
        let empty = self.entries() / self.drain;
        let advance = age / empty.max(0.001);
        let too_old = excess(age, self.bounds.age.as_secs_f64());
        let young = if advance > 1.0 { (too_old / (advance - 1.0)).min(empty) } else { empty };
        Some(entries.max(bytes).max(if too_old > 0.0 { young } else { 0.0 }))
    }

    fn refuse(&mut self, now: Duration, chance: f64) -> Refusal {
        let reason = match self.state {
            State::Closed(reason) => reason,
            State::Open | State::Reopening { .. } => Reason::Reopening,
        };
        let wait = match self.opens_in() {
            None => NOTHING_DRAINS * (1.0 + chance),
            Some(opens) => {
                let place = self.promised.max(now + Duration::from_secs_f64(opens.min(LONGEST)));
                let wait = place.saturating_sub(now).as_secs_f64();
                if wait > LONGEST {
                    // There is no place left in the queue: at any time of its second half.
                    LONGEST * (1.0 + chance) / 2.0
                } else {
                    self.promised = place + Duration::from_secs_f64(1.0 / self.taken().max(LEAST_RATE));
                    wait + chance
                }
            }
        };
        let retry_after = Duration::from_secs_f64(wait.clamp(SHORTEST, LONGEST));
        Refusal { reason, detail: self.describe(reason), retry_after }
    }

    fn describe(&self, reason: Reason) -> String {
        let BacklogBounds { entries, bytes } = self.bounds.backlog;
        let of = |waiting: f64, what, bound| {
            format!("{waiting:.0} {what} wait for the database, the bound is {bound}")
        };
        match reason {
            Reason::Entries => of(self.entries(), "entries", entries),
            Reason::Bytes => of(self.bytes(), "bytes", bytes),
            Reason::Age => format!(
                "the oldest accepted write waits for the database since {} s, the bound is {} s",
                self.age.as_secs(),
                self.bounds.age.as_secs()
            ),
            Reason::Reopening => format!(
                "the backlog was at its bound a moment ago; for now writes are let in about as fast as the database takes them ({:.0} a second)",
                self.taken()
            ),
        }
    }
}

#[cfg(test)]
mod tests;
