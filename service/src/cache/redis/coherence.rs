//! What two processes see of each other's writes while both keep what they read, over a real Redis.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use ::redis::{RedisResult, Value};

use super::tests::{key, start, write};
use super::*;
use crate::cache::{CacheChange, Level};
use crate::testing::RedisServer;

/// How long something may take that is awaited.
const PATIENCE: Duration = Duration::from_secs(20);

/// One process.
struct Process {
    cache: RedisCache,
    metrics: Arc<Metrics>,
}

impl Process {
    fn of(url: &str) -> Arc<Self> {
        let metrics = Arc::new(Metrics::default());
        let cache = RedisCache::new(Arc::new(RedisLink::new(url).unwrap()), Arc::clone(&metrics));
        Arc::new(Self { cache, metrics })
    }

    async fn set(&self, id: &str, version: i64) {
        let change = CacheChange::Set(format!("{{\"n\":{version}}}").into());
        self.cache.accepted(vec![write(id, version, change)]).await.unwrap();
    }

    async fn get(&self, id: &str) -> Result<Lookup, CacheError> {
        Ok(self.cache.get_many(&[key(id)]).await?.remove(0))
    }

    /// The version that it sees, and from where.
    async fn seen(&self, id: &str) -> (i64, Level) {
        seen(&self.get(id).await.unwrap())
    }

    /// Reads until it is answered from here, for what is here may have expired.
    async fn seen_here(&self, id: &str) -> i64 {
        let began = Instant::now();
        loop {
            if let (version, Level::L1) = self.seen(id).await {
                return version;
            }
            assert!(began.elapsed() < PATIENCE, "it is never kept");
        }
    }

    fn kept(&self) -> u64 {
        self.metrics.l1_bytes.get()
    }
}

fn seen(lookup: &Lookup) -> (i64, Level) {
    let (json, level) = match lookup {
        Lookup::Known(Some(json), level) => (json, level),
        Lookup::Expiring(Some(json), _) => (json, &Level::L1),
        _ => panic!("not a document: {lookup:?}"),
    };
    let document: serde_json::Value = serde_json::from_slice(json).unwrap();
    (document["n"].as_i64().unwrap(), *level)
}

async fn ask(server: &RedisServer, words: &[&str]) -> RedisResult<Value> {
    let client = ::redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    ::redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
}

/// Ends all connections that track; how many there were.
async fn kill_tracking(server: &RedisServer) -> usize {
    let list = ask(server, &["CLIENT", "LIST"]).await.unwrap();
    let list: String = ::redis::from_redis_value(list).unwrap();
    let field = |line: &str, name: &str| {
        line.split(' ').find_map(|field| field.strip_prefix(name)).unwrap_or_default().to_owned()
    };
    let mut killed = 0;
    for line in list.lines().filter(|line| field(line, "flags=").contains('t')) {
        ask(server, &["CLIENT", "KILL", "ID", &field(line, "id=")]).await.unwrap();
        killed += 1;
    }
    killed
}

/// The promise: who reads after a write was accepted sees it or a newer one, through whatever process.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_accepted_write_is_seen_at_once_through_the_other_process() {
    let all = tokio::spawn(writes_are_seen_at_once());
    tokio::time::timeout(3 * PATIENCE, all).await.expect("it comes to an end").unwrap();
}

async fn writes_are_seen_at_once() {
    const ROUNDS: i64 = 1500;
    let (server, _dir) = start();
    let processes = [Process::of(&server.url()), Process::of(&server.url())];
    processes[0].set("hot", 1).await;
    let accepted = Arc::new(AtomicI64::new(1));
    let is_over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..8)
        .map(|n| {
            let (process, accepted) = (Arc::clone(&processes[n % 2]), Arc::clone(&accepted));
            let is_over = Arc::clone(&is_over);
            tokio::spawn(async move {
                let (mut newest, mut here) = (0, 0_u64);
                while !is_over.load(Ordering::SeqCst) {
                    let at_least = accepted.load(Ordering::SeqCst).max(newest);
                    let (version, level) = process.seen("hot").await;
                    assert!(version >= at_least, "{version} from {level:?}, after {at_least} was accepted");
                    newest = version;
                    here += u64::from(level == Level::L1);
                }
                here
            })
        })
        .collect();
    for version in 2..ROUNDS {
        let [writer, other] = [0, 1].map(|turn| &processes[(version as usize + turn) % 2]);
        // Both keep the former one, in most rounds.
        if version % 4 != 0 {
            assert_eq!(other.seen_here("hot").await, version - 1);
        }
        writer.set("hot", version).await;
        accepted.store(version, Ordering::SeqCst);
        let (version_seen, level) = other.seen("hot").await;
        assert_eq!(version_seen, version, "from {level:?}");
    }
    is_over.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap() > 0, "it is about what is kept here");
    }
    assert!(processes.iter().all(|process| process.metrics.l1_invalidations.get() > 100));
}

