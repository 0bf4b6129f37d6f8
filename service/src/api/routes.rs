//! The handlers of `/v1`. Each reads its input, does one thing and says what came of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;
use uuid::Uuid;

use super::App;
use super::accept::{accept, late};
use super::decode::{self, DecodedWrite, OperationId};
use super::error::ApiError;
use super::openapi::{self, Document};
use super::path::Path;
use crate::contract::{
    Accepted, AuditPage, AuditedDocument, IDEMPOTENCY_KEY, MAX_ID_BYTES, WriteOp, WriteStatus,
    write_operation_id,
};
use crate::journal::{WriteIds, WriteState};
use crate::telemetry;

/// Of a body that is refused for its size, what is still read and thrown away. A client that is cut off while it
/// sends never sees the answer, since closing on unread bytes resets the connection.
const DISCARDED_BYTES: usize = 64 * 1024 * 1024;
/// Documents in one page of the audit.
const AUDIT_PAGE: usize = 10_000;

/// Reads and writes in one request
///
/// The writes are journaled together: all or none. Without writes the answer is 200 and has no `write_id`.
#[utoipa::path(
    post,
    path = "/v1/transactions",
    tag = "documents",
    params(openapi::WriteHeaders),
    request_body(content = decode::TransactionBody, example = json!({
        "reads": [{"collection": "items", "id": "7"}],
        "writes": [{"collection": "orders", "op": "insert", "document": {"item": 7}}],
    })),
    responses(
        (status = 200, description = "There was nothing to write", body = openapi::TransactionAnswer),
        (status = 202, description = "Durable in the journal as `durability` says, and readable", body = openapi::TransactionAnswer),
        openapi::WriteProblems,
    ),
)]
pub(super) async fn transactions(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let op_id = operation_id(&app, request.headers())?;
    let body = body(&app, request).await?;
    let transaction = decode::transaction(&body, &op_id)?;
    drop(body);
    // One limit for both, and one timer. What is said when it is over depends on how far the request has come.
    let is_accepting = AtomicBool::new(false);
    let serving = async {
        let reads = find_all(&app, &transaction.reads).await?;
        if transaction.writes.is_empty() {
            return Ok((reads, None));
        }
        is_accepting.store(true, Ordering::Relaxed);
        Ok((reads, Some(accept(&app, op_id, transaction.writes).await?)))
    };
    let served = tokio::time::timeout(time_limit(&app), serving).await;
    let (reads, accepted) = served
        .unwrap_or_else(|_| Err(if is_accepting.load(Ordering::Relaxed) { late() } else { unread() }))?;
    // Without writes there is nothing to accept, and the reads alone are a plain answer.
    let (status, mut answer) = match accepted {
        None => (StatusCode::OK, String::from("{\"write_id\":null,")),
        Some(accepted) => (StatusCode::ACCEPTED, format!("{{\"write_id\":\"{}\",", accepted.ids)),
    };
    answer.push_str("\"durability\":\"");
    answer.push_str(app.journal.durability().as_str());
    answer.push_str("\",\"reads\":[");
    let mut answer = answer.into_bytes();
    for (place, document) in reads.iter().enumerate() {
        if place > 0 {
            answer.push(b',');
        }
        answer.extend_from_slice(document.as_deref().unwrap_or(b"null"));
    }
    answer.extend_from_slice(b"]}");
    Ok(json(status, answer))
}

/// Inserts a document under a new id
///
/// The id derives from the operation, so a retry with the same `Idempotency-Key` is the same document.
#[utoipa::path(
    post,
    path = "/v1/{collection}",
    tag = "documents",
    params(openapi::WriteHeaders, openapi::CollectionPath),
    request_body(content = Document, description = "The document: an object without `_id` and `_sk`"),
    responses((status = 202, description = "Durable in the journal as `durability` says, and readable", body = Accepted), openapi::WriteProblems),
)]
pub(super) async fn insert(
    State(app): State<Arc<App>>,
    Path(collection): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    write(&app, WriteOp::Insert, &collection, None, request).await
}

/// Creates or overwrites a document
#[utoipa::path(
    put,
    path = "/v1/{collection}/{id}",
    tag = "documents",
    params(openapi::WriteHeaders, openapi::DocumentPath),
    request_body(content = Document, description = "The document: an object without `_id` and `_sk`"),
    responses((status = 202, description = "Durable in the journal as `durability` says, and readable", body = Accepted), openapi::WriteProblems),
)]
pub(super) async fn replace(
    State(app): State<Arc<App>>,
    Path((collection, id)): Path<(String, String)>,
    request: Request,
) -> Result<Response, ApiError> {
    write(&app, WriteOp::Replace, &collection, Some(&id), request).await
}

