//! The idempotency window of the embedded journal: which operation ids were appended lately, as what, and where.
//!
//! Two generations of at most [`GENERATION_ENTRIES`] each: at least that many of the latest operations are
//! remembered, in bounded memory (about 60 bytes an entry).

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use crate::operation::Position;

/// Operations in one generation.
const GENERATION_ENTRIES: usize = 262_144;

#[derive(Default)]
pub(super) struct RecentOperations {
    seeds: (RandomState, RandomState),
    current: HashMap<u128, Recent>,
    previous: HashMap<u128, Recent>,
}

/// An operation that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recent {
    pub(super) position: Position,
    /// Of what it was, by which a retry is known from another request under its id.
    pub(super) checksum: u32,
}

impl RecentOperations {
    /// 128 bits of two independently keyed hashes: a collision, which would swallow a write, is not to be
    /// expected in the life of the universe, nor can a client construct one.
    fn digest(&self, op_id: &str) -> u128 {
        u128::from(self.seeds.0.hash_one(op_id)) << 64 | u128::from(self.seeds.1.hash_one(op_id))
    }

    pub(super) fn get(&self, op_id: &str) -> Option<Recent> {
        let digest = self.digest(op_id);
        self.current.get(&digest).or_else(|| self.previous.get(&digest)).copied()
    }

    pub(super) fn insert(&mut self, op_id: &str, recent: Recent) {
        if self.current.len() >= GENERATION_ENTRIES {
            self.previous = std::mem::take(&mut self.current);
        }
        self.current.insert(self.digest(op_id), recent);
    }

    pub(super) fn remove(&mut self, op_id: &str) {
        let digest = self.digest(op_id);
        self.current.remove(&digest);
        self.previous.remove(&digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_at_least_a_generation_and_stays_bounded() {
        let mut recent = RecentOperations::default();
        let total = 3 * GENERATION_ENTRIES;
        let nth = |n| Recent { position: Position { ms: n as u64, seq: 0 }, checksum: n as u32 };
        for n in 0..total {
            recent.insert(&n.to_string(), nth(n));
        }
        for n in [total - GENERATION_ENTRIES, total - 1] {
            assert_eq!(recent.get(&n.to_string()), Some(nth(n)));
        }
        assert_eq!(recent.get("0"), None);
        assert!(recent.current.len() + recent.previous.len() <= 2 * GENERATION_ENTRIES);
    }
}
