//! One thread's measurements: histograms and counters of constant size, merged once at the end.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::clock::Nanos;
use super::exchange::{Exchange, Stages, Times};
use super::outcome::{Failure, Outcome};
use super::series::Interval;
use super::trends::{HIGHEST_MICROS, Trend, Trends, to_micros, trend};

/// Counters and trends of the measured part. Each request is recorded in as few histograms as tell everything: what
/// follows from others is brought up to date by [`Recorder::absorb`] and [`Recorder::derive`], once a second or once.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    pub(super) trends: Trends,
    /// Requests on a connection that was there already, which spent no time on getting one: not yet in the trends.
    kept: u64,
    pub(super) requests: u64,
    pub(super) failed: u64,
    by_status: Box<[u64; 1000]>,
    by_failure: [u64; Failure::ALL.len()],
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    /// Values above the histograms' range, recorded at its end.
    pub(super) clamped: u64,
    pub(super) iterations: u64,
    pub(super) steps: Vec<StepRecorder>,
}

/// What is kept of each step of an iteration.
#[derive(Clone, Debug)]
pub(super) struct StepRecorder {
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// `http_req_total_duration` and `http_req_duration`.
    pub(super) total: Trend,
    pub(super) duration: Trend,
    /// How often each check was met, and how often not.
    pub(super) checks: Vec<[u64; 2]>,
}

impl StepRecorder {
    fn new(checks: usize) -> Self {
        let (total, duration) = (trend(), trend());
        Self { requests: 0, failed: 0, total, duration, checks: vec![[0; 2]; checks] }
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.total.add(&other.total).expect("histograms of equal bounds");
        self.duration.add(&other.duration).expect("histograms of equal bounds");
        for (mine, theirs) in self.checks.iter_mut().zip(&other.checks) {
            mine[0] += theirs[0];
            mine[1] += theirs[1];
        }
    }
}

impl Recorder {
    /// For steps with so many checks each.
    pub(super) fn new(checks: &[usize]) -> Self {
        Self {
            trends: Trends::new(),
            kept: 0,
            requests: 0,
            failed: 0,
            by_status: Box::new([0; 1000]),
            by_failure: [0; Failure::ALL.len()],
            bytes_sent: 0,
            bytes_received: 0,
            clamped: 0,
            iterations: 0,
            steps: checks.iter().map(|&checks| StepRecorder::new(checks)).collect(),
        }
    }

    /// Records an iteration of the measured part.
    pub(super) fn record_iteration(&mut self, length: Nanos) {
        self.iterations += 1;
        let micros = to_micros(length);
        self.clamped += u64::from(micros > HIGHEST_MICROS);
        record(&mut self.trends.iteration, micros);
    }

    /// Records a request of the measured part, and whether each check of its step was met.
    pub(super) fn record(&mut self, exchange: &Exchange, step: u16, met: impl Iterator<Item = bool>) {
        let Exchange { times, outcome, .. } = exchange;
        let stages = times.stages();
        let failed = outcome.failed();
        self.requests += 1;
        self.failed += u64::from(failed);
        self.bytes_sent += exchange.bytes_sent;
        self.bytes_received += exchange.bytes_received;
        match outcome {
            Outcome::Response(status) => self.by_status[usize::from(*status).min(999)] += 1,
            Outcome::Failed(failure) => self.by_failure[*failure as usize] += 1,
        }
        let total = to_micros(times.total());
        // No part of a request is longer than the whole.
        if total > HIGHEST_MICROS {
            self.clamped += beyond(times, &stages);
        }
        let trends = &mut self.trends;
        if failed {
            record(&mut trends.total_failed, total);
        }
        if times.connect_started.is_some() {
            record(&mut trends.blocked, to_micros(stages.blocked));
            record(&mut trends.connecting, to_micros(stages.connecting));
            record(&mut trends.tls_handshaking, to_micros(stages.tls_handshaking));
        } else {
            self.kept += 1;
        }
        record(&mut trends.sending, to_micros(stages.sending));
        record(&mut trends.waiting, to_micros(stages.waiting));
        record(&mut trends.receiving, to_micros(stages.receiving));
        record(&mut trends.lag, to_micros(times.lag()));
        let only = self.steps.len() == 1;
        let step = &mut self.steps[usize::from(step)];
        step.requests += 1;
        step.failed += u64::from(failed);
        for (check, met) in step.checks.iter_mut().zip(met) {
            check[usize::from(!met)] += 1;
        }
        // The trends of an only step are those of the whole.
        if !only {
            record(&mut step.total, total);
            record(&mut step.duration, to_micros(stages.duration()));
        }
    }

    /// Adds a second's latencies, from the intended start and from the send, to the trends. Every request of the measured
    /// part is in exactly one such second.
    pub(super) fn absorb(&mut self, second: &Interval) {
        let Some(latencies) = second.measured() else { return };
        add_up(&mut self.trends.total, latencies.total());
        add_up(&mut self.trends.duration, latencies.duration());
    }

    /// Brings all trends up to date. All requests so far must be in seconds that were absorbed.
    pub(super) fn derive(&mut self) {
        let trends = &mut self.trends;
        for trend in [&mut trends.blocked, &mut trends.connecting, &mut trends.tls_handshaking] {
            trend.saturating_record_n(0, self.kept);
        }
        self.kept = 0;
        trends.total_succeeded.clone_from(&trends.total);
        trends.total_succeeded.subtract(&trends.total_failed).expect("all that failed is in the total");
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.trends.add(&other.trends);
        self.requests += other.requests;
        self.failed += other.failed;
        self.by_status.iter_mut().zip(other.by_status.iter()).for_each(|(mine, theirs)| *mine += theirs);
        self.by_failure.iter_mut().zip(other.by_failure).for_each(|(mine, theirs)| *mine += theirs);
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.clamped += other.clamped;
        self.iterations += other.iterations;
        self.steps.iter_mut().zip(&other.steps).for_each(|(mine, theirs)| mine.add(theirs));
    }

