//! The one-second series. Each thread keeps the second it is in and hands it over when it has passed; the
//! coordinator merges the threads' parts of a second, shows the whole to whoever wants it, and keeps only one row.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;

use super::clock::{Nanos, SECOND};
use super::exchange::Times;
use super::latencies::Latencies;
use super::recorder::to_micros;

/// One second of the measured part: the requests that ended in it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Second {
    /// From the start of the measured part. Requests that were in flight at its end lie beyond its duration.
    pub(crate) index: u32,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// Of the total duration; `None` if no request ended in this second.
    pub(crate) latency: Option<SecondLatency>,
    /// Users whose last request brought a response, at the second's end.
    pub(crate) users: u32,
}

/// Total durations within a second, to three significant digits (the maximum is exact).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SecondLatency {
    pub(crate) p50: Duration,
    pub(crate) p95: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

/// A second of the measured part that every thread has left. Seconds come in order, each once; those of a run
/// add up to its totals.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompleteSecond<'a> {
    /// When the measured part began.
    pub(crate) measured_since: SystemTime,
    pub(crate) row: &'a Second,
    latencies: &'a Latencies,
}

impl CompleteSecond<'_> {
    /// Metrics by name with their histograms of microseconds.
    pub(crate) fn latencies(&self) -> [(&'static str, &Histogram<u32>); 2] {
        self.latencies.named()
    }
}

/// One thread's part of one second. Seconds before the measured part have negative indices.
#[derive(Debug)]
pub(super) struct Interval {
    index: i64,
    requests: u64,
    failed: u64,
    users: u32,
    max_micros: u64,
    latencies: Option<Box<Latencies>>,
}

impl Interval {
    fn empty(index: i64) -> Self {
        Self { index, requests: 0, failed: 0, users: 0, max_micros: 0, latencies: None }
    }
}

/// The second that `at` falls into, counted from the start of the measured part.
pub(super) fn second_of(at: Nanos, measure_start: Nanos) -> i64 {
    if at >= measure_start {
        i64::try_from((at - measure_start) / SECOND).unwrap_or(i64::MAX)
    } else {
        -i64::try_from((measure_start - at).div_ceil(SECOND)).unwrap_or(i64::MAX)
    }
}

/// A thread's current second.
#[derive(Debug)]
pub(super) struct IntervalRecorder {
    current: Interval,
}

impl IntervalRecorder {
    pub(super) fn new(index: i64) -> Self {
        Self { current: Interval::empty(index) }
    }

    /// Moves on to the second `index`; returns the one that thereby ended, if it did.
    pub(super) fn advance(&mut self, index: i64, users: u32) -> Option<Interval> {
        if index <= self.current.index {
            return None;
        }
        self.current.users = users;
        Some(std::mem::replace(&mut self.current, Interval::empty(index)))
    }

    pub(super) fn record(&mut self, times: &Times, failed: bool) {
        let current = &mut self.current;
        current.requests += 1;
        current.failed += u64::from(failed);
        current.max_micros = current.max_micros.max(to_micros(times.total()));
        // Allocates once a second, not once a request.
        current.latencies.get_or_insert_with(|| Box::new(Latencies::new())).record(times);
    }

    pub(super) fn finish(mut self, users: u32) -> Interval {
        self.current.users = users;
        self.current
    }
}

/// Merges the threads' intervals into rows.
pub(super) struct SeriesBuilder<'a> {
    /// For each thread the last second it has handed over.
    latest: Vec<i64>,
    pending: BTreeMap<i64, Interval>,
    rows: Vec<Second>,
    last_p95: Option<Duration>,
    measured_since: SystemTime,
    on_second: &'a mut dyn FnMut(&CompleteSecond),
    /// Of the seconds without a request.
    none: Latencies,
}

impl<'a> SeriesBuilder<'a> {
    /// `on_second` is shown each second of the measured part, which began at `measured_since`.
    pub(super) fn new(
        threads: usize,
        measured_since: SystemTime,
        on_second: &'a mut dyn FnMut(&CompleteSecond),
    ) -> Self {
        Self {
            latest: vec![i64::MIN; threads],
            pending: BTreeMap::new(),
            rows: Vec::new(),
            last_p95: None,
            measured_since,
            on_second,
            none: Latencies::new(),
        }
    }

    pub(super) fn add(&mut self, thread: usize, interval: Interval) {
        self.latest[thread] = self.latest[thread].max(interval.index);
        match self.pending.get_mut(&interval.index) {
            None => {
                self.pending.insert(interval.index, interval);
            }
            Some(merged) => {
                merged.requests += interval.requests;
                merged.failed += interval.failed;
                merged.users += interval.users;
                merged.max_micros = merged.max_micros.max(interval.max_micros);
                match (&mut merged.latencies, interval.latencies) {
                    (Some(mine), Some(theirs)) => mine.add(&theirs),
                    (mine @ None, theirs) => *mine = theirs,
                    (Some(_), None) => {}
                }
            }
        }
        let complete = self.latest.iter().copied().min().unwrap_or(i64::MIN);
        while let Some(entry) = self.pending.first_entry()
            && *entry.key() <= complete
        {
            let interval = entry.remove();
            self.settle(&interval);
        }
    }

