//! The host: what a profile asks of its kernel settings and limits, and how they are changed and changed back; its
//! counters, and what they say about where it is full.
//!
//! `plan` compares and changes nothing; `apply` and `persist` change, each step journaled before; `rollback` takes
//! back. All work below a [`Root`](crate::root::Root), `/` or a copy of its form.

mod apply;
pub(crate) mod counters;
mod decide;
mod facts;
pub(crate) mod findings;
mod journal;
mod known;
pub(crate) mod limits;
pub(crate) mod listener;
pub(crate) mod persist;
mod plan;
mod rollback;
mod status;
#[cfg(test)]
mod tests;
mod values;

pub(crate) use apply::apply;
pub(crate) use facts::Machine;
pub(crate) use journal::Journal;
pub(crate) use known::Scope;
pub(crate) use plan::{PlanError, Row, plan};
pub(crate) use rollback::{Undone, rollback};
pub(crate) use status::Status;