#[tokio::test]
async fn what_is_kept_and_what_is_not_is_answered_in_the_order_of_the_request() {
    let (server, _dir) = start();
    let (one, other) = (Process::of(&server.url()), Process::of(&server.url()));
    for n in 0..200 {
        other.set(&n.to_string(), n + 1).await;
    }
    let keys: Vec<_> = (0..200).map(|n| key(&n.to_string())).collect();
    let evens: Vec<_> = keys.iter().step_by(2).cloned().collect();
    one.cache.get_many(&evens).await.unwrap();
    let answer = one.cache.get_many(&keys).await.unwrap();
    for (n, lookup) in answer.iter().enumerate() {
        assert_eq!(seen(lookup), (n as i64 + 1, if n % 2 == 0 { Level::L1 } else { Level::L2 }));
    }
    other.cache.accepted(vec![write("7", 500, CacheChange::Remove)]).await.unwrap();
    assert_eq!(one.get("7").await.unwrap(), Lookup::Known(None, Level::L2));
    assert_eq!(
        one.get("7").await.unwrap(),
        Lookup::Known(None, Level::L1),
        "that there is none is kept, too"
    );
    other.cache.invalidate(&[key("7")]).await.unwrap();
    assert!(matches!(one.get("7").await.unwrap(), Lookup::Miss(_)));
    let merge = CacheChange::Merge(r#"{"n":9}"#.into());
    other.cache.accepted(vec![write("new", 9, merge)]).await.unwrap();
    for _ in 0..2 {
        assert!(matches!(one.get("new").await.unwrap(), Lookup::Partial(..)), "a part is not kept");
    }
}

#[tokio::test]
async fn a_flush_empties_every_process() {
    let (server, _dir) = start();
    let process = Process::of(&server.url());
    process.set("1", 1).await;
    assert_eq!(process.seen_here("1").await, 1);
    assert!(process.kept() > 0);
    for flush in ["FLUSHDB", "FLUSHALL"] {
        ask(&server, &[flush]).await.unwrap();
        assert!(matches!(process.get("1").await.unwrap(), Lookup::Miss(_)), "after {flush}");
        assert_eq!(process.kept(), 0);
        process.set("1", 1).await;
        assert_eq!(process.seen_here("1").await, 1);
    }
}

#[tokio::test]
async fn what_was_kept_goes_with_its_connection() {
    let (mut server, _dir) = start();
    let (one, other) = (Process::of(&server.url()), Process::of(&server.url()));
    for version in 1..20 {
        other.set("1", version).await;
        assert_eq!(one.seen_here("1").await, version);
        assert!(kill_tracking(&server).await > 0);
        other.set("1", version + 1).await;
        // The lookup that finds the connection broken may say so.
        let lookup = match one.get("1").await {
            Ok(lookup) => lookup,
            Err(_) => one.get("1").await.unwrap(),
        };
        assert_eq!(seen(&lookup), (version + 1, Level::L2));
        assert_eq!(one.seen_here("1").await, version + 1);
    }
    server.kill();
    assert!(one.get("1").await.is_err());
    assert_eq!(one.kept(), 0, "nobody would say what changes");
    server.restart();
    let began = Instant::now();
    let lookup = loop {
        match one.get("1").await {
            Ok(lookup) => break lookup,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(matches!(lookup, Lookup::Miss(_)), "this Redis forgot it: {lookup:?}");
    let fresh = Process::of(&server.url());
    fresh.set("1", 100).await;
    assert_eq!(one.seen_here("1").await, 100);
}

#[tokio::test]
async fn a_primary_that_was_deposed_is_left_for_lookups_too() {
    let (server, _dir) = start();
    let process = Process::of(&server.url());
    process.set("1", 1).await;
    assert_eq!(process.seen_here("1").await, 1);
    ask(&server, &["REPLICAOF", "127.0.0.1", "1"]).await.unwrap();
    let error = process.cache.invalidate(&[key("1")]).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("read only"), "{error}");
    assert_eq!(process.seen("1").await, (1, Level::L2), "over a new connection, wherever the name leads now");
}

/// Writes through one process are read through another one, from Redis each time.
async fn travels(reader: &Process, writer: &Process) {
    for version in 1..5 {
        writer.set("1", version).await;
        for _ in 0..3 {
            assert_eq!(reader.seen("1").await, (version, Level::L2));
        }
    }
    assert_eq!(reader.kept(), 0);
}

#[tokio::test]
async fn without_tracking_every_read_travels_until_it_is_allowed() {
    let (server, _dir) = start();
    let user = ["ACL", "SETUSER", "api", "on", ">secret", "~*", "&*", "+@all", "-client|tracking"];
    ask(&server, &user).await.unwrap();
    let admin = Process::of(&server.url());
    let process = Process::of(&server.url().replace("redis://", "redis://api:secret@"));
    travels(&process, &admin).await;
    ask(&server, &["ACL", "SETUSER", "api", "+client|tracking"]).await.unwrap();
    assert_eq!(process.seen("1").await.1, Level::L2, "the connection is still the same");
    ask(&server, &["CLIENT", "KILL", "USER", "api"]).await.unwrap();
    // The lookup that finds the connection broken may say so.
    let _ = process.get("1").await;
    assert_eq!(process.seen_here("1").await, 4);
}

#[tokio::test]
async fn every_read_travels_to_a_server_without_the_newer_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(dir.path(), &["--rename-command", "HELLO", "SALUTE"]);
    travels(&Process::of(&server.url()), &Process::of(&server.url())).await;
}

#[tokio::test]
async fn what_was_read_expires_in_redis_at_various_times_and_absence_sooner() {
    let (server, _dir) = start();
    let process = Process::of(&server.url());
    for (json, ttl) in [(Some("{}"), READ_TTL), (None, ABSENT_TTL)] {
        let mut left = std::collections::BTreeSet::new();
        for n in 0..50 {
            let key = DocumentKey::new("ttl", &format!("{json:?}-{n}"));
            let found = Versioned::stored(1, json.map(Bytes::from));
            process.cache.fill(&key, found, FillToken::default()).await.unwrap();
            let pttl = ask(&server, &["PTTL", &name(&key)]).await.unwrap();
            left.insert(::redis::from_redis_value::<u64>(pttl).unwrap());
        }
        let (first, last) = (*left.first().unwrap(), *left.last().unwrap());
        let ttl = ttl.as_millis() as u64;
        // What the commands took is off.
        assert!(first > ttl * 7 / 10 && last <= ttl * 12 / 10, "{first} to {last} of {ttl}");
        assert!(last - first > ttl / 10, "{first} to {last} of {ttl}");
    }
}

#[tokio::test]
async fn what_is_about_to_be_forgotten_is_said_and_replaced_but_no_write() {
    let (server, _dir) = start();
    let (one, other) = (Process::of(&server.url()), Process::of(&server.url()));
    let stored = |version: i64| Versioned::stored(version, Some(format!("{{\"n\":{version}}}").into()));
    let pttl = async || {
        let left = ask(&server, &["PTTL", &name(&key("1"))]).await.unwrap();
        ::redis::from_redis_value::<u64>(left).unwrap()
    };
    one.cache.fill(&key("1"), stored(1), FillToken::default()).await.unwrap();
    assert_eq!(one.seen_here("1").await, 1);
    one.cache.refresh(&key("1"), stored(2)).await.unwrap();
    assert_eq!(one.seen("1").await.0, 1, "it has long to live");
    ask(&server, &["PEXPIRE", &name(&key("1")), "4000"]).await.unwrap();
    let began = Instant::now();
    let left = loop {
        if let Lookup::Expiring(Some(_), left) = one.get("1").await.unwrap() {
            break left;
        }
        assert!(began.elapsed() < PATIENCE, "nobody says so");
    };
    assert!(left <= Duration::from_secs(4) && left > Duration::from_secs(1), "{left:?}");
    other.cache.refresh(&key("1"), stored(3)).await.unwrap();
    assert_eq!(one.seen("1").await, (3, Level::L2), "seen at once, as a write is");
    assert!(pttl().await > 40_000);
    // The database was read before this write was stored.
    ask(&server, &["PEXPIRE", &name(&key("1")), "4000"]).await.unwrap();
    other.set("1", 5).await;
    one.cache.refresh(&key("1"), stored(4)).await.unwrap();
    assert_eq!(one.seen("1").await.0, 5);
    assert!(pttl().await > 600_000, "and stays for as long as a write does");
}
