//! Accepting writes: into the journal, then visible to readers, then 202.

use std::sync::Arc;

use tokio::time::Instant;

use super::App;
use super::decode::DecodedWrite;
use super::error::ApiError;
use crate::cache::{AcceptedWrite, CacheChange};
use crate::journal::{Request, RequestWrite, WriteId, now_ms};

/// Journals the writes of one request; returns when they are durable and readable.
///
/// It runs to its end even when the client goes away: what is in the journal must show in the cache.
pub(super) async fn accept(
    app: &Arc<App>,
    op_id: String,
    writes: Vec<DecodedWrite>,
) -> Result<WriteId, ApiError> {
    if let Some(reason) = app.gate.closed() {
        return Err(ApiError::backlog(reason));
    }
    let task = tokio::spawn(run(Arc::clone(app), op_id, writes));
    match tokio::time::timeout(app.limits.request_timeout, task).await {
        Ok(Ok(result)) => result,
        Ok(Err(panicked)) => Err(ApiError::internal(format!("accepting failed: {panicked}"))),
        Err(_) => Err(ApiError::outcome_unknown("the journal did not answer in time")),
    }
}

async fn run(app: Arc<App>, op_id: String, writes: Vec<DecodedWrite>) -> Result<WriteId, ApiError> {
    let started = Instant::now();
    let count = writes.len() as u64;
    let mut visible = Vec::with_capacity(writes.len());
    let mut journaled = Vec::with_capacity(writes.len());
    for DecodedWrite { key, change, json, is_new } in writes {
        visible.push(AcceptedWrite { key: key.clone(), change: CacheChange::new(&change, json), is_new });
        journaled.push(RequestWrite { key, change });
    }
    let request = Request { op_id: op_id.into(), at_ms: now_ms(), writes: journaled };
    let appended = app.journal.append(request).await?;
    app.metrics.journal_append_seconds.observe(started.elapsed().as_secs_f64());
    let write_id = WriteId { shard: 0, position: appended.position, place: 0 };
    if appended.repeated {
        app.metrics.journal_repeated.inc();
        return Ok(write_id);
    }
    app.metrics.journal_appended.inc();
    app.metrics.accepted_writes.inc_by(count);
    if let Err(error) = app.cache.accepted(appended.position.version(), visible).await {
        // The write is safe; only reading it back at once is not.
        app.metrics.cache_errors.inc();
        tracing::warn!(%error, "an accepted write is not in the cache");
    }
    Ok(write_id)
}
