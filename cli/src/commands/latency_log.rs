//! A run's `latency.hlog`, written while the run lasts. It never stops the run: a disk that fills up costs the log,
//! not the measurement.

use std::io;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::Tag;

use crate::load::Interval;
use crate::report::{INTERVAL_LOG, IntervalLog, PendingFile, RunFolder, WriteError};

/// The metrics of each second, as [`Interval::latencies`] has them.
const NAMES: [&str; 2] = ["http_req_total_duration", "http_req_duration"];
const SECOND: Duration = Duration::from_secs(1);
/// Of a step's name; a line of the log is bounded.
const MAX_TAG_CHARS: usize = 100;

pub(super) struct LatencyLog {
    state: State,
    measured_since: SystemTime,
    /// Of each step, where there are several.
    step_tags: Vec<String>,
    /// Of a second without a request.
    empty: Histogram<u32>,
}

enum State {
    /// Nothing was measured yet.
    Created(PendingFile),
    Growing(IntervalLog<PendingFile>),
    Failed(io::Error),
}

impl LatencyLog {
    /// For iterations of these steps.
    pub(super) fn create(folder: &RunFolder, steps: &[&str]) -> Result<Self, WriteError> {
        let state = State::Created(folder.create(INTERVAL_LOG)?);
        let empty = Histogram::new(3).expect("three digits are allowed");
        Ok(Self { state, measured_since: SystemTime::now(), step_tags: step_tags(steps), empty })
    }

    /// The measured part begins at this time.
    pub(super) fn measured_since(&mut self, at: SystemTime) {
        self.measured_since = at;
    }

    /// Adds a second of the measured part, a line for each of its metrics, and for each of several steps; nothing of
    /// the warm-up.
    pub(super) fn add(&mut self, second: &Interval) {
        let Some(index) = second.index() else { return };
        // While it is taken out, a place holder is there.
        let state = std::mem::replace(&mut self.state, State::Failed(io::ErrorKind::Interrupted.into()));
        let log = match state {
            State::Created(file) => IntervalLog::begin(file, self.measured_since),
            State::Growing(log) => Ok(log),
            State::Failed(error) => Err(error),
        };
        let added = log.and_then(|mut log| {
            let at = SECOND * index;
            let metrics = second.latencies().unwrap_or(NAMES.map(|name| (name, &self.empty)));
            let steps = self.step_tags.iter().enumerate();
            let steps = steps.map(|(step, tag)| (tag.as_str(), second.step(step).unwrap_or(&self.empty)));
            for (name, histogram) in metrics.into_iter().chain(steps) {
                let tag = Tag::new(name).ok_or_else(|| io::Error::other(format!("{name} is no tag")))?;
                log.add(tag, at, SECOND, histogram)?;
            }
            Ok(log)
        });
        self.state = added.map_or_else(State::Failed, State::Growing);
    }

    /// Puts the log in its place.
    pub(super) fn finish(self) -> io::Result<()> {
        match self.state {
            // Interrupted in its warm-up: a log without an interval.
            State::Created(file) => IntervalLog::begin(file, self.measured_since)?.into_inner().finish(),
            State::Growing(log) => log.into_inner().finish(),
            State::Failed(error) => Err(error),
        }
    }
}

/// The tags of several steps: their names without what an interval log cannot hold in a tag, and unlike one another
/// and the metrics. An only step is the whole and has none.
fn step_tags(steps: &[&str]) -> Vec<String> {
    let mut tags: Vec<String> = Vec::new();
    if steps.len() < 2 {
        return tags;
    }
    for name in steps {
        let safe = |letter: char| {
            if letter == ',' || letter.is_whitespace() || letter.is_control() { '_' } else { letter }
        };
        let plain: String = name.chars().take(MAX_TAG_CHARS).map(safe).collect();
        let plain = if plain.is_empty() { "step".to_owned() } else { plain };
        let mut tag = plain.clone();
        let mut number = 2;
        while NAMES.contains(&tag.as_str()) || tags.contains(&tag) {
            tag = format!("{plain}_{number}");
            number += 1;
        }
        tags.push(tag);
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_safe_and_unlike() {
        for (steps, expected) in [
            (&["login"][..], &[][..]),
            (&["login", "place order"], &["login", "place_order"]),
            (&["a b", "a,b", "a\nb", "a\tb", "a\u{a0}b"], &["a_b", "a_b_2", "a_b_3", "a_b_4", "a_b_5"]),
            (
                &["http_req_duration", "http_req_duration_2", ""],
                &["http_req_duration_2", "http_req_duration_2_2", "step"],
            ),
            (&["bücher", "x=1\r"], &["bücher", "x=1_"]),
        ] {
            let tags = step_tags(steps);
            assert_eq!(tags, expected);
            assert!(tags.iter().all(|tag| Tag::new(tag).is_some()));
        }
        assert_eq!(step_tags(&["long ".repeat(1000).as_str(), "b"])[0].len(), MAX_TAG_CHARS);
    }
}
