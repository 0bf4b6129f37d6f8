//! What a process says of itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::gate::{Gate, age};
use crate::cache::Cache;
use crate::contract::{CacheStats, DeviceStats, JournalStats, Stats, StoreStats, WorkerStats};
use crate::journal::Journal;
use crate::metrics::{DatabaseFigures, Metrics};
use crate::store::Store;
use crate::telemetry::Traces;
use crate::worker::governor::Limit;

/// One process of the service, for its own counters.
pub struct Process {
    pub role: &'static str,
    /// See [`Stats::mode`].
    pub mode: &'static str,
    /// See [`Stats::instance`].
    pub instance: String,
    pub started: Instant,
    pub journal: Arc<dyn Journal>,
    pub cache: Arc<dyn Cache>,
    pub store: Arc<dyn Store>,
    pub gate: Arc<Gate>,
    pub metrics: Arc<Metrics>,
    pub traces: Traces,
    /// Of the database operations of this process.
    pub limiter: Arc<dyn Limit>,
    /// The database's device, if it matters.
    pub device: Option<Arc<DeviceView>>,
    pub has_worker: bool,
}

/// The database's device, as whoever reads it in this process says.
#[derive(Debug)]
pub struct DeviceView {
    place: Option<String>,
    bound: Option<u32>,
    seen: Mutex<Seen>,
}

/// Nothing where it cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Operations of the last second; the first one has to pass.
    pub per_second: Option<f64>,
    /// Of all time.
    pub operations: Option<u64>,
}

impl DeviceView {
    /// See [`DeviceStats`].
    #[must_use]
    pub fn new(place: Option<String>, bound: Option<u32>) -> Self {
        Self { place, bound, seen: Mutex::default() }
    }

    /// What there is to tell from now on.
    pub fn show(&self, seen: Seen) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    #[must_use]
    pub fn stats(&self) -> DeviceStats {
        let Seen { per_second, operations } = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        DeviceStats { place: self.place.clone(), iops: per_second, operations, iops_bound: self.bound }
    }
}

impl Process {
    pub(super) fn not_ready(&self) -> Option<String> {
        self.gate.not_ready()
    }

    pub(super) fn prometheus(&self) -> String {
        let database = DatabaseFigures {
            operations: self.store.operations(),
            peak: self.limiter.peak(),
            limit: self.limiter.limit(),
        };
        self.metrics.render(database).unwrap_or_else(|error| {
            tracing::error!(%error, "metrics cannot be rendered");
            String::new()
        })
    }

    pub(super) async fn stats(&self) -> Stats {
        let m = &self.metrics;
        let backlog = self.journal.backlog().await;
        let reachable = backlog.is_ok();
        let backlog = backlog.unwrap_or_default();
        let (memory_bytes, memory_peak_bytes) = memory();
        let requests_by_status = m.requests.by_status();
        Stats {
            role: self.role.into(),
            mode: self.mode.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            instance: self.instance.clone(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            memory_bytes,
            memory_peak_bytes,
            journal: JournalStats {
                kind: self.journal.kind().into(),
                durability: self.journal.durability().as_str().into(),
                reachable,
                backlog_entries: backlog.entries,
                backlog_bytes: backlog.bytes,
                backlog_age_ms: u64::try_from(age(&backlog).as_millis()).unwrap_or(u64::MAX),
                appended: m.journal_appended.get(),
                repeated: m.journal_repeated.get(),
                accepted_writes: m.accepted_writes.get(),
                append_failures: m.journal_append_failures.get(),
                refuses: self.journal.refuses(),
                drain_per_s: self.gate.drain(),
                rejected: m.rejected.by_reason(),
                dead_letters: backlog.dead_letters,
            },
            store: StoreStats {
                kind: self.store.kind().into(),
                operations: self.store.operations(),
                operations_limit: self.limiter.limit(),
                operations_most: self.limiter.most(),
                operations_limit_by: self.limiter.limited_by().as_str().into(),
                operations_shared: self.limiter.is_shared(),
                operations_peak: self.limiter.peak(),
                operations_delayed: m.governor_wait_seconds.count(),
                operations_delayed_ms: m.governor_wait_seconds.sum() / 1_000_000,
                device: self.device.as_ref().map(|device| device.stats()),
            },
            cache: CacheStats {
                kind: self.cache.kind().into(),
                hits: m.cache_hits.total(),
                l1_hits: m.cache_hits.l1.get(),
                l2_hits: m.cache_hits.l2.get(),
                misses: m.cache_misses.get(),
                errors: m.cache_errors.get(),
                shared_reads: m.shared_reads.get(),
            },
            worker: self.has_worker.then(|| WorkerStats {
                batches: m.worker_batches.get(),
                stored: m.worker_stored.get(),
                superseded: m.worker_superseded.get(),
                coalesced: m.worker_coalesced.get(),
                dead: m.worker_dead.get(),
                retries: m.worker_retries.get(),
                shards: u32::try_from(m.worker_shards.get()).unwrap_or(0),
                batch_limit: u64::try_from(m.worker_batch_limit.get()).unwrap_or(0),
            }),
            requests: requests_by_status.values().sum(),
            requests_by_status,
        }
    }
}

/// Resident bytes now and at the highest, from /proc; zeros where there is none.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    (field("VmRSS:").unwrap_or(0), field("VmHWM:").unwrap_or(0))
}
