//! What counts as full: a threshold for each counter, and what lifts it, a file for each group of resources.
//!
//! Thresholds marked (h) are heuristics; the others are the kernel's or the server's own sign that something was refused.

mod generator;
mod machine;
mod network;
mod stores;

use super::rule::Rule;

/// All rules; among equal findings the earlier rule's comes first.
pub(super) fn rules() -> impl Iterator<Item = &'static Rule> {
    [generator::RULES, network::RULES, machine::RULES, stores::RULES].into_iter().flatten()
}
