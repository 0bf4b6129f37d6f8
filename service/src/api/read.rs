//! Reads: cache, then store. A document is read from the store once at a time, however many want it (unless a write
//! of it was stored since that read began), and all documents of a collection that are wanted when the database may be asked are read in one operation.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::cache::{Cache, FillToken, Level, Lookup, Versioned};
use crate::contract::operation_of;
use crate::journal::{Held, Journal};
use crate::metrics::Metrics;
use crate::operation::{DocumentKey, json_text};
use crate::recall;
use crate::store::{Store, StoredDocument, Throttle};

/// The result of a shared read: the document's state, or why it failed.
type Shared = Option<Result<Versioned, Arc<str>>>;

/// Documents that one database operation reads at the most.
const MAX_DOCUMENTS: usize = 1000;
/// Documents that may wait to be read; beyond it reads are turned away.
const MAX_WAITING: usize = 100_000;

/// Reads documents on behalf of all requests of the process.
pub struct Reader {
    cache: Arc<dyn Cache>,
    journal: Arc<dyn Journal>,
    store: Arc<dyn Store>,
    throttle: Arc<dyn Throttle>,
    metrics: Arc<Metrics>,
    flights: Mutex<Flights>,
}

/// Reads that are under way or wait for their turn.
#[derive(Default)]
struct Flights {
    /// Each with the token of the lookup that it began with: a later one may have to see what was stored since.
    by_key: HashMap<DocumentKey, (FillToken, watch::Receiver<Shared>)>,
    waiting: VecDeque<Wanted>,
    /// Somebody takes what waits.
    is_fetching: bool,
}

impl Flights {
    /// Whether anything waits; if not, nobody fetches any more.
    fn is_wanted(&mut self) -> bool {
        self.is_fetching = !self.waiting.is_empty();
        self.is_fetching
    }

    /// What one operation reads: documents of one collection, those that wait longest.
    fn take(&mut self) -> Vec<Wanted> {
        let Some(collection) = self.waiting.front().map(|wanted| wanted.key.collection().to_owned()) else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        let mut others = VecDeque::with_capacity(self.waiting.len());
        for wanted in self.waiting.drain(..) {
            if taken.len() < MAX_DOCUMENTS && wanted.key.collection() == collection {
                taken.push(wanted);
            } else {
                others.push_back(wanted);
            }
        }
        self.waiting = others;
        taken
    }
}

struct Wanted {
    key: DocumentKey,
    token: FillToken,
    /// Not where the cache has part of the document.
    fills: bool,
    landed: watch::Sender<Shared>,
}

/// How one document of a request is found.
enum Source {
    Known(Option<Bytes>),
    /// From the store, under merges that only the cache knows.
    Store(watch::Receiver<Shared>, Versioned),
}

