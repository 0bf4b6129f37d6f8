//! What a run measured, merged over all threads.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use super::outcome::Failure;
use super::series::Second;
use super::transfer;
use super::trends::{Trend, Trends};
use super::withheld::Withheld;

/// One step of the scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StepRecording {
    pub(crate) name: String,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// `http_req_total_duration` and `http_req_duration`, in microseconds.
    #[serde(with = "transfer")]
    pub(crate) total: Trend,
    #[serde(with = "transfer")]
    pub(crate) duration: Trend,
    pub(crate) checks: Vec<CheckCount>,
}

/// How often one check of a step was met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckCount {
    pub(crate) name: String,
    pub(crate) passes: u64,
    pub(crate) fails: u64,
}

/// The facts of one run. Unless said otherwise they are of the measured part: of the requests that were meant to
/// start in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Recording {
    pub(crate) trends: Trends,
    /// Requests with an outcome, `failed` among them.
    pub(crate) requests: u64,
    /// No whole response, or a status of 400 and above.
    pub(crate) failed: u64,
    /// Whole responses by status.
    pub(crate) by_status: BTreeMap<u16, u64>,
    /// Requests without a whole response by class.
    pub(crate) by_failure: BTreeMap<Failure, u64>,
    /// Heads included, as k6's `data_sent` and `data_received`.
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    /// Iterations that came to their end.
    pub(crate) iterations: u64,
    /// In their order.
    pub(crate) steps: Vec<StepRecording>,
    /// Values beyond 60 s, recorded as 60 s.
    pub(crate) clamped: u64,
    /// Not sent from machine to machine: those hand over each second as it passes, with its histogram.
    #[serde(skip)]
    pub(crate) series: Vec<Second>,
    /// Thread-seconds missing from the series, and for the observer, because it blocked for a minute; the totals have
    /// them.
    pub(crate) series_gaps: u64,
    pub(crate) users_requested: u32,
    /// The most users that were served at once: whose last request had brought a response and whose connection
    /// had not failed since. A server that closes idle connections does not lessen it. Warm-up included.
    pub(crate) users_achieved: u32,
    /// The planned warm-up, or what there was of it.
    pub(crate) warmup: Duration,
    /// The length of the measured part: the interval for rates.
    pub(crate) measured: Duration,
    /// The whole run: warm-up, measured part and the wait for what was in flight.
    pub(crate) elapsed: Duration,
    /// Stopped by the user.
    pub(crate) interrupted: bool,
    /// Ended early by the judge that watched it.
    pub(crate) cut_short: bool,
    /// Requests in flight when the run was stopped; in the ledger, but in no other figure.
    pub(crate) aborted: u64,
    /// Iterations due in the measured part that were not started: no user was free in time, the generator was too late,
    /// or nobody had listened a moment ago.
    pub(crate) dropped: u64,
    /// CPU time over wall time of the busiest generator thread, 0 to 1.
    pub(crate) busiest_thread: f64,
    /// Time that a generator thread was ready to run and waited for a processor, over wall time: of the thread that
    /// waited longest. `None` where the kernel does not tell.
    pub(crate) run_delay: Option<f64>,
    /// How late the coordinator, which wakes at a steady pace, did so; in µs.
    #[serde(with = "transfer")]
    pub(crate) heartbeat: Trend,
    /// What was kept from the generator in the measured part.
    pub(crate) withheld: Withheld,
    /// The process's largest resident set so far, in bytes.
    pub(crate) max_rss_bytes: u64,
    /// Attempts without a free local port or file descriptor, warm-up included.
    pub(crate) no_free_port: u64,
    pub(crate) too_many_files: u64,
    /// When each of the two came first, since the load began.
    pub(crate) no_free_port_since: Option<Duration>,
    pub(crate) too_many_files_since: Option<Duration>,
    /// How far the wall clock moved more than the monotonic clock during the run, in nanoseconds; negative if less.
    pub(crate) clock_jump_nanos: i64,
    /// The fate of every request, warm-up included.
    pub(crate) ledger: Ledger,
}
