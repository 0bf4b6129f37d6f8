//! Workers that come, go and stand still, on a real Redis and a real store. Each has a thread and connections of its
//! own, as a process has.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use async_trait::async_trait;
use bson::doc;
use tokio::time::Instant;

use super::*;
use crate::contract::Durability;
use crate::direct::NoCache;
use crate::journal::embedded::BacklogBounds;
use crate::journal::redis::RedisJournal;
use crate::journal::shard::shard_of;
use crate::journal::{Request, RequestWrite, codec, now_ms};
use crate::metrics::Metrics;
use crate::operation::{Change, DocumentKey, DocumentWrite};
use crate::redis_link::RedisLink;
use crate::store::{Applied, Embedded, Stamp, Store, StoreError, StoredDocument, Throttle, Unlimited};
use crate::telemetry::Traces;
use crate::testing::RedisServer;
use crate::worker::BatchSettings;
use crate::worker::sizing::Sizes;

const SHARDS: u16 = 6;
const LEASE: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(30);
const BOUNDS: BacklogBounds = BacklogBounds { entries: 1_000_000, bytes: u64::MAX };

struct Service {
    redis: RedisServer,
    store: Arc<Embedded>,
    _dirs: [tempfile::TempDir; 2],
}

/// One worker "process".
struct Process {
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    gone: CancellationToken,
    /// Sends times for which the whole thread stands still, as under SIGSTOP.
    freeze: tokio::sync::mpsc::UnboundedSender<Duration>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    fn start() -> Self {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let redis = RedisServer::start(dirs[0].path(), &["--appendonly", "no"]);
        let store = Arc::new(Embedded::open(dirs[1].path()).unwrap());
        Self { redis, store, _dirs: dirs }
    }

    fn link(&self) -> Arc<RedisLink> {
        Arc::new(RedisLink::new(&self.redis.url()).unwrap())
    }

    fn worker(&self, name: &str) -> Process {
        self.worker_with(name, Arc::clone(&self.store) as _)
    }

    fn worker_with(&self, name: &str, store: Arc<dyn Store>) -> Process {
        let (stop, gone) = (CancellationToken::new(), CancellationToken::new());
        let metrics = Arc::new(Metrics::default());
        let (freeze, mut freezing) = tokio::sync::mpsc::unbounded_channel::<Duration>();
        let means = Means {
            store,
            cache: Arc::new(NoCache),
            throttle: Arc::new(Unlimited),
            settings: BatchSettings { max_writes: 20, max_bytes: 1 << 20, linger: Duration::ZERO },
            sizes: Arc::new(Sizes::new(20, metrics.worker_batch_limit.clone())),
            metrics: Arc::clone(&metrics),
            traces: Traces::default(),
        };
        let (link, name) = (self.link(), name.to_owned());
        let (started, starting) = mpsc::channel();
        let thread = {
            let (stop, gone) = (stop.clone(), gone.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let journal =
                        RedisJournal::connect(Arc::clone(&link), BOUNDS, SHARDS, Durability::Memory)
                            .await
                            .unwrap();
                    let shards = Box::new(journal.shards(link, &name).with_lease(LEASE));
                    started.send(()).unwrap();
                    let freezer = async {
                        while let Some(time) = freezing.recv().await {
                            std::thread::sleep(time);
                        }
                    };
                    tokio::select! {
                        ended = Fleet { shards, means }.run(stop, None) => ended.unwrap(),
                        () = gone.cancelled() => {}
                        () = freezer => {}
                    }
                });
                runtime.shutdown_background();
            })
        };
        starting.recv().unwrap();
        Process { metrics, stop, gone, freeze, thread: Some(thread) }
    }

    async fn append(
        &self,
        redis: &mut ::redis::aio::MultiplexedConnection,
        op_id: &str,
        write: RequestWrite,
    ) {
        // By hand, so that the test does not rest on who deals writes out.
        let stream = format!("scalekit:{{{}}}:journal", shard_of(&write.key, SHARDS));
        let request =
            Request { op_id: op_id.into(), at_ms: now_ms(), writes: vec![write], places: None, replay: None };
        let mut payload = Vec::new();
        codec::encode(&[&request], &mut payload).unwrap();
        let mut add = ::redis::cmd("XADD");
        add.arg(stream).arg("*").arg("e").arg(payload);
        add.exec_async(redis).await.unwrap();
    }

    async fn connection(&self) -> ::redis::aio::MultiplexedConnection {
        self.link().dedicated(PATIENCE).await.unwrap()
    }

    async fn waiting(&self) -> u64 {
        let mut redis = self.connection().await;
        let mut pipe = ::redis::pipe();
        for shard in 0..SHARDS {
            pipe.cmd("XLEN").arg(format!("scalekit:{{{shard}}}:journal"));
        }
        pipe.query_async::<Vec<u64>>(&mut redis).await.unwrap().iter().sum()
    }
}

impl Process {
    fn owned(&self) -> i64 {
        self.metrics.worker_shards.get()
    }

    /// Ends wherever it stands.
    fn kill(&mut self) {
        self.gone.cancel();
        self.join();
    }

