//! The report: facts of one run, versioned. Times in a name carry their unit; metrics are in ms and bytes.

mod counters;
mod generator;

use std::collections::BTreeMap;
use std::fmt;

use hdrhistogram::Histogram;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

pub(crate) use self::counters::{
    Chosen, CounterDelta, CounterKind, CounterSeverity, Counters, Evidence, LatencyKnee, SampledProcess,
    UnknownResource,
};
pub(crate) use self::generator::{Check, CheckOutcome, Generator};
use super::distribution::{Distribution, ms};
use crate::criteria::{Contains, Kind, Spec, Verdict, definition};

/// Grows when a reader of the old form would misread the new one.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// Percentiles that every trend shows, beside those that thresholds ask for.
const PERCENTILES: [f64; 4] = [90.0, 95.0, 99.0, 99.9];

/// What one run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Report {
    /// Version of this form.
    pub(crate) schema_version: u32,
    pub(crate) tool: Tool,
    pub(crate) run: Run,
    /// The host that made the load, or that led those who made it; figures of different hosts do not compare.
    pub(crate) host: Host,
    /// The profile as resolved, in the form of a profile file, passwords blanked.
    pub(crate) profile: serde_json::Value,
    /// The criteria of the run.
    pub(crate) criteria: Vec<Spec>,
    pub(crate) load: Load,
    /// By name, in the form of k6's handleSummary.
    pub(crate) metrics: BTreeMap<String, Metric>,
    /// One entry for each second of the measured part, and for those in which its last requests ended.
    pub(crate) series: Vec<Second>,
    /// Requests by how they ended.
    pub(crate) outcomes: Vec<ErrorClass>,
    /// Requests by scenario step.
    pub(crate) steps: Vec<Step>,
    pub(crate) generator: Generator,
    /// The machines that made the load, in the order in which they were named; none if this one did.
    #[serde(default)]
    pub(crate) agents: Vec<Agent>,
    pub(crate) server: Server,
    pub(crate) cap: Cap,
    /// `null`: there was no audit.
    pub(crate) audit: Option<Audit>,
    /// Counters of the host of the service during the load; `null`: they were not sampled.
    #[serde(default)]
    pub(crate) counters: Option<Counters>,
    /// What stopped the service, or nearly did: what the counters say first, and of that the likeliest cause.
    pub(crate) findings: Vec<Finding>,
    /// What spoils the measurement beside `generator.checks`; any of it makes the verdict invalid.
    pub(crate) validity: Vec<String>,
    /// `null`: not judged yet.
    pub(crate) verdict: Option<Verdict>,
}

/// What made the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// Which run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Run {
    pub(crate) id: String,
    /// RFC 3339, UTC.
    pub(crate) started_at: String,
    /// From start to end, deployment and audit included.
    pub(crate) duration_s: f64,
    /// Stopped before its time: the results are partial.
    pub(crate) interrupted: bool,
    /// The criterion with `abortOnFail` that ended it before its time; `null`: none did.
    #[serde(default)]
    pub(crate) aborted: Option<Aborted>,
    /// Name of the profile.
    pub(crate) profile: String,
}

/// A criterion that ended a run before its time: the results are partial, and it failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Aborted {
    pub(crate) metric: String,
    pub(crate) expression: String,
    /// The figure of the measured part until then.
    pub(crate) observed: f64,
    /// Seconds into the measured part.
    pub(crate) at_s: f64,
}

impl fmt::Display for Aborted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { metric, expression, observed, at_s } = self;
        write!(
            out,
            "ended early: {metric}: {expression} failed with {observed} after {at_s:.1} s (abortOnFail)"
        )
    }
}

/// Fingerprint of a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Host {
    pub(crate) os: String,
    pub(crate) kernel: String,
    pub(crate) cpu_model: String,
    pub(crate) cores: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) hostname: Option<String>,
}

