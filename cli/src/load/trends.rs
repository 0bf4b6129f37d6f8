//! The trends that every run has: what a latency is recorded in.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::clock::Nanos;
use super::transfer;

/// Values are microseconds.
pub(crate) type Trend = Histogram<u64>;

/// Of every trend.
pub(super) const HIGHEST_MICROS: u64 = 60_000_000;
pub(super) const DIGITS: u8 = 3;

/// The trends that every run has, in microseconds: 1 µs to 60 s, three significant digits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Trends {
    /// `http_req_duration`: sending + waiting + receiving.
    #[serde(with = "transfer")]
    pub(crate) duration: Trend,
    /// `http_req_total_duration`: from the intended start to the end, whatever the outcome.
    #[serde(with = "transfer")]
    pub(crate) total: Trend,
    /// The same, of the requests that did not fail.
    #[serde(with = "transfer")]
    pub(crate) total_succeeded: Trend,
    /// The same, of those that failed.
    #[serde(with = "transfer")]
    pub(crate) total_failed: Trend,
    #[serde(with = "transfer")]
    pub(crate) blocked: Trend,
    #[serde(with = "transfer")]
    pub(crate) connecting: Trend,
    #[serde(with = "transfer")]
    pub(crate) tls_handshaking: Trend,
    #[serde(with = "transfer")]
    pub(crate) sending: Trend,
    #[serde(with = "transfer")]
    pub(crate) waiting: Trend,
    #[serde(with = "transfer")]
    pub(crate) receiving: Trend,
    /// `iteration_duration`: request and think time.
    #[serde(with = "transfer")]
    pub(crate) iteration: Trend,
    /// `loadgen_lag`: the actual start - the intended.
    #[serde(with = "transfer")]
    pub(crate) lag: Trend,
}

impl Trends {
    pub(super) fn new() -> Self {
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

    pub(super) fn add(&mut self, other: &Self) {
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

/// An empty histogram of the bounds that all trends have.
pub(super) fn trend() -> Trend {
    Trend::new_with_bounds(1, HIGHEST_MICROS, DIGITS).expect("constant bounds that the crate allows")
}

/// To the nearest microsecond.
pub(super) fn to_micros(nanos: Nanos) -> u64 {
    nanos.saturating_add(500) / 1000
}
