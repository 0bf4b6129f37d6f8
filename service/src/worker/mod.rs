//! The worker: carries the journal into the database in batches, no faster than the database allows, and
//! acknowledges only what is stored or safely among the dead letters.

pub mod batch;
mod fleet;
pub mod governor;
mod isolate;
mod replayed;
pub mod shared_limiter;
pub mod sizing;
pub mod steering;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::contract::MAX_OPERATIONS_PER_REQUEST;
use crate::journal::{Consumer, DeadLetter, Delivery, JournalError};
use crate::metrics::Metrics;
use crate::operation::Position;
use crate::rarely::Rarely;
use crate::store::{Store, Throttle};
use crate::telemetry::{Span, Traces};
use batch::Batch;
pub use fleet::Fleet;
use isolate::{Interrupted, Outcome};
use sizing::Sizes;

/// How long one read waits when nothing comes; also how soon a stop is noticed.
const IDLE_WAIT: Duration = Duration::from_millis(250);
/// Back-off between attempts while the database or the journal is away.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(3);
/// After a stop a batch may take so long to its end, if there is no longer time to drain. What is cut off is delivered
/// again.
const FINISH: Duration = Duration::from_secs(10);

/// How batches are made.
#[derive(Clone, Copy, Debug)]
pub struct BatchSettings {
    /// Writes in a batch, about: an entry is never split.
    pub max_writes: usize,
    /// Journal bytes in a batch, about.
    pub max_bytes: usize,
    /// How long the first write of a batch waits for company.
    pub linger: Duration,
}

/// What all shards of a process work with.
#[derive(Clone)]
pub struct Means {
    pub store: Arc<dyn Store>,
    pub cache: Arc<dyn Cache>,
    pub throttle: Arc<dyn Throttle>,
    pub settings: BatchSettings,
    /// Of batches; at most what the settings say.
    pub sizes: Arc<Sizes>,
    pub metrics: Arc<Metrics>,
    pub traces: Traces,
}

/// The worker of one shard.
pub struct Worker {
    shard: u16,
    consumer: Box<dyn Consumer>,
    means: Means,
    /// About how many writes an entry has lately, at least 1: concurrent requests share entries, so it varies.
    entry_writes: usize,
}

/// Before anything is known: what one large request has, so that the first batch is rather too small.
const FIRST_ENTRY_WRITES: usize = MAX_OPERATIONS_PER_REQUEST;

impl Worker {
    #[must_use]
    pub fn new(shard: u16, consumer: Box<dyn Consumer>, means: Means) -> Self {
        Self { shard, consumer, means, entry_writes: FIRST_ENTRY_WRITES }
    }

    /// Works until `stop`; then, if `drain` is given, until the journal is empty or that time is over. What is
    /// left stays in the journal for the next start. With `surrender`, or when the shard is another's, it ends after the
    /// batch that it is at.
    pub async fn run(
        mut self,
        stop: CancellationToken,
        surrender: CancellationToken,
        drain: Option<Duration>,
    ) {
        let mut backoff = Backoff::default();
        let mut deadline = None;
        let mut more = false;
        while !surrender.is_cancelled() && !self.consumer.has_lost() {
            if stop.is_cancelled() {
                let end = *deadline.get_or_insert_with(|| Instant::now() + drain.unwrap_or_default());
                if Instant::now() >= end {
                    break;
                }
            }
            match self.step(more, &stop, deadline).await {
                Ok(Step::Idle) if deadline.is_some() => break,
                Ok(Step::Idle) => more = false,
                Ok(Step::Done { full }) => {
                    more = full;
                    backoff = Backoff::default();
                }
                Err(StepError::Stopped) => break,
                Err(StepError::Journal(error)) => {
                    tracing::warn!(%error, "the worker waits for the journal");
                    self.consumer.rewind();
                    self.means.metrics.worker_retries.inc();
                    backoff.wait(&stop).await;
                }
            }
        }
        self.consumer.release().await;
    }

    async fn step(
        &mut self,
        more: bool,
        stop: &CancellationToken,
        deadline: Option<Instant>,
    ) -> Result<Step, StepError> {
        let limit = self.means.sizes.limit();
        let (deliveries, full) = self.gather(limit, more || deadline.is_some()).await?;
        if deliveries.is_empty() {
            return Ok(Step::Idle);
        }
        self.means.metrics.worker_batch_bytes.observe(size(&deliveries).1 as u64);
        let mut batch = Batch::new(self.shard, deliveries);
        self.means.metrics.worker_coalesced.inc_by(batch.coalesced() as u64);
        let positions = std::mem::take(&mut batch.positions);
        let mut dead = std::mem::take(&mut batch.dead);
        let up_to = positions.iter().map(|position| position.version()).max().unwrap_or(i64::MIN);
        let span = self.means.traces.batch();
        describe(&span, &batch, &positions);
        dead.extend(span.around(self.store(batch, limit, up_to, stop, deadline)).await?);
        drop(span);
        if !dead.is_empty() {
            self.bury(&dead).await?;
        }
        self.consumer.ack(&positions).await?;
        // If it was overloaded meanwhile, the limit is below this one, and such a batch says nothing of it.
        if self.means.sizes.limit() >= limit {
            self.means.sizes.stored(full);
        }
        Ok(Step::Done { full })
    }

