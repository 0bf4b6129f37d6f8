//! The metrics there are. The names are k6's and mean what they mean there; the ones that k6 lacks say so.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a metric's samples are summed up; decides which statistics it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A sum: `count` and, per second, `rate`.
    Counter,
    /// The latest `value`, with `min` and `max`.
    Gauge,
    /// The share of samples that are true, 0 to 1.
    Rate,
    /// A distribution: `avg`, `min`, `med`, `max`, `p(N)`.
    Trend,
}

/// What a metric's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Contains {
    /// Milliseconds.
    Time,
    /// Bytes.
    Data,
    /// Plain numbers.
    Default,
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MetricDefinition {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) contains: Contains,
    /// A counter or gauge that also has `max`. For a counter it is the most within any one second, which k6 does
    /// not have: it is how a cap per second is proven.
    pub(crate) has_max: bool,
    /// Zero is no evidence: nothing was tried. (Zero dropped iterations is evidence; zero requests is not.)
    pub(crate) needs_samples: bool,
    /// Known while the run goes on, so that it can end it.
    pub(crate) live: bool,
    pub(crate) meaning: &'static str,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    contains: Contains,
    meaning: &'static str,
) -> MetricDefinition {
    MetricDefinition { name, kind, contains, has_max: false, needs_samples: false, live: true, meaning }
}

const fn with_max(definition: MetricDefinition) -> MetricDefinition {
    MetricDefinition { has_max: true, ..definition }
}

const fn with_samples(definition: MetricDefinition) -> MetricDefinition {
    MetricDefinition { needs_samples: true, ..definition }
}

const fn after_run(definition: MetricDefinition) -> MetricDefinition {
    MetricDefinition { live: false, ..definition }
}

use Contains::{Data, Default as Plain, Time};
use Kind::{Counter, Gauge, Rate, Trend};

/// Every metric that a report may carry and a criterion may name.
pub(crate) const METRICS: [MetricDefinition; 25] = [
    metric(
        "http_req_total_duration",
        Trend,
        Time,
        "from the intended start to the end, connecting included; failures and time-outs count with the time they took",
    ),
    metric("http_req_duration", Trend, Time, "sending + waiting + receiving"),
    metric("http_req_blocked", Trend, Time, "waiting for a free connection, connecting included"),
    metric("http_req_connecting", Trend, Time, "opening the TCP connection"),
    metric("http_req_tls_handshaking", Trend, Time, "the TLS handshake"),
    metric("http_req_sending", Trend, Time, "writing the request"),
    metric("http_req_waiting", Trend, Time, "from the request's last byte to the answer's first"),
    metric("http_req_receiving", Trend, Time, "reading the answer"),
    metric("http_req_failed", Rate, Plain, "share of requests that failed"),
    with_samples(metric("http_reqs", Counter, Plain, "requests made")),
    with_samples(metric("iterations", Counter, Plain, "iterations finished")),
    metric("iteration_duration", Trend, Time, "one iteration, thinking included"),
    metric("dropped_iterations", Counter, Plain, "iterations that could not start when due"),
    metric("vus", Gauge, Plain, "active users"),
    metric("vus_max", Gauge, Plain, "most users possible"),
    metric("checks", Rate, Plain, "share of checks that held"),
    with_samples(metric("data_sent", Counter, Data, "bytes sent")),
    with_samples(metric("data_received", Counter, Data, "bytes received")),
    metric("loadgen_lag", Trend, Time, "how late the generator woke up"),
    after_run(with_max(metric("db_ops", Counter, Plain, "database operations"))),
    after_run(with_max(metric(
        "db_iops",
        Counter,
        Plain,
        "input/output operations of the database's device",
    ))),
    after_run(with_max(metric("journal_backlog", Gauge, Plain, "journal entries not yet in the database"))),
    after_run(with_samples(metric("acked_writes", Counter, Plain, "writes that were acknowledged"))),
    after_run(metric("lost_writes", Counter, Plain, "writes acknowledged and not stored")),
    after_run(metric("duplicated_writes", Counter, Plain, "writes stored more than once")),
];

/// The metric of this name.
pub(crate) fn definition(name: &str) -> Option<&'static MetricDefinition> {
    METRICS.iter().find(|metric| metric.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (place, metric) in METRICS.iter().enumerate() {
            assert!(METRICS[..place].iter().all(|other| other.name != metric.name), "{}", metric.name);
            assert!(!metric.meaning.is_empty());
        }
    }
}