/// Sets the given top-level fields
///
/// Fields given as null are removed; a nested object is replaced whole. Creates what is absent.
#[utoipa::path(
    patch,
    path = "/v1/{collection}/{id}",
    tag = "documents",
    params(openapi::WriteHeaders, openapi::DocumentPath),
    request_body(content = Document, description = "Top-level fields to set; null removes one"),
    responses((status = 202, description = "Durable in the journal as `durability` says, and readable", body = Accepted), openapi::WriteProblems),
)]
pub(super) async fn merge(
    State(app): State<Arc<App>>,
    Path((collection, id)): Path<(String, String)>,
    request: Request,
) -> Result<Response, ApiError> {
    write(&app, WriteOp::Merge, &collection, Some(&id), request).await
}

/// Removes a document
#[utoipa::path(
    delete,
    path = "/v1/{collection}/{id}",
    tag = "documents",
    params(openapi::WriteHeaders, openapi::DocumentPath),
    responses((status = 202, description = "Durable in the journal as `durability` says, and readable", body = Accepted), openapi::WriteProblems),
)]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Path((collection, id)): Path<(String, String)>,
    request: Request,
) -> Result<Response, ApiError> {
    write(&app, WriteOp::Delete, &collection, Some(&id), request).await
}

async fn write(
    app: &Arc<App>,
    op: WriteOp,
    collection: &str,
    id: Option<&str>,
    request: Request,
) -> Result<Response, ApiError> {
    let op_id = operation_id(app, request.headers())?;
    let body = body(app, request).await?;
    let decoded: DecodedWrite = decode::single(collection, op, id, &body, &op_id)?;
    let mut id = decoded.key.id().to_owned();
    let accepting = accept(app, op_id, vec![decoded]);
    let accepted = tokio::time::timeout(time_limit(app), accepting).await.unwrap_or_else(|_| Err(late()))?;
    if let Some(name) = accepted.name().filter(|_| id.is_empty()) {
        id = write_operation_id(&name.to_string(), 0);
    }
    let write_id = accepted.ids.to_string();
    let durability = app.journal.durability();
    Ok((StatusCode::ACCEPTED, axum::Json(Accepted { id, write_id, durability })).into_response())
}

/// Reads a document
///
/// Shows every write that was accepted, whether the database has it yet or not.
#[utoipa::path(
    get,
    path = "/v1/{collection}/{id}",
    tag = "documents",
    params(openapi::DocumentPath),
    responses((status = 200, description = "The document", body = Document), openapi::ReadProblems),
)]
pub(super) async fn read(
    State(app): State<Arc<App>>,
    Path((collection, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let key = decode::key(&collection, &id).map_err(decode::Invalid::into_error)?;
    let reading = find_all(&app, std::slice::from_ref(&key));
    let found = tokio::time::timeout(time_limit(&app), reading).await;
    match found.unwrap_or_else(|_| Err(unread()))?.pop().flatten() {
        Some(document) => Ok(json(StatusCode::OK, document)),
        None => Err(ApiError::not_found(format!("there is no document {key}"))),
    }
}

/// Where an accepted request stands
#[utoipa::path(
    get,
    path = "/v1/writes/{write_id}",
    tag = "documents",
    params(("write_id" = String, Path, description = "As a 202 told it", example = "0.1795000000000.0.0", pattern = r"^\d+\.\d+\.\d+\.\d+(\+\d+\.\d+\.\d+\.\d+)*$")),
    responses((status = 200, description = "Accepted, stored, superseded, or a dead letter with its reason", body = WriteStatus), openapi::StatusProblems),
)]
pub(super) async fn write_status(
    State(app): State<Arc<App>>,
    Path(text): Path<String>,
) -> Result<Response, ApiError> {
    let ids: WriteIds = text.parse().map_err(|()| {
        ApiError::malformed(format!("{text:?} is no write id; expected the `write_id` of a 202"))
    })?;
    let mut so_far = WriteState::Stored;
    for id in ids.iter() {
        so_far = so_far.with(app.journal.status(id).await?);
    }
    let (status, reason) = match so_far {
        WriteState::Accepted => ("accepted", None),
        WriteState::Stored => ("stored", None),
        WriteState::Superseded => ("superseded", None),
        WriteState::Dead { reason } => ("dead", Some(reason)),
        WriteState::Unknown => return Err(ApiError::not_found(format!("the journal never gave out {text}"))),
    };
    Ok(axum::Json(WriteStatus { write_id: text, status: status.into(), reason }).into_response())
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// Only operations that start with this.
    #[serde(default)]
    op_prefix: String,
    /// Only ids after this one.
    #[serde(default)]
    after: Option<String>,
}

