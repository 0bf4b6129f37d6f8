//! A histogram of two atomic additions an observation. That of the Prometheus client takes a lock, which all threads
//! that answer requests would share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// What is counted, and where its buckets end (inclusive).
#[derive(Debug)]
pub struct Scale {
    /// In the unit of an observation.
    bounds: &'static [u64],
    /// Of an observation, in the exported unit.
    unit: f64,
}

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

/// Observed in nanoseconds, exported in seconds. From 50 us, what a flush to a fast device takes, to 10 s, which
/// is when requests time out.
pub static SECONDS: Scale = Scale {
    bounds: &[
        50 * US,
        100 * US,
        250 * US,
        500 * US,
        MS,
        2 * MS + 500 * US,
        5 * MS,
        10 * MS,
        25 * MS,
        50 * MS,
        100 * MS,
        250 * MS,
        500 * MS,
        S,
        2 * S + 500 * MS,
        5 * S,
        10 * S,
    ],
    unit: 1e-9,
};

/// Numbers of things in a batch.
pub static COUNT: Scale =
    Scale { bounds: &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000], unit: 1.0 };

/// Sizes of a batch: from 1 KiB to 64 MiB, times four.
pub static BYTES: Scale = Scale {
    bounds: &[1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26],
    unit: 1.0,
};

/// Clones count into the same buckets.
#[derive(Clone)]
pub struct Histogram(Arc<Buckets>);

struct Buckets {
    scale: &'static Scale,
    /// One more than bounds: the last takes what is above them all.
    counts: Box<[AtomicU64]>,
    /// Of all observations. Nanoseconds of five hundred years fit.
    sum: AtomicU64,
}

impl Histogram {
    #[must_use]
    pub fn new(scale: &'static Scale) -> Self {
        let counts = (0..=scale.bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Buckets { scale, counts, sum: AtomicU64::new(0) }))
    }

    pub fn observe(&self, value: u64) {
        let Buckets { scale, counts, sum } = &*self.0;
        let bucket = scale.bounds.partition_point(|bound| *bound < value);
        counts[bucket].fetch_add(1, Ordering::Relaxed);
        sum.fetch_add(value, Ordering::Relaxed);
    }

    /// For a histogram of [`SECONDS`].
    pub fn observe_time(&self, time: Duration) {
        self.observe(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Of all observations, in the unit that they were made in.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.0.sum.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram").field("count", &self.count()).field("sum", &self.sum()).finish()
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        let Buckets { scale, counts, .. } = &*self.0;
        let ends = scale.bounds.iter().map(|bound| *bound as f64 * scale.unit).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            ends.zip(counts.iter().map(|count| count.load(Ordering::Relaxed))).collect();
        // From the very numbers of the buckets, so that the last of them is the count.
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum() as f64 * scale.unit, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        for (micros, bucket) in
            [(0, 0), (50, 0), (51, 1), (100, 1), (1_000, 4), (10_000_000, 16), (11_000_000, 17)]
        {
            let histogram = Histogram::new(&SECONDS);
            histogram.observe_time(Duration::from_micros(micros));
            let counts: Vec<u64> =
                histogram.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
            let hit: Vec<usize> = (0..counts.len()).filter(|at| counts[*at] == 1).collect();
            assert_eq!((hit, histogram.sum()), (vec![bucket], micros * 1000), "{micros} us");
        }
    }

    #[test]
    fn threads_lose_nothing() {
        let histogram = Histogram::new(&COUNT);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|n| histogram.observe(n % 7)));
            }
        });
        assert_eq!(histogram.count(), 40_000);
        assert_eq!(histogram.sum(), 4 * (0..10_000_u64).map(|n| n % 7).sum::<u64>());
    }

    #[test]
    fn bounds_rise() {
        for scale in [&SECONDS, &COUNT, &BYTES] {
            assert!(scale.bounds.is_sorted_by(|a, b| a < b), "{scale:?}");
        }
    }
}
