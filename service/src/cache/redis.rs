//! The cache on Redis, shared by all processes of a deployment.
//!
//! `scalekit:c:<collection>/<id>` holds a [`Versioned`]. Accepted writes expire after [`ACCEPTED_TTL`], well
//! after the database has them. What this process read of it lately is in L1 (`l1.rs`).

mod l1;
mod lookups;

#[cfg(test)]
mod coherence;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ::redis::{RedisError, Script};
use async_trait::async_trait;
use bytes::Bytes;

use self::l1::L1;
use self::lookups::Lookups;
use super::versioned::MAX_PATCHES;
use super::{AcceptedWrite, Cache, CacheError, FillToken, Lookup, Versioned};
use crate::batches::Batches;
use crate::metrics::Metrics;
use crate::operation::DocumentKey;
use crate::redis_link::{Lease, RedisLink, Watcher, is_elsewhere};

/// How long an accepted write is readable from the cache. The API stops accepting when the backlog is older
/// than [`MAX_BACKLOG_AGE`], so it is in the database long before.
pub const ACCEPTED_TTL: Duration = Duration::from_secs(605);
/// The most that the profile may let the oldest accepted write wait before new ones get 503. What was accepted just before
/// waits for as long again if the database goes on as slowly, and must still be readable then.
pub const MAX_BACKLOG_AGE: Duration = Duration::from_secs(300);
/// What has less than this to live may be replaced by what the database has, as if it had expired then.
const EXPIRING: Duration = Duration::from_secs(5);
const _: () = assert!(2 * MAX_BACKLOG_AGE.as_secs() + EXPIRING.as_secs() <= ACCEPTED_TTL.as_secs());
/// What was read from the database is believed for this long, about.
const READ_TTL: Duration = Duration::from_secs(60);
/// That the database has no such document is believed for less: it costs little to ask again, and ids that nobody has
/// used are many.
const ABSENT_TTL: Duration = Duration::from_secs(10);
/// Attempts of a compare-and-set. In each round one of those that write a key succeeds, so this is how many may
/// write one at once; beyond it the key is given up (deleted), for a state without a write must not stay.
const ATTEMPTS: usize = 1000;

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

/// Sets the key unless it has longer to live: then somebody wrote it, or refreshed it.
static REFRESH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        if redis.call('PTTL', KEYS[1]) > tonumber(ARGV[3]) then return 0 end
        redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
        return 1",
    )
});

