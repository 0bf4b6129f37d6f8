//! The database's device: finds it at the start, then reads it a few times a second and tells the governor what it
//! bears. A process that cannot read it goes by what others find.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::ServeError;
use crate::api::{DeviceView, Seen};
use crate::config::{Backend, Config, DirectStore};
use crate::device_io::{Kind, Place};
use crate::metrics::Metrics;
use crate::redis_link::RedisLink;
use crate::worker::governor::{DeviceLimit, Limit, LimitedBy, Limiter};
use crate::worker::shared_limiter::SharedLimiter;
use crate::worker::steering::{self, Steering};

/// How often a process without a device looks what others have found.
const FOLLOWING: Duration = Duration::from_secs(1);
/// Nobody reads the device for so long: said, since writes may wait for it.
const UNREAD: Duration = Duration::from_secs(10);

/// What a process is to do about the database's device.
pub(super) struct Plan {
    place: Option<Arc<Place>>,
    /// Device operations a second.
    bound: Option<u32>,
    operations: u32,
    shown: Arc<DeviceView>,
}

impl Plan {
    /// `None` if the device does not matter.
    ///
    /// # Errors
    /// A place that was named is none, or cannot be read; or there is a bound that this process could never keep.
    pub(super) fn of(config: &Config) -> Result<Option<Self>, ServeError> {
        let (bound, named) = (config.database_iops_per_s, config.database_device.as_deref());
        let found = match (named, &config.backend) {
            (Some(path), _) => Some(readable(path).map_err(|problem| {
                ServeError::Config(format!(
                    "deploy.database_device: {problem}; on another host than the database's, leave it out"
                ))
            })?),
            (None, _) if bound.is_none() => return Ok(None),
            (None, Backend::Embedded { data_dir } | Backend::Direct(DirectStore::Embedded { data_dir })) => {
                Some(of_embedded(data_dir)?)
            }
            (None, Backend::Direct(DirectStore::Mongo { .. })) => {
                return Err(ServeError::Config(
                    "deploy.database_iops: in direct mode each process has a limit of its own, and must read the database's \
                     device itself: name it with deploy.database_device (--database-device), or set database_iops to null"
                        .into(),
                ));
            }
            (None, Backend::RedisMongo { .. }) => None,
        };
        let shown = DeviceView::new(found.as_ref().map(ToString::to_string), bound);
        let operations = config.database_ops_per_s;
        Ok(Some(Self { place: found.map(Arc::new), bound, operations, shown: Arc::new(shown) }))
    }

    /// Operations a second until somebody reads the device.
    fn while_unread(&self) -> Option<u32> {
        self.bound.map(|bound| steering::unread(bound, self.operations))
    }

    pub(super) fn shown(&self) -> Arc<DeviceView> {
        Arc::clone(&self.shown)
    }

    /// Works until `stop`.
    pub(super) async fn run(self, limit: Arc<dyn Limit>, metrics: Arc<Metrics>, stop: CancellationToken) {
        let Self { place, bound, operations, shown } = self;
        let work = async {
            match place {
                Some(place) => {
                    tracing::info!(device = %place, bound, "reads the I/O operations of the database's device");
                    let steering = Steering::new(bound.unwrap_or(u32::MAX), operations);
                    let mut reader =
                        Reader { place, bound, steering, limit, metrics, shown, started: 0, is_lost: false };
                    reader.run().await;
                }
                None => follow(&*limit).await,
            }
        };
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }
}

/// What keeps the database operations of this process at their limits: one governor with others where there are any.
pub(super) fn governor(
    shared: Option<(Arc<RedisLink>, String)>,
    plan: Option<&Plan>,
    config: &Config,
    metrics: &Metrics,
) -> Arc<dyn Limit> {
    let (operations, waits) = (config.database_ops_per_s, metrics.governor_wait_seconds.clone());
    let unread = plan.and_then(Plan::while_unread).into_iter();
    match shared {
        Some((link, database)) => {
            let limiter = SharedLimiter::new(link, &database, operations, waits);
            Arc::new(unread.fold(limiter, SharedLimiter::while_unread))
        }
        None => Arc::new(unread.fold(Limiter::observed(operations, waits), Limiter::while_unread)),
    }
}