    /// Checks that were met, and all that were made.
    pub(super) fn checks(&self) -> [u64; 2] {
        let counts = self.steps.iter().flat_map(|step| &step.checks);
        counts.fold([0, 0], |[met, all], [passes, fails]| [met + passes, all + passes + fails])
    }

    pub(super) fn by_status(&self) -> BTreeMap<u16, u64> {
        (0u16..).zip(self.by_status.iter().copied()).filter(|&(_, count)| count > 0).collect()
    }

    pub(super) fn by_failure(&self) -> BTreeMap<Failure, u64> {
        Failure::ALL.into_iter().zip(self.by_failure).filter(|&(_, count)| count > 0).collect()
    }
}

/// The histogram's own end lies at the next power of two; clamping here makes it 60 s.
fn record(trend: &mut Trend, micros: u64) {
    trend.saturating_record(micros.min(HIGHEST_MICROS));
}

/// Adds a histogram of the same bounds but narrower counters.
fn add_up(trend: &mut Trend, seconds: &Histogram<u32>) {
    for bucket in seconds.iter_recorded() {
        trend.saturating_record_n(bucket.value_iterated_to(), bucket.count_at_value().into());
    }
}

/// How many of a request's values lie above the histograms' range.
fn beyond(times: &Times, stages: &Stages) -> u64 {
    let Stages { blocked, connecting, tls_handshaking, sending, waiting, receiving } = *stages;
    // The total counts for the trend of all and for that of the successes or failures.
    [
        times.total(),
        times.total(),
        stages.duration(),
        blocked,
        connecting,
        tls_handshaking,
        sending,
        waiting,
        receiving,
        times.lag(),
    ]
    .into_iter()
    .filter(|&value| to_micros(value) > HIGHEST_MICROS)
    .count() as u64
}

#[cfg(test)]
impl Recorder {
    /// Records a request as the only one of a second of its own, and brings the trends up to date.
    pub(super) fn record_alone(&mut self, exchange: &Exchange, met: impl Iterator<Item = bool>) {
        let mut second = super::series::IntervalRecorder::new(0, 1);
        self.record(exchange, 0, met);
        second.record(&exchange.times, 0, exchange.outcome.failed());
        self.absorb(&second.finish(1));
        self.derive();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::exchange::Times;
    use super::*;

    fn exchange(total_micros: u64, outcome: Outcome) -> Exchange {
        let times = Times {
            connected: Some(0),
            sent: Some(0),
            first_byte: Some(0),
            ended: total_micros * 1000,
            ..Times::default()
        };
        Exchange { times, outcome, bytes_sent: 10, bytes_received: 20, body_has: false }
    }

    #[test]
    fn what_exceeds_the_range_is_clamped_and_counted() {
        let mut recorder = Recorder::new(&[0]);
        recorder.record_alone(&exchange(60_000_000, Outcome::Response(200)), std::iter::empty());
        assert_eq!(recorder.clamped, 0);
        recorder.record_alone(&exchange(61_000_000, Outcome::Response(200)), std::iter::empty());
        // Duration, total, total of successes and receiving.
        assert_eq!(recorder.clamped, 4);
        assert!(recorder.trends.total.max().abs_diff(HIGHEST_MICROS) <= HIGHEST_MICROS / 1000);
    }

    #[test]
    fn failures_index_their_own_counter() {
        let mut recorder = Recorder::new(&[0]);
        for (count, failure) in (1u64..).zip(Failure::ALL) {
            (0..count).for_each(|_| {
                recorder.record_alone(&exchange(1, Outcome::Failed(failure)), std::iter::empty())
            });
        }
        let expected: BTreeMap<_, _> = Failure::ALL.into_iter().zip(1u64..).collect();
        assert_eq!(recorder.by_failure(), expected);
        assert_eq!(recorder.trends.total_failed.len(), recorder.failed);
    }

    proptest! {
        // Each case fills ten recorders of a megabyte.
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn merged_parts_equal_the_whole(
            values in prop::collection::vec((0u64..70_000_000, 200u16..600, 0usize..4), 1..60),
        ) {
            let mut whole = Recorder::new(&[0]);
            let mut parts = [(); 4].map(|()| Recorder::new(&[0]));
            for &(micros, status, part) in &values {
                let exchange = exchange(micros, Outcome::Response(status));
                whole.record_alone(&exchange, std::iter::empty());
                parts[part].record_alone(&exchange, std::iter::empty());
            }
            let mut merged = Recorder::new(&[0]);
            parts.iter().for_each(|part| merged.add(part));
            for ((name, one), (_, other)) in whole.trends.named().iter().zip(merged.trends.named()) {
                prop_assert!(*one == other, "{}", name);
            }
            prop_assert_eq!(whole.by_status(), merged.by_status());
            prop_assert_eq!(
                (whole.requests, whole.failed, whole.bytes_sent, whole.clamped),
                (merged.requests, merged.failed, merged.bytes_sent, merged.clamped)
            );
            // Against an exact sort, within the precision of three digits.
            let mut sorted: Vec<u64> = values.iter().map(|value| value.0.min(HIGHEST_MICROS)).collect();
            sorted.sort_unstable();
            let median = sorted[(sorted.len() - 1) / 2];
            prop_assert!(merged.trends.total.value_at_quantile(0.5).abs_diff(median) <= 1 + median / 1000);
        }
    }
}