/// Load as asked for, and as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Load {
    pub(crate) requested: Requested,
    pub(crate) achieved: Achieved,
}

/// Load as asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Requested {
    pub(crate) url: String,
    pub(crate) scenario: String,
    pub(crate) vus: u32,
    pub(crate) think_time_ms: f64,
    pub(crate) warmup_s: f64,
    pub(crate) duration_s: f64,
    pub(crate) timeout_ms: f64,
    pub(crate) model: Model,
    /// Open model: iterations a second; with stages the highest.
    pub(crate) rate_per_s: Option<u32>,
    /// Of the model `paced`.
    pub(crate) pacing_ms: Option<f64>,
    /// As in the profile: `30s:100`, `30s:100/s`.
    pub(crate) stages: Vec<String>,
    pub(crate) iterations: Option<u64>,
    pub(crate) seed: u64,
}

/// What decides when an iteration starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Model {
    /// The end of the user's last one, and a pause.
    Closed,
    /// Each user's own schedule.
    Paced,
    /// A rate, whatever becomes of those before.
    Open,
}

/// Load as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Achieved {
    /// Most users active at once while measuring.
    pub(crate) vus: u32,
    /// Requests a second while measuring.
    pub(crate) rate: f64,
    /// Time measured, the warm-up left out.
    pub(crate) measured_s: f64,
}

/// One metric, in the form of k6's handleSummary and, for a trend, with its whole distribution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Metric {
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    pub(crate) contains: Contains,
    /// By statistic: `count`, `rate`, `p(95)`… One that does not exist (no samples) is absent.
    #[serde(serialize_with = "finite")]
    pub(crate) values: BTreeMap<String, f64>,
    /// By expression; empty until judged.
    #[serde(default)]
    pub(crate) thresholds: BTreeMap<String, ThresholdResult>,
    /// Of a trend: `[value in µs, samples]` of each non-empty bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) distribution: Option<Distribution>,
}

/// Whether a threshold passed; what could not be evaluated did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ThresholdResult {
    pub(crate) ok: bool,
}

/// One second of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Second {
    /// Seconds since measuring began.
    pub(crate) at_s: i64,
    pub(crate) vus: u32,
    /// Requests that ended in this second.
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// Of `http_req_total_duration`; `null` when no request ended.
    pub(crate) total_ms_med: Option<f64>,
    pub(crate) total_ms_p95: Option<f64>,
    pub(crate) total_ms_p99: Option<f64>,
    pub(crate) total_ms_max: Option<f64>,
    /// Database operations in this second; `null` where they are not known.
    pub(crate) db_ops: Option<u64>,
    /// I/O operations of the database's device in this second; `null` where they are not known.
    #[serde(default)]
    pub(crate) db_iops: Option<u64>,
    /// Journal entries not yet in the database at its end.
    pub(crate) journal_backlog: Option<u64>,
}

/// Requests that ended the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ErrorClass {
    /// k6's error code (1050 time-out, 1212 refused, 1220 reset…); 0 for none.
    pub(crate) code: u32,
    /// `ok` or what went wrong.
    pub(crate) name: String,
    pub(crate) count: u64,
    /// Counts by HTTP status, of those that got one.
    #[serde(default)]
    pub(crate) statuses: BTreeMap<String, u64>,
}

/// One step of the scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// Of `http_req_total_duration`.
    pub(crate) total_ms_med: Option<f64>,
    pub(crate) total_ms_p95: Option<f64>,
    pub(crate) total_ms_p99: Option<f64>,
    pub(crate) total_ms_max: Option<f64>,
    /// Of `http_req_duration`.
    pub(crate) duration_ms_p95: Option<f64>,
    pub(crate) checks: Vec<StepCheck>,
}

/// How often one check of a step was met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct StepCheck {
    pub(crate) name: String,
    pub(crate) passes: u64,
    pub(crate) fails: u64,
}

