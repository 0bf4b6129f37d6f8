//! The database's device while the load runs: its I/O operations once a second, and whether its cap holds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use scalekit_service::device_io::{Operations, Place};
use tokio_util::sync::CancellationToken;

use super::sampler::Sample;
use crate::deploy::Deployment;
use crate::deploy::cap::{self, Cap, Facts};
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
    /// A cap on another host, of which only its probe has told. What the disk does is the service's to tell.
    Told(Facts),
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
        if let Some(cap) = deployment.current_cap() {
            let database = deployment.processes.iter().find(|process| process.identity.name == "mongod");
            return Some(Self::Capped { cap, database: database.map(|process| process.identity.pid) });
        }
        let place = Place::find(deployment.database.as_deref()?);
        place.inspect_err(|error| tracing::debug!("no db_iops: {error}")).ok().map(Self::Place)
    }

    fn operations(&self) -> Result<Operations, String> {
        match self {
            Self::Capped { cap, .. } => cap.operations(),
            Self::Place(place) => place.read().map_err(|error| error.to_string()),
            Self::Told(_) => Err("it is another host's".to_owned()),
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
    /// Whether this host is the one that reads it.
    pub(super) fn reads(&self) -> bool {
        !matches!(self.device, Device::Told(_))
    }

    /// The cap, if there is one: as the probe found it, unless it did not hold under the load.
    pub(super) fn cap(&self, wanted: &DatabaseCap) -> Option<DeviceCap> {
        let facts = match &self.device {
            Device::Place(_) => return None,
            Device::Told(facts) => facts.clone(),
            Device::Capped { cap, database } => {
                let mut facts = cap.facts();
                facts.problem = facts
                    .problem
                    .or_else(|| escaped(cap, *database))
                    .or_else(|| self.exceeded(cap.iops_per_s));
                facts
            }
        };
        Some(DeviceCap {
            iops: facts.iops_per_s,
            required: wanted.required,
            group: facts.group.display().to_string(),
            devices: facts.devices,
            capped_per_s: facts.capped_per_s,
            uncapped_per_s: facts.uncapped_per_s,
            problem: facts.problem,
        })
    }

    fn exceeded(&self, iops_per_s: u32) -> Option<String> {
        let readings = &self.readings.0;
        let (start, _) = readings.first()?;
        let since = readings.iter().map(|(at, done)| (at.saturating_duration_since(*start), *done));
        cap::exceeded(iops_per_s, &since.collect::<Vec<_>>())
    }
}

fn escaped(cap: &Cap, database: Option<i32>) -> Option<String> {
    let pid = database.filter(|pid| !cap.holds(*pid))?;
    Some(format!("the database (process {pid}) is not in the control group {}", cap.group.display()))
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
