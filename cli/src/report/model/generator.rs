//! The load generator in a report: its own figures, and whether they can be believed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The load generator's own state: whether it could keep up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Generator {
    pub(crate) threads: u32,
    /// Processor time over wall time of its busiest thread, 0 to 1.
    pub(crate) busiest_thread: f64,
    /// Largest resident set of the process.
    pub(crate) memory_peak_bytes: u64,
    /// How far the wall clock moved more than the monotonic one.
    pub(crate) clock_jump_ms: f64,
    /// Values beyond a histogram's range, recorded at its end.
    pub(crate) clamped: u64,
    /// Connects that found no free local port, warm-up included.
    #[serde(default)]
    pub(crate) no_free_port: Option<u64>,
    /// Connects that found the limit on open files reached, warm-up included.
    #[serde(default)]
    pub(crate) too_many_files: Option<u64>,
    /// Time for which a cgroup's CPU quota held it up, over the time measured; of the cgroup, its own or an ancestor,
    /// that did so most. Summed over processors. `null`: the kernel does not tell.
    #[serde(default)]
    pub(crate) throttled_share: Option<f64>,
    /// Enforcement periods in which the quota ran out.
    #[serde(default)]
    pub(crate) throttled_periods: Option<u64>,
    /// Processor time that the hypervisor gave to others, over all of the machine's, 0 to 1.
    #[serde(default)]
    pub(crate) steal_share: Option<f64>,
    /// Time for which a thread was ready to run and waited for a processor, over the time measured; of the thread that
    /// waited longest.
    #[serde(default)]
    pub(crate) run_delay_share: Option<f64>,
    /// How late its coordinator, which is to wake a hundred times a second, did so: p(99), in ms. `null`: not known.
    #[serde(default)]
    pub(crate) heartbeat_lag_ms: Option<f64>,
    /// Whether its figures can be believed; empty until judged.
    #[serde(default)]
    pub(crate) checks: Vec<Check>,
}

/// One check of the load generator itself. One that failed makes the verdict invalid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Check {
    /// Stable name, such as `loadgen_lag`.
    pub(crate) name: String,
    /// Times in ms, shares from 0 to 1; `null`: not known.
    pub(crate) value: Option<f64>,
    /// The most that is sound; of `users`, the least.
    pub(crate) limit: Option<f64>,
    pub(crate) outcome: CheckOutcome,
    /// What was found, or why nothing is known.
    pub(crate) reason: String,
    /// What to do about it, if it failed.
    pub(crate) remedy: Option<String>,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CheckOutcome {
    Ok,
    Failed,
    /// It could not be made; that alone does not spoil a measurement.
    Unknown,
}
