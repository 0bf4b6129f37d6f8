//! Counters of one process: rendered for Prometheus by `/metrics` and as JSON by `/v1/stats`, from the same
//! numbers. `METRICS.md` lists them, and a test keeps it.

mod histogram;
mod process;
mod requests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

pub use histogram::{BYTES, COUNT, Histogram, SECONDS};
pub use process::Usage;
pub use requests::Requests;

type LevelLabel = [(&'static str, &'static str); 1];

/// Documents that a level of the cache answered.
#[derive(Clone, Debug)]
pub struct CacheHits {
    /// In this process.
    pub l1: Counter,
    /// In Redis.
    pub l2: Counter,
    family: Family<LevelLabel, Counter>,
}

impl Default for CacheHits {
    fn default() -> Self {
        let family = Family::default();
        // Owned handles count into the family's own numbers, so that counting is no look-up.
        let level = |level| Family::get_or_create_owned(&family, &[("level", level)]);
        Self { l1: level("l1"), l2: level("l2"), family }
    }
}

impl CacheHits {
    #[must_use]
    pub fn total(&self) -> u64 {
        self.l1.get() + self.l2.get()
    }
}

/// Requests with writes that were turned away, by reason.
#[derive(Clone, Debug)]
pub struct Rejected(Family<ReasonLabel, Counter>);

type ReasonLabel = [(&'static str, &'static str); 1];

/// All that there are, so that each shows before it happens.
const REASONS: [&str; 6] =
    ["backlog_entries", "backlog_bytes", "backlog_age", "reopening", "busy", "journal"];

impl Default for Rejected {
    fn default() -> Self {
        let family = Family::default();
        for reason in REASONS {
            drop(Family::<ReasonLabel, Counter>::get_or_create(&family, &[("reason", reason)]));
        }
        Self(family)
    }
}

impl Rejected {
    pub fn count(&self, reason: &'static str) {
        debug_assert!(REASONS.contains(&reason), "{reason} is not in the list");
        self.0.get_or_create(&[("reason", reason)]).inc();
    }

    #[must_use]
    pub fn by_reason(&self) -> BTreeMap<String, u64> {
        REASONS
            .into_iter()
            .map(|reason| (reason.to_owned(), self.0.get_or_create(&[("reason", reason)]).get()))
            .collect()
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_reason().values().sum()
    }
}

/// All of them. Counters only grow; gauges are set when they are asked for.
pub struct Metrics {
    registry: Registry,
    pub requests: Arc<Requests>,
    pub connections: Gauge,
    pub journal_append_seconds: Histogram,
    pub journal_append_failures: Counter,
    pub journal_appended: Counter,
    pub journal_repeated: Counter,
    pub accepted_writes: Counter,
    pub rejected: Rejected,
    pub cache_hits: CacheHits,
    pub cache_misses: Counter,
    pub cache_errors: Counter,
    pub l1_invalidations: Counter,
    pub l1_bytes: Gauge<u64, AtomicU64>,
    pub shared_reads: Counter,
    pub early_refreshes: Counter,
    pub journal_reads: Counter,
    pub store_reads: Counter,
    pub worker_batches: Counter,
    pub worker_stored: Counter,
    pub worker_superseded: Counter,
    pub worker_coalesced: Counter,
    pub worker_dead: Counter,
    pub worker_retries: Counter,
    pub worker_batch_writes: Histogram,
    pub worker_batch_bytes: Histogram,
    pub worker_apply_seconds: Histogram,
    pub worker_shards: Gauge,
    pub worker_batch_limit: Gauge,
    pub governor_wait_seconds: Histogram,
    pub device_operations_per_second: Gauge<f64, AtomicU64>,
    pub device_read_failures: Counter,
    pub backlog_entries: Gauge<u64, AtomicU64>,
    pub backlog_bytes: Gauge<u64, AtomicU64>,
    pub backlog_age_seconds: Gauge<f64, AtomicU64>,
    pub backlog_drain: Gauge<f64, AtomicU64>,
    pub dead_letters: Gauge<u64, AtomicU64>,
    pub trace_exports_failed: Counter,
    database_operations: Counter,
    database_operations_peak: Gauge<u64, AtomicU64>,
    database_operations_limit: Gauge<u64, AtomicU64>,
}

