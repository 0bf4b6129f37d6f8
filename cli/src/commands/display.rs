//! What is seen of a load while it lasts: its progress, and the log of its latencies.

use std::time::{Duration, SystemTime};

use super::latency_log::LatencyLog;
use super::progress::Progress;
use crate::load::{Interval, Observer, Plan, Tick};
use crate::report::{INTERVAL_LOG, RunFolder};

/// Shows how the load gets on, and logs its latencies.
pub(super) struct Display {
    progress: Progress,
    log: LatencyLog,
    warmup: Duration,
}

impl Display {
    pub(super) fn new(plan: &Plan, folder: &RunFolder) -> anyhow::Result<Self> {
        let progress = Progress::new(plan.warmup + plan.duration);
        let log = LatencyLog::create(folder, &plan.scenario.step_names())?;
        Ok(Self { progress, log, warmup: plan.warmup })
    }

    /// Of a load that failed there is no log either.
    pub(super) fn finish(self, loaded: bool) {
        self.progress.finish();
        if loaded && let Err(error) = self.log.finish() {
            eprintln!("note: {INTERVAL_LOG} could not be written: {error}");
        }
    }
}

impl Observer for Display {
    fn began(&mut self, at: SystemTime) {
        self.log.measured_since(at + self.warmup);
    }

    fn tick(&mut self, tick: &Tick) {
        self.progress.show(tick);
    }

    fn second(&mut self, second: Interval) {
        self.log.add(&second);
    }
}
