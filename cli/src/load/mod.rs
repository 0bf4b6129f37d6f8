//! The load generator. A [`plan`] says what to do; the [`engine`] runs one epoll loop a thread, in which each
//! virtual user owns one connection; the [`recording`] is what came of it.
//!
//! The parts are kept apart so that each can be replaced: when a request is due (`pacer`), what is sent
//! (`scenario`, `transactions`), how it gets there (`connection`, `response`), what is noted (`recorder`, `series`,
//! `ledger`), what may end it early (`running`), what spoils it (`effort`, `heartbeat`, `withheld`).

mod cgroup;
mod chunked;
mod clock;
mod connection;
mod deadlines;
mod effort;
mod engine;
mod exchange;
mod harvest;
mod heartbeat;
mod ledger;
mod limits;
mod outcome;
mod pacer;
mod plan;
mod recorder;
mod recording;
mod response;
mod running;
mod scenario;
mod series;
mod target;
mod tick;
mod transactions;
mod withheld;
mod worker;

#[cfg(test)]
mod tests;

pub(crate) use engine::{run, run_watched};
pub(crate) use ledger::{Fate, Ledger};
pub(crate) use plan::{Plan, PlanError, Scenario, Target};
pub(crate) use recording::Recording;
pub(crate) use running::{Running, Watch};
pub(crate) use series::SecondLatency;
pub(crate) use tick::{Phase, Tick};
pub(crate) use transactions::seed_requests;
