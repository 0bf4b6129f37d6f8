//! The database's device while the load runs: its I/O operations once a second, and whether its cap holds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use scalekit_service::device_io::{Operations, Place};
use tokio_util::sync::CancellationToken;

use super::sampler::Sample;
use crate::deploy::Deployment;
use crate::deploy::cap::{self, Cap};
use crate::profile::DatabaseCap;
use crate::report::{CapKind, DeviceCap};

const INTERVAL: Duration = Duration::from_secs(1);
/// Readings kept: a day's.
const MAX_READINGS: usize = 24 * 60 * 60;

/// What is read, on this host.
#[derive(Clone, Debug)]
pub(super) enum Device {
    /// What the processes of the cap's control group do. `database`: the process that is to be in it, if it is known.
    Capped { cap: Cap, database: Option<i32> },
    /// What anybody does on the disk.
    Place(Place),
}

/// The same from the service's word, where only a process of it is on the database's host.
pub(super) fn told(began: Instant, samples: &[Sample]) -> Readings {
    let told = samples
        .iter()
        .filter_map(|sample| Some((began + sample.at, Operations { reads: 0, writes: sample.device? })));
    Readings(told.collect())
}

impl Device {
    /// That of a deployment's database, if this host can tell.
    pub(super) fn deployed(deployment: &Deployment) -> Option<Self> {
        if let Some(cap) = &deployment.cap {
            let database = deployment.processes.iter().find(|process| process.name == "mongod");
            return Some(Self::Capped { cap: cap.clone(), database: database.map(|process| process.pid) });
        }
        let place = Place::find(deployment.database.as_deref()?);
        place.inspect_err(|error| tracing::debug!("no db_iops: {error}")).ok().map(Self::Place)
    }

    fn operations(&self) -> Result<Operations, String> {
        match self {
            Self::Capped { cap, .. } => cap.operations(),
            Self::Place(place) => place.read().map_err(|error| error.to_string()),
        }
    }
}

/// Operations so far, at a time.
pub(super) type Reading = (Instant, Operations);

/// What the device did.
pub(super) struct DeviceRun {
    device: Device,
    pub(super) readings: Readings,
}

/// A running reader.
pub(super) struct DeviceReader {
    device: Device,
    readings: Arc<Mutex<Vec<Reading>>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl DeviceReader {
    pub(super) fn start(device: Device) -> Self {
        let readings = Arc::<Mutex<Vec<Reading>>>::default();
        let stop = CancellationToken::new();
        let task = tokio::spawn(read(device.clone(), Arc::clone(&readings), stop.clone()));
        Self { device, readings, stop, task }
    }

    pub(super) async fn finish(self) -> DeviceRun {
        let Self { device, readings, stop, task } = self;
        stop.cancel();
        if let Err(error) = task.await {
            tracing::warn!(%error, "the reader of the database's device ended early");
        }
        let mut readings = std::mem::take(&mut *readings.lock().unwrap_or_else(PoisonError::into_inner));
        readings.extend(device.operations().ok().map(|operations| (Instant::now(), operations)));
        DeviceRun { device, readings: Readings(readings) }
    }
}

async fn read(device: Device, readings: Arc<Mutex<Vec<Reading>>>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        match device.operations() {
            Ok(operations) => {
                let mut readings = readings.lock().unwrap_or_else(PoisonError::into_inner);
                if readings.len() < MAX_READINGS {
                    readings.push((Instant::now(), operations));
                }
            }
            // A second without a reading is a gap in the series, not a zero.
            Err(problem) => tracing::debug!("the database's device cannot be read: {problem}"),
        }
    }
}

/// Operations while they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Iops {
    pub(super) count: u64,
    /// In any one second.
    pub(super) most: u64,
}

/// Readings in the order of time.
#[derive(Clone)]
pub(super) struct Readings(Vec<Reading>);