    /// The 95th percentile of the last complete second, warm-up included.
    pub(super) fn last_p95(&self) -> Option<Duration> {
        self.last_p95
    }

    pub(super) fn finish(mut self) -> Vec<Second> {
        for interval in std::mem::take(&mut self.pending).into_values() {
            self.settle(&interval);
        }
        self.rows
    }

    fn settle(&mut self, interval: &Interval) {
        let latency = interval.latencies.as_ref().map(|latencies| {
            let histogram = latencies.total();
            // A quantile is its bucket's upper end, which may lie above the exact maximum.
            let at = |quantile| {
                Duration::from_micros(histogram.value_at_quantile(quantile).min(interval.max_micros))
            };
            SecondLatency {
                p50: at(0.5),
                p95: at(0.95),
                p99: at(0.99),
                max: Duration::from_micros(interval.max_micros),
            }
        });
        self.last_p95 = latency.map(|latency| latency.p95);
        if let Ok(index) = u32::try_from(interval.index) {
            let Interval { requests, failed, users, .. } = *interval;
            let row = Second { index, requests, failed, latency, users };
            let latencies = interval.latencies.as_deref().unwrap_or(&self.none);
            (self.on_second)(&CompleteSecond { measured_since: self.measured_since, row: &row, latencies });
            self.rows.push(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    /// A request that was sent a millisecond after it was meant to be.
    fn times(total: Nanos) -> Times {
        Times { connected: Some(MS), sent: Some(MS), ended: total, ..Times::default() }
    }

    #[test]
    fn seconds_count_from_the_measured_part() {
        for (at, start, expected) in [
            (0, 0, 0),
            (999 * MS, 0, 0),
            (SECOND, 0, 1),
            (0, SECOND, -1),
            (SECOND - 1, SECOND, -1),
            (SECOND, SECOND, 0),
            (0, 1500 * MS, -2),
            (500 * MS, 1500 * MS, -1),
        ] {
            assert_eq!(second_of(at, start), expected, "{at} from {start}");
        }
    }

    #[test]
    fn rows_merge_threads_and_leave_out_the_warm_up() {
        let measured_since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let mut seen = Vec::new();
        let mut on_second = |second: &CompleteSecond| {
            assert_eq!(second.measured_since, measured_since);
            let lengths = second.latencies().map(|(_, histogram)| histogram.len());
            assert_eq!(lengths, [second.row.requests; 2]);
            seen.push((
                second.row.index,
                second.latencies().map(|(name, histogram)| (name, histogram.max())),
            ));
        };
        let mut builder = SeriesBuilder::new(2, measured_since, &mut on_second);
        let mut threads = [IntervalRecorder::new(-1), IntervalRecorder::new(-1)];
        for (thread, recorder) in threads.iter_mut().enumerate() {
            recorder.record(&times(7 * MS), false);
            builder.add(thread, recorder.advance(0, 1).unwrap());
            assert!(recorder.advance(0, 1).is_none());
        }
        assert_eq!(builder.last_p95(), Some(Duration::from_millis(7)));
        threads[0].record(&times(10 * MS), false);
        threads[1].record(&times(100 * MS), true);
        builder.add(0, threads[0].advance(2, 3).unwrap());
        assert!(builder.rows.is_empty(), "the other thread is still in that second");
        builder.add(1, threads[1].advance(1, 4).unwrap());
        assert_eq!(builder.rows.len(), 1);

        let [first, second] = threads;
        builder.add(0, first.finish(3));
        builder.add(1, second.finish(4));
        let rows = builder.finish();
        assert_eq!(
            rows.iter().map(|row| (row.index, row.requests, row.failed, row.users)).collect::<Vec<_>>(),
            [(0, 2, 1, 7), (1, 0, 0, 4), (2, 0, 0, 3)]
        );
        let latency = rows[0].latency.unwrap();
        assert_eq!(latency.max, Duration::from_millis(100));
        assert!(latency.p50.abs_diff(Duration::from_millis(10)) <= Duration::from_micros(10));
        assert_eq!(rows[1].latency, None);
        let [total, duration] = seen[0].1;
        assert_eq!((seen.len(), total.0, duration.0), (3, "http_req_total_duration", "http_req_duration"));
        // To three digits.
        assert!(total.1.abs_diff(100_000) < 100 && duration.1.abs_diff(99_000) < 100, "{seen:?}");
        assert_eq!(seen[1].1.map(|(_, max)| max), [0, 0], "a second without a request is shown all the same");
    }
}