    /// Reads a batch's worth. The flag says that it ended by its size, so more is probably there.
    async fn gather(
        &mut self,
        max_writes: usize,
        hurry: bool,
    ) -> Result<(Vec<Delivery>, bool), JournalError> {
        let BatchSettings { max_bytes, linger, .. } = self.means.settings;
        let max_bytes = self.means.sizes.part_of(max_bytes, max_writes);
        let entries = |writes: usize, each: usize| (writes / each).max(1);
        let mut gathered =
            self.consumer.read(entries(max_writes, self.entry_writes), max_bytes, IDLE_WAIT).await?;
        let mut lingered = hurry;
        loop {
            let (writes, bytes) = size(&gathered);
            if let Some(each) = writes.checked_div(gathered.len()) {
                self.entry_writes = each.max(1);
            }
            if gathered.is_empty() || writes >= max_writes || bytes >= max_bytes {
                let full = !gathered.is_empty();
                return Ok((gathered, full));
            }
            if !lingered {
                tokio::time::sleep(linger).await;
                lingered = true;
            }
            // As many entries as still fit, going by those so far.
            let wanted = entries(max_writes - writes, self.entry_writes);
            let next = self.consumer.read(wanted, max_bytes - bytes, Duration::from_millis(1)).await?;
            if next.is_empty() {
                return Ok((gathered, false));
            }
            gathered.extend(next);
        }
    }

    /// Stores a batch, however long the database is away; returns what it refused for good.
    async fn store(
        &mut self,
        batch: Batch,
        limit: usize,
        up_to: i64,
        stop: &CancellationToken,
        deadline: Option<Instant>,
    ) -> Result<Vec<DeadLetter>, StepError> {
        if batch.writes.is_empty() {
            return Ok(Vec::new());
        }
        let Means { store, cache, throttle, sizes, metrics, .. } = &self.means;
        metrics.worker_batches.inc();
        metrics.worker_batch_writes.observe(batch.writes.len() as u64);
        let started = Instant::now();
        let attempt = isolate::Attempt {
            store: &**store,
            throttle: &**throttle,
            metrics,
            sizes,
            limit,
            stop,
            deadline,
        };
        let done = tokio::select! {
            done = attempt.apply(batch.writes, batch.later) => done,
            // The governor may be away, and an operation may wait for it for ever.
            () = too_late(stop, deadline) => Err(Interrupted),
        };
        let Outcome { stored, mut refused, dead, mut replayed, passed_over } =
            done.map_err(|Interrupted| StepError::Stopped)?;
        // It was there a moment ago; if it is away again, the batch comes once more, and changes nothing.
        let looked_at = attempt.look_at(passed_over).await;
        let (before, superseded) = looked_at.map_err(|error| JournalError::Unavailable(error.to_string()))?;
        replayed.extend(before);
        refused.extend(batch.refused);
        metrics.worker_apply_seconds.observe_time(started.elapsed());
        let settled = cache.settled(&stored, up_to).await;
        let settled = match replayed.is_empty() {
            true => settled,
            false => settled.and(cache.accepted(replayed::visible(replayed)).await),
        };
        let forgotten = cache.invalidate(&refused).await;
        if let Err(error) = settled.and(forgotten) {
            metrics.cache_errors.inc();
            tracing::warn!(%error, "the cache was not told what is stored; its entries expire");
        }
        if !superseded.is_empty() {
            self.consumer.superseded(&superseded).await?;
        }
        Ok(dead)
    }

    async fn bury(&mut self, dead: &[DeadLetter]) -> Result<(), JournalError> {
        for letter in dead {
            let Some(unsaid) = DEAD.now() else { continue };
            tracing::warn!(unsaid, write_id = %letter.write_id, op_id = letter.op_id, reason = letter.reason, "dead letter");
        }
        self.consumer.bury(dead).await?;
        self.means.metrics.worker_dead.inc_by(dead.len() as u64);
        Ok(())
    }
}

async fn too_late(stop: &CancellationToken, deadline: Option<Instant>) {
    stop.cancelled().await;
    let finish = Instant::now() + FINISH;
    tokio::time::sleep_until(deadline.map_or(finish, |deadline| deadline.max(finish))).await;
}

static DEAD: LazyLock<Rarely> = LazyLock::new(Rarely::default);

/// By its positions the batch of a `write_id` is found.
fn describe(span: &Span, batch: &Batch, positions: &[Position]) {
    for (key, position) in [("scalekit.first", positions.first()), ("scalekit.last", positions.last())] {
        let Some(Position { ms, seq }) = position else { continue };
        span.set(key, || format!("{ms}.{seq}"));
    }
    span.count("scalekit.entries", positions.len() as u64);
    span.count("scalekit.writes", batch.journaled_writes as u64);
    span.count("scalekit.documents", batch.writes.len() as u64);
}

enum Step {
    Idle,
    Done { full: bool },
}

enum StepError {
    Journal(JournalError),
    /// The time to drain is over while the database is away.
    Stopped,
}

impl From<JournalError> for StepError {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

/// Writes and bytes.
fn size(deliveries: &[Delivery]) -> (usize, usize) {
    deliveries.iter().fold((0, 0), |(writes, bytes), delivery| match delivery {
        Delivery::Entry(entry) => (
            writes + entry.requests.iter().map(|request| request.writes.len()).sum::<usize>(),
            bytes + entry.bytes,
        ),
        Delivery::Undecodable { payload, .. } => (writes + 1, bytes + payload.len()),
    })
}

/// Doubles, with jitter, so that several workers do not come back together.
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST_BACKOFF }
    }
}

impl Backoff {
    /// Waits, or returns at once when `stop` comes.
    pub(crate) async fn wait(&mut self, stop: &CancellationToken) {
        let jittered = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(MAX_BACKOFF);
        if stop.is_cancelled() {
            tokio::time::sleep(jittered.min(FIRST_BACKOFF)).await;
        } else {
            let _ = tokio::time::timeout(jittered, stop.cancelled()).await;
        }
    }
}
