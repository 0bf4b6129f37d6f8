//! What a step expects of its response.

use std::ops::RangeInclusive;

use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};

/// Longest text that a body can be searched for, in bytes.
pub(crate) const MAX_NEEDLE_BYTES: usize = 1024;

/// One expectation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Check {
    /// One of these.
    Status(Vec<RangeInclusive<u16>>),
    /// The body has this text.
    BodyContains(String),
}

impl Check {
    /// The name in reports.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Status(ranges) => {
                let texts = ranges.iter().map(|range| match (range.start(), range.end()) {
                    (one, other) if one == other => one.to_string(),
                    (low, high) => format!("{low}-{high}"),
                });
                format!("status is {}", texts.collect::<Vec<_>>().join(" or "))
            }
            Self::BodyContains(text) => format!("body contains {text:?}"),
        }
    }

    /// Whether a response with this status meets it; `body_has` is the answer of the body's [`Search`].
    pub(super) fn is_met(&self, status: Option<u16>, body_has: bool) -> bool {
        match self {
            Self::Status(ranges) => {
                status.is_some_and(|status| ranges.iter().any(|range| range.contains(&status)))
            }
            Self::BodyContains(_) => status.is_some() && body_has,
        }
    }
}

/// What a step's bodies are searched for.
#[derive(Clone, Debug)]
pub(super) struct Needle(Finder<'static>);

impl Needle {
    pub(super) fn new(text: &str) -> Self {
        Self(Finder::new(text).into_owned())
    }
}

/// A search through a body that comes in pieces; keeps no more of it than the needle is long.
#[derive(Debug, Default)]
pub(super) struct Search {
    found: bool,
    /// The last bytes, in which an occurrence may begin.
    tail: Vec<u8>,
}

impl Search {
    pub(super) fn reset(&mut self) {
        self.found = false;
        self.tail.clear();
    }

    pub(super) fn found(&self) -> bool {
        self.found
    }

    pub(super) fn feed(&mut self, needle: &Needle, piece: &[u8]) {
        let Needle(finder) = needle;
        if self.found {
            return;
        }
        let keep = finder.needle().len().saturating_sub(1);
        // An occurrence that began earlier ends within the first bytes of this piece.
        self.tail.extend_from_slice(&piece[..piece.len().min(keep)]);
        self.found = finder.find(&self.tail).is_some() || finder.find(piece).is_some();
        if piece.len() >= keep {
            self.tail.clear();
            self.tail.extend_from_slice(&piece[piece.len() - keep..]);
        } else {
            let surplus = self.tail.len().saturating_sub(keep);
            self.tail.drain(..surplus);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn statuses_are_matched_and_named() {
        let check = Check::Status(vec![200..=299, 404..=404]);
        assert_eq!(check.name(), "status is 200-299 or 404");
        for (status, met) in
            [(Some(200), true), (Some(299), true), (Some(404), true), (Some(500), false), (None, false)]
        {
            assert_eq!(check.is_met(status, true), met, "{status:?}");
        }
    }

    proptest! {
        #[test]
        fn a_search_in_pieces_finds_what_a_search_of_the_whole_finds(
            body in "[ab]{0,40}", needle in "[ab]{1,6}", cuts in prop::collection::vec(0usize..8, 0..20),
        ) {
            let finder = Needle::new(&needle);
            let mut search = Search::default();
            let mut rest = body.as_bytes();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                search.feed(&finder, piece);
                prop_assert!(search.tail.len() < needle.len());
                rest = after;
            }
            search.feed(&finder, rest);
            prop_assert_eq!(search.found(), body.contains(&needle));
        }
    }
}
