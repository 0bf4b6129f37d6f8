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
mod share;
mod target;
mod template;
mod tick;
mod transactions;
mod transfer;
mod unite;
mod worker;

#[cfg(test)]
mod tests;

pub(crate) use check::Check;
pub(crate) use data::Data;
pub(crate) use engine::{Observer, run_observed};
#[cfg(test)]
pub(crate) use engine::{Ticks, run};
pub(crate) use ledger::{Fate, Ledger};
pub(crate) use plan::{Arrivals, Plan, PlanError, Scenario, Share, Stage, Step, Target};
pub(crate) use recording::{CheckCount, Recording, StepRecording};
pub(crate) use series::{Interval, SecondLatency, SeriesBuilder};
pub(crate) use tick::{Phase, Tick};
pub(crate) use transactions::seed_requests;
pub(crate) use unite::unite;
