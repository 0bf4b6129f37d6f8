//! Reads: cache, then store. A document is read from the store once at a time, however many want it, and all
//! documents that are wanted when the database may be asked are read in one operation.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::cache::{Cache, FillToken, Lookup, Versioned};
use crate::metrics::Metrics;
use crate::operation::DocumentKey;
use crate::store::{Store, StoreError, StoredDocument, Throttle};

/// The result of a shared read: the document's state, or why it failed.
type Shared = Option<Result<Versioned, Arc<str>>>;

/// Documents that one database operation reads at the most.
const MAX_DOCUMENTS: usize = 1000;
/// Documents that may wait to be read; beyond it reads are turned away.
const MAX_WAITING: usize = 100_000;

/// Reads documents on behalf of all requests of the process.
pub struct Reader {
    cache: Arc<dyn Cache>,
    store: Arc<dyn Store>,
    throttle: Arc<dyn Throttle>,
    metrics: Arc<Metrics>,
    flights: Mutex<Flights>,
}

/// Reads that are under way or wait for their turn.
#[derive(Default)]
struct Flights {
    by_key: HashMap<DocumentKey, watch::Receiver<Shared>>,
    waiting: VecDeque<Wanted>,
    /// Somebody takes what waits.
    is_fetching: bool,
}

struct Wanted {
    key: DocumentKey,
    /// `None` where the cache has part of the document and takes no fill.
    token: Option<FillToken>,
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
        store: Arc<dyn Store>,
        throttle: Arc<dyn Throttle>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self { cache, store, throttle, metrics, flights: Mutex::default() })
    }

    /// JSON texts in the order of the keys; `None` where there is no document.
    ///
    /// # Errors
    /// The store was needed and failed.
    pub async fn get_many(self: &Arc<Self>, keys: &[DocumentKey]) -> Result<Vec<Option<Bytes>>, Arc<str>> {
        let lookups = match self.cache.get_many(keys).await {
            Ok(lookups) => lookups,
            Err(error) => {
                self.metrics.cache_errors.inc();
                tracing::debug!(%error, "reading past the cache");
                vec![Lookup::Miss(FillToken::default()); keys.len()]
            }
        };
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

    /// Joins reads that are under way, and queues the rest.
    fn sources(
        self: &Arc<Self>,
        keys: &[DocumentKey],
        lookups: Vec<Lookup>,
    ) -> Result<Vec<Source>, Arc<str>> {
        let mut sources = Vec::with_capacity(keys.len());
        let mut hits = 0;
        for (key, lookup) in keys.iter().zip(lookups) {
            let (known, token) = match lookup {
                Lookup::Known(document) => {
                    hits += 1;
                    sources.push(Source::Known(document));
                    continue;
                }
                Lookup::Partial(known) => (known, None),
                Lookup::Miss(token) => (Versioned::default(), Some(token)),
            };
            sources.push(Source::Store(self.join(key, token)?, known));
        }
        self.metrics.cache_hits.inc_by(hits);
        self.metrics.cache_misses.inc_by(keys.len() as u64 - hits);
        Ok(sources)
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        // Each critical section leaves the queue and the map whole.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(
        self: &Arc<Self>,
        key: &DocumentKey,
        token: Option<FillToken>,
    ) -> Result<watch::Receiver<Shared>, Arc<str>> {
        let mut flights = self.flights();
        if let Some(flight) = flights.by_key.get(key) {
            return Ok(flight.clone());
        }
        if flights.waiting.len() >= MAX_WAITING {
            return Err("too many documents wait to be read from the database".into());
        }
        let (landed, flight) = watch::channel(None);
        flights.by_key.insert(key.clone(), flight.clone());
        flights.waiting.push_back(Wanted { key: key.clone(), token, landed });
        if !std::mem::replace(&mut flights.is_fetching, true) {
            // A task of its own: others wait for it even when this client goes away.
            tokio::spawn(Arc::clone(self).fetch());
        }
        Ok(flight)
    }

    /// Reads what waits, an operation at a time, until nothing does.
    async fn fetch(self: Arc<Self>) {
        loop {
            self.throttle.acquire().await;
            let wanted: Vec<Wanted> = {
                let mut flights = self.flights();
                let count = flights.waiting.len().min(MAX_DOCUMENTS);
                flights.is_fetching = count > 0;
                flights.waiting.drain(..count).collect()
            };
            if wanted.is_empty() {
                return;
            }
            let keys: Vec<DocumentKey> = wanted.iter().map(|wanted| wanted.key.clone()).collect();
            let result = self.store.get_many(&keys).await;
            self.metrics.store_reads.inc_by(keys.len() as u64);
            {
                let mut flights = self.flights();
                keys.iter().for_each(|key| drop(flights.by_key.remove(key)));
            }
            self.land(wanted, result).await;
        }
    }

    async fn land(&self, wanted: Vec<Wanted>, result: Result<Vec<Option<StoredDocument>>, StoreError>) {
        match result {
            Ok(found) => {
                for (Wanted { key, token, landed }, stored) in wanted.into_iter().zip(found) {
                    let known = stored.map_or_else(|| Versioned::stored(0, None), to_versioned);
                    landed.send_replace(Some(Ok(known.clone())));
                    if let Some(token) = token
                        && let Err(error) = self.cache.fill(&key, known, token).await
                    {
                        self.metrics.cache_errors.inc();
                        tracing::debug!(%error, "the cache was not filled");
                    }
                }
            }
            Err(error) => {
                let reason: Arc<str> = error.to_string().into();
                for wanted in wanted {
                    wanted.landed.send_replace(Some(Err(Arc::clone(&reason))));
                }
            }
        }
    }
}

fn to_versioned(stored: StoredDocument) -> Versioned {
    let json =
        serde_json::to_vec(&bson::Bson::Document(stored.document).into_relaxed_extjson()).unwrap_or_default();
    Versioned::stored(stored.version, Some(Bytes::from(json)))
}
