//! The latencies of one second: what the series takes its percentiles from, and what an interval log keeps.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::exchange::Times;
use super::transfer;
use super::trends::{DIGITS, HIGHEST_MICROS, to_micros};

/// Microseconds, to as many digits as the totals have, so that the seconds of a run add up to them bucket by bucket:
/// 70 KB a histogram, since a second never needs wider counters than 32 bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Latencies {
    #[serde(with = "transfer")]
    total: Histogram<u32>,
    #[serde(with = "transfer")]
    duration: Histogram<u32>,
    /// The total of each step of several, as far as there were requests.
    steps: Vec<Option<StepLatency>>,
}

/// `http_req_total_duration` of one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StepLatency(#[serde(with = "transfer")] Histogram<u32>);

fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, HIGHEST_MICROS, DIGITS).expect("constant bounds that the crate allows")
}

impl Latencies {
    pub(super) fn new() -> Self {
        Self { total: histogram(), duration: histogram(), steps: Vec::new() }
    }

    /// `step`: where there are several, the one that the request is of.
    pub(super) fn record(&mut self, times: &Times, step: Option<u16>) {
        if let Some(step) = step {
            let step = usize::from(step);
            if step >= self.steps.len() {
                self.steps.resize(step + 1, None);
            }
            let StepLatency(total) = self.steps[step].get_or_insert_with(|| StepLatency(histogram()));
            total.saturating_record(to_micros(times.total()).min(HIGHEST_MICROS));
        }
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
        if self.steps.len() < other.steps.len() {
            self.steps.resize(other.steps.len(), None);
        }
        for (mine, theirs) in self.steps.iter_mut().zip(&other.steps) {
            match (mine, theirs) {
                (Some(mine), Some(theirs)) => mine.0.add(&theirs.0).expect("histograms of equal bounds"),
                (mine @ None, theirs) => mine.clone_from(theirs),
                (Some(_), None) => {}
            }
        }
    }

    pub(super) fn total(&self) -> &Histogram<u32> {
        &self.total
    }

    pub(super) fn duration(&self) -> &Histogram<u32> {
        &self.duration
    }

    /// The total of the step of this index.
    pub(super) fn step(&self, step: usize) -> Option<&Histogram<u32>> {
        self.steps.get(step)?.as_ref().map(|step| &step.0)
    }

    /// How many histograms there are, of 70 KB each.
    pub(super) fn histograms(&self) -> usize {
        2 + self.steps.iter().flatten().count()
    }

    /// Those of all requests with the names that reports and criteria use: from the intended start, and from the send.
    pub(super) fn named(&self) -> [(&'static str, &Histogram<u32>); 2] {
        [("http_req_total_duration", &self.total), ("http_req_duration", &self.duration)]
    }
}
