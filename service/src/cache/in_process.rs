//! The cache of a process that is its own journal and store.
//!
//! Accepted writes are pinned until the worker has stored them (the journal's bound on backlog bounds them
//! too); what was read is kept in a bounded cache.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::RandomState;
use async_trait::async_trait;
use quick_cache::sync::{Cache as Bounded, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use tokio::time::Instant;

use super::{AcceptedWrite, Cache, CacheError, FillToken, Level, Lookup, Versioned};
use crate::operation::DocumentKey;

/// Locks; more than cores, so that requests seldom meet.
const SHARDS: usize = 64;
/// Bytes of documents kept after reads.
const READ_BYTES: u64 = 64 * 1024 * 1024;
/// The cache's own locks. A document larger than its lock's share (4 MiB) is not kept.
const READ_SHARDS: usize = 16;
/// What a document is expected to take, to size the cache's index.
const TYPICAL_BYTES: u64 = 512;
/// A document changed behind the service's back is seen after this at the latest.
const READ_TTL: Duration = Duration::from_secs(60);

pub struct InProcessCache {
    shards: Vec<Mutex<Shard>>,
    read: Bounded<DocumentKey, Read, Weigh, RandomState>,
    hasher: RandomState,
    /// Everything accepted up to this version is stored or refused. It is set before the shards are cleared and
    /// read under a shard's lock, so a write that the worker overtook is never pinned for good.
    settled: AtomicI64,
}

#[derive(Default)]
struct Shard {
    pending: HashMap<DocumentKey, Versioned, RandomState>,
    /// Grows when a pending document is settled: a database read from before may be older than that.
    generation: u64,
}

/// What a read of the database found.
#[derive(Clone)]
struct Read {
    known: Versioned,
    expires: Instant,
}

#[derive(Clone)]
struct Weigh;

impl Weighter<DocumentKey, Read> for Weigh {
    fn weight(&self, key: &DocumentKey, read: &Read) -> u64 {
        (key.as_bytes().len() + read.known.weight()) as u64
    }
}

impl Default for InProcessCache {
    fn default() -> Self {
        let options = OptionsBuilder::new()
            .shards(READ_SHARDS)
            .weight_capacity(READ_BYTES)
            .estimated_items_capacity((READ_BYTES / TYPICAL_BYTES) as usize)
            .build()
            .expect("capacities are given");
        let read = Bounded::with_options(options, Weigh, RandomState::new(), DefaultLifecycle::default());
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, read, hasher: RandomState::new(), settled: AtomicI64::new(i64::MIN) }
    }
}

impl InProcessCache {
    fn shard(&self, key: &DocumentKey) -> MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        // Each critical section leaves the map whole, so a poisoned lock is as good as any.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was read of a document, while it may be believed.
    fn read(&self, key: &DocumentKey) -> Option<Versioned> {
        let read = self.read.get(key)?;
        if read.expires > Instant::now() {
            return Some(read.known);
        }
        self.read.remove(key);
        None
    }

    fn get(&self, key: &DocumentKey) -> Lookup {
        let shard = self.shard(key);
        let known = match shard.pending.get(key) {
            Some(pending) => {
                let mut known = pending.clone();
                if known.document().is_none()
                    && let Some(read) = self.read(key)
                {
                    known.absorb(read);
                }
                known
            }
            None => match self.read(key) {
                Some(read) => read,
                None => return Lookup::Miss(FillToken(shard.generation)),
            },
        };
        let token = FillToken(shard.generation);
        drop(shard);
        match known.document() {
            Some(document) => Lookup::Known(document, Level::L1),
            None => Lookup::Partial(known, token),
        }
    }
}

