//! Of reads, with the database as a double.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bson::doc;
use tokio::sync::Semaphore;

use super::*;
use crate::cache::in_process::InProcessCache;
use crate::cache::redis::RedisCache;
use crate::direct::NoJournal;
use crate::operation::DocumentWrite;
use crate::redis_link::RedisLink;
use crate::store::{Applied, Stamp, StoreError};
use crate::testing::RedisServer;

/// A double of a store, not a store: it counts, answers only when the test lets it, and fails on demand.
/// It counts as MongoDB does, an operation for each collection.
#[derive(Default)]
struct StoreDouble {
    operations: AtomicU64,
    documents: AtomicU64,
    fails: AtomicBool,
    /// A permit lets a read answer.
    answers: Option<Semaphore>,
}

#[async_trait]
impl Store for StoreDouble {
    fn kind(&self) -> &'static str {
        "double"
    }

    async fn get_many(&self, keys: &[DocumentKey]) -> Result<Vec<Option<StoredDocument>>, StoreError> {
        let collections: std::collections::BTreeSet<_> = keys.iter().map(DocumentKey::collection).collect();
        self.operations.fetch_add(collections.len() as u64, Ordering::SeqCst);
        self.documents.fetch_add(keys.len() as u64, Ordering::SeqCst);
        if let Some(answers) = &self.answers {
            answers.acquire().await.unwrap().forget();
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the double was told to fail".into()));
        }
        let found = keys.iter().map(|key| StoredDocument { version: 1, document: doc! { "id": key.id() } });
        Ok(found.map(Some).collect())
    }

    async fn apply(&self, _: &[DocumentWrite], _: &dyn Throttle) -> Result<Vec<Applied>, StoreError> {
        unreachable!("a reader does not write")
    }

    async fn stamps(&self, _: &str, _: &str, _: Option<&str>, _: usize) -> Result<Vec<Stamp>, StoreError> {
        unreachable!("a reader does not audit")
    }

    async fn ping(&self) -> Result<(), StoreError> {
        unreachable!("a reader does not ping")
    }

    fn operations(&self) -> u64 {
        self.operations.load(Ordering::SeqCst)
    }
}

#[derive(Default)]
struct CountingThrottle(AtomicU64);

#[async_trait]
impl Throttle for CountingThrottle {
    async fn acquire(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
    }
}

struct Parts<C> {
    reader: Arc<Reader>,
    cache: Arc<C>,
    store: Arc<StoreDouble>,
    throttle: Arc<CountingThrottle>,
}

fn parts(answers: Option<Semaphore>) -> Parts<InProcessCache> {
    parts_with(Arc::new(InProcessCache::default()), answers)
}

fn parts_with<C: Cache + 'static>(cache: Arc<C>, answers: Option<Semaphore>) -> Parts<C> {
    let store = Arc::new(StoreDouble { answers, ..StoreDouble::default() });
    let throttle = Arc::new(CountingThrottle::default());
    let reader = Reader::new(
        cache.clone(),
        Arc::new(NoJournal),
        store.clone(),
        throttle.clone(),
        Arc::new(Metrics::default()),
    );
    Parts { reader, cache, store, throttle }
}

fn key(collection: &str, id: usize) -> DocumentKey {
    DocumentKey::new(collection, &id.to_string())
}

type Read = Result<Vec<Option<Bytes>>, Arc<str>>;

