//! Reports: what a run found, as one versioned file, and how it reads. A report is judged by the same code
//! when it is fresh and when it comes from its file.

mod checks;
#[cfg(test)]
mod checks_tests;
mod distribution;
mod figures;
#[cfg(test)]
pub(crate) mod fixture;
mod hgrm;
mod hlog;
mod hlog_read;
mod judging;
mod model;
mod pending;
mod read;
#[cfg(test)]
mod tests;
mod text;
#[cfg(test)]
mod text_tests;
mod time;
mod write;

pub(crate) use distribution::{Distribution, empty_histogram};
pub(crate) use hgrm::hgrm;
pub(crate) use hlog::IntervalLog;
pub(crate) use hlog_read::{LogError, MERGED, read_log};
pub(crate) use judging::{judge, trend_facts};
pub(crate) use model::{
    Aborted, Achieved, Agent, Audit, Cap, CapKind, Chosen, CounterDelta, CounterKind, CounterSeverity,
    Counters, DeviceCap, ErrorClass, Evidence, Finding, Generator, Host, LatencyKnee, Load, Model, Report,
    Requested, Run, SCHEMA_VERSION, SampledProcess, Second, Server, Step, StepCheck, Tool, UnknownResource,
};
pub(crate) use pending::PendingFile;
pub(crate) use read::{ReadError, read};
pub(crate) use text::text;
pub(crate) use time::{rfc3339, run_id};
pub(crate) use write::{INTERVAL_LOG, RunFolder, WriteError, prepare};
