//! Getting a batch into the store: wait while it is away, take apart what it refuses, and find the one write
//! that spoils a whole command.

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Backoff;
use super::batch::{PlannedWrite, Source};
use super::sizing::Sizes;
use crate::journal::DeadLetter;
use crate::metrics::Metrics;
use crate::operation::{DocumentKey, DocumentWrite};
use crate::store::{Applied, Store, StoreError, Throttle};

/// Attempts for a single write at which the database fails as a whole, before it is called poison.
const POISON_ATTEMPTS: u32 = 5;

pub(super) struct Attempt<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) throttle: &'a dyn Throttle,
    pub(super) metrics: &'a Metrics,
    pub(super) sizes: &'a Sizes,
    /// Under which the batch was made.
    pub(super) limit: usize,
    pub(super) stop: &'a CancellationToken,
    /// When stopping: until when to try. Set only once a stop was asked for.
    pub(super) deadline: Option<Instant>,
}

/// Stopping, and the database did not come back in time. Nothing is acknowledged.
pub(super) struct Interrupted;

#[derive(Default)]
pub(super) struct Outcome {
    /// Documents that the store has, and up to which version.
    pub(super) stored: Vec<(DocumentKey, i64)>,
    /// Documents of which at least one write was refused.
    pub(super) refused: Vec<DocumentKey>,
    pub(super) dead: Vec<DeadLetter>,
    /// Dead letters under their old version that the store took.
    pub(super) replayed: Vec<PlannedWrite>,
    /// Such that changed nothing: the store has them already, or a newer state.
    pub(super) passed_over: Vec<PlannedWrite>,
}

impl Attempt<'_> {
    /// Applies all writes, those of `later` after the others, round by round; each ends stored, superseded or as a dead
    /// letter.
    pub(super) async fn apply(
        &self,
        writes: Vec<PlannedWrite>,
        later: Vec<Vec<PlannedWrite>>,
    ) -> Result<Outcome, Interrupted> {
        let mut outcome = Outcome::default();
        // Parts still to do, later ones first. Splitting bounds the depth by the logarithm of the batch.
        let mut parts: Vec<_> = later.into_iter().rev().chain([writes]).collect();
        let mut backoff = Backoff::default();
        let mut failures = 0;
        let mut limit = self.limit;
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            // Taken apart and put together again, since documents are too large to copy for nothing.
            let (writes, sources): (Vec<DocumentWrite>, Vec<Vec<Source>>) =
                part.into_iter().map(|planned| (planned.write, planned.sources)).unzip();
            let result = self.store.apply(&writes, self.throttle).await;
            let part: Vec<PlannedWrite> = writes
                .into_iter()
                .zip(sources)
                .map(|(write, sources)| PlannedWrite { write, sources })
                .collect();
            match result {
                Ok(applied) => {
                    failures = 0;
                    self.sort(part, applied, &mut parts, &mut outcome);
                }
                Err(StoreError::Failed(reason)) if part.len() > 1 => {
                    tracing::warn!(reason, writes = part.len(), "the database failed a batch; halving it");
                    halve(part, &mut parts);
                }
                Err(StoreError::Failed(reason)) if failures + 1 >= POISON_ATTEMPTS => {
                    failures = 0;
                    refuse(part, &reason, &mut outcome);
                }
                Err(error) => {
                    tracing::warn!(%error, "the worker waits for the database");
                    self.metrics.worker_retries.inc();
                    match error {
                        StoreError::TimedOut(_) | StoreError::Overloaded(_) => {
                            self.sizes.overloaded(limit);
                            limit = (limit / 2).max(1);
                            halve(part, &mut parts);
                        }
                        StoreError::Failed(_) => {
                            failures += 1;
                            parts.push(part);
                        }
                        StoreError::Unavailable(_) => parts.push(part),
                    }
                    if self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
                        || (self.stop.is_cancelled() && self.deadline.is_none())
                    {
                        return Err(Interrupted);
                    }
                    backoff.wait(self.stop).await;
                }
            }
        }
        Ok(outcome)
    }

    fn sort(
        &self,
        part: Vec<PlannedWrite>,
        applied: Vec<Applied>,
        parts: &mut Vec<Vec<PlannedWrite>>,
        outcome: &mut Outcome,
    ) {
        for (planned, applied) in part.into_iter().zip(applied) {
            match applied {
                Applied::Refused { .. } if planned.sources.len() > 1 && spans_entries(&planned) => {
                    // One part each, since a store takes a document once in a call; the first is popped first.
                    parts.extend(planned.by_entry().into_iter().rev().map(|step| vec![step]));
                }
                Applied::Refused { reason } => refuse(vec![planned], &reason, outcome),
                Applied::Stored => {
                    self.metrics.worker_stored.inc();
                    outcome.stored.push((planned.write.key.clone(), planned.write.version));
                    if planned.entry_of_old().is_some() {
                        outcome.replayed.push(planned);
                    }
                }
                Applied::Superseded => {
                    self.metrics.worker_superseded.inc();
                    outcome.stored.push((planned.write.key.clone(), planned.write.version));
                    if planned.entry_of_old().is_some() {
                        outcome.passed_over.push(planned);
                    }
                }
            }
        }
    }
}

/// Into two parts, the first to be done first; one of a single write stays. Each document is in one of them only, so
/// their order does not matter.
fn halve(mut part: Vec<PlannedWrite>, parts: &mut Vec<Vec<PlannedWrite>>) {
    let second = part.split_off(part.len().div_ceil(2));
    parts.push(second);
    parts.push(part);
}

fn spans_entries(planned: &PlannedWrite) -> bool {
    let mut versions = planned.sources.iter().map(|source| source.write_id.position);
    let first = versions.next();
    versions.any(|version| Some(version) != first)
}

fn refuse(part: Vec<PlannedWrite>, reason: &str, outcome: &mut Outcome) {
    for planned in part {
        // Readers never saw a letter under its old version, and they must not lose what they see instead.
        if planned.entry_of_old().is_none() {
            outcome.refused.push(planned.write.key.clone());
        }
        outcome.dead.extend(planned.dead_letters(reason));
    }
}