impl Reader {
    pub fn new(
        cache: Arc<dyn Cache>,
        journal: Arc<dyn Journal>,
        store: Arc<dyn Store>,
        throttle: Arc<dyn Throttle>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self { cache, journal, store, throttle, metrics, flights: Mutex::default() })
    }

    /// JSON texts in the order of the keys; `None` where there is no document.
    ///
    /// # Errors
    /// The store was needed and failed.
    pub async fn get_many(self: &Arc<Self>, keys: &[DocumentKey]) -> Result<Vec<Option<Bytes>>, Arc<str>> {
        let mut lookups = match self.cache.get_many(keys).await {
            Ok(lookups) => lookups,
            Err(error) => {
                self.metrics.cache_errors.inc();
                tracing::debug!(%error, "reading past the cache");
                vec![Lookup::Miss(FillToken::default()); keys.len()]
            }
        };
        self.complete(keys, &mut lookups).await?;
        let sources = self.sources(keys, lookups)?;
        let mut documents = Vec::with_capacity(keys.len());
        for source in sources {
            documents.push(match source {
                Source::Known(document) => document,
                Source::Store(mut flight, mut known) => {
                    let landed =
                        flight.wait_for(Option::is_some).await.map_err(|_| "the read was given up")?.clone();
                    known.absorb(landed.unwrap_or_else(|| Err("the read was given up".into()))?);
                    known.document().flatten()
                }
            });
        }
        Ok(documents)
    }

    /// Documents whose ids derive from operations are in the journal only until they are stored, if it finds them.
    async fn complete(&self, keys: &[DocumentKey], lookups: &mut [Lookup]) -> Result<(), Arc<str>> {
        if !self.journal.finds_held() {
            return Ok(());
        }
        let unknown = |place: &usize| !matches!(lookups[*place], Lookup::Known(..));
        let places: Vec<usize> =
            (0..keys.len()).filter(unknown).filter(|place| derived(&keys[*place]).is_some()).collect();
        let operations: Vec<(u16, &str)> = places
            .iter()
            .filter_map(|place| Some((self.journal.shard_of(&keys[*place]), derived(&keys[*place])?)))
            .collect();
        if operations.is_empty() {
            return Ok(());
        }
        let held = self.journal.held(&operations).await.map_err(|error| error.to_string())?;
        for (place, held) in places.into_iter().zip(held) {
            let Some(Held { version, request }) = held else { continue };
            let mut known = Versioned::default();
            for write in recall::visible(request, version) {
                if write.key == keys[place] {
                    known.apply(version, write.change);
                }
            }
            if let Lookup::Partial(newer, _) = &lookups[place] {
                known.absorb(newer.clone());
            }
            if let Some(document) = known.document() {
                self.metrics.journal_reads.inc();
                // Redis has it, though not as a cache.
                lookups[place] = Lookup::Known(document, Level::L2);
            }
        }
        Ok(())
    }

    /// Joins reads that are under way, and queues the rest.
    fn sources(
        self: &Arc<Self>,
        keys: &[DocumentKey],
        lookups: Vec<Lookup>,
    ) -> Result<Vec<Source>, Arc<str>> {
        let mut sources = Vec::with_capacity(keys.len());
        let (mut near, mut far) = (0, 0);
        for (key, lookup) in keys.iter().zip(lookups) {
            let (known, token, fills) = match lookup {
                Lookup::Known(document, level) => {
                    match level {
                        Level::L1 => near += 1,
                        Level::L2 => far += 1,
                    }
                    sources.push(Source::Known(document));
                    continue;
                }
                Lookup::Partial(known, token) => (known, token, false),
                Lookup::Miss(token) => (Versioned::default(), token, true),
            };
            sources.push(Source::Store(self.join(key, token, fills)?, known));
        }
        self.metrics.cache_hits.l1.inc_by(near);
        self.metrics.cache_hits.l2.inc_by(far);
        self.metrics.cache_misses.inc_by(keys.len() as u64 - near - far);
        Ok(sources)
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        // Each critical section leaves the queue and the map whole.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(
        self: &Arc<Self>,
        key: &DocumentKey,
        token: FillToken,
        fills: bool,
    ) -> Result<watch::Receiver<Shared>, Arc<str>> {
        let mut flights = self.flights();
        if let Some((began_with, flight)) = flights.by_key.get(key)
            && *began_with == token
        {
            self.metrics.shared_reads.inc();
            return Ok(flight.clone());
        }
        if flights.waiting.len() >= MAX_WAITING {
            return Err("too many documents wait to be read from the database".into());
        }
        let (landed, flight) = watch::channel(None);
        flights.by_key.insert(key.clone(), (token, flight.clone()));
        flights.waiting.push_back(Wanted { key: key.clone(), token, fills, landed });
        if !std::mem::replace(&mut flights.is_fetching, true) {
            // A task of its own: others wait for it even when this client goes away.
            tokio::spawn(Arc::clone(self).fetch());
        }
        Ok(flight)
    }

    /// Reads what waits, an operation at a time, until nothing does.
    async fn fetch(self: Arc<Self>) {
        while self.flights().is_wanted() {
            let allowed = self.throttle.try_acquire().await;
            let wanted = self.flights().take();
            let keys: Vec<DocumentKey> = wanted.iter().map(|wanted| wanted.key.clone()).collect();
            let result = match allowed {
                Ok(()) => {
                    self.metrics.store_reads.inc_by(keys.len() as u64);
                    self.store.get_many(&keys).await.map_err(|error| error.to_string())
                }
                Err(reason) => Err(reason),
            };
            {
                let mut flights = self.flights();
                for Wanted { key, token, .. } in &wanted {
                    if flights.by_key.get(key).is_some_and(|(began_with, _)| began_with == token) {
                        flights.by_key.remove(key);
                    }
                }
            }
            self.land(wanted, result).await;
        }
    }

    async fn land(&self, wanted: Vec<Wanted>, result: Result<Vec<Option<StoredDocument>>, String>) {
        match result {
            Ok(found) => {
                for (Wanted { key, token, fills, landed }, stored) in wanted.into_iter().zip(found) {
                    let is_absent = stored.is_none();
                    let known = stored.map_or_else(|| Versioned::stored(0, None), to_versioned);
                    landed.send_replace(Some(Ok(known.clone())));
                    // That there is none must not be remembered where an accepted write would not correct it.
                    let is_kept = !(is_absent && self.journal.finds_held() && derived(&key).is_some());
                    if fills
                        && is_kept
                        && let Err(error) = self.cache.fill(&key, known, token).await
                    {
                        self.metrics.cache_errors.inc();
                        tracing::debug!(%error, "the cache was not filled");
                    }
                }
            }
            Err(reason) => {
                let reason: Arc<str> = reason.into();
                for wanted in wanted {
                    wanted.landed.send_replace(Some(Err(Arc::clone(&reason))));
                }
            }
        }
    }
}

