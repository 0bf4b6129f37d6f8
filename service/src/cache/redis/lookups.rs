//! Looks up the documents of several requests with one command: what L1 does not have is read, and what it has is believed
//! after a reply, which is the barrier that L1 needs.

use std::sync::Arc;
use std::time::Duration;

use ::redis::{Cmd, FromRedisValue, Value};
use bytes::Bytes;
use tokio::time::Instant;

use super::l1::L1;
use super::{EXPIRING, name, write_name};
use crate::batches::{Waiting, Work};
use crate::cache::{CacheError, FillToken, Level, Lookup, Versioned};
use crate::operation::DocumentKey;
use crate::redis_link::{Lease, RedisLink};

/// Documents that one command reads, about.
const COMMAND_KEYS: usize = 1024;

pub(super) struct Lookups {
    /// Of their own: Redis tracks what is read over it.
    pub(super) link: RedisLink,
    pub(super) l1: Arc<L1>,
}

impl Work for Lookups {
    type Item = Vec<DocumentKey>;
    type Answer = Result<Vec<Lookup>, CacheError>;
    type Batch = usize;

    fn joins(keys: &mut usize, item: &Vec<DocumentKey>) -> bool {
        let fits = *keys < COMMAND_KEYS;
        *keys += item.len();
        fits
    }

    async fn perform(&self, batch: Vec<Waiting<Self>>) {
        let keys: Vec<&DocumentKey> = batch.iter().flat_map(|waiting| &waiting.item).collect();
        match self.look_up(&keys).await {
            Ok(found) => {
                let mut found = found.into_iter();
                for waiting in batch {
                    let its = found.by_ref().take(waiting.item.len()).collect();
                    waiting.answer(Ok(its));
                }
            }
            Err(error) => batch.into_iter().for_each(|waiting| waiting.answer(Err(error.clone()))),
        }
        self.l1.weigh();
    }
}

impl Lookups {
    async fn look_up(&self, keys: &[&DocumentKey]) -> Result<Vec<Lookup>, CacheError> {
        let lease = self.link.lease().await.map_err(CacheError)?;
        let connection = lease.generation();
        let mut found = vec![Lookup::Miss(FillToken::default()); keys.len()];
        let now = Instant::now();
        let (near, far): (Vec<usize>, Vec<usize>) =
            (0..keys.len()).partition(|place| self.l1.has(keys[*place], connection, now));
        // One of those that are here, any: the more readers a document has, the likelier it is.
        let asked = (!near.is_empty()).then(|| near[fastrand::usize(..near.len())]);
        let (left, ()) =
            tokio::try_join!(self.left(&lease, keys, asked), self.read(&lease, keys, &far, &mut found))?;
        let mut changed = Vec::new();
        let now = Instant::now();
        for place in near {
            match (self.l1.get(keys[place], connection, now), left) {
                (Some(document), Some(left)) if asked == Some(place) => {
                    found[place] = Lookup::Expiring(document, left);
                }
                (Some(document), _) => found[place] = Lookup::Known(document, Level::L1),
                (None, _) => changed.push(place),
            }
        }
        self.read(&lease, keys, &changed, &mut found).await?;
        Ok(found)
    }

    /// How long the key at this place lives, if that is short. It is the barrier, too, where there is anything in L1.
    async fn left(
        &self,
        lease: &Lease,
        keys: &[&DocumentKey],
        place: Option<usize>,
    ) -> Result<Option<Duration>, CacheError> {
        let Some(place) = place else { return Ok(None) };
        let left = self.ask::<i64>(lease, ::redis::cmd("PTTL").arg(name(keys[place]))).await?;
        // Negative: it is gone, or lives for ever.
        Ok(u64::try_from(left).ok().map(Duration::from_millis).filter(|left| *left < EXPIRING))
    }

    /// Reads the keys at these places from Redis.
    async fn read(
        &self,
        lease: &Lease,
        keys: &[&DocumentKey],
        places: &[usize],
        found: &mut [Lookup],
    ) -> Result<(), CacheError> {
        if places.is_empty() {
            return Ok(());
        }
        let mut command = Cmd::with_capacity(places.len() + 1, places.len() * 48);
        command.arg("MGET");
        let mut name = String::new();
        let mut tickets = Vec::with_capacity(places.len());
        for place in places {
            tickets.push(self.l1.ticket(keys[*place], lease.generation()));
            write_name(keys[*place], &mut name);
            command.arg(&name);
        }
        let values = self.ask::<Vec<Value>>(lease, &command).await?;
        for ((place, ticket), value) in places.iter().zip(tickets).zip(values) {
            let said = lookup(value);
            if let Lookup::Known(document, _) = &said {
                self.l1.fill(keys[*place], document.clone(), ticket);
            }
            found[*place] = said;
        }
        Ok(())
    }

    async fn ask<T: FromRedisValue>(&self, lease: &Lease, command: &Cmd) -> Result<T, CacheError> {
        let mut connection = lease.connection.clone();
        let answer = command.query_async::<T>(&mut connection).await;
        self.link.check(lease, &answer);
        answer.map_err(|error| CacheError(format!("Redis at {}: {error}", self.link.address())))
    }
}

/// What a key's value says of its document.
fn lookup(value: Value) -> Lookup {
    let known = match value {
        Value::BulkString(bytes) => Versioned::decode(Bytes::from(bytes)),
        _ => None,
    };
    let Some(known) = known else { return Lookup::Miss(FillToken::default()) };
    match known.document() {
        Some(document) => Lookup::Known(document, Level::L2),
        None => Lookup::Partial(known, FillToken::default()),
    }
}