/// Makes writes visible, each under its own key (a change encoded as [`Versioned`] is), whatever order they come in.
/// Answers which could not be done here, by their place: merges that are not the newest, or one too many.
static ACCEPT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local left = {}
        for i, key in ipairs(KEYS) do
            local part = ARGV[i + 1]
            local low, high = struct.unpack('<I4I4', part, 2)
            local is_merge = string.sub(part, 1, 1) == 'P'
            local now = redis.call('GET', key) or ''
            local at, merges, newest, newer, overtaken = 1, 0, true, {}, false
            while at + 12 <= #now do
                local its_low, its_high, length = struct.unpack('<I4I4I4', now, at + 1)
                local is_base = string.sub(now, at, at) ~= 'P'
                if its_high > high or (its_high == high and its_low > low) then
                    newest = false
                    if is_base then overtaken = true else newer[#newer + 1] = string.sub(now, at, at + 12 + length) end
                end
                if not is_base then merges = merges + 1 end
                at = at + 13 + length
            end
            if not overtaken then
                if not is_merge then
                    redis.call('SET', key, part .. table.concat(newer), 'PX', ARGV[1])
                elseif newest and merges < tonumber(ARGV[2 + #KEYS]) then
                    redis.call('SET', key, now .. part, 'PX', ARGV[1])
                else
                    left[#left + 1] = i - 1
                end
            end
        end
        return left",
    )
});

/// Commands of lookups under way at a time.
const COMMANDS: usize = 2;

pub struct RedisCache {
    link: Arc<RedisLink>,
    lookups: Arc<Batches<Lookups>>,
}

impl RedisCache {
    /// Lookups go over a connection of their own to the same server.
    #[must_use]
    pub fn new(link: Arc<RedisLink>, metrics: Arc<Metrics>) -> Self {
        let l1 = Arc::new(L1::new(metrics));
        let own = link.watched(Arc::clone(&l1) as Arc<dyn Watcher>);
        let lookups = Batches::new(Lookups { link: own, l1 }, COMMANDS);
        Self { link, lookups }
    }

    async fn lease(&self) -> Result<Lease, CacheError> {
        self.link.lease().await.map_err(CacheError)
    }

    fn checked<T>(&self, lease: &Lease, result: Result<T, RedisError>) -> Result<T, CacheError> {
        self.link.check(lease, &result);
        if result.as_ref().is_err_and(is_elsewhere) {
            // Lookups would go on with a former primary, which answers them, and never hear of a write.
            self.lookups.work().link.give_up();
        }
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
        self.invalidate(std::slice::from_ref(key)).await?;
        Err(CacheError(format!("{key} is written too often at once")))
    }
}

/// Give or take a fifth, so that what was kept together does not expire together.
fn jittered(ttl: Duration) -> Duration {
    ttl.mul_f64(0.8 + 0.4 * fastrand::f64())
}

/// Of what the database said.
fn read_ttl(found: &Versioned) -> Duration {
    jittered(if found.document() == Some(None) { ABSENT_TTL } else { READ_TTL })
}

const PREFIX: &str = "scalekit:c:";

fn name(key: &DocumentKey) -> String {
    let mut name = String::new();
    write_name(key, &mut name);
    name
}

fn write_name(key: &DocumentKey, name: &mut String) {
    name.clear();
    for part in [PREFIX, key.collection(), "/", key.id()] {
        name.push_str(part);
    }
}

/// The inverse of [`name`]: a collection's name has no slash.
fn key_of(name: &[u8]) -> Option<DocumentKey> {
    let (collection, id) = std::str::from_utf8(name).ok()?.strip_prefix(PREFIX)?.split_once('/')?;
    Some(DocumentKey::new(collection, id))
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
        let answer = self.lookups.perform(keys.to_vec()).await;
        answer.unwrap_or_else(|| Err(CacheError("the lookup was given up".into())))
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
            .arg(read_ttl(&found).as_millis() as u64)
            .query_async::<bool>(&mut connection)
            .await;
        if self.checked(&lease, set)? {
            return Ok(());
        }
        self.update(key, ACCEPTED_TTL, |known| known.absorb(found.clone())).await
    }

    /// A write that was accepted since the database was read gave the key a long life, so it stays.
    async fn refresh(&self, key: &DocumentKey, found: Versioned) -> Result<(), CacheError> {
        let lease = self.lease().await?;
        let mut connection = lease.connection.clone();
        let mut call = REFRESH.prepare_invoke();
        call.key(name(key)).arg(found.encode()).arg(read_ttl(&found).as_millis() as u64);
        call.arg(EXPIRING.as_millis() as u64);
        let is_set = call.invoke_async::<bool>(&mut connection).await;
        self.checked(&lease, is_set).map(drop)
    }

    async fn accepted(&self, writes: Vec<AcceptedWrite>) -> Result<(), CacheError> {
        if writes.is_empty() {
            return Ok(());
        }
        let lease = self.lease().await?;
        let mut connection = lease.connection.clone();
        let mut call = ACCEPT.prepare_invoke();
        // In order: a request may write one document twice.
        for write in &writes {
            call.key(name(&write.key));
        }
        call.arg(ACCEPTED_TTL.as_millis() as u64);
        for write in &writes {
            let mut known = Versioned::default();
            known.apply(write.version, write.change.clone());
            call.arg(known.encode());
        }
        call.arg(MAX_PATCHES);
        let left = call.invoke_async::<Vec<usize>>(&mut connection).await;
        for place in self.checked(&lease, left)? {
            let Some(AcceptedWrite { key, version, change }) = writes.get(place) else { continue };
            self.update(key, ACCEPTED_TTL, |known| known.apply(*version, change.clone())).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{CacheChange, Level};
    use crate::testing::RedisServer;

    pub(super) fn start() -> (RedisServer, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (RedisServer::start(dir.path(), &[]), dir)
    }

    fn cache(server: &RedisServer) -> RedisCache {
        RedisCache::new(Arc::new(RedisLink::new(&server.url()).unwrap()), Arc::default())
    }

    pub(super) fn key(id: &str) -> DocumentKey {
        DocumentKey::new("items", id)
    }

    pub(super) fn write(id: &str, version: i64, change: CacheChange) -> AcceptedWrite {
        AcceptedWrite { key: key(id), version, change }
    }

    fn merge(json: String) -> CacheChange {
        CacheChange::Merge(json.into())
    }

    fn set(json: &'static str) -> CacheChange {
        CacheChange::Set(Bytes::from_static(json.as_bytes()))
    }

    /// Whatever level knows it.
    async fn get(cache: &RedisCache, id: &str) -> Lookup {
        match cache.get_many(&[key(id)]).await.unwrap().remove(0) {
            Lookup::Known(document, _) => Lookup::Known(document, Level::L2),
            unknown => unknown,
        }
    }

    fn known(json: &str) -> Lookup {
        Lookup::Known(Some(Bytes::copy_from_slice(json.as_bytes())), Level::L2)
    }

    #[tokio::test]
    async fn versions_in_any_order_give_the_newest_state() {
        let (server, _dir) = start();
        let (one, other) = (cache(&server), cache(&server));
        let writes = || {
            [
                (1, set(r#"{"a":1}"#)),
                (2, merge(r#"{"b":2}"#.into())),
                (3, CacheChange::Remove),
                (4, set(r#"{"c":3}"#)),
                (5, merge(r#"{"d":4,"c":null}"#.into())),
            ]
        };
        for (order, id) in [([0, 1, 2, 3, 4], "up"), ([4, 3, 2, 1, 0], "down"), ([3, 0, 4, 2, 1], "mixed")] {
            for (turn, place) in order.into_iter().enumerate() {
                let (version, change) = writes()[place].clone();
                let cache = if turn % 2 == 0 { &one } else { &other };
                cache.accepted(vec![write(id, version, change)]).await.unwrap();
            }
            assert_eq!(get(&one, id).await, known(r#"{"d":4}"#), "{id}");
            assert_eq!(get(&other, id).await, known(r#"{"d":4}"#), "{id}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn concurrent_merges_of_two_processes_end_as_in_order() {
        const MERGES: i64 = 100;
        let (server, _dir) = start();
        let caches = [Arc::new(cache(&server)), Arc::new(cache(&server))];
        caches[0].accepted(vec![write("1", 1, set("{}"))]).await.unwrap();
        let tasks: Vec<_> = (2..2 + MERGES)
            .map(|version| {
                let cache = Arc::clone(&caches[version as usize % 2]);
                // All write `last`; only the newest may be left.
                let change = merge(format!(r#"{{"f{}":{version},"last":{version}}}"#, version % 7));
                tokio::spawn(async move { cache.accepted(vec![write("1", version, change)]).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        let Lookup::Known(Some(json), _) = get(&caches[0], "1").await else { panic!("it was set") };
        let document: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let newest = 1 + MERGES;
        assert_eq!(document["last"], newest);
        for field in 0..7 {
            let expected = (2..=newest).rev().find(|version| version % 7 == field).unwrap();
            assert_eq!(document[format!("f{field}")], expected, "{document}");
        }
    }

    #[tokio::test]
    async fn a_fill_completes_but_never_undoes() {
        let (server, _dir) = start();
        let cache = cache(&server);
        let stored = |version, json: &'static str| {
            Versioned::stored(version, Some(Bytes::from_static(json.as_bytes())))
        };
        let token = FillToken::default();
        assert!(matches!(get(&cache, "1").await, Lookup::Miss(_)));
        cache.fill(&key("1"), stored(3, r#"{"n":3}"#), token).await.unwrap();
        assert_eq!(get(&cache, "1").await, known(r#"{"n":3}"#));
        cache.accepted(vec![write("1", 5, CacheChange::Remove)]).await.unwrap();
        cache.fill(&key("1"), stored(4, r#"{"n":4}"#), token).await.unwrap();
        assert_eq!(get(&cache, "1").await, Lookup::Known(None, Level::L2), "the delete is newer");
        cache.accepted(vec![write("2", 9, merge(r#"{"m":9}"#.into()))]).await.unwrap();
        assert!(matches!(get(&cache, "2").await, Lookup::Partial(..)));
        cache.fill(&key("2"), stored(8, r#"{"n":8}"#), token).await.unwrap();
        assert_eq!(get(&cache, "2").await, known(r#"{"n":8,"m":9}"#), "the base came under the merge");
    }

    #[tokio::test]
    async fn what_is_invalidated_is_gone_and_the_rest_stays() {
        let (server, _dir) = start();
        let cache = cache(&server);
        let new = |id: &str| write(id, 1, set("{}"));
        cache.accepted(vec![new("1"), new("2"), write("1", 1, merge(r#"{"a":1}"#.into()))]).await.unwrap();
        assert_eq!(get(&cache, "1").await, known(r#"{"a":1}"#), "both writes of one request, in order");
        cache.invalidate(&[key("1")]).await.unwrap();
        cache.invalidate(&[]).await.unwrap();
        assert!(matches!(get(&cache, "1").await, Lookup::Miss(_)));
        assert_eq!(get(&cache, "2").await, known("{}"));
    }
}
