//! The load generator. A [`plan`] says what to do; the [`engine`] runs one epoll loop a thread, in which each
//! virtual user owns one connection; the [`recording`] is what came of it.
//!
//! The parts are kept apart so that each can be replaced: when a request is due (`pacer`), what is sent
//! (`scenario`, `transactions`), how it gets there (`connection`, `transport`, `http1`, `http2`), what is noted (`recorder`, `series`,
//! `ledger`).

mod chunked;
mod client;
mod clock;
mod connecting;
mod connection;
mod deadlines;
mod engine;
mod exchange;
mod harvest;
mod http1;
mod http2;
mod http2_request;
mod ledger;
mod limits;
mod outcome;
mod pacer;
mod plan;
mod recorder;
mod recording;
mod response;
mod scenario;
mod series;
mod target;
mod tasks;
mod tick;
mod tls;
mod transactions;
mod transport;
mod wire;
mod worker;

#[cfg(test)]
mod tests;

pub(crate) use connecting::{ConnectOptions, Connecting, HttpVersion};
pub(crate) use engine::run;
pub(crate) use ledger::{Fate, Ledger};
pub(crate) use plan::{Plan, PlanError, Scenario, Target};
pub(crate) use recording::Recording;
pub(crate) use series::SecondLatency;
pub(crate) use tick::{Phase, Tick};
pub(crate) use tls::TlsOptions;
pub(crate) use transactions::seed_requests;