/// What others count, as of a scrape.
#[derive(Clone, Copy, Debug)]
pub struct DatabaseFigures {
    pub operations: u64,
    pub peak: u32,
    pub limit: u32,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Arc::default(),
            connections: Gauge::default(),
            journal_append_seconds: Histogram::new(&SECONDS),
            journal_append_failures: Counter::default(),
            journal_appended: Counter::default(),
            journal_repeated: Counter::default(),
            accepted_writes: Counter::default(),
            rejected: Rejected::default(),
            cache_hits: CacheHits::default(),
            cache_misses: Counter::default(),
            cache_errors: Counter::default(),
            l1_invalidations: Counter::default(),
            l1_bytes: Gauge::default(),
            shared_reads: Counter::default(),
            early_refreshes: Counter::default(),
            journal_reads: Counter::default(),
            store_reads: Counter::default(),
            worker_batches: Counter::default(),
            worker_stored: Counter::default(),
            worker_superseded: Counter::default(),
            worker_coalesced: Counter::default(),
            worker_dead: Counter::default(),
            worker_retries: Counter::default(),
            worker_batch_writes: Histogram::new(&COUNT),
            worker_batch_bytes: Histogram::new(&BYTES),
            worker_apply_seconds: Histogram::new(&SECONDS),
            worker_shards: Gauge::default(),
            worker_batch_limit: Gauge::default(),
            governor_wait_seconds: Histogram::new(&SECONDS),
            device_operations_per_second: Gauge::default(),
            device_read_failures: Counter::default(),
            backlog_entries: Gauge::default(),
            backlog_bytes: Gauge::default(),
            backlog_age_seconds: Gauge::default(),
            backlog_drain: Gauge::default(),
            dead_letters: Gauge::default(),
            trace_exports_failed: Counter::default(),
            database_operations: Counter::default(),
            database_operations_peak: Gauge::default(),
            database_operations_limit: Gauge::default(),
        };
        let mut registry = Registry::default();
        metrics.register(registry.sub_registry_with_prefix("scalekit"));
        registry.register_collector(Box::new(process::ProcessCollector));
        metrics.registry = registry;
        metrics.device_operations_per_second.set(f64::NAN);
        metrics
    }
}