impl Readings {
    /// What the device did; `None` if it could not be read twice.
    pub(super) fn iops(&self) -> Option<Iops> {
        let (first, last) = (self.0.first()?, self.0.last()?);
        let growths = self.0.windows(2).map(|pair| {
            // The last reading may come right after the one before.
            let seconds = pair[1].0.saturating_duration_since(pair[0].0).as_secs_f64().max(1.0);
            (grown(pair[0].1, pair[1].1) as f64 / seconds).round() as u64
        });
        let most = growths.max()?;
        Some(Iops { count: grown(first.1, last.1), most })
    }

    /// Operations in the second that ends then, where it was read at both ends.
    pub(super) fn growth(&self, end: Instant) -> Option<u64> {
        let half = Duration::from_millis(500);
        let at = self.0.iter().position(|(at, _)| *at + half > end && *at < end + half)?;
        let before = self.0.get(at.checked_sub(1)?)?;
        Some(grown(before.1, self.0[at].1))
    }
}

impl DeviceRun {
    /// The cap, if there is one: as the probe found it, unless it did not hold under the load.
    pub(super) fn cap(&self, wanted: &DatabaseCap) -> Option<DeviceCap> {
        let Device::Capped { cap, database } = &self.device else { return None };
        let escaped = database.filter(|pid| !cap.holds(*pid)).map(|pid| {
            format!("the database (process {pid}) is not in the control group {}", cap.group.display())
        });
        let readings = &self.readings.0;
        let start = readings.first().map(|(at, _)| *at);
        let since = |at: Instant| start.map_or(Duration::ZERO, |start| at.saturating_duration_since(start));
        let readings: Vec<_> = readings.iter().map(|(at, done)| (since(*at), *done)).collect();
        let problem = cap.verdict.problem.clone().or_else(|| cap.problem()).or(escaped);
        Some(DeviceCap {
            iops: cap.iops_per_s,
            required: wanted.required,
            group: cap.group.display().to_string(),
            devices: cap.devices.iter().map(|(device, _)| device.clone()).collect(),
            capped_per_s: cap.verdict.capped_per_s,
            uncapped_per_s: cap.verdict.uncapped_per_s,
            problem: problem.or_else(|| cap::exceeded(cap.iops_per_s, &readings)),
        })
    }
}

/// What the report calls it.
pub(super) fn kind(cap: &DeviceCap) -> CapKind {
    if cap.problem.is_none() { CapKind::Verified } else { CapKind::NotEnforced }
}

fn grown(from: Operations, to: Operations) -> u64 {
    // A group that was made anew counts from 0.
    to.total().saturating_sub(from.total())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_in_all_and_in_the_busiest_second() {
        let start = Instant::now();
        let of = |readings: &[(u64, u64)]| {
            let readings = readings.iter().map(|(ms, total)| {
                let operations = Operations { reads: total / 4, writes: total - total / 4 };
                (start + Duration::from_millis(*ms), operations)
            });
            Readings(readings.collect())
        };
        let readings = of(&[(0, 1_000), (1_003, 1_100), (1_990, 1_199), (4_000, 1_200), (4_010, 1_210)]);
        assert_eq!(readings.iops(), Some(Iops { count: 210, most: 100 }));
        let at = |ms| readings.growth(start + Duration::from_millis(ms));
        assert_eq!(
            [at(0), at(1_000), at(2_000), at(3_000), at(4_000)],
            [None, Some(100), Some(99), None, Some(1)]
        );
        assert_eq!(of(&[(0, 5)]).iops(), None);
        assert_eq!(of(&[]).iops(), None);
        let sample =
            |s, device| Sample { at: Duration::from_secs(s), db_ops: 0, backlog: 0, device, instances: 0 };
        let told = told(start, &[sample(0, Some(7)), sample(1, None), sample(2, Some(107))]);
        assert_eq!(told.iops(), Some(Iops { count: 100, most: 50 }));
    }
}
