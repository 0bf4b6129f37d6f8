//! Accepting writes: into the journal, then visible to readers, then 202.

use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::App;
use super::decode::{DecodedWrite, OperationId};
use super::error::ApiError;
use crate::cache::{AcceptedWrite, CacheChange};
use crate::direct::Direct;
use crate::journal::{Appended, Held, JournalError, Request, RequestWrite, WriteIds, WriteState, now_ms};
use crate::operation::DocumentKey;
use crate::rarely::Rarely;
use crate::recall;
use crate::telemetry;

static NOT_IN_CACHE: LazyLock<Rarely> = LazyLock::new(Rarely::default);

/// Journals the writes of one request; returns when they are durable and readable. How long that may take is for the caller
/// to bound, who then has to say [`late`].
///
/// It runs to its end even when the client goes away: what is in the journal must show in the cache.
pub(super) async fn accept(
    app: &Arc<App>,
    op_id: OperationId,
    writes: Vec<DecodedWrite>,
) -> Result<Appended, ApiError> {
    if let Some(direct) = &app.direct {
        return store(app, direct, op_id, writes).await;
    }
    let bytes = writes.iter().map(DecodedWrite::bytes).sum();
    let permit = admit(app, bytes)?;
    let accepting = run(Arc::clone(app), op_id, writes);
    let accepting = ToItsEnd::new(async move {
        let accepted = accepting.await;
        drop(permit);
        accepted
    });
    accepting.await
}

/// What is said when the time is over.
pub(super) fn late() -> ApiError {
    ApiError::outcome_unknown("the journal did not answer in time")
}

/// A place among the requests that are being journaled, for one with about so many bytes; the error says why there is none
/// now.
pub(super) fn admit(app: &App, bytes: u64) -> Result<OwnedSemaphorePermit, ApiError> {
    let Ok(permit) = Arc::clone(&app.accepting).try_acquire_owned() else {
        app.metrics.rejected.count("busy");
        return Err(ApiError::unavailable("too many requests wait for the journal"));
    };
    app.gate.admit(bytes)?;
    Ok(permit)
}

/// A future that goes on as a task of its own when whoever awaits it is dropped. A task from the start would cost
/// each request two turns through the scheduler.
struct ToItsEnd<T: 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T> ToItsEnd<T> {
    fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(Box::pin(work)))
    }
}

impl<T> Future for ToItsEnd<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // Taken, so that work which panics is not begun again by `drop`.
        let mut work = self.0.take().expect("it is not polled after its end");
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.0 = Some(work);
        }
        polled
    }
}

impl<T> Drop for ToItsEnd<T> {
    fn drop(&mut self) {
        let Some(work) = self.0.take() else { return };
        // Without a runtime the process is at its end; what is journaled stays journaled.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { drop(work.await) });
        }
    }
}

/// Direct mode: the writes one after the other in the database, and no further once the client is gone.
async fn store(
    app: &App,
    direct: &Direct,
    op_id: OperationId,
    writes: Vec<DecodedWrite>,
) -> Result<Appended, ApiError> {
    let count = writes.len() as u64;
    let writes =
        writes.into_iter().map(|write| RequestWrite { key: write.key, change: write.change }).collect();
    let request = Request { op_id: op_id.into_name(), at_ms: now_ms(), writes, places: None, replay: None };
    let position = direct.write(request, Instant::now() + app.limits.request_timeout).await?;
    app.metrics.accepted_writes.inc_by(count);
    Ok(Appended::at(position, false))
}

