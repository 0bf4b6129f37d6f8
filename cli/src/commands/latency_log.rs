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

pub(super) struct LatencyLog {
    state: State,
    measured_since: SystemTime,
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
    pub(super) fn create(folder: &RunFolder) -> Result<Self, WriteError> {
        let state = State::Created(folder.create(INTERVAL_LOG)?);
        let empty = Histogram::new(3).expect("three digits are allowed");
        Ok(Self { state, measured_since: SystemTime::now(), empty })
    }

    /// The measured part begins at this time.
    pub(super) fn measured_since(&mut self, at: SystemTime) {
        self.measured_since = at;
    }

    /// Adds a second of the measured part, a line for each of its metrics; nothing of the warm-up.
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
            for (name, histogram) in second.latencies().unwrap_or(NAMES.map(|name| (name, &self.empty))) {
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
