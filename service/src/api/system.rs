//! Health, readiness, metrics and counters: the same on every process.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{Method, Uri, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::ApiError;
use super::openapi;
use super::stats::Process;
use crate::contract::Stats;

pub(super) fn routes() -> OpenApiRouter<Arc<Process>> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
        .routes(routes!(stats))
}

/// Whether the process answers
///
/// Says nothing of Redis or the database, whose absence a restart would not mend.
#[utoipa::path(get, path = "/healthz", tag = "system",
    responses((status = 200, description = "It does", body = String, content_type = "text/plain", example = "ok\n")))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether writes are accepted
///
/// The journal can be reached and its backlog is within bounds.
#[utoipa::path(get, path = "/readyz", tag = "system",
    responses((status = 200, description = "They are", body = String, content_type = "text/plain", example = "ready\n"), openapi::ReadinessProblems))]
async fn readyz(State(process): State<Arc<Process>>) -> Response {
    match process.not_ready() {
        None => "ready\n".into_response(),
        Some(reason) => ApiError::unavailable(reason).into_response(),
    }
}

/// Metrics for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "system",
    responses((status = 200, description = "In the text format of OpenMetrics 1.0", body = String, content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8")))]
async fn metrics(State(process): State<Arc<Process>>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], process.prometheus()).into_response()
}

/// Counters of the process
#[utoipa::path(get, path = "/v1/stats", tag = "system", responses((status = 200, description = "Since its start", body = Stats)))]
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
