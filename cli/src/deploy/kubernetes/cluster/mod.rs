//! A cluster, and what is done there: the objects applied, waited for, compared, shown, followed and removed. All of it
//! through the API, with the rights of the kubeconfig's user, every call bounded in time.

mod address;
mod apply;
mod capped;
mod connect;
mod diff;
mod down;
mod error;
mod fleet;
mod follow;
mod forward;
mod kinds;
mod logs;
mod namespace;
mod plan;
mod ready;
mod rights;
mod rollout;
mod status;
mod trouble;

pub(crate) use address::{From, addresses};
pub(crate) use apply::{Applied, apply, prune};
pub(crate) use capped::cap;
pub(crate) use connect::{Cluster, connect};
pub(crate) use diff::diff;
pub(crate) use down::down;
pub(crate) use error::ClusterError;
pub(crate) use fleet::{Fleet, Size};
pub(crate) use forward::{Forward, forward};
pub(crate) use logs::{LogLine, LogRequest, logs};
pub(crate) use plan::{Purpose, plan, saved_credentials};
pub(crate) use rollout::wait;
pub(crate) use status::{Status, pods_selector, status};
