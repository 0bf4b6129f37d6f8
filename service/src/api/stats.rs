//! What a process says of itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use prometheus_client::encoding::text::encode;

use super::gate::{Gate, age};
use crate::cache::Cache;
use crate::contract::{CacheStats, JournalStats, Stats, StoreStats, WorkerStats};
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::worker::governor::Limiter;

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
    /// Of the database operations of this process.
    pub limiter: Arc<Limiter>,
    pub has_worker: bool,
}

impl Process {
    pub(super) fn not_ready(&self) -> Option<String> {
        self.gate.not_ready()
    }

    pub(super) fn prometheus(&self) -> String {
        self.metrics.database_operations.set(self.store.operations());
        self.metrics.database_operations_peak.set(i64::from(self.limiter.peak()));
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.metrics.registry) {
            tracing::error!(%error, "metrics cannot be rendered");
        }
        text
    }

    pub(super) async fn stats(&self) -> Stats {
        let m = &self.metrics;
        let backlog = self.journal.backlog().await;
        let reachable = backlog.is_ok();
        let backlog = backlog.unwrap_or_default();
        let (memory_bytes, memory_peak_bytes) = memory();
        let requests_by_status = requests_by_status(m);
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
                backlog_age_ms: u64::try_from(age(&backlog).as_millis()).unwrap_or(u64::MAX),
                appended: m.journal_appended.get(),
                repeated: m.journal_repeated.get(),
                accepted_writes: m.accepted_writes.get(),
            },
            store: StoreStats {
                kind: self.store.kind().into(),
                operations: self.store.operations(),
                operations_limit: self.limiter.limit(),
                operations_peak: self.limiter.peak(),
            },
            cache: CacheStats {
                kind: self.cache.kind().into(),
                hits: m.cache_hits.get(),
                misses: m.cache_misses.get(),
                errors: m.cache_errors.get(),
            },
            worker: self.has_worker.then(|| WorkerStats {
                batches: m.worker_batches.get(),
                stored: m.worker_stored.get(),
                superseded: m.worker_superseded.get(),
                coalesced: m.worker_coalesced.get(),
                dead: m.worker_dead.get(),
                retries: m.worker_retries.get(),
            }),
            requests: requests_by_status.values().sum(),
            requests_by_status,
        }
    }
}

fn requests_by_status(metrics: &Metrics) -> std::collections::BTreeMap<u16, u64> {
    let mut by_status = std::collections::BTreeMap::new();
    for status in 100..600 {
        let label = crate::metrics::StatusLabel { status };
        if let Some(counter) = metrics.requests.get(&label) {
            by_status.insert(status, counter.inner().load(Ordering::Relaxed));
        }
    }
    by_status
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
