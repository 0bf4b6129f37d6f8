//! The cache on Redis, shared by all processes of a deployment.
//!
//! `scalekit:c:<collection>/<id>` holds a [`Versioned`]. Accepted writes expire after [`ACCEPTED_TTL`], well
//! after the database has them.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ::redis::{RedisError, Script};
use async_trait::async_trait;
use bytes::Bytes;

use super::{AcceptedWrite, Cache, CacheError, FillToken, Lookup, Versioned};
use crate::operation::DocumentKey;
use crate::redis_link::{Lease, RedisLink};

/// How long an accepted write is readable from the cache. The API stops accepting when the backlog is older
/// than [`MAX_BACKLOG_AGE`], so it is in the database long before.
pub const ACCEPTED_TTL: Duration = Duration::from_secs(600);
/// The oldest accepted write may wait this long before new ones get 503.
pub const MAX_BACKLOG_AGE: Duration = Duration::from_secs(300);
/// What was read from the database is believed for this long.
const READ_TTL: Duration = Duration::from_secs(60);
/// Attempts of a compare-and-set before the key is given up (deleted).
const ATTEMPTS: usize = 16;

/// Sets the key if it still holds what was read.
static COMPARE_AND_SET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local now = redis.call('GET', KEYS[1])
        if (now or '') ~= ARGV[1] then return 0 end
        redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
        return 1",
    )
});

pub struct RedisCache {
    link: Arc<RedisLink>,
}

impl RedisCache {
    #[must_use]
    pub fn new(link: Arc<RedisLink>) -> Self {
        Self { link }
    }

    async fn lease(&self) -> Result<Lease, CacheError> {
        self.link.lease().await.map_err(CacheError)
    }

    fn checked<T>(&self, lease: &Lease, result: Result<T, RedisError>) -> Result<T, CacheError> {
        self.link.check(lease, &result);
        result.map_err(|error| CacheError(format!("Redis at {}: {error}", self.link.address())))
    }

    /// Reads, changes and writes back a key until nobody came in between.
    async fn update(
        &self,
        key: &DocumentKey,
        ttl: Duration,
        change: impl Fn(&mut Versioned) + Send + Sync,
    ) -> Result<(), CacheError> {
        let name = name(key);
        let lease = self.lease().await?;
        let mut connection = lease.connection.clone();
        for _ in 0..ATTEMPTS {
            let read = ::redis::cmd("GET").arg(&name).query_async::<Option<Vec<u8>>>(&mut connection).await;
            let before = self.checked(&lease, read)?.unwrap_or_default();
            let mut known = Versioned::decode(Bytes::copy_from_slice(&before)).unwrap_or_default();
            change(&mut known);
            let mut call = COMPARE_AND_SET.prepare_invoke();
            call.key(&name).arg(&before).arg(known.encode()).arg(ttl.as_millis() as u64);
            let swapped = call.invoke_async::<bool>(&mut connection).await;
            if self.checked(&lease, swapped)? {
                return Ok(());
            }
        }
        Err(CacheError(format!("{key} is written too often at once")))
    }
}

fn name(key: &DocumentKey) -> String {
    format!("scalekit:c:{}/{}", key.collection, key.id)
}

#[async_trait]
impl Cache for RedisCache {
    fn kind(&self) -> &'static str {
        "redis"
    }

    async fn get_many(&self, keys: &[DocumentKey]) -> Result<Vec<Lookup>, CacheError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<String> = keys.iter().map(name).collect();
        let lease = self.lease().await?;
        let mut connection = lease.connection.clone();
        let values =
            ::redis::cmd("MGET").arg(names).query_async::<Vec<Option<Vec<u8>>>>(&mut connection).await;
        let values = self.checked(&lease, values)?;
        Ok(values
            .into_iter()
            .map(|value| match value.and_then(|bytes| Versioned::decode(Bytes::from(bytes))) {
                None => Lookup::Miss(FillToken::default()),
                Some(known) => match known.document() {
                    Some(document) => Lookup::Known(document),
                    None => Lookup::Partial(known),
                },
            })
            .collect())
    }

    /// No token is needed here: an accepted write stays in the key until long after it is stored, and
    /// absorbing the fill cannot undo it.
    async fn fill(&self, key: &DocumentKey, found: Versioned, _token: FillToken) -> Result<(), CacheError> {
        let lease = self.lease().await?;
        let mut connection = lease.connection.clone();
        let set = ::redis::cmd("SET")
            .arg(name(key))
            .arg(found.encode())
            .arg("NX")
            .arg("PX")
            .arg(READ_TTL.as_millis() as u64)
            .query_async::<bool>(&mut connection)
            .await;
        if self.checked(&lease, set)? {
            return Ok(());
        }
        self.update(key, ACCEPTED_TTL, |known| known.absorb(found.clone())).await
    }

    async fn accepted(&self, writes: Vec<AcceptedWrite>) -> Result<(), CacheError> {
        let (new, others): (Vec<_>, Vec<_>) = writes.into_iter().partition(|write| write.is_new);
        if !new.is_empty() {
            let mut pipe = ::redis::pipe();
            for write in new {
                let mut known = Versioned::default();
                let key = name(&write.key);
                known.apply(write.version, write.change);
                pipe.cmd("SET")
                    .arg(key)
                    .arg(known.encode())
                    .arg("PX")
                    .arg(ACCEPTED_TTL.as_millis() as u64)
                    .ignore();
            }
            let lease = self.lease().await?;
            let mut connection = lease.connection.clone();
            let set = pipe.query_async::<()>(&mut connection).await;
            self.checked(&lease, set)?;
        }
        // In order: a request may write one document twice.
        for write in others {
            let AcceptedWrite { key, version, change, .. } = write;
            self.update(&key, ACCEPTED_TTL, |known| known.apply(version, change.clone())).await?;
        }
        Ok(())
    }

    /// The keys hold the newest state already, and expire.
    async fn settled(&self, _documents: &[(DocumentKey, i64)], _up_to: i64) -> Result<(), CacheError> {
        Ok(())
    }

    async fn invalidate(&self, keys: &[DocumentKey]) -> Result<(), CacheError> {
        if keys.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = keys.iter().map(name).collect();
        let lease = self.lease().await?;
        let mut connection = lease.connection.clone();
        let deleted = ::redis::cmd("DEL").arg(names).query_async::<i64>(&mut connection).await;
        self.checked(&lease, deleted).map(drop)
    }
}
