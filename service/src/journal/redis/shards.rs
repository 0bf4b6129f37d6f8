//! Which shards are this worker's: a fair share of them, and those that nobody has.

use std::collections::BTreeSet;
use std::sync::Arc;

use ::redis::RedisError;
use async_trait::async_trait;

use super::consumer::RedisConsumer;
use super::keys::ShardKeys;
use super::presence::{Place, Presence};
use super::unavailable;
use crate::journal::{Consumer, JournalError, Shards};
use crate::redis_link::RedisLink;

/// The shards as one worker sees them.
pub struct RedisShards {
    link: Arc<RedisLink>,
    keys: Vec<ShardKeys>,
    name: String,
    presence: Presence,
    /// Those that it has owned, or tried to take over from its own name: it succeeds a former worker of its name once.
    /// If that one lives after all, the two would take a shard from each other for ever.
    succeeded: BTreeSet<u16>,
    #[cfg(test)]
    lease: std::time::Duration,
}

impl RedisShards {
    pub(super) fn new(link: Arc<RedisLink>, keys: Vec<ShardKeys>, name: &str) -> Self {
        let count = u16::try_from(keys.len()).unwrap_or(u16::MAX);
        let presence = Presence::of_worker(Arc::clone(&link), count, name);
        Self {
            link,
            keys,
            name: name.to_owned(),
            presence,
            succeeded: BTreeSet::new(),
            #[cfg(test)]
            lease: super::consumer::LEASE,
        }
    }

    /// Also how long the worker counts as alive.
    #[cfg(test)]
    pub(crate) fn with_lease(mut self, lease: std::time::Duration) -> Self {
        self.lease = lease;
        self.presence = self.presence.with_ttl(lease);
        self
    }

    /// Who owns each of these, as far as somebody does.
    async fn owners(&self, keys: &[&ShardKeys]) -> Result<Vec<Option<String>>, JournalError> {
        let lease = self.link.lease().await.map_err(JournalError::Unavailable)?;
        let mut connection = lease.connection.clone();
        // Not MGET: the keys are of several hash slots.
        let mut pipe = ::redis::pipe();
        for keys in keys {
            pipe.get(&keys.owner);
        }
        let owners: Result<Vec<Option<String>>, RedisError> = pipe.query_async(&mut connection).await;
        self.link.check(&lease, &owners);
        owners.map_err(|error| unavailable(self.link.address(), &error))
    }

    fn consumer(&self, keys: &ShardKeys, succeeds: bool) -> RedisConsumer {
        let consumer = RedisConsumer::new(Arc::clone(&self.link), keys.clone(), &self.name);
        let consumer = if succeeds { consumer } else { consumer.succeeding_nobody() };
        #[cfg(test)]
        let consumer = consumer.with_lease(self.lease);
        consumer
    }
}

#[async_trait]
impl Shards for RedisShards {
    async fn share(&mut self) -> Result<usize, JournalError> {
        Ok(share(self.keys.len(), self.presence.place().await?))
    }

    async fn take(&mut self, held: &BTreeSet<u16>) -> Result<Option<(u16, Box<dyn Consumer>)>, JournalError> {
        let mut others: Vec<&ShardKeys> =
            self.keys.iter().filter(|keys| !held.contains(&keys.shard)).collect();
        // Two workers that look at the same moment do not want the same ones.
        fastrand::shuffle(&mut others);
        let owners = self.owners(&others).await?;
        for (keys, owner) in others.into_iter().zip(owners) {
            let succeeds = !self.succeeded.contains(&keys.shard);
            let is_free = match owner {
                None => true,
                Some(owner) => succeeds && super::consumer::name_of(&owner) == self.name,
            };
            if !is_free {
                continue;
            }
            let mut consumer = self.consumer(keys, succeeds);
            let shard = keys.shard;
            let claimed = consumer.claim().await?;
            self.succeeded.insert(shard);
            if claimed {
                return Ok(Some((shard, Box::new(consumer))));
            }
        }
        Ok(None)
    }

    async fn leave(&mut self) {
        self.presence.leave().await;
    }
}

/// All of them together own all shards, and none more than one above another: the first ones have one more.
fn share(shards: usize, Place { rank, live }: Place) -> usize {
    let live = live.max(1);
    shards / live + usize::from(rank < shards % live)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_fair_and_leave_nothing_over() {
        for shards in 1..=64_usize {
            for live in 1..=70 {
                let shares: Vec<usize> = (0..live).map(|rank| share(shards, Place { rank, live })).collect();
                assert_eq!(shares.iter().sum::<usize>(), shards, "{shards} over {live}");
                assert!(shares.iter().all(|share| *share <= shards.div_ceil(live)), "{shards} over {live}");
                assert!(shares[0] - shares[live - 1] <= 1, "{shares:?}");
            }
        }
    }
}
