//! A run's `latency.hlog`, written while the run lasts. It never stops the run: a disk that fills up costs the log,
//! not the measurement.

use std::io;
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::interval_log::Tag;

use crate::load::CompleteSecond;
use crate::report::{INTERVAL_LOG, IntervalLog, PendingFile, RunFolder, WriteError};

const SECOND: Duration = Duration::from_secs(1);

pub(super) struct LatencyLog {
    state: State,
}

enum State {
    /// Nothing was measured yet.
    Created(PendingFile),
    Growing(IntervalLog<PendingFile>),
    Failed(io::Error),
}

impl LatencyLog {
    pub(super) fn create(folder: &RunFolder) -> Result<Self, WriteError> {
        Ok(Self { state: State::Created(folder.create(INTERVAL_LOG)?) })
    }

    /// Adds a second of the measured part, a line for each of its metrics.
    pub(super) fn add(&mut self, second: &CompleteSecond) {
        // While it is taken out, a place holder is there.
        let state = std::mem::replace(&mut self.state, State::Failed(io::ErrorKind::Interrupted.into()));
        let log = match state {
            State::Created(file) => IntervalLog::begin(file, second.measured_since),
            State::Growing(log) => Ok(log),
            State::Failed(error) => Err(error),
        };
        let added = log.and_then(|mut log| {
            let at = SECOND * second.row.index;
            for (name, histogram) in second.latencies() {
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
            State::Created(file) => IntervalLog::begin(file, SystemTime::now())?.into_inner().finish(),
            State::Growing(log) => log.into_inner().finish(),
            State::Failed(error) => Err(error),
        }
    }
}
