//! The shards of one worker process: it takes a fair share of them, works on each apart from the others, and gives
//! back what is too much when workers join.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Means, Worker};
use crate::journal::{JournalError, Shards};
use crate::rarely::Rarely;

/// Between two looks at who is there, on average; far below the time after which a worker counts as gone.
const INTERVAL: Duration = Duration::from_secs(1);
/// While it has less than its share.
const WANTING_INTERVAL: Duration = Duration::from_millis(300);

/// One worker process.
pub struct Fleet {
    pub shards: Box<dyn Shards>,
    pub means: Means,
}

/// What is under way.
#[derive(Default)]
struct Crew {
    tasks: JoinSet<u16>,
    /// The shards worked on, each with what tells it to give its shard back.
    held: BTreeMap<u16, CancellationToken>,
}

impl Crew {
    /// Those that are not being given back.
    fn kept(&self) -> usize {
        self.held.values().filter(|surrender| !surrender.is_cancelled()).count()
    }

    fn ended(&mut self, ended: Result<u16, tokio::task::JoinError>) -> Result<(), JournalError> {
        let shard = ended.map_err(|error| JournalError::Failed(format!("a shard's worker: {error}")))?;
        self.held.remove(&shard);
        Ok(())
    }
}

impl Fleet {
    /// Works until `stop`; then each shard as [`Worker::run`] says.
    ///
    /// # Errors
    /// The worker cannot go on: the number of shards was changed, or a part of it panicked.
    pub async fn run(mut self, stop: CancellationToken, drain: Option<Duration>) -> Result<(), JournalError> {
        let mut crew = Crew::default();
        let stop = stop.child_token();
        let ended = self.work(&mut crew, &stop, drain).await;
        stop.cancel();
        while crew.tasks.join_next().await.is_some() {}
        self.means.metrics.worker_shards.set(0);
        self.shards.leave().await;
        ended
    }

    async fn work(
        &mut self,
        crew: &mut Crew,
        stop: &CancellationToken,
        drain: Option<Duration>,
    ) -> Result<(), JournalError> {
        let unheard = Rarely::default();
        while !stop.is_cancelled() {
            let wants = match self.balance(crew, stop, drain).await {
                Ok(wants) => wants,
                Err(JournalError::Failed(reason)) => return Err(JournalError::Failed(reason)),
                Err(error) => {
                    if let Some(unsaid) = unheard.now() {
                        tracing::warn!(unsaid, %error, "the worker cannot tell which shards are to be its own");
                    }
                    false
                }
            };
            self.means.metrics.worker_shards.set(i64::try_from(crew.held.len()).unwrap_or(i64::MAX));
            let pause = if wants { WANTING_INTERVAL } else { INTERVAL };
            // With jitter, so that workers which started together do not stay together.
            let pause = pause.mul_f64(0.75 + fastrand::f64() / 2.0);
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                Some(ended) = crew.tasks.join_next() => crew.ended(ended)?,
            }
        }
        Ok(())
    }

    /// Takes what is missing, gives back what is too much; whether some is still missing.
    async fn balance(
        &mut self,
        crew: &mut Crew,
        stop: &CancellationToken,
        drain: Option<Duration>,
    ) -> Result<bool, JournalError> {
        while let Some(ended) = crew.tasks.try_join_next() {
            crew.ended(ended)?;
        }
        let share = self.shards.share().await?;
        let surplus = crew.kept().saturating_sub(share);
        for (shard, surrender) in
            crew.held.iter().filter(|(_, surrender)| !surrender.is_cancelled()).take(surplus)
        {
            tracing::info!(shard, "giving a shard back: other workers have less");
            surrender.cancel();
        }
        while crew.kept() < share {
            let held: BTreeSet<u16> = crew.held.keys().copied().collect();
            let Some((shard, consumer)) = self.shards.take(&held).await? else { return Ok(true) };
            tracing::info!(shard, "this worker owns the shard");
            let surrender = CancellationToken::new();
            crew.held.insert(shard, surrender.clone());
            let worker = Worker::new(shard, consumer, self.means.clone());
            let stop = stop.clone();
            crew.tasks.spawn(async move {
                worker.run(stop, surrender, drain).await;
                shard
            });
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