/// What the store itself holds, past every cache
///
/// For the audit of a run on a store that only this process can open.
#[utoipa::path(
    get,
    path = "/v1/audit/{collection}",
    tag = "audit",
    params(openapi::CollectionPath, AuditQuery),
    responses((status = 200, description = "A page, in the order of ids", body = AuditPage), openapi::AuditProblems),
)]
pub(super) async fn audit(
    State(app): State<Arc<App>>,
    Path(collection): Path<String>,
    query: Result<Query<AuditQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(AuditQuery { op_prefix, after }) =
        query.map_err(|error| ApiError::malformed(error.body_text()))?;
    decode::collection_name(&collection).map_err(decode::Invalid::into_error)?;
    let stamps = app
        .store
        .stamps(&collection, &op_prefix, after.as_deref(), AUDIT_PAGE)
        .await
        .map_err(|error| ApiError::unavailable(error.to_string()))?;
    let next = (stamps.len() == AUDIT_PAGE).then(|| stamps.last().map(|stamp| stamp.id.clone())).flatten();
    let documents = stamps
        .into_iter()
        .map(|stamp| AuditedDocument { id: stamp.id, op: stamp.op_id, deleted: stamp.deleted })
        .collect();
    Ok(axum::Json(AuditPage { documents, next }).into_response())
}

/// How long a request may take in all. In direct mode its reads and its writes have a limit each, and say more about what
/// was late, so this one comes after those.
fn time_limit(app: &App) -> Duration {
    let limit = app.limits.request_timeout;
    if app.direct.is_some() { 2 * limit + Duration::from_secs(1) } else { limit }
}

fn unread() -> ApiError {
    ApiError::unavailable("the database did not answer in time")
}

async fn find_all(
    app: &Arc<App>,
    keys: &[crate::operation::DocumentKey],
) -> Result<Vec<Option<Bytes>>, ApiError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let span = telemetry::child("read");
    span.count("scalekit.documents", keys.len() as u64);
    let reading = span.around(async {
        match &app.direct {
            // Its writes have a limit of their own, too.
            Some(direct) => tokio::time::timeout(app.limits.request_timeout, direct.read(keys))
                .await
                .unwrap_or_else(|_| Err("the database did not answer in time".into())),
            None => app.reader.get_many(keys).await,
        }
    });
    reading.await.map_err(|reason| ApiError::unavailable(&*reason))
}

/// The client's name for the operation, else the journal's, else a new one, ordered by time.
fn operation_id(app: &App, headers: &HeaderMap) -> Result<OperationId, ApiError> {
    let Some(value) = headers.get(HeaderName::from_static(IDEMPOTENCY_KEY)) else {
        let is_named = app.direct.is_none() && app.journal.names_requests();
        return Ok(OperationId::new(if is_named { String::new() } else { Uuid::now_v7().to_string() }));
    };
    // Room for the place that ids of inserts add to it.
    let longest = MAX_ID_BYTES - 8;
    match value.to_str() {
        Ok(text) if !text.is_empty() && text.len() <= longest => Ok(OperationId::new(text.to_owned())),
        _ => Err(ApiError::malformed(format!(
            "Idempotency-Key must be 1 to {longest} visible ASCII characters"
        ))),
    }
}

/// The whole body, if it is within its bounds of size and time.
async fn body(app: &App, request: Request) -> Result<Bytes, ApiError> {
    let limit = app.limits.max_body_bytes;
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let expects_continue = request.headers().contains_key(header::EXPECT);
    let mut body = request.into_body();
    if announced.is_some_and(|announced| announced > limit) {
        // A client that waits to be told to continue has sent nothing.
        if !expects_continue {
            tokio::spawn(discard(body, DISCARDED_BYTES, app.limits.request_timeout));
        }
        return Err(ApiError::too_large(limit));
    }
    let collected = Limited::new(&mut body, limit).collect();
    match tokio::time::timeout(app.limits.request_timeout, collected).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            tokio::spawn(discard(body, DISCARDED_BYTES, app.limits.request_timeout));
            Err(ApiError::too_large(limit))
        }
        Ok(Err(error)) => Err(ApiError::malformed(format!("the body broke off: {error}"))),
        Err(_) => Err(ApiError::request_timeout()),
    }
}

/// Reads what is left of a body while the answer is on its way.
pub(super) async fn discard(mut body: Body, most_bytes: usize, limit: Duration) {
    let reading = async {
        let mut discarded = 0;
        while let Some(Ok(frame)) = body.frame().await {
            discarded += frame.data_ref().map_or(0, Bytes::len);
            if discarded > most_bytes {
                break;
            }
        }
    };
    // Whatever comes later is cut off.
    let _ = tokio::time::timeout(limit, reading).await;
}

fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}
