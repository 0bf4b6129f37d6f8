//! The counters of the host in a report: of which process's host, how far they came, and what they were over time.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Counters of a host, and of one process on it, its network namespace and its control groups, during the load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Counters {
    pub(crate) process: SampledProcess,
    /// First sample; RFC 3339, UTC.
    pub(crate) started_at: String,
    /// When measuring began, in ms since the first sample.
    pub(crate) measured_from_ms: i64,
    /// When each sample was taken, in ms since the first.
    pub(crate) at_ms: Vec<u64>,
    /// By name, the object in brackets: each counter at the first and at the last sample that know it.
    pub(crate) deltas: BTreeMap<String, CounterDelta>,
    /// Sample by sample, those that changed or that a finding names; `null`: unknown then.
    pub(crate) series: BTreeMap<String, Vec<Option<f64>>>,
    /// Share of one processor that sampling took, 0 to 1.
    pub(crate) cost_share: f64,
    /// Counters that were one too many to keep.
    #[serde(default)]
    pub(crate) left_out: u64,
    /// From when on latency was out of proportion; `null`: it was not, or nobody can tell.
    pub(crate) knee: Option<LatencyKnee>,
    /// Resources of which nobody knows whether they were full.
    pub(crate) unknown: Vec<UnknownResource>,
    /// What could not be read, why, and what to do.
    pub(crate) problems: Vec<String>,
}

/// The process whose host, network namespace, control groups and files were sampled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct SampledProcess {
    pub(crate) pid: u32,
    /// As the kernel has it; `null`: it has ended.
    pub(crate) name: Option<String>,
    pub(crate) chosen: Chosen,
    /// Why it was this one.
    pub(crate) why: String,
}

/// How the process was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Chosen {
    /// It is the API of the deployment.
    Deployed,
    /// The user named it.
    Named,
    /// It listens on the address that was loaded.
    Listening,
    /// No process of the service is known on this host: the load generator itself, and not the service's host.
    #[default]
    Generator,
}

/// A counter before and after.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct CounterDelta {
    pub(crate) kind: CounterKind,
    pub(crate) before: Option<f64>,
    pub(crate) after: Option<f64>,
}

/// How a number behaves over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CounterKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Where latency bent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LatencyKnee {
    /// Seconds since measuring began.
    pub(crate) at_s: i64,
    /// Median of the seconds' p(99) of `http_req_total_duration` at the beginning.
    pub(crate) baseline_ms: f64,
    /// p(99) of the first second that was out of proportion.
    pub(crate) p99_ms: f64,
}

/// Counters that nobody could read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct UnknownResource {
    /// Stable name, such as `accept-queue`.
    pub(crate) id: String,
    /// As it reads.
    pub(crate) resource: String,
    pub(crate) counters: Vec<String>,
}

/// The counter behind a finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Evidence {
    pub(crate) severity: CounterSeverity,
    /// Its name, with its object in brackets.
    pub(crate) counter: String,
    /// At first, and in the end; of a gauge its highest value.
    pub(crate) before: f64,
    pub(crate) after: f64,
    /// What it was held against; `null`: nothing.
    pub(crate) limit: Option<f64>,
    /// When it crossed its threshold, in seconds since measuring began.
    pub(crate) at_s: f64,
    /// Whether that was at most five seconds before latency bent; `null`: it did not.
    pub(crate) before_knee: Option<bool>,
    /// Keys of a profile's `host` section, for `scalekit tune`, that lift it.
    pub(crate) tune: Vec<String>,
    /// Keys of the deployment, or files and settings of others, that lift it.
    pub(crate) deploy: Vec<String>,
}

/// In the order of the USE method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CounterSeverity {
    /// Something was refused or lost.
    Error,
    /// Something waited.
    Saturation,
    /// It was nearly full.
    Utilisation,
}
