//! Accepting writes: into the journal, then visible to readers, then 202.

use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::App;
use super::decode::DecodedWrite;
use super::error::ApiError;
use crate::cache::{AcceptedWrite, CacheChange};
use crate::direct::Direct;
use crate::journal::{Request, RequestWrite, WriteId, WriteState, now_ms};
use crate::rarely::Rarely;
use crate::telemetry;

static NOT_IN_CACHE: LazyLock<Rarely> = LazyLock::new(Rarely::default);

/// Journals the writes of one request; returns when they are durable and readable.
///
/// It runs to its end even when the client goes away: what is in the journal must show in the cache.
pub(super) async fn accept(
    app: &Arc<App>,
    op_id: String,
    writes: Vec<DecodedWrite>,
) -> Result<WriteId, ApiError> {
    if let Some(direct) = &app.direct {
        return store(app, direct, op_id, writes).await;
    }
    if let Some(reason) = app.gate.closed() {
        return Err(ApiError::backlog(reason));
    }
    let Ok(permit) = Arc::clone(&app.accepting).try_acquire_owned() else {
        return Err(ApiError::backlog("too many requests wait for the journal"));
    };
    let accepting = run(Arc::clone(app), op_id, writes);
    let accepting = ToItsEnd::new(async move {
        let accepted = accepting.await;
        drop(permit);
        accepted
    });
    match tokio::time::timeout(app.limits.request_timeout, accepting).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::outcome_unknown("the journal did not answer in time")),
    }
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
    op_id: String,
    writes: Vec<DecodedWrite>,
) -> Result<WriteId, ApiError> {
    let count = writes.len() as u64;
    let writes =
        writes.into_iter().map(|write| RequestWrite { key: write.key, change: write.change }).collect();
    let request = Request { op_id: op_id.into(), at_ms: now_ms(), writes };
    let position = direct.write(request, Instant::now() + app.limits.request_timeout).await?;
    app.metrics.accepted_writes.inc_by(count);
    Ok(WriteId { shard: 0, position, place: 0 })
}

async fn run(app: Arc<App>, op_id: String, writes: Vec<DecodedWrite>) -> Result<WriteId, ApiError> {
    let started = Instant::now();
    let count = writes.len() as u64;
    let mut visible = Vec::with_capacity(writes.len());
    let mut journaled = Vec::with_capacity(writes.len());
    for DecodedWrite { key, change, json, is_new } in writes {
        // The version is known when the journal has it.
        let change_seen = CacheChange::new(&change, json);
        visible.push(AcceptedWrite { key: key.clone(), version: 0, change: change_seen, is_new });
        journaled.push(RequestWrite { key, change });
    }
    let request = Request { op_id: op_id.into(), at_ms: now_ms(), writes: journaled };
    let appended = telemetry::child("journal append").around(app.journal.append(request)).await;
    let appended = appended.inspect_err(|_| {
        app.metrics.journal_append_failures.inc();
    })?;
    app.metrics.journal_append_seconds.observe_time(started.elapsed());
    let write_id = WriteId { shard: 0, position: appended.position, place: 0 };
    telemetry::current().set("scalekit.write_id", || write_id.to_string());
    if appended.repeated {
        app.metrics.journal_repeated.inc();
        // Whoever appended it may have ended, or not have heard of it, before readers could see it.
        match app.journal.status(write_id).await {
            Ok(WriteState::Accepted) => {}
            Ok(WriteState::Stored) => {
                let keys: Vec<_> = visible.into_iter().map(|write| write.key).collect();
                if let Err(error) = app.reader.refresh(&keys, appended.position.version()).await {
                    tracing::debug!(%error, "the cache was not told of a write that is stored");
                }
                return Ok(write_id);
            }
            Ok(WriteState::Dead { .. } | WriteState::Unknown) | Err(_) => return Ok(write_id),
        }
        // Others may have written on top of it by now.
        visible.iter_mut().for_each(|write| write.is_new = false);
    } else {
        app.metrics.journal_appended.inc();
        app.metrics.accepted_writes.inc_by(count);
    }
    let version = appended.position.version();
    visible.iter_mut().for_each(|write| write.version = version);
    if let Err(error) = app.cache.accepted(visible).await {
        // The write is safe; only reading it back at once is not.
        app.metrics.cache_errors.inc();
        if let Some(unsaid) = NOT_IN_CACHE.now() {
            tracing::warn!(%error, unsaid, "an accepted write is not in the cache");
        }
    }
    Ok(write_id)
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