/// One of the machines that made the load together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Agent {
    /// The machine's own name.
    pub(crate) name: String,
    /// Where it was asked.
    pub(crate) address: String,
    /// Its part of the users.
    pub(crate) vus: u32,
    /// Requests of the measured part; 0 of an agent that was lost.
    pub(crate) requests: u64,
    /// Requests a second while measuring.
    pub(crate) rate: f64,
    /// Processor time over wall time of its busiest thread, 0 to 1.
    pub(crate) busiest_thread: f64,
    /// Of its `loadgen_lag`; `null` when it measured nothing.
    pub(crate) lag_ms_p99: Option<f64>,
    /// Its wall clock less the coordinator's.
    pub(crate) clock_offset_ms: f64,
    /// How far it may have missed the common start, either way: half of the quickest round trip.
    pub(crate) clock_uncertainty_ms: f64,
    /// How long after the common start it began, by its own clock.
    pub(crate) late_ms: f64,
    /// Largest resident set of the process.
    pub(crate) memory_peak_bytes: u64,
    /// Why its users are missing; `null` if they are not.
    pub(crate) problem: Option<String>,
}

/// The server's own counters, by process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Server {
    /// How the service takes writes: `write-behind`, or `direct`, where each read and each write is a database operation
    /// of its own. `null` where the service does not say.
    #[serde(default)]
    pub(crate) mode: Option<String>,
    pub(crate) before: BTreeMap<String, serde_json::Value>,
    pub(crate) after: BTreeMap<String, serde_json::Value>,
}

/// How the database was held to its operations a second, and whether it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Cap {
    pub(crate) kind: CapKind,
    /// Database operations a second that the service's governor allowed.
    pub(crate) limit_per_s: Option<u64>,
    /// I/O operations a second that a probe of the kernel's cap got through; `null` if none was made.
    pub(crate) probed_per_s: Option<f64>,
    /// The kernel's cap on the database's disk; `null` if there was none.
    #[serde(default)]
    pub(crate) device: Option<DeviceCap>,
}

/// A limit of the database's control group, and what showed whether it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct DeviceCap {
    /// Most reads a second, and as many writes.
    pub(crate) iops: u32,
    /// Whether a run without proof of it is invalid.
    pub(crate) required: bool,
    /// The control group's directory.
    pub(crate) group: String,
    /// `MAJOR:MINOR` of each device that has the limit.
    pub(crate) devices: Vec<String>,
    /// Operations a second of the disk that a probe inside of the group got through, by the group's count: of reads and
    /// writes the more.
    pub(crate) capped_per_s: f64,
    /// The same without the cap: of reads and writes the fewer.
    pub(crate) uncapped_per_s: f64,
    /// Why it is not proven; `null`: it is.
    pub(crate) problem: Option<String>,
}

/// What enforces the cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CapKind {
    /// Nothing.
    None,
    /// The service's own governor and a counting store.
    Simulated,
    /// The kernel, as a probe and the counters under the load have shown.
    Verified,
    /// The kernel was to, and that is not proven.
    NotEnforced,
}

/// Acknowledged against stored, write by write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Audit {
    /// Writes that were answered with 202.
    pub(crate) acknowledged: u64,
    /// Of these, found in the database.
    pub(crate) stored: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    /// Writes whose answer never came.
    pub(crate) unknown: u64,
    /// Of these, found in the database.
    pub(crate) unknown_stored: u64,
    /// Writes that were refused, and found in the database all the same.
    pub(crate) refused_stored: u64,
    /// A few ids of lost, duplicated or wrongly stored writes, each with which it is.
    #[serde(default)]
    pub(crate) examples: Vec<String>,
}

/// Something that stopped the service, or nearly did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Finding {
    /// Stable name: the resource that was full, such as `accept-queue`, or what happened, such as `process-restarted`.
    pub(crate) id: String,
    /// What was seen, with the figures.
    pub(crate) message: String,
    /// What to do.
    pub(crate) advice: String,
    /// The counter that says so; `null`: none of the host's.
    #[serde(default)]
    pub(crate) evidence: Option<Evidence>,
}

