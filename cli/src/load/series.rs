//! The one-second series. Each thread keeps the second it is in and hands it over when it has passed; the
//! coordinator merges the threads' parts of a second, shows the whole to whoever wants it, and keeps only one row.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::clock::{Nanos, SECOND};
use super::exchange::Times;
use super::latencies::Latencies;
use super::trends::to_micros;

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

/// One thread's or one machine's part of one second, or the whole. Seconds before the measured part have negative
/// indices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Interval {
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

    /// Which second of the measured part it is; `None` if it is of the warm-up.
    pub(crate) fn index(&self) -> Option<u32> {
        u32::try_from(self.index).ok()
    }

    /// Its latencies, if it is of the measured part and any request ended in it.
    pub(super) fn measured(&self) -> Option<&Latencies> {
        self.latencies.as_deref().filter(|_| self.index >= 0)
    }

    /// Histograms of microseconds by metric; `None` if no request ended in this second.
    pub(crate) fn latencies(&self) -> Option<[(&'static str, &Histogram<u32>); 2]> {
        self.latencies.as_deref().map(Latencies::named)
    }

    /// `http_req_total_duration` in µs of the step of this index, where there are several; `None` if no request of it
    /// ended in this second.
    pub(crate) fn step(&self, step: usize) -> Option<&Histogram<u32>> {
        self.latencies.as_ref()?.step(step)
    }

    /// How many histograms it holds, of 70 KB each, or of a few kB on their way to another machine.
    pub(crate) fn histograms(&self) -> usize {
        self.latencies.as_ref().map_or(0, |latencies| latencies.histograms())
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
    /// There are several steps, and so there are latencies of each.
    by_step: bool,
}

impl IntervalRecorder {
    /// For iterations of so many steps.
    pub(super) fn new(index: i64, steps: usize) -> Self {
        Self { current: Interval::empty(index), by_step: steps > 1 }
    }

    /// Moves on to the second `index`; returns the one that thereby ended, if it did.
    pub(super) fn advance(&mut self, index: i64, users: u32) -> Option<Interval> {
        if index <= self.current.index {
            return None;
        }
        self.current.users = users;
        Some(std::mem::replace(&mut self.current, Interval::empty(index)))
    }

    pub(super) fn record(&mut self, times: &Times, step: u16, failed: bool) {
        let current = &mut self.current;
        current.requests += 1;
        current.failed += u64::from(failed);
        current.max_micros = current.max_micros.max(to_micros(times.total()));
        // Allocates once a second, and once for each step, not once a request.
        let latencies = current.latencies.get_or_insert_with(|| Box::new(Latencies::new()));
        latencies.record(times, self.by_step.then_some(step));
    }

    pub(super) fn finish(mut self, users: u32) -> Interval {
        self.current.users = users;
        self.current
    }
}

/// Merges the intervals of threads, or of machines, into rows.
#[derive(Debug)]
pub(crate) struct SeriesBuilder {
    /// For each thread the last second it has handed over, or the end of time if it has ended.
    latest: Vec<i64>,
    pending: BTreeMap<i64, Interval>,
    rows: Vec<Second>,
    last_p95: Option<Duration>,
}

impl SeriesBuilder {
    pub(crate) fn new(threads: usize) -> Self {
        Self { latest: vec![i64::MIN; threads], pending: BTreeMap::new(), rows: Vec::new(), last_p95: None }
    }

    /// Adds a part of a second; returns the seconds that are complete with it, in order.
    pub(crate) fn add(&mut self, thread: usize, interval: Interval) -> Vec<Interval> {
        self.latest[thread] = self.latest[thread].max(interval.index);
        match self.pending.get_mut(&interval.index) {
            None => {
                self.pending.insert(interval.index, interval);
            }
            Some(merged) => {
                merged.requests = merged.requests.saturating_add(interval.requests);
                merged.failed = merged.failed.saturating_add(interval.failed);
                merged.users = merged.users.saturating_add(interval.users);
                merged.max_micros = merged.max_micros.max(interval.max_micros);
                match (&mut merged.latencies, interval.latencies) {
                    (Some(mine), Some(theirs)) => mine.add(&theirs),
                    (mine @ None, theirs) => *mine = theirs,
                    (Some(_), None) => {}
                }
            }
        }
        self.settle_complete()
    }

    /// Nothing more comes from this thread, and nothing waits for it; returns the seconds that are complete thereby.
    pub(crate) fn end(&mut self, thread: usize) -> Vec<Interval> {
        self.latest[thread] = i64::MAX;
        self.settle_complete()
    }

    fn settle_complete(&mut self) -> Vec<Interval> {
        let mut settled = Vec::new();
        let complete = self.latest.iter().copied().min().unwrap_or(i64::MIN);
        while let Some(entry) = self.pending.first_entry()
            && *entry.key() <= complete
        {
            let interval = entry.remove();
            self.settle(&interval);
            settled.push(interval);
        }
        settled
    }

    /// The 95th percentile of the last complete second, warm-up included.
    pub(crate) fn last_p95(&self) -> Option<Duration> {
        self.last_p95
    }

    /// Takes the remaining seconds as complete; nothing is added after this.
    pub(crate) fn flush(&mut self) -> Vec<Interval> {
        let rest: Vec<_> = std::mem::take(&mut self.pending).into_values().collect();
        rest.iter().for_each(|interval| self.settle(interval));
        rest
    }

    pub(crate) fn finish(mut self) -> Vec<Second> {
        self.flush();
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
        let mut seen = Vec::new();
        let mut builder = SeriesBuilder::new(2);
        let mut threads = [IntervalRecorder::new(-1, 1), IntervalRecorder::new(-1, 1)];
        for (thread, recorder) in threads.iter_mut().enumerate() {
            recorder.record(&times(7 * MS), 0, false);
            seen.extend(builder.add(thread, recorder.advance(0, 1).unwrap()));
            assert!(recorder.advance(0, 1).is_none());
        }
        assert_eq!(builder.last_p95(), Some(Duration::from_millis(7)));
        threads[0].record(&times(10 * MS), 0, false);
        threads[1].record(&times(100 * MS), 0, true);
        seen.extend(builder.add(0, threads[0].advance(2, 3).unwrap()));
        assert!(builder.rows.is_empty(), "the other thread is still in that second");
        seen.extend(builder.add(1, threads[1].advance(1, 4).unwrap()));
        assert_eq!(builder.rows.len(), 1);

        let [first, second] = threads;
        seen.extend(builder.add(0, first.finish(3)));
        seen.extend(builder.add(1, second.finish(4)));
        seen.extend(builder.flush());
        let rows = builder.finish();
        assert_eq!(
            rows.iter().map(|row| (row.index, row.requests, row.failed, row.users)).collect::<Vec<_>>(),
            [(0, 2, 1, 7), (1, 0, 0, 4), (2, 0, 0, 3)]
        );
        let latency = rows[0].latency.unwrap();
        assert_eq!(latency.max, Duration::from_millis(100));
        assert!(latency.p50.abs_diff(Duration::from_millis(10)) <= Duration::from_micros(10));
        assert_eq!(rows[1].latency, None);
        // The warm-up is told too, and seconds without a request.
        assert_eq!(seen.iter().map(Interval::index).collect::<Vec<_>>(), [None, Some(0), Some(1), Some(2)]);
        let [total, duration] = seen[1].latencies().unwrap();
        assert_eq!((total.0, duration.0), ("http_req_total_duration", "http_req_duration"));
        assert_eq!((total.1.len(), duration.1.len()), (2, 2));
        // To three digits.
        assert!(total.1.max().abs_diff(100_000) < 100 && duration.1.max().abs_diff(99_000) < 100);
        assert!(seen[2].latencies().is_none());
        assert!(seen[1].step(0).is_none(), "an only step is the whole");
    }

    #[test]
    fn who_has_ended_is_not_waited_for() {
        let mut builder = SeriesBuilder::new(2);
        let second = |index| IntervalRecorder::new(index, 1).finish(1);
        assert!(builder.add(0, second(0)).is_empty());
        assert!(builder.add(0, second(1)).is_empty());
        assert!(builder.add(1, second(0)).len() == 1);
        let indices = |settled: Vec<Interval>| settled.iter().map(Interval::index).collect::<Vec<_>>();
        assert_eq!(indices(builder.end(1)), [Some(1)]);
        assert_eq!(indices(builder.add(0, second(2))), [Some(2)]);
        assert_eq!(indices(builder.end(0)), []);
        assert_eq!(builder.finish().len(), 3);
    }

    #[test]
    fn steps_add_up_to_the_whole_on_whatever_machine() {
        let mut builder = SeriesBuilder::new(2);
        let mut seen = Vec::new();
        // The second thread has no request of the last step, the first none of the middle one.
        for (thread, requests) in [[(0, 5), (3, 7), (3, 90)], [(0, 6), (1, 8), (0, 70)]].iter().enumerate() {
            let mut recorder = IntervalRecorder::new(0, 4);
            for &(step, millis) in requests {
                recorder.record(&times(millis * MS), step, false);
            }
            let interval = recorder.finish(1);
            let text = serde_json::to_string(&interval).unwrap();
            let travelled: Interval = serde_json::from_str(&text).unwrap();
            assert_eq!(travelled, interval);
            assert_eq!(travelled.histograms(), 4);
            seen.extend(builder.add(thread, travelled));
        }
        let [second] = &seen[..] else { panic!("{}", seen.len()) };
        let counts: Vec<_> = (0..5).map(|step| second.step(step).map(Histogram::len)).collect();
        assert_eq!(counts, [Some(3), Some(1), None, Some(2), None]);
        let mut sum = Histogram::<u32>::new_from(second.step(0).unwrap());
        (0..4).filter_map(|step| second.step(step)).for_each(|step| sum.add(step).unwrap());
        assert_eq!(&sum, second.latencies().unwrap()[0].1);
    }
}
