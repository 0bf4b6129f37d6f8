//! What coordinator and agent say to each other: JSON over HTTP/1.1, one version.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::load::{Interval, Plan, Running, Tick};

/// Both sides must be of the same: a plan means something only to the program that made it.
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "/2");
/// Carries [`VERSION`] in every request and response. That a request needs it also keeps web pages from sending
/// any, which may only set well-known headers.
pub(crate) const VERSION_HEADER: &str = "scalekit-agent";

/// Largest assignment: a plan with the data that its requests are made of.
pub(crate) const MAX_ASSIGNMENT_BYTES: usize = 64 << 20;
/// Largest recording. Nearly all of it is the ledger: two bytes for each change of a user's fortune.
pub(crate) const MAX_RECORDING_BYTES: usize = 256 << 20;
/// Largest answer to anything else.
pub(crate) const MAX_ANSWER_BYTES: usize = 8 << 20;
/// Histograms told in one answer, but a whole second at least; the rest comes with the next.
pub(crate) const MAX_HISTOGRAMS: usize = 128;
/// Seconds told in one answer: those without a request have no histogram.
pub(crate) const MAX_SECONDS: usize = 64;
/// Trends that a run may be judged by; there are not so many.
pub(crate) const MAX_WATCHED: usize = 32;

/// `GET /v1/agent`: who is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) version: String,
    /// The machine's own name.
    pub(crate) name: String,
    pub(crate) state: String,
}

/// `GET /v1/clock`: both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reading {
    /// Of a clock that nobody sets, since some moment of the process's own.
    pub(crate) monotonic_nanos: i64,
    /// Since 1970, UTC.
    pub(crate) wall_nanos: i64,
}

/// `POST /v1/runs`: what to do. The agent sets everything up and then waits for [`Start`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Assignment {
    pub(crate) plan: Plan,
    /// Generator threads; `None`: one for each core of the agent's.
    pub(crate) threads: Option<usize>,
    /// The trends that the run is judged by while it lasts; `None`: it is not, and nothing is kept for it.
    pub(crate) watched: Option<Vec<String>>,
}

/// The answer to an [`Assignment`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Assigned {
    pub(crate) run: String,
    pub(crate) threads: usize,
}

/// `POST /v1/runs/{run}/start`: begin then, by the agent's own monotonic clock.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) at_nanos: i64,
}

/// `GET /v1/runs/{run}?from=N&figures=M`: how it stands, the seconds from number N on (those before are forgotten),
/// and the running figures if they are newer than number M.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) stage: Stage,
    pub(crate) tick: Option<Tick>,
    /// How long after the instant that was named the load began.
    pub(crate) late: Duration,
    /// The number of the first of `seconds`.
    pub(crate) from: u64,
    pub(crate) seconds: Vec<Interval>,
    pub(crate) figures: Option<Figures>,
}

/// The measured part so far, for judging: the latest figures only, since they are totals.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// From 1 on.
    pub(crate) number: u64,
    pub(crate) running: Running,
}

/// Where a run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    Preparing,
    /// Set up; the start is awaited.
    Ready,
    Running,
    /// Its recording can be fetched at `/v1/runs/{run}/recording`.
    Done,
    Failed(String),
}

impl Stage {
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Done | Self::Failed(_))
    }
}
