//! One thread's measurements: histograms and counters of constant size, merged once at the end.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::clock::Nanos;
use super::exchange::Exchange;
use super::outcome::{Failure, Outcome};

/// Values are microseconds.
pub(crate) type Trend = Histogram<u64>;

const HIGHEST_MICROS: u64 = 60_000_000;

/// The trends that every run has, in microseconds: 1 µs to 60 s, three significant digits.
#[derive(Clone, Debug)]
pub(crate) struct Trends {
    /// `http_req_duration`: sending + waiting + receiving.
    pub(crate) duration: Trend,
    /// `http_req_total_duration`: from the intended start to the end, whatever the outcome.
    pub(crate) total: Trend,
    /// The same, of the requests that did not fail.
    pub(crate) total_succeeded: Trend,
    /// The same, of those that failed.
    pub(crate) total_failed: Trend,
    pub(crate) blocked: Trend,
    pub(crate) connecting: Trend,
    pub(crate) tls_handshaking: Trend,
    pub(crate) sending: Trend,
    pub(crate) waiting: Trend,
    pub(crate) receiving: Trend,
    /// `iteration_duration`: request and think time.
    pub(crate) iteration: Trend,
    /// `loadgen_lag`: the actual start - the intended.
    pub(crate) lag: Trend,
}

impl Trends {
    pub(super) fn new() -> Self {
        let trend =
            || Trend::new_with_bounds(1, HIGHEST_MICROS, 3).expect("constant bounds that the crate allows");
        Self {
            duration: trend(),
            total: trend(),
            total_succeeded: trend(),
            total_failed: trend(),
            blocked: trend(),
            connecting: trend(),
            tls_handshaking: trend(),
            sending: trend(),
            waiting: trend(),
            receiving: trend(),
            iteration: trend(),
            lag: trend(),
        }
    }

    /// All trends with the names that reports and criteria use.
    pub(crate) fn named(&self) -> [(&'static str, &Trend); 12] {
        [
            ("http_req_duration", &self.duration),
            ("http_req_total_duration", &self.total),
            ("http_req_total_duration{expected_response:true}", &self.total_succeeded),
            ("http_req_total_duration{expected_response:false}", &self.total_failed),
            ("http_req_blocked", &self.blocked),
            ("http_req_connecting", &self.connecting),
            ("http_req_tls_handshaking", &self.tls_handshaking),
            ("http_req_sending", &self.sending),
            ("http_req_waiting", &self.waiting),
            ("http_req_receiving", &self.receiving),
            ("iteration_duration", &self.iteration),
            ("loadgen_lag", &self.lag),
        ]
    }

    fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.duration, &other.duration),
            (&mut self.total, &other.total),
            (&mut self.total_succeeded, &other.total_succeeded),
            (&mut self.total_failed, &other.total_failed),
            (&mut self.blocked, &other.blocked),
            (&mut self.connecting, &other.connecting),
            (&mut self.tls_handshaking, &other.tls_handshaking),
            (&mut self.sending, &other.sending),
            (&mut self.waiting, &other.waiting),
            (&mut self.receiving, &other.receiving),
            (&mut self.iteration, &other.iteration),
            (&mut self.lag, &other.lag),
        ] {
            mine.add(theirs).expect("histograms of equal bounds");
        }
    }
}

/// Counters and trends of the measured part.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    pub(super) trends: Trends,
    pub(super) requests: u64,
    pub(super) failed: u64,
    by_status: Box<[u64; 1000]>,
    by_failure: [u64; Failure::ALL.len()],
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    /// Values above the histograms' range, recorded at its end.
    pub(super) clamped: u64,
}

impl Recorder {
    pub(super) fn new() -> Self {
        Self {
            trends: Trends::new(),
            requests: 0,
            failed: 0,
            by_status: Box::new([0; 1000]),
            by_failure: [0; Failure::ALL.len()],
            bytes_sent: 0,
            bytes_received: 0,
            clamped: 0,
        }
    }

    /// Records a request of the measured part. `next_due` is when its user goes on, which ends the iteration.
    pub(super) fn record(&mut self, exchange: &Exchange, next_due: Nanos) {
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
        let trends = &mut self.trends;
        let by_success = if failed { &mut trends.total_failed } else { &mut trends.total_succeeded };
        for (trend, value) in [
            (&mut trends.duration, stages.duration()),
            (&mut trends.total, times.total()),
            (by_success, times.total()),
            (&mut trends.blocked, stages.blocked),
            (&mut trends.connecting, stages.connecting),
            (&mut trends.tls_handshaking, stages.tls_handshaking),
            (&mut trends.sending, stages.sending),
            (&mut trends.waiting, stages.waiting),
            (&mut trends.receiving, stages.receiving),
            (&mut trends.iteration, next_due.saturating_sub(times.started)),
            (&mut trends.lag, times.lag()),
        ] {
            let micros = to_micros(value);
            self.clamped += u64::from(micros > HIGHEST_MICROS);
            // The histogram's own end lies at the next power of two; clamping here makes it 60 s.
            trend.saturating_record(micros.min(HIGHEST_MICROS));
        }
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
    }

    pub(super) fn by_status(&self) -> BTreeMap<u16, u64> {
        (0u16..).zip(self.by_status.iter().copied()).filter(|&(_, count)| count > 0).collect()
    }

    pub(super) fn by_failure(&self) -> BTreeMap<Failure, u64> {
        Failure::ALL.into_iter().zip(self.by_failure).filter(|&(_, count)| count > 0).collect()
    }
}

/// To the nearest microsecond.
pub(super) fn to_micros(nanos: Nanos) -> u64 {
    nanos.saturating_add(500) / 1000
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
        Exchange { times, outcome, bytes_sent: 10, bytes_received: 20 }
    }

    #[test]
    fn what_exceeds_the_range_is_clamped_and_counted() {
        let mut recorder = Recorder::new();
        recorder.record(&exchange(60_000_000, Outcome::Response(200)), 60 * 1_000_000_000);
        assert_eq!(recorder.clamped, 0);
        recorder.record(&exchange(61_000_000, Outcome::Response(200)), 0);
        // Duration, total, total of successes and receiving.
        assert_eq!(recorder.clamped, 4);
        assert!(recorder.trends.total.max().abs_diff(HIGHEST_MICROS) <= HIGHEST_MICROS / 1000);
    }

    #[test]
    fn failures_index_their_own_counter() {
        let mut recorder = Recorder::new();
        for (count, failure) in (1u64..).zip(Failure::ALL) {
            (0..count).for_each(|_| recorder.record(&exchange(1, Outcome::Failed(failure)), 0));
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
            let mut whole = Recorder::new();
            let mut parts = [(); 4].map(|()| Recorder::new());
            for &(micros, status, part) in &values {
                let exchange = exchange(micros, Outcome::Response(status));
                whole.record(&exchange, exchange.times.ended);
                parts[part].record(&exchange, exchange.times.ended);
            }
            let mut merged = Recorder::new();
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