/// The place, read once.
fn readable(path: &Path) -> Result<Place, String> {
    let place = Place::find(path).map_err(|error| error.to_string())?;
    place.read().map_err(|error| error.to_string())?;
    Ok(place)
}

/// The embedded database is in files of this process, so there is nothing to name.
fn of_embedded(data_dir: &Path) -> Result<Place, ServeError> {
    let store = readable(&data_dir.join("store")).map_err(|problem| {
        ServeError::Config(format!(
            "deploy.database_iops: {problem}; put --data-dir on a disk, name the device with deploy.database_device, or set \
             database_iops to null"
        ))
    })?;
    let journal = Place::find(&data_dir.join("journal"));
    if let (Kind::Disks(disks), Ok(Kind::Disks(others))) = (store.kind(), journal.as_ref().map(Place::kind))
        && disks.disks.iter().any(|disk| others.disks.contains(disk))
    {
        tracing::warn!(
            device = %store,
            "the journal is on the database's device, so its flushes count against deploy.database_iops: give store and journal disks of their own"
        );
    }
    Ok(store)
}

/// Reads the device.
struct Reader {
    place: Arc<Place>,
    bound: Option<u32>,
    steering: Steering,
    limit: Arc<dyn Limit>,
    metrics: Arc<Metrics>,
    shown: Arc<DeviceView>,
    /// Database operations, as far as was heard.
    started: u64,
    is_lost: bool,
}

impl Reader {
    async fn run(&mut self) {
        let origin = Instant::now();
        let mut ticks = tokio::time::interval(steering::INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // While Redis is away, no operation starts.
            self.started = self.limit.steer(None).await.unwrap_or(self.started);
            let place = Arc::clone(&self.place);
            let read = tokio::task::spawn_blocking(move || place.read().map_err(|error| error.to_string()));
            match read.await.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(operations) => self.sample(origin.elapsed(), operations.total()),
                Err(reason) => self.lost(&reason),
            }
            if self.bound.is_some() {
                let per_second = self.steering.limit();
                let found = DeviceLimit { per_second, is_measured: !self.is_lost };
                // If it is not heard now, it is at the next tick.
                let _ = self.limit.steer(Some(found)).await;
            }
        }
    }

    fn sample(&mut self, now: Duration, operations: u64) {
        if std::mem::take(&mut self.is_lost) {
            tracing::info!(device = %self.place, "the database's device can be read again");
        }
        self.steering.sample(now, operations, self.started);
        let per_second = self.steering.device_per_second();
        self.show(Seen { per_second, operations: Some(operations) });
    }

    fn lost(&mut self, reason: &str) {
        self.steering.lost_sight();
        self.metrics.device_read_failures.inc();
        self.show(Seen::default());
        if !std::mem::replace(&mut self.is_lost, true) {
            let limit = self.steering.limit();
            tracing::warn!(
                reason,
                limit,
                "the database's device cannot be read; until then half of what it bore, unless another process reads it"
            );
        }
    }

    fn show(&self, seen: Seen) {
        self.metrics.device_operations_per_second.set(seen.per_second.unwrap_or(f64::NAN));
        self.shown.show(seen);
    }
}

/// Hears what others find, also while this process does nothing, and says when nobody does.
async fn follow(limit: &dyn Limit) {
    let mut ticks = tokio::time::interval(FOLLOWING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut since, mut is_said) = (Instant::now(), false);
    loop {
        ticks.tick().await;
        if limit.steer(None).await.is_err() || limit.limited_by() != LimitedBy::Unread {
            (since, is_said) = (Instant::now(), false);
        } else if !is_said && since.elapsed() >= UNREAD {
            is_said = true;
            tracing::warn!(
                limit = limit.limit(),
                "deploy.database_iops is set, and no process reads the database's device; start one on the database's host with --database-device"
            );
        }
    }
}

#[cfg(test)]
mod tests;