    fn stop(&mut self) {
        self.stop.cancel();
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ask().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn key(n: usize) -> DocumentKey {
    DocumentKey::new("things", &format!("{n:03}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_are_fair_as_workers_come_and_go() {
    let service = Service::start();
    let mut first = service.worker("a");
    eventually("one has all", async || first.owned() == 6).await;
    let mut second = service.worker("b");
    eventually("two have three each", async || (first.owned(), second.owned()) == (3, 3)).await;
    let third = service.worker("c");
    eventually("three have two each", async || (first.owned(), second.owned(), third.owned()) == (2, 2, 2))
        .await;
    first.stop();
    eventually("two have three each again", async || (second.owned(), third.owned()) == (3, 3)).await;
    second.kill();
    eventually("the dead one's are free when its lease is over", async || third.owned() == 6).await;
}

/// Each document gets merges of a field each. A merge that is applied after a later one is superseded and its field is
/// missing for ever; so a document that has all fields has had all of them in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_leaves_deaths_and_standstills_keep_every_document_in_order() {
    const DOCUMENTS: usize = 30;
    let service = Service::start();
    let mut redis = service.connection().await;
    let mut a = service.worker("a");
    let (mut b, mut c) = (None, None);
    let mut rounds = 0;
    let begin = Instant::now();
    let mut step = 0;
    while begin.elapsed() < Duration::from_secs(9) {
        for n in 0..DOCUMENTS {
            let change = Change::Merge(doc! { format!("f{rounds}"): rounds, "last": rounds });
            let write = RequestWrite { key: key(n), change };
            service.append(&mut redis, &format!("m-{rounds}-{n}"), write).await;
        }
        let insert = RequestWrite {
            key: DocumentKey::new("orders", &format!("i-{rounds}-00")),
            change: Change::insert(doc! { "n": rounds }),
        };
        service.append(&mut redis, &format!("i-{rounds}"), insert).await;
        rounds += 1;
        let due = begin.elapsed().as_millis() / 1500;
        if due > step {
            step = due;
            match step {
                1 => b = Some(service.worker("b")),
                // Past its lease: the others take its shards, and it comes back in the middle of what it did.
                2 => a.freeze.send(LEASE * 2).unwrap(),
                3 => c = Some(service.worker("c")),
                4 => b.as_mut().unwrap().kill(),
                _ => a.stop(),
            }
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    eventually("all is stored", async || service.waiting().await == 0).await;
    for n in 0..DOCUMENTS {
        let found = service.store.get_many(&[key(n)]).await.unwrap().remove(0).unwrap().document;
        let missing: Vec<i32> =
            (0..rounds).filter(|round| !found.contains_key(format!("f{round}"))).collect();
        assert!(missing.is_empty(), "document {n} of {rounds} rounds lacks {missing:?}");
        assert_eq!(found.get_i32("last").unwrap(), rounds - 1);
    }
    let stamps = service.store.stamps("orders", "i-", None, 100_000).await.unwrap();
    assert_eq!(stamps.len(), rounds as usize, "each insert once");
    assert!(stamps.iter().all(|stamp| stamp.id == stamp.op_id));
    let dead: Vec<i64> = [Some(&a), b.as_ref(), c.as_ref()]
        .into_iter()
        .flatten()
        .map(|process| process.metrics.worker_dead.get() as i64)
        .collect();
    assert_eq!(dead, [0, 0, 0]);
    assert!(c.unwrap().metrics.worker_stored.get() > 0, "the last one has taken over");
}

/// A double of a fault: one document makes the store hang, as a database does that never answers. All else is stored.
struct Hangs {
    store: Arc<Embedded>,
    on: DocumentKey,
    hung: AtomicBool,
}

#[async_trait]
impl Store for Hangs {
    fn kind(&self) -> &'static str {
        self.store.kind()
    }
    async fn get_many(&self, keys: &[DocumentKey]) -> Result<Vec<Option<StoredDocument>>, StoreError> {
        self.store.get_many(keys).await
    }
    async fn apply(
        &self,
        writes: &[DocumentWrite],
        throttle: &dyn Throttle,
    ) -> Result<Vec<Applied>, StoreError> {
        if writes.iter().any(|write| write.key == self.on) {
            self.hung.store(true, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        self.store.apply(writes, throttle).await
    }
    async fn stamps(
        &self,
        collection: &str,
        op_prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Stamp>, StoreError> {
        self.store.stamps(collection, op_prefix, after, limit).await
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.store.ping().await
    }
    fn operations(&self) -> u64 {
        self.store.operations()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_stuck_stops_no_other() {
    let service = Service::start();
    let mut redis = service.connection().await;
    let stuck = key(0);
    let store = Arc::new(Hangs {
        store: Arc::clone(&service.store),
        on: stuck.clone(),
        hung: AtomicBool::new(false),
    });
    let replace = |key: DocumentKey| RequestWrite { key, change: Change::replace(doc! { "n": 1 }) };
    service.append(&mut redis, "first", replace(stuck.clone())).await;
    let process = service.worker_with("a", Arc::clone(&store) as _);
    eventually("it hangs", async || store.hung.load(Ordering::SeqCst)).await;
    let others: Vec<DocumentKey> =
        (1..60).map(key).filter(|key| shard_of(key, SHARDS) != shard_of(&stuck, SHARDS)).collect();
    assert!(others.len() > 30);
    for (n, key) in others.iter().enumerate() {
        service.append(&mut redis, &format!("op{n}"), replace(key.clone())).await;
    }
    eventually("the others are stored", async || service.waiting().await == 1).await;
    let found = service.store.get_many(&others).await.unwrap();
    assert!(found.iter().all(|found| found.as_ref().is_some_and(|found| found.document == doc! { "n": 1 })));
    assert_eq!(process.owned(), i64::from(SHARDS));
}
