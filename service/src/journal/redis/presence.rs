//! Which processes of the service there are, and for how many shards they are set: one count for all of them, since a
//! document must not have entries in two journals.

use std::sync::Arc;
use std::time::Duration;

use ::redis::{AsyncCommands as _, RedisError};

use super::keys::{APIS, COUNT, ShardKeys, WORKERS};
use super::scripts::{ADOPT, BEAT};
use super::unavailable;
use crate::journal::JournalError;
use crate::journal::shard::MAX_SHARDS;
use crate::redis_link::RedisLink;

/// A process that has not been heard of for so long is gone; as long as the lease on a shard.
const TTL: Duration = Duration::from_secs(10);

/// Makes `shards` the count in force, if none is or if nothing depends on the other one.
///
/// # Errors
/// Another count is in force and entries wait under it, or processes run with it; or Redis does not answer.
pub(super) async fn adopt(link: &RedisLink, shards: u16) -> Result<(), JournalError> {
    let lease = link.lease().await.map_err(JournalError::Unavailable)?;
    let mut connection = lease.connection.clone();
    let mut call = ADOPT.prepare_invoke();
    call.key(COUNT).key(WORKERS).key(APIS);
    for shard in 0..MAX_SHARDS {
        call.key(ShardKeys::new(shard).stream);
    }
    let answer: Result<(u64, u64, u64), RedisError> = call.arg(shards).invoke_async(&mut connection).await;
    link.check(&lease, &answer);
    let (former, waiting, live) = answer.map_err(|error| unavailable(link.address(), &error))?;
    if former == u64::from(shards) {
        return Ok(());
    }
    let what =
        format!("deploy.shards is {shards}, but the journal at {} is dealt out to {former}", link.address());
    Err(JournalError::Failed(if waiting > 0 {
        format!(
            "{what}, and {waiting} entries wait in it, whose documents would get out of order; start with `shards: {former}` until they are stored (journal.backlog_entries of /v1/stats is 0), then change it"
        )
    } else {
        format!(
            "{what}, and APIs and workers that run with that are there ({live}); stop them first (one that was killed counts for {} s)",
            TTL.as_secs()
        )
    }))
}

/// One process among others of its kind, as long as it goes on saying so.
pub struct Presence {
    link: Arc<RedisLink>,
    key: &'static str,
    shards: u16,
    /// 16 digits that no other process has, and the name.
    who: String,
    /// Whether it takes the place of one with its name: it is that one after a restart. If not, both go on.
    succeeds: bool,
    /// By Redis's clock; empty before the first beat.
    joined: String,
    ttl: Duration,
}

/// What a process sees around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// How many of the others were there before.
    pub(super) rank: usize,
    /// Processes of its kind, with itself.
    pub(super) live: usize,
}

impl Presence {
    pub(super) fn of_worker(link: Arc<RedisLink>, shards: u16, name: &str) -> Self {
        Self::new(link, WORKERS, shards, name, true)
    }

    pub(super) fn of_api(link: Arc<RedisLink>, shards: u16) -> Self {
        Self::new(link, APIS, shards, "api", false)
    }

    fn new(link: Arc<RedisLink>, key: &'static str, shards: u16, name: &str, succeeds: bool) -> Self {
        let who = format!("{:016x} {name}", fastrand::u64(..));
        Self { link, key, shards, who, succeeds, joined: String::new(), ttl: TTL }
    }

    #[cfg(test)]
    pub(super) fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Says that this process is there.
    ///
    /// # Errors
    /// Redis does not answer; or, as [`JournalError::Failed`], another count of shards is in force by now.
    pub async fn beat(&mut self) -> Result<(), JournalError> {
        self.place().await.map(drop)
    }

    pub(super) async fn place(&mut self) -> Result<Place, JournalError> {
        let lease = self.link.lease().await.map_err(JournalError::Unavailable)?;
        let mut connection = lease.connection.clone();
        let mut call = BEAT.prepare_invoke();
        call.key(COUNT).key(self.key).arg(self.shards).arg(self.ttl.as_millis() as u64);
        call.arg(&self.joined).arg(&self.who).arg(u8::from(self.succeeds));
        let answer: Result<(u64, String, usize, usize), RedisError> =
            call.invoke_async(&mut connection).await;
        self.link.check(&lease, &answer);
        let (shards, joined, rank, live) =
            answer.map_err(|error| unavailable(self.link.address(), &error))?;
        if shards != u64::from(self.shards) {
            return Err(JournalError::Failed(format!(
                "the journal at {} is dealt out to {shards} shards by now, and this process runs with {}: start it again with the new deploy.shards",
                self.link.address(),
                self.shards
            )));
        }
        self.joined = joined;
        Ok(Place { rank, live })
    }

    /// Says that it goes; without it, the others believe in it until its time is over.
    pub async fn leave(&mut self) {
        if self.joined.is_empty() {
            return;
        }
        let member = format!("{} {}", self.joined, self.who);
        let Ok(lease) = self.link.lease().await else { return };
        let mut connection = lease.connection.clone();
        let left: Result<i64, RedisError> = connection.zrem(self.key, member).await;
        self.link.check(&lease, &left);
        if let Err(error) = left {
            tracing::debug!(%error, "the others hear late that this process is gone");
        }
    }
}