/// One task for each key; they are all waiting once this returns.
async fn readers(reader: &Arc<Reader>, keys: Vec<DocumentKey>) -> Vec<tokio::task::JoinHandle<Read>> {
    let expected = reader.metrics.cache_misses.get() + keys.len() as u64;
    let tasks = keys.into_iter().map(|key| {
        let reader = Arc::clone(reader);
        tokio::spawn(async move { reader.get_many(&[key]).await })
    });
    let tasks = tasks.collect();
    while reader.metrics.cache_misses.get() < expected {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tasks
}

fn json(id: usize) -> Option<Bytes> {
    Some(format!("{{\"id\":\"{id}\"}}").into())
}

#[tokio::test]
async fn a_thousand_readers_of_a_document_are_one_read() {
    let Parts { reader, store, throttle, .. } = parts(Some(Semaphore::new(0)));
    let tasks = readers(&reader, vec![key("items", 7); 1000]).await;
    store.answers.as_ref().unwrap().add_permits(1);
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), [json(7)]);
    }
    assert_eq!((store.operations(), throttle.0.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(store.documents.load(Ordering::SeqCst), 1);
    assert_eq!((reader.metrics.shared_reads.get(), reader.metrics.store_reads.get()), (999, 1));
    assert_eq!(reader.get_many(&[key("items", 7)]).await.unwrap(), [json(7)]);
    assert_eq!(store.operations(), 1, "the cache has it");
}

#[tokio::test]
async fn documents_that_are_missed_together_are_read_together() {
    let Parts { reader, store, throttle, .. } = parts(Some(Semaphore::new(0)));
    // The first read holds the database; all others gather behind it.
    let first = readers(&reader, vec![key("items", 0)]).await;
    let others = readers(&reader, (1..=1500).map(|id| key("items", id)).collect()).await;
    store.answers.as_ref().unwrap().add_permits(100);
    for (id, task) in first.into_iter().chain(others).enumerate() {
        assert_eq!(task.await.unwrap().unwrap(), [json(id)]);
    }
    assert_eq!(store.documents.load(Ordering::SeqCst), 1501, "each once");
    assert!(store.operations() <= 4, "{} operations", store.operations());
    assert_eq!(throttle.0.load(Ordering::SeqCst), store.operations());
}

#[tokio::test]
async fn the_limit_is_asked_for_each_operation_and_for_no_other() {
    let Parts { reader, store, throttle, .. } = parts(None);
    let keys: Vec<_> = (0..30).map(|n| key(["a", "b", "c"][n % 3], n)).collect();
    let read = reader.get_many(&keys).await.unwrap();
    assert_eq!(read, (0..30).map(json).collect::<Vec<_>>(), "in the order of the request");
    for n in 100..110 {
        reader.get_many(&[key("a", n)]).await.unwrap();
    }
    assert_eq!((store.operations(), throttle.0.load(Ordering::SeqCst)), (13, 13));
}

#[tokio::test]
async fn who_comes_after_a_write_was_stored_does_not_get_what_was_read_before() {
    let Parts { reader, cache, store, .. } = parts(Some(Semaphore::new(0)));
    let wanted = || vec![key("items", 7)];
    let early = readers(&reader, wanted()).await;
    while store.operations() < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The database is being read; meanwhile a write is accepted and stored.
    cache.settled(&[(key("items", 7), 5)], 5).await.unwrap();
    let late = readers(&reader, wanted()).await;
    store.answers.as_ref().unwrap().add_permits(2);
    for task in early.into_iter().chain(late) {
        assert_eq!(task.await.unwrap().unwrap(), [json(7)]);
    }
    assert_eq!(store.operations(), 2, "the late one is read for itself");
    while !reader.flights().by_key.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_failure_is_everybodys_and_the_next_read_tries_again() {
    let Parts { reader, store, .. } = parts(Some(Semaphore::new(0)));
    store.fails.store(true, Ordering::SeqCst);
    let tasks = readers(&reader, vec![key("items", 1); 50]).await;
    store.answers.as_ref().unwrap().add_permits(10);
    for task in tasks {
        let reason = task.await.unwrap().unwrap_err();
        assert!(reason.contains("told to fail"), "{reason}");
    }
    assert_eq!(store.operations(), 1);
    store.fails.store(false, Ordering::SeqCst);
    assert_eq!(reader.get_many(&[key("items", 1)]).await.unwrap(), [json(1)]);
    assert_eq!(store.operations(), 2);
}

#[tokio::test]
async fn what_many_read_is_refreshed_by_one_of_them_before_it_expires_and_nobody_waits() {
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(dir.path(), &[]);
    let cache = RedisCache::new(Arc::new(RedisLink::new(&server.url()).unwrap()), Arc::default());
    let Parts { reader, store, .. } = parts_with(Arc::new(cache), Some(Semaphore::new(1)));
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut ttl = async |command: &str, millis: Option<u32>| -> i64 {
        let mut command = redis::cmd(command);
        command.arg("scalekit:c:items/7").arg(millis.as_slice());
        command.query_async(&mut connection).await.unwrap()
    };
    let wanted = [key("items", 7)];
    assert_eq!(reader.get_many(&wanted).await.unwrap(), [json(7)]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while ttl("PTTL", None).await < 0 {
        assert!(Instant::now() < deadline, "it is never kept");
    }
    for _ in 0..100 {
        reader.get_many(&wanted).await.unwrap();
    }
    assert_eq!(reader.metrics.early_refreshes.get(), 0, "it has long to live");
    reader.early.took(Duration::from_secs(100));
    for is_to_fail in [true, false] {
        store.fails.store(is_to_fail, Ordering::SeqCst);
        let (refreshes, operations) = (reader.metrics.early_refreshes.get(), store.operations());
        ttl("PEXPIRE", Some(4000)).await;
        while store.operations() == operations {
            assert_eq!(reader.get_many(&wanted).await.unwrap(), [json(7)]);
            assert!(Instant::now() < deadline, "nobody refreshes it");
        }
        for _ in 0..100 {
            assert_eq!(reader.get_many(&wanted).await.unwrap(), [json(7)], "while the database is read");
        }
        assert_eq!(
            (reader.metrics.early_refreshes.get(), store.operations()),
            (refreshes + 1, operations + 1)
        );
        store.answers.as_ref().unwrap().add_permits(1);
        while !reader.flights().early.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(Instant::now() < deadline, "it never ends");
        }
        assert_eq!(ttl("PTTL", None).await > 40_000, !is_to_fail);
    }
    assert_eq!(reader.metrics.cache_misses.get(), 1, "nobody waited but the first");
}
