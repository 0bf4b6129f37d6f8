//! Reports: what a run found, as one versioned file, and how it reads. A report is judged by the same code
//! when it is fresh and when it comes from its file.

mod checks;
#[cfg(test)]
mod checks_tests;
mod distribution;
mod figures;
#[cfg(test)]
pub(crate) mod fixture;
mod judging;
mod model;
mod read;
#[cfg(test)]
mod tests;
mod text;
#[cfg(test)]
mod text_tests;
mod time;
mod write;

pub(crate) use distribution::Distribution;
pub(crate) use judging::{judge, trend_facts};
pub(crate) use model::{
    Aborted, Achieved, Audit, Cap, CapKind, ErrorClass, Finding, Generator, Host, Load, Report, Requested,
    Run, SCHEMA_VERSION, Second, Server, Step, Tool,
};
pub(crate) use read::{ReadError, read};
pub(crate) use text::text;
pub(crate) use time::{rfc3339, run_id};
pub(crate) use write::{RunFolder, prepare};