async fn run(app: Arc<App>, op_id: OperationId, writes: Vec<DecodedWrite>) -> Result<Appended, ApiError> {
    let started = Instant::now();
    let count = writes.len() as u64;
    let is_held = app.journal.finds_held();
    let mut visible = Vec::new();
    let mut journaled = Vec::with_capacity(writes.len());
    for DecodedWrite { key, change, json, is_new } in writes {
        if !(is_new && is_held) {
            // The version is known when the journal has it.
            let change_seen = CacheChange::new(&change, json);
            visible.push(AcceptedWrite { key: key.clone(), version: 0, change: change_seen });
        }
        journaled.push(RequestWrite { key, change });
    }
    let op_id = op_id.into_name();
    let repeats = op_id.clone();
    let request = Request { op_id, at_ms: now_ms(), writes: journaled, places: None, replay: None };
    let appended = telemetry::child("journal append").around(app.journal.append(request)).await;
    let appended = appended.map_err(|error| {
        app.metrics.journal_append_failures.inc();
        match error {
            JournalError::Full(reason) => return app.gate.full(reason).into(),
            JournalError::Unavailable(_) | JournalError::Failed(_) => app.metrics.rejected.count("journal"),
            // Not refused, or no fault of the journal's.
            JournalError::Unknown(_) | JournalError::Invalid(_) | JournalError::Reused => {}
        }
        ApiError::from(error)
    })?;
    app.metrics.journal_append_seconds.observe_time(started.elapsed());
    telemetry::current().set("scalekit.write_id", || appended.ids.to_string());
    let ids = &appended.ids;
    if appended.repeated {
        app.metrics.journal_repeated.inc();
        // Whoever appended it may have died before it was visible; and what was sent now may be something else.
        let keys: Vec<DocumentKey> = visible.into_iter().map(|write| write.key).collect();
        visible = held(&app, ids, &repeats, &keys).await?;
    } else {
        app.metrics.journal_appended.inc();
        app.metrics.accepted_writes.inc_by(count);
        for write in &mut visible {
            write.version =
                ids.version(app.journal.shard_of(&write.key)).expect("a part for each shard of a write");
        }
    }
    if !visible.is_empty()
        && let Err(error) = app.cache.accepted(visible).await
    {
        // The write is safe; only reading it back at once is not.
        app.metrics.cache_errors.inc();
        if let Some(unsaid) = NOT_IN_CACHE.now() {
            tracing::warn!(%error, unsaid, "an accepted write is not in the cache");
        }
    }
    Ok(appended)
}

/// What waits of an operation, for the cache. Of what is stored by now the cache is told by a read of the database.
async fn held(
    app: &Arc<App>,
    ids: &WriteIds,
    op_id: &str,
    keys: &[DocumentKey],
) -> Result<Vec<AcceptedWrite>, ApiError> {
    let operations: Vec<_> = ids.iter().map(|id| (id.shard, op_id)).collect();
    let mut visible = Vec::new();
    // It is accepted, whatever fails here; that it can be read is open.
    let open = |error: JournalError| ApiError::outcome_unknown(&error.to_string());
    for (held, id) in app.journal.held(&operations).await.map_err(open)?.into_iter().zip(ids.iter()) {
        if let Some(Held { version, request }) = held {
            visible.extend(recall::visible(request, version));
        } else if app.journal.status(id).await.map_err(open)? == WriteState::Stored {
            let of_part = |key: &&DocumentKey| app.journal.shard_of(key) == id.shard;
            let keys: Vec<DocumentKey> = keys.iter().filter(of_part).cloned().collect();
            if let Err(error) = app.reader.reread(&keys, id.position.version()).await {
                tracing::debug!(%error, "the cache was not told of a write that is stored");
            }
        }
    }
    Ok(visible)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_goes_on_when_nobody_waits_for_it_any_more() {
        let (go, gone) = oneshot::channel::<()>();
        let (finished, done) = oneshot::channel();
        let work = ToItsEnd::new(async move {
            gone.await.unwrap();
            finished.send(7).unwrap();
        });
        assert!(tokio::time::timeout(Duration::from_millis(1), work).await.is_err());
        go.send(()).unwrap();
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), done).await.unwrap(), Ok(7));
    }

    #[tokio::test]
    async fn its_end_comes_to_those_who_wait() {
        ToItsEnd::new(tokio::task::yield_now()).await;
        assert_eq!(ToItsEnd::new(std::future::ready(3)).await, 3);
    }
}