impl Metrics {
    fn register(&self, r: &mut Registry) {
        r.register("build", "What runs here", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        self.register_requests(r);
        self.register_journal(r);
        self.register_reads(r);
        self.register_worker(r);
        self.register_database(r);
        add(
            r,
            "trace_exports_failed",
            "Batches of spans that did not reach the collector",
            None,
            &self.trace_exports_failed,
        );
    }

    fn register_requests(&self, r: &mut Registry) {
        r.register_collector(Box::new(Arc::clone(&self.requests)));
        add(r, "http_connections", "Open client connections", None, &self.connections);
    }

    fn register_journal(&self, r: &mut Registry) {
        let seconds = Some(Unit::Seconds);
        let append = "Time until an append is durable; of those that succeeded";
        add(r, "journal_append_duration", append, seconds.clone(), &self.journal_append_seconds);
        let failed = "Appends that failed, or whose outcome is unknown";
        add(r, "journal_append_failures", failed, None, &self.journal_append_failures);
        add(r, "journal_appended", "Requests appended to the journal", None, &self.journal_appended);
        add(r, "journal_repeated", "Requests that the journal had already", None, &self.journal_repeated);
        add(r, "accepted_writes", "Writes acknowledged with 202", None, &self.accepted_writes);
        add(r, "journal_backlog_entries", "Entries that wait for the database", None, &self.backlog_entries);
        let rejected = "Requests with writes that were turned away, by `reason`: a bound of the backlog (backlog_entries, backlog_bytes, backlog_age), reopening after one, busy (too many wait for the journal), journal (away, or not fit)";
        add(r, "rejected", rejected, None, &self.rejected.0);
        let drain = "Entries that leave the backlog in a second, over the last seconds";
        add(r, "journal_drain_entries_per_second", drain, None, &self.backlog_drain);
        let bytes = "Size of the entries that wait for the database";
        add(r, "journal_backlog", bytes, Some(Unit::Bytes), &self.backlog_bytes);
        add(
            r,
            "journal_backlog_age",
            "Age of the oldest entry that waits",
            seconds,
            &self.backlog_age_seconds,
        );
        add(r, "dead_letters", "Dead letters that the journal keeps", None, &self.dead_letters);
    }

    fn register_reads(&self, r: &mut Registry) {
        let help = "Documents read from the cache, by `level`: l1 is in this process, l2 in Redis";
        add(r, "cache_hits", help, None, &self.cache_hits.family);
        add(r, "cache_misses", "Documents that no level of the cache knew", None, &self.cache_misses);
        add(r, "cache_errors", "Calls that the cache failed", None, &self.cache_errors);
        let invalidations = "Documents that Redis said have changed since this process read them from it, after which it reads them anew";
        add(r, "cache_l1_invalidations", invalidations, None, &self.l1_invalidations);
        let bytes = "What this process keeps of what it read from Redis";
        add(r, "cache_l1", bytes, Some(Unit::Bytes), &self.l1_bytes);
        let shared = "Documents that were missed and came with a read which another request had begun";
        add(r, "shared_reads", shared, None, &self.shared_reads);
        let early =
            "Documents that were read from the database before Redis forgot them, since they are read often";
        add(r, "early_refreshes", early, None, &self.early_refreshes);
        let journal =
            "Documents that were missed and read from the journal, where they wait for the database";
        add(r, "journal_reads", journal, None, &self.journal_reads);
        add(r, "store_reads", "Documents asked of the database", None, &self.store_reads);
    }

    fn register_worker(&self, r: &mut Registry) {
        let seconds = Some(Unit::Seconds);
        add(r, "worker_batches", "Batches written", None, &self.worker_batches);
        add(r, "worker_stored", "Documents written", None, &self.worker_stored);
        let superseded = "Documents that were there already, or newer";
        add(r, "worker_superseded", superseded, None, &self.worker_superseded);
        let coalesced = "Writes saved by another one to the same document";
        add(r, "worker_coalesced", coalesced, None, &self.worker_coalesced);
        add(
            r,
            "worker_dead",
            "Dead letters: writes refused by the database for good",
            None,
            &self.worker_dead,
        );
        add(r, "worker_retries", "Batches tried again", None, &self.worker_retries);
        add(r, "worker_batch_writes", "Documents in a batch", None, &self.worker_batch_writes);
        let bytes = "Size of a batch in the journal";
        add(r, "worker_batch", bytes, Some(Unit::Bytes), &self.worker_batch_bytes);
        let apply = "Time to write a batch, waits for the governor and retries included";
        add(r, "worker_apply_duration", apply, seconds, &self.worker_apply_seconds);
        add(r, "worker_shards", "Shards that this process owns", None, &self.worker_shards);
        let limit = "Writes that a batch may have now; it follows the backlog, and halves when the database is overloaded";
        add(r, "worker_batch_limit", limit, None, &self.worker_batch_limit);
    }

    fn register_database(&self, r: &mut Registry) {
        let operations = "Database operations since the start";
        add(r, "database_operations", operations, None, &self.database_operations);
        let peak = "Most database operations that were started within one second, by all processes that share the limit";
        add(r, "database_operations_peak", peak, None, &self.database_operations_peak);
        let limit = "Database operations that may start in a second, of all processes that share the limit: the lowest of those that `database_ops` and `database_iops` ask for";
        add(r, "database_operations_limit", limit, None, &self.database_operations_limit);
        let wait = "Time that a database operation waited for the governor; without those that went at once";
        add(r, "governor_wait", wait, Some(Unit::Seconds), &self.governor_wait_seconds);
        let device = "I/O operations of the database's device in the last second, by whomever; NaN where this process does not read them";
        add(r, "database_device_operations_per_second", device, None, &self.device_operations_per_second);
        let failures = "Times that the database's device could not be read";
        add(r, "database_device_read_failures", failures, None, &self.device_read_failures);
    }

    /// In the text format of OpenMetrics 1.0.
    ///
    /// # Errors
    /// A metric cannot be written.
    pub fn render(&self, database: DatabaseFigures) -> Result<String, std::fmt::Error> {
        self.database_operations.inner().store(database.operations, Ordering::Relaxed);
        self.database_operations_peak.set(database.peak.into());
        self.database_operations_limit.set(database.limit.into());
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn add(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>, metric: &(impl Metric + Clone)) {
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, metric.clone()),
        None => registry.register(name, help, metric.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    /// The table of METRICS.md, from what the registry itself says.
    fn table(metrics: &Metrics) -> String {
        let text = metrics.render(DatabaseFigures { operations: 0, peak: 0, limit: 0 }).unwrap();
        let mut table = String::from("| Metric | Type | Unit | Meaning |\n|---|---|---|---|\n");
        for help in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let (name, meaning) = help.split_once(' ').unwrap();
            let said = |keyword: &str| {
                let start = format!("# {keyword} {name} ");
                text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or("").to_owned()
            };
            let kind = said("TYPE");
            let suffix = match kind.as_str() {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            writeln!(table, "| `{name}{suffix}` | {kind} | {} | {meaning} |", said("UNIT")).unwrap();
        }
        table
    }

    #[test]
    fn the_list_of_metrics_is_that_of_the_registry() {
        let head = "# Metrics of the service\n\n`GET /metrics` of each process, in the text format of OpenMetrics 1.0. Histograms have `_bucket`, `_sum` and `_count`.\nA test keeps this list: `UPDATE_METRICS=1 cargo test -p scalekit-service --lib list_of_metrics`.\n\n";
        let generated = format!("{head}{}", table(&Metrics::default()));
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/METRICS.md");
        if std::env::var_os("UPDATE_METRICS").is_some() {
            std::fs::write(path, &generated).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(kept, generated, "run it again with UPDATE_METRICS=1");
        assert!(generated.lines().count() > 30, "{generated}");
    }
}