/// The operation that this document's id may derive from.
fn derived(key: &DocumentKey) -> Option<&str> {
    operation_of(key.id())
}

fn to_versioned(stored: StoredDocument) -> Versioned {
    Versioned::stored(stored.version, Some(json_text(stored.document)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use bson::doc;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::cache::in_process::InProcessCache;
    use crate::direct::NoJournal;
    use crate::operation::DocumentWrite;
    use crate::store::{Applied, Stamp, StoreError};

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
            let collections: std::collections::BTreeSet<_> =
                keys.iter().map(DocumentKey::collection).collect();
            self.operations.fetch_add(collections.len() as u64, Ordering::SeqCst);
            self.documents.fetch_add(keys.len() as u64, Ordering::SeqCst);
            if let Some(answers) = &self.answers {
                answers.acquire().await.unwrap().forget();
            }
            if self.fails.load(Ordering::SeqCst) {
                return Err(StoreError::Unavailable("the double was told to fail".into()));
            }
            let found =
                keys.iter().map(|key| StoredDocument { version: 1, document: doc! { "id": key.id() } });
            Ok(found.map(Some).collect())
        }

        async fn apply(&self, _: &[DocumentWrite], _: &dyn Throttle) -> Result<Vec<Applied>, StoreError> {
            unreachable!("a reader does not write")
        }

        async fn stamps(
            &self,
            _: &str,
            _: &str,
            _: Option<&str>,
            _: usize,
        ) -> Result<Vec<Stamp>, StoreError> {
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

    struct Parts {
        reader: Arc<Reader>,
        cache: Arc<InProcessCache>,
        store: Arc<StoreDouble>,
        throttle: Arc<CountingThrottle>,
    }

    fn parts(answers: Option<Semaphore>) -> Parts {
        let store = Arc::new(StoreDouble { answers, ..StoreDouble::default() });
        let throttle = Arc::new(CountingThrottle::default());
        let cache = Arc::new(InProcessCache::default());
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
        assert!(reader.flights().by_key.is_empty());
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
}
