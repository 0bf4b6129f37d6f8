//! The host: what a profile asks of its kernel settings and limits, and how they are changed and changed back; its
//! counters, and what they say about where it is full.
//!
//! `plan` compares and changes nothing; `apply` and `persist` change, each step journaled before; `rollback` takes
//! back. All work below a [`Root`](crate::root::Root), `/` or a copy of its form.

mod apply;
mod beaten;
pub(crate) mod counters;
mod decide;
mod dropins;
mod etc_file;
mod facts;
pub(crate) mod findings;
mod guards;
mod journal;
mod known;
pub(crate) mod limits;
pub(crate) mod listener;
pub(crate) mod persist;
pub(crate) mod place;
mod plan;
mod rollback;
#[cfg(test)]
mod rollback_tests;
mod standing;
mod status;
#[cfg(test)]
mod tests;
mod values;

pub(crate) use apply::apply;
pub(crate) use beaten::beaten_by;
pub(crate) use facts::{Machine, is_container, mongod};
pub(crate) use journal::Journal;
pub(crate) use known::Scope;
pub(crate) use plan::{PlanError, Row, plan};
pub(crate) use rollback::{Undone, preview, rollback};
pub(crate) use status::Status;
#[cfg(test)]
pub(crate) use values::HugePagesFile;
pub(crate) use values::Key;
