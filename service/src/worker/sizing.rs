//! How large batches are: as large as the backlog makes them, as long as the database keeps up with that. Pure.
//!
//! An operation costs the database's limit the same whatever is in it, so batches grow before anything else. From a
//! modest start they double while there is more to do; once the database was too slow for one, it is halved, and from
//! then on they grow by a small step at a time (additive increase, multiplicative decrease).

use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;

/// Writes in the first batches, at the most.
const START: usize = 256;
/// From where it was halved it takes so many full batches to the maximum, at the most.
const STEPS: usize = 32;

/// The size of the next batch, in writes.
#[derive(Clone, Debug)]
pub struct Sizing {
    max: usize,
    current: usize,
    was_halved: bool,
}

impl Sizing {
    /// At most `max` writes, which is at least 1.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let max = max.max(1);
        Self { max, current: max.min(START), was_halved: false }
    }

    /// Writes in a batch, from 1 to the maximum.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.current
    }

    /// A batch is stored; `full` if it was as large as it might be, so that more is probably there.
    pub fn stored(&mut self, full: bool) {
        if !full {
            return;
        }
        let step = if self.was_halved { (self.max / STEPS).max(1) } else { self.current };
        self.current = (self.current + step).min(self.max);
    }

    /// The database was too slow for what was tried under this limit, or said that it has too much to do. Several
    /// batches of one limit that fail together halve it once.
    pub fn overloaded(&mut self, limit: usize) {
        self.was_halved = true;
        self.current = self.current.min((limit / 2).max(1));
    }
}

/// A [`Sizing`] for all batches that go to one database.
#[derive(Debug)]
pub struct Sizes {
    sizing: Mutex<Sizing>,
    max: usize,
    shown: Gauge,
}

impl Sizes {
    /// As [`Sizing::new`]; `shown` follows the limit.
    #[must_use]
    pub fn new(max: usize, shown: Gauge) -> Self {
        let sizing = Sizing::new(max);
        shown.set(i64::try_from(sizing.limit()).unwrap_or(i64::MAX));
        Self { sizing: Mutex::new(sizing), max: max.max(1), shown }
    }

    fn sizing(&self) -> MutexGuard<'_, Sizing> {
        // It is one number, whole at any time.
        self.sizing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Sizing::limit`].
    #[must_use]
    pub fn limit(&self) -> usize {
        self.sizing().limit()
    }

    /// As large a part of `bytes` as `limit` is of the maximum; at least 1.
    #[must_use]
    pub fn part_of(&self, bytes: usize, limit: usize) -> usize {
        let part = bytes as u128 * limit.min(self.max) as u128 / self.max as u128;
        usize::try_from(part).unwrap_or(bytes).max(1)
    }

    /// See [`Sizing::stored`].
    pub fn stored(&self, full: bool) {
        self.change(|sizing| sizing.stored(full));
    }

    /// See [`Sizing::overloaded`].
    pub fn overloaded(&self, limit: usize) {
        self.change(|sizing| sizing.overloaded(limit));
    }

    fn change(&self, change: impl FnOnce(&mut Sizing)) {
        let mut sizing = self.sizing();
        change(&mut sizing);
        self.shown.set(i64::try_from(sizing.limit()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_doubles_while_more_is_there_then_halves_and_creeps_back() {
        let mut sizing = Sizing::new(2000);
        let mut seen = vec![sizing.limit()];
        for full in [true, false, true, true, true] {
            sizing.stored(full);
            seen.push(sizing.limit());
        }
        assert_eq!(seen, [256, 512, 512, 1024, 2000, 2000]);
        sizing.overloaded(2000);
        assert_eq!(sizing.limit(), 1000);
        sizing.overloaded(2000);
        assert_eq!(sizing.limit(), 1000, "batches of one size that fail together are one failure");
        sizing.overloaded(1000);
        sizing.stored(true);
        assert_eq!(sizing.limit(), 562, "500 and one step of 62");
        for _ in 0..STEPS {
            sizing.stored(true);
        }
        assert_eq!(sizing.limit(), 2000);
    }

    #[test]
    fn bytes_shrink_with_the_writes() {
        let sizes = Sizes::new(1000, Gauge::default());
        assert_eq!(
            (sizes.part_of(8000, 1000), sizes.part_of(8000, 250), sizes.part_of(10, 1)),
            (8000, 2000, 1)
        );
        sizes.overloaded(64);
        assert_eq!((sizes.limit(), sizes.shown.get()), (32, 32));
    }

    proptest! {
        #[test]
        fn it_stays_between_one_and_the_maximum(max in 0..5_000_usize, events in proptest::collection::vec(0..3_u8, 0..200)) {
            let mut sizing = Sizing::new(max);
            for event in events {
                let before = sizing.limit();
                match event {
                    0 => sizing.stored(true),
                    1 => sizing.stored(false),
                    _ => sizing.overloaded(before),
                }
                let now = sizing.limit();
                prop_assert!((1..=max.max(1)).contains(&now));
                match event {
                    0 => prop_assert!(now > before || now == max.max(1)),
                    1 => prop_assert_eq!(now, before),
                    _ => prop_assert_eq!(now, (before / 2).max(1)),
                }
            }
        }

        #[test]
        fn whatever_happened_it_comes_back_to_the_maximum(max in 1..5_000_usize, halvings in 0..20_usize) {
            let mut sizing = Sizing::new(max);
            for _ in 0..halvings {
                sizing.overloaded(sizing.limit());
            }
            // Steps are rounded down, so a few more than their number.
            for _ in 0..STEPS * 2 {
                sizing.stored(true);
            }
            prop_assert_eq!(sizing.limit(), max);
        }
    }
}
