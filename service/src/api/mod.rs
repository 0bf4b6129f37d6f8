//! The HTTP side: routes, bounds, readiness and metrics.

mod accept;
pub(crate) mod auth;
mod decode;
mod error;
mod gate;
pub(crate) mod listener;
mod path;
mod rate;
mod read;
pub(crate) mod reload;
mod routes;
mod slow;
mod stats;
mod system;
pub(crate) mod tls;
mod transcode;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use tokio::sync::Semaphore;

use crate::cache::Cache;
use crate::direct::Direct;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::store::Store;
pub(crate) use gate::Gate;
pub(crate) use read::Reader;
pub(crate) use stats::Process;

/// Bounds of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    pub max_body_bytes: usize,
    /// For the body to arrive, and again for the answer.
    pub request_timeout: Duration,
}

/// What the routes of the API share.
pub struct App {
    pub journal: Arc<dyn Journal>,
    pub cache: Arc<dyn Cache>,
    pub store: Arc<dyn Store>,
    pub reader: Arc<Reader>,
    /// In direct mode: instead of reader, journal and cache.
    pub direct: Option<Direct>,
    pub gate: Arc<Gate>,
    pub metrics: Arc<Metrics>,
    pub limits: RequestLimits,
    /// A permit for each request that is being journaled, also of clients that are gone: their connections are no
    /// bound any more.
    pub accepting: Arc<Semaphore>,
    pub process: Arc<Process>,
}

/// All routes of the contract.
pub fn router(app: Arc<App>) -> Router {
    let process = Arc::clone(&app.process);
    Router::new()
        .route("/v1/transactions", post(routes::transactions))
        .route("/v1/writes/{write_id}", get(routes::write_status))
        .route("/v1/audit/{collection}", get(routes::audit))
        .route("/v1/{collection}", post(routes::insert))
        .route(
            "/v1/{collection}/{id}",
            get(routes::read).put(routes::replace).patch(routes::merge).delete(routes::delete),
        )
        .with_state(app)
        .merge(system::router(process))
        .method_not_allowed_fallback(system::method_not_allowed)
        .fallback(system::no_such_route)
}

/// What a worker's own port serves: it has no API.
pub fn worker_router(process: Arc<Process>) -> Router {
    system::router(process)
        .method_not_allowed_fallback(system::method_not_allowed)
        .fallback(system::no_such_route)
}
