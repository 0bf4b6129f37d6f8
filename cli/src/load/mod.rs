//! The load generator. A [`plan`] says what to do; the [`engine`] runs one epoll loop a thread, in which each
//! virtual user owns one connection; the [`recording`] is what came of it.
//!
//! The parts are kept apart so that each can be replaced: when a request is due (`pacer`), what is sent
//! (`scenario`, `transactions`, `cookies`), how it gets there (`connection`, `transport`, `http1`, `http2`), what is noted
//! (`recorder`, `series`, `ledger`), what may end it early (`running`), what spoils it (`effort`, `heartbeat`,
//! `withheld`).

mod agenda;
mod authorization;
mod cgroup;
mod check;
mod chunked;
mod client;
mod clock;
mod connecting;
mod connection;
mod cookies;
mod data;
mod deadlines;
mod effort;
mod engine;
mod exchange;
mod harvest;
mod head;
mod heartbeat;
mod http1;
mod http2;
mod http2_request;
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
#[cfg(test)]
mod response_splits;
mod running;
mod scenario;
mod schedule;
mod series;
mod set_cookies;
mod share;
mod soundness;
mod target;
mod tasks;
mod template;
mod tick;
mod tls;
mod transactions;
mod transfer;
mod transport;
mod trends;
mod unite;
mod wire;
mod withheld;
mod worker;

#[cfg(test)]
mod tests;

pub(crate) use authorization::Authorization;
pub(crate) use check::Check;
pub(crate) use connecting::{ConnectOptions, Connecting, HttpVersion};
pub(crate) use data::Data;
#[cfg(test)]
pub(crate) use engine::Ticks;
pub(crate) use engine::{LoadError, Observer, run};
pub(crate) use ledger::{Fate, Ledger};
pub(crate) use limits::files_beside_users;
pub(crate) use plan::{Arrivals, Plan, PlanError, Scenario, Share, Stage, Step, Target};
pub(crate) use recording::{CheckCount, Recording, StepRecording};
#[cfg(test)]
pub(crate) use running::RunningTrend;
pub(crate) use running::{JUDGING_INTERVAL, Running, Watch};
pub(crate) use series::{Interval, SecondLatency, SeriesBuilder};
pub(crate) use tick::{Phase, Tick};
pub(crate) use tls::{TlsOptions, control_tls};
pub(crate) use transactions::seed_requests;
pub(crate) use unite::unite;
