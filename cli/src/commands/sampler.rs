//! Looks at the service's counters once a second while the load runs.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use scalekit_service::contract::Stats;
use tokio_util::sync::CancellationToken;

use super::control::Service;

const INTERVAL: Duration = Duration::from_secs(1);
/// Samples kept: a day's.
const MAX_SAMPLES: usize = 24 * 60 * 60;

/// The counters at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// Since the load began.
    pub(super) at: Duration,
    /// Database operations of all processes so far.
    pub(super) db_ops: u64,
    pub(super) backlog: u64,
    /// I/O operations of the database's device so far, by the process that reads it.
    pub(super) device: Option<u64>,
    /// Of which starts of the processes the counts are.
    pub(super) instances: u64,
}

/// A running sampler.
pub(super) struct Sampler {
    samples: Arc<Mutex<Vec<Sample>>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Sampler {
    pub(super) fn start(service: Service) -> Self {
        let samples = Arc::<Mutex<Vec<Sample>>>::default();
        let stop = CancellationToken::new();
        let task = tokio::spawn(watch(service, Arc::clone(&samples), stop.clone()));
        Self { samples, stop, task }
    }

    pub(super) async fn finish(self) -> Vec<Sample> {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the sampler ended early");
        }
        std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn watch(service: Service, samples: Arc<Mutex<Vec<Sample>>>, stop: CancellationToken) {
    let started = Instant::now();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        // A second without an answer is a gap in the series, not a zero.
        let Ok(stats) = service.stats().await else { continue };
        let sample = Sample {
            at: started.elapsed(),
            db_ops: stats.values().map(|stats| stats.store.operations).sum(),
            backlog: stats.values().map(|stats| stats.journal.backlog_entries).max().unwrap_or(0),
            device: stats.values().filter_map(|stats| stats.store.device.as_ref()?.operations).max(),
            instances: instances(&stats),
        };
        let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() < MAX_SAMPLES {
            samples.push(sample);
        }
    }
}

fn instances(stats: &BTreeMap<String, Stats>) -> u64 {
    let mut hasher = DefaultHasher::new();
    stats.values().for_each(|stats| stats.instance.hash(&mut hasher));
    hasher.finish()
}

/// Most operations within one second, as far as samples tell: the growth between two, over the time between.
pub(super) fn most_operations_a_second(samples: &[Sample]) -> u64 {
    samples
        .windows(2)
        .map(|pair| {
            let seconds = (pair[1].at.saturating_sub(pair[0].at)).as_secs_f64().max(1.0);
            (pair[1].db_ops.saturating_sub(pair[0].db_ops) as f64 / seconds) as u64
        })
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_second_is_found_whatever_the_jitter_of_the_samples() {
        let sample = |ms, db_ops| Sample {
            at: Duration::from_millis(ms),
            db_ops,
            backlog: 0,
            device: None,
            instances: 0,
        };
        assert_eq!(most_operations_a_second(&[]), 0);
        assert_eq!(most_operations_a_second(&[sample(0, 5)]), 0);
        let samples = [sample(0, 0), sample(1003, 100), sample(1990, 199), sample(4000, 200)];
        assert_eq!(most_operations_a_second(&samples), 99);
    }
}
