//! The load generator. A [`plan`] says what to do; the [`engine`] runs one epoll loop a thread, in which each
//! virtual user owns one connection; the [`recording`] is what came of it.
//!
//! The parts are kept apart so that each can be replaced: when a request is due (`pacer`), what is sent
//! (`scenario`, `transactions`), how it gets there (`connection`, `response`), what is noted (`recorder`, `series`,
//! `ledger`).

mod check;
mod chunked;
mod clock;
mod connection;
mod data;
mod deadlines;
mod engine;
mod exchange;
mod harvest;
mod latencies;
mod ledger;
mod limits;
mod outcome;
mod pacer;
mod plan;
mod random;
mod recorder;
mod recording;
mod response;
mod scenario;
mod schedule;
mod series;
mod target;
mod template;
mod tick;
mod transactions;
mod worker;

#[cfg(test)]
mod tests;

pub(crate) use check::Check;
pub(crate) use data::Data;
pub(crate) use engine::run;
pub(crate) use ledger::{Fate, Ledger};
pub(crate) use plan::{Arrivals, Plan, PlanError, Scenario, Stage, Step, Target};
pub(crate) use recording::{CheckCount, Recording, StepRecording};
pub(crate) use series::{CompleteSecond, SecondLatency};
pub(crate) use tick::{Phase, Tick};
pub(crate) use transactions::seed_requests;
