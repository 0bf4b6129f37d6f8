//! The latencies of one second: what the series takes its percentiles from, and what an interval log keeps.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::exchange::Times;
use super::recorder::{DIGITS, HIGHEST_MICROS, to_micros};
use super::transfer;

/// Microseconds, to as many digits as the totals have, so that the seconds of a run add up to them bucket by bucket:
/// 70 KB a histogram, since a second never needs wider counters than 32 bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Latencies {
    #[serde(with = "transfer")]
    total: Histogram<u32>,
    #[serde(with = "transfer")]
    duration: Histogram<u32>,
}

impl Latencies {
    pub(super) fn new() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, HIGHEST_MICROS, DIGITS)
                .expect("constant bounds that the crate allows")
        };
        Self { total: histogram(), duration: histogram() }
    }

    pub(super) fn record(&mut self, times: &Times) {
        for (histogram, value) in
            [(&mut self.total, times.total()), (&mut self.duration, times.stages().duration())]
        {
            histogram.saturating_record(to_micros(value).min(HIGHEST_MICROS));
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (mine, theirs) in [(&mut self.total, &other.total), (&mut self.duration, &other.duration)] {
            mine.add(theirs).expect("histograms of equal bounds");
        }
    }

    pub(super) fn total(&self) -> &Histogram<u32> {
        &self.total
    }

    pub(super) fn duration(&self) -> &Histogram<u32> {
        &self.duration
    }

    /// All of them with the names that reports and criteria use: from the intended start, and from the send.
    pub(super) fn named(&self) -> [(&'static str, &Histogram<u32>); 2] {
        [("http_req_total_duration", &self.total), ("http_req_duration", &self.duration)]
    }
}
