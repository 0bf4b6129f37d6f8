//! The HTTP side: routes, bounds, readiness and metrics. Each route is declared together with its documentation, so
//! that `/openapi.json` cannot lack one.

mod accept;
mod admission;
pub(crate) mod auth;
mod crowd;
mod dead_letters;
mod decode;
mod early;
mod elements;
mod error;
mod gate;
pub(crate) mod listener;
mod observe;
mod openapi;
mod path;
mod plain;
mod rate;
mod read;
pub(crate) mod reload;
mod rest;
mod routes;
mod slow;
mod stats;
mod system;
pub(crate) mod tls;
mod transcode;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::sync::Semaphore;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::cache::Cache;
use crate::direct::Direct;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::store::Store;
pub(crate) use gate::{Bounds, Gate};
pub(crate) use observe::Observe;
pub(crate) use read::Reader;
pub(crate) use stats::{DeviceView, Process, Seen};

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

/// The routes of an API, but for the system's. A route must not be added in another way than this.
fn api_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(routes::transactions))
        .routes(routes!(routes::write_status))
        .routes(routes!(routes::audit))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::show, dead_letters::drop_letter))
        .routes(routes!(dead_letters::replay))
        .routes(routes!(routes::insert))
        .routes(routes!(routes::read, routes::replace, routes::merge, routes::delete))
        .routes(routes!(openapi::document))
}

/// All routes of the contract.
pub fn router(app: Arc<App>) -> Router {
    let process = Arc::clone(&app.process);
    finish(api_routes().with_state(app), process)
}

/// What a worker's own port serves: it has no API.
pub fn worker_router(process: Arc<Process>) -> Router {
    finish(OpenApiRouter::new(), process)
}

/// Adds what every process has.
fn finish(routes: OpenApiRouter, process: Arc<Process>) -> Router {
    let metrics = Arc::clone(&process.metrics);
    let traces = process.traces.clone();
    let (router, document) = routes.merge(system::routes().with_state(process)).split_for_parts();
    let operations = openapi::operations(&document);
    metrics.requests.distinguish(operations.iter().map(|(method, route)| (*method, route.as_str())));
    router
        .method_not_allowed_fallback(system::method_not_allowed)
        .fallback(system::no_such_route)
        .layer(Observe { requests: Arc::clone(&metrics.requests), traces })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The router has no list of its routes to ask for, but its debug output has: `RouteId(n): "/path"`.
    fn templates(router: &str) -> BTreeSet<&str> {
        let mut parts = router.split("RouteId(");
        parts.next();
        parts
            .filter_map(|part| part.split_once("): \"")?.1.split_once('"'))
            .map(|(template, _)| template)
            .filter(|template| template.starts_with('/'))
            // axum's own routes to the fallback.
            .filter(|template| *template != "/" && !template.contains("__private"))
            .collect()
    }

    #[test]
    fn no_route_is_undocumented() {
        let undocumented = api_routes().route("/v1/hidden/{x}", axum::routing::get(async || ()));
        let (router, document) = undocumented.split_for_parts();
        let router = format!("{router:?}");
        let documented: BTreeSet<&str> = document.paths.paths.keys().map(String::as_str).collect();
        let extra: Vec<&str> = templates(&router).difference(&documented).copied().collect();
        assert_eq!(extra, ["/v1/hidden/{x}"], "such a route shows");
        let (api, api_document) = api_routes().split_for_parts();
        let (system, system_document) = system::routes().split_for_parts();
        for (router, document) in
            [(format!("{api:?}"), api_document), (format!("{system:?}"), system_document)]
        {
            let documented: BTreeSet<&str> = document.paths.paths.keys().map(String::as_str).collect();
            assert_eq!(templates(&router), documented);
        }
    }
}