impl Report {
    /// Adds a metric under the kind and unit that its definition gives it.
    ///
    /// `values` by statistic; a value that is not finite is left out, and so is an unknown metric.
    pub(crate) fn set<'a>(&mut self, name: &str, values: impl IntoIterator<Item = (&'a str, f64)>) {
        let Some(definition) = definition(name) else {
            debug_assert!(false, "{name} is not in the registry");
            return;
        };
        let values = values.into_iter().filter(|(_, value)| value.is_finite());
        let metric = Metric {
            kind: definition.kind,
            contains: definition.contains,
            values: values.map(|(statistic, value)| (statistic.to_owned(), value)).collect(),
            thresholds: BTreeMap::new(),
            distribution: None,
        };
        self.metrics.insert(name.to_owned(), metric);
    }

    /// Adds a trend from a histogram of µs.
    pub(crate) fn set_trend(&mut self, name: &str, histogram: &Histogram<u64>) {
        self.metrics.insert(name.to_owned(), Metric::trend(histogram));
    }

    /// Adds a counter: its count, and the rate over the time measured. Over no time there is no rate.
    pub(crate) fn set_counter(&mut self, name: &str, count: u64) {
        let count = number(count);
        self.set(name, [("count", count), ("rate", count / self.load.achieved.measured_s)]);
    }

    /// Adds a rate: `hits` of `total` samples were true.
    pub(crate) fn set_rate(&mut self, name: &str, hits: u64, total: u64) {
        let misses = number(total.saturating_sub(hits));
        let (hits, total) = (number(hits), number(total));
        self.set(name, [("rate", hits / total), ("passes", hits), ("fails", misses)]);
    }

    /// Adds a gauge.
    pub(crate) fn set_gauge(&mut self, name: &str, value: u64, min: u64, max: u64) {
        self.set(name, [("value", number(value)), ("min", number(min)), ("max", number(max))]);
    }

    /// Adds the audit and its metrics.
    pub(crate) fn set_audit(&mut self, audit: Audit) {
        self.set_counter("acked_writes", audit.acknowledged);
        self.set_counter("lost_writes", audit.lost);
        self.set_counter("duplicated_writes", audit.duplicated);
        self.audit = Some(audit);
    }
}

impl Metric {
    /// A trend from a histogram of µs; its values are in ms.
    pub(crate) fn trend(histogram: &Histogram<u64>) -> Self {
        let distribution = Distribution::from_histogram(histogram);
        let mut values = BTreeMap::new();
        if !histogram.is_empty() {
            values.insert("avg".to_owned(), histogram.mean() / 1000.0);
            values.insert("min".to_owned(), ms(histogram.min()));
            values.insert("max".to_owned(), ms(histogram.max()));
        }
        let percentiles = PERCENTILES.iter().map(|percent| (format!("p({percent})"), *percent));
        for (name, percent) in percentiles.chain([("med".to_owned(), 50.0)]) {
            if let Some(value) = distribution.percentile_ms(percent) {
                values.insert(name, value);
            }
        }
        Self {
            kind: Kind::Trend,
            contains: Contains::Time,
            values,
            thresholds: BTreeMap::new(),
            distribution: Some(distribution),
        }
    }
}

/// The JSON schema of report.json.
#[cfg(test)]
pub(crate) fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Report);
    schema.insert("title".to_owned(), "scalekit report".into());
    schema.to_value()
}

#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}

/// JSON has no NaN, and a `null` where a number belongs would make the file unreadable: what is not finite is
/// absent, as it is when judged.
fn finite<S: Serializer>(values: &BTreeMap<String, f64>, output: S) -> Result<S::Ok, S::Error> {
    output.collect_map(values.iter().filter(|(_, value)| value.is_finite()))
}
