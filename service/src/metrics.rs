//! Counters of one process: rendered for Prometheus by `/metrics` and as JSON by `/v1/stats`, from the same
//! numbers.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusLabel {
    pub status: u16,
}

/// All of them. Counters only grow; gauges are set when they are asked for.
pub struct Metrics {
    pub registry: Registry,
    pub requests: Family<StatusLabel, Counter>,
    pub connections: Gauge,
    pub request_seconds: Histogram,
    pub journal_append_seconds: Histogram,
    pub journal_appended: Counter,
    pub journal_repeated: Counter,
    pub accepted_writes: Counter,
    pub cache_hits: Counter,
    pub cache_misses: Counter,
    pub cache_errors: Counter,
    pub store_reads: Counter,
    pub worker_batches: Counter,
    pub worker_stored: Counter,
    pub worker_superseded: Counter,
    pub worker_coalesced: Counter,
    pub worker_dead: Counter,
    pub worker_retries: Counter,
    pub worker_batch_writes: Histogram,
    pub worker_apply_seconds: Histogram,
    pub database_operations: Gauge<u64, AtomicU64>,
    pub database_operations_peak: Gauge,
    pub backlog_entries: Gauge<u64, AtomicU64>,
    pub backlog_age_seconds: Gauge<f64, AtomicU64>,
}

/// From 0.1 ms to about 13 s, doubling.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.0, 18))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("scalekit"),
            requests: Family::default(),
            connections: Gauge::default(),
            request_seconds: seconds(),
            journal_append_seconds: seconds(),
            journal_appended: Counter::default(),
            journal_repeated: Counter::default(),
            accepted_writes: Counter::default(),
            cache_hits: Counter::default(),
            cache_misses: Counter::default(),
            cache_errors: Counter::default(),
            store_reads: Counter::default(),
            worker_batches: Counter::default(),
            worker_stored: Counter::default(),
            worker_superseded: Counter::default(),
            worker_coalesced: Counter::default(),
            worker_dead: Counter::default(),
            worker_retries: Counter::default(),
            worker_batch_writes: Histogram::new(exponential_buckets(1.0, 2.0, 14)),
            worker_apply_seconds: seconds(),
            database_operations: Gauge::default(),
            database_operations_peak: Gauge::default(),
            backlog_entries: Gauge::default(),
            backlog_age_seconds: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("http_requests", "Requests answered, by status", self.requests.clone());
        r.register("http_connections", "Open client connections", self.connections.clone());
        r.register_with_unit(
            "http_request",
            "Time to answer a request",
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        r.register_with_unit(
            "journal_append",
            "Time until an append is durable",
            Unit::Seconds,
            self.journal_append_seconds.clone(),
        );
        r.register("journal_appended", "Requests appended to the journal", self.journal_appended.clone());
        r.register(
            "journal_repeated",
            "Requests that the journal had already",
            self.journal_repeated.clone(),
        );
        r.register("accepted_writes", "Writes acknowledged with 202", self.accepted_writes.clone());
        r.register("cache_hits", "Documents read from the cache", self.cache_hits.clone());
        r.register("cache_misses", "Documents that the cache did not know", self.cache_misses.clone());
        r.register("cache_errors", "Calls that the cache failed", self.cache_errors.clone());
        r.register("store_reads", "Documents read from the database", self.store_reads.clone());
        r.register("worker_batches", "Batches written", self.worker_batches.clone());
        r.register("worker_stored", "Documents written", self.worker_stored.clone());
        r.register(
            "worker_superseded",
            "Documents that were there already, or newer",
            self.worker_superseded.clone(),
        );
        r.register(
            "worker_coalesced",
            "Writes saved by another one to the same document",
            self.worker_coalesced.clone(),
        );
        r.register("worker_dead", "Writes refused by the database for good", self.worker_dead.clone());
        r.register("worker_retries", "Batches tried again", self.worker_retries.clone());
        r.register("worker_batch_writes", "Documents in a batch", self.worker_batch_writes.clone());
        r.register_with_unit(
            "worker_apply",
            "Time to write a batch",
            Unit::Seconds,
            self.worker_apply_seconds.clone(),
        );
        r.register(
            "database_operations",
            "Database operations since the start",
            self.database_operations.clone(),
        );
        r.register(
            "database_operations_peak",
            "Most database operations that the worker started within one second",
            self.database_operations_peak.clone(),
        );
        r.register(
            "journal_backlog_entries",
            "Entries that wait for the database",
            self.backlog_entries.clone(),
        );
        r.register_with_unit(
            "journal_backlog_age",
            "Age of the oldest entry that waits",
            Unit::Seconds,
            self.backlog_age_seconds.clone(),
        );
    }

    pub fn answered(&self, status: u16) {
        self.requests.get_or_create(&StatusLabel { status }).inc();
    }
}
