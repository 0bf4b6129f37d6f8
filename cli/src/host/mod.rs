//! The host under the service: its counters, and what they say about where it is full.

pub(crate) mod counters;
pub(crate) mod findings;
