//! Health, readiness, metrics and counters: the same on every process.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::error::ApiError;
use super::stats::Process;

pub(super) fn router(process: Arc<Process>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/stats", get(stats))
        .with_state(process)
}

/// Live: the process answers. Says nothing of Redis or the database, whose absence a restart would not mend.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(process): State<Arc<Process>>) -> Response {
    match process.not_ready() {
        None => "ready\n".into_response(),
        Some(reason) => ApiError::unavailable(reason).into_response(),
    }
}

async fn metrics(State(process): State<Arc<Process>>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], process.prometheus()).into_response()
}

async fn stats(State(process): State<Arc<Process>>) -> Response {
    axum::Json(process.stats().await).into_response()
}

pub(super) async fn no_such_route(uri: Uri) -> ApiError {
    ApiError::not_found(format!(
        "there is no route {}; see POST /v1/transactions, POST /v1/{{collection}}, GET, PUT, PATCH or DELETE /v1/{{collection}}/{{id}}, GET /v1/writes/{{write_id}}",
        uri.path()
    ))
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::method_not_allowed(format!("{method} is not possible on {}", uri.path()))
}
