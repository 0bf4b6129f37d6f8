//! What a server saw, by its own count and its own clock.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

#[derive(Debug)]
pub(crate) struct Log {
    connections: AtomicU64,
    started: AtomicU64,
    finished: AtomicU64,
    sent_bytes: AtomicU64,
    /// Of all connections, each from its first request to its last answer.
    span_nanos: AtomicU64,
    frozen_nanos: AtomicU64,
    /// From the arrival of a whole request to the first byte of its answer, in µs, rounded down.
    latencies: Mutex<Histogram<u64>>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            connections: AtomicU64::default(),
            started: AtomicU64::default(),
            finished: AtomicU64::default(),
            sent_bytes: AtomicU64::default(),
            span_nanos: AtomicU64::default(),
            frozen_nanos: AtomicU64::default(),
            // The generator's own bounds and precision.
            latencies: Mutex::new(Histogram::new_with_bounds(1, 60_000_000, 3).unwrap()),
        }
    }
}

impl Log {
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// Requests that arrived whole.
    pub(crate) fn requests(&self) -> u64 {
        self.started.load(Ordering::SeqCst)
    }

    /// Requests that were dealt with as was meant, whatever that was.
    pub(crate) fn dealt_with(&self) -> u64 {
        self.finished.load(Ordering::SeqCst)
    }

    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::SeqCst)
    }

    /// Latency by the server's own clock, in ms.
    pub(crate) fn percentile_ms(&self, percent: f64) -> f64 {
        self.latencies.lock().unwrap().value_at_percentile(percent) as f64 / 1000.0
    }

    /// The time that the connections' first requests and last answers are apart, in ms: all connections together.
    pub(crate) fn span_ms(&self) -> f64 {
        self.span_nanos.load(Ordering::SeqCst) as f64 / 1e6
    }

    /// How long it stood still because it was told to, in ms: at least as long as it was told.
    pub(crate) fn frozen_ms(&self) -> f64 {
        self.frozen_nanos.load(Ordering::SeqCst) as f64 / 1e6
    }

    /// A connection goes on from one of its moments to the next.
    pub(super) fn passed(&self, time: Duration) {
        self.span_nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::SeqCst);
    }

    pub(super) fn froze(&self, time: Duration) {
        self.frozen_nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::SeqCst);
    }

    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts a request and returns its number.
    pub(super) fn started(&self) -> u64 {
        self.started.fetch_add(1, Ordering::SeqCst)
    }

    pub(super) fn answering(&self, after: Duration) {
        let micros = u64::try_from(after.as_micros()).unwrap();
        self.latencies.lock().unwrap().saturating_record(micros);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::SeqCst);
    }

    pub(super) fn finished(&self) {
        self.finished.fetch_add(1, Ordering::SeqCst);
    }
}