#[async_trait]
impl Cache for InProcessCache {
    fn kind(&self) -> &'static str {
        "in-process"
    }

    async fn get_many(&self, keys: &[DocumentKey]) -> Result<Vec<Lookup>, CacheError> {
        Ok(keys.iter().map(|key| self.get(key)).collect())
    }

    async fn fill(&self, key: &DocumentKey, found: Versioned, token: FillToken) -> Result<(), CacheError> {
        let shard = self.shard(key);
        // Whether a write was settled since the database was read shows in the generation; one that is
        // pending still shows in front of this.
        if shard.generation == token.0 {
            self.read.insert(key.clone(), Read { known: found, expires: Instant::now() + READ_TTL });
        }
        Ok(())
    }

    async fn accepted(&self, writes: Vec<AcceptedWrite>) -> Result<(), CacheError> {
        for write in writes {
            let mut shard = self.shard(&write.key);
            if write.version > self.settled.load(Ordering::SeqCst) {
                shard.pending.entry(write.key).or_default().apply(write.version, write.change);
            }
        }
        Ok(())
    }

    async fn settled(&self, documents: &[(DocumentKey, i64)], up_to: i64) -> Result<(), CacheError> {
        self.settled.fetch_max(up_to, Ordering::SeqCst);
        for (key, version) in documents {
            let mut shard = self.shard(key);
            shard.generation += 1;
            if shard.pending.get(key).is_some_and(|pending| pending.version() <= *version) {
                shard.pending.remove(key);
            }
            if shard.pending.is_empty() && shard.pending.capacity() > 4096 {
                // A crowd has passed: give its memory back.
                shard.pending = HashMap::default();
            }
            self.read.remove(key);
        }
        Ok(())
    }

    async fn invalidate(&self, keys: &[DocumentKey]) -> Result<(), CacheError> {
        for key in keys {
            let mut shard = self.shard(key);
            shard.generation += 1;
            shard.pending.remove(key);
            self.read.remove(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheChange;
    use bytes::Bytes;

    fn key() -> DocumentKey {
        DocumentKey::new("items", "1")
    }

    fn set(version: i64, json: &'static str) -> Vec<AcceptedWrite> {
        let change = CacheChange::Set(Bytes::from_static(json.as_bytes()));
        vec![AcceptedWrite { key: key(), version, change }]
    }

    async fn get(cache: &InProcessCache) -> Lookup {
        cache.get_many(&[key()]).await.unwrap().remove(0)
    }

    fn known(json: &'static str) -> Lookup {
        Lookup::Known(Some(Bytes::from_static(json.as_bytes())), Level::L1)
    }

    #[tokio::test]
    async fn an_accepted_write_shows_until_a_newer_one_and_leaves_when_stored() {
        let cache = InProcessCache::default();
        cache.accepted(set(2, "{\"n\":2}")).await.unwrap();
        cache.accepted(set(1, "{\"n\":1}")).await.unwrap();
        assert_eq!(get(&cache).await, known("{\"n\":2}"));
        cache.settled(&[(key(), 1)], 1).await.unwrap();
        assert_eq!(get(&cache).await, known("{\"n\":2}"), "version 2 is not stored yet");
        cache.settled(&[(key(), 2)], 2).await.unwrap();
        assert!(matches!(get(&cache).await, Lookup::Miss(_)));
    }

    #[tokio::test]
    async fn a_fill_that_raced_a_stored_write_is_dropped() {
        let cache = InProcessCache::default();
        let Lookup::Miss(token) = get(&cache).await else { panic!("nothing is cached yet") };
        // Meanwhile a write is accepted and stored.
        cache.accepted(set(2, "{\"n\":2}")).await.unwrap();
        cache.settled(&[(key(), 2)], 2).await.unwrap();
        cache.fill(&key(), Versioned::stored(1, None), token).await.unwrap();
        let Lookup::Miss(token) = get(&cache).await else { panic!("the stale fill must not be kept") };
        cache.fill(&key(), Versioned::stored(2, Some("{\"n\":2}".into())), token).await.unwrap();
        assert_eq!(get(&cache).await, known("{\"n\":2}"));
    }

    #[tokio::test]
    async fn a_write_that_the_worker_overtook_is_not_pinned() {
        let cache = InProcessCache::default();
        cache.settled(&[(key(), 2)], 2).await.unwrap();
        cache.accepted(set(2, "{}")).await.unwrap();
        assert!(matches!(get(&cache).await, Lookup::Miss(_)));
        cache.accepted(set(3, "{}")).await.unwrap();
        assert_eq!(get(&cache).await, known("{}"));
    }

    #[tokio::test]
    async fn a_merge_waits_for_its_base() {
        let cache = InProcessCache::default();
        let change = CacheChange::Merge(Bytes::from_static(b"{\"a\":1}"));
        cache.accepted(vec![AcceptedWrite { key: key(), version: 5, change }]).await.unwrap();
        assert!(matches!(get(&cache).await, Lookup::Partial(..)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_is_believed_for_a_while() {
        let cache = InProcessCache::default();
        let Lookup::Miss(token) = get(&cache).await else { panic!("nothing is cached yet") };
        cache.fill(&key(), Versioned::stored(1, Some("{}".into())), token).await.unwrap();
        tokio::time::advance(READ_TTL - Duration::from_millis(1)).await;
        assert_eq!(get(&cache).await, known("{}"));
        tokio::time::advance(Duration::from_millis(2)).await;
        assert!(matches!(get(&cache).await, Lookup::Miss(_)));
        assert_eq!(cache.read.len(), 0);
    }

    #[tokio::test]
    async fn a_refused_write_is_forgotten() {
        let cache = InProcessCache::default();
        cache.accepted(set(2, "{}")).await.unwrap();
        cache.invalidate(&[key()]).await.unwrap();
        assert!(matches!(get(&cache).await, Lookup::Miss(_)));
    }
}
