//! Reads: cache, then store, and only one read of the store for a document at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::cache::{Cache, FillToken, Lookup, Versioned};
use crate::metrics::Metrics;
use crate::operation::DocumentKey;
use crate::store::{Store, StoredDocument};

/// The result of a shared read: the document's state, or why it failed.
type Shared = Option<Result<Versioned, Arc<str>>>;

/// Reads documents on behalf of all requests of the process.
pub struct Reader {
    cache: Arc<dyn Cache>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    flights: Mutex<HashMap<DocumentKey, watch::Receiver<Shared>>>,
}

/// How one document of a request is found.
enum Source {
    Known(Option<Bytes>),
    /// From the store, under merges that only the cache knows.
    Store(watch::Receiver<Shared>, Versioned),
}

impl Reader {
    pub fn new(cache: Arc<dyn Cache>, store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { cache, store, metrics, flights: Mutex::default() })
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
        let sources = self.sources(keys, lookups);
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

    /// Joins reads that are under way, and starts one for the rest.
    fn sources(self: &Arc<Self>, keys: &[DocumentKey], lookups: Vec<Lookup>) -> Vec<Source> {
        let mut wanted: Vec<(DocumentKey, Option<FillToken>, watch::Sender<Shared>)> = Vec::new();
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
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            let flight = flights.entry(key.clone()).or_insert_with(|| {
                let (sender, receiver) = watch::channel(None);
                wanted.push((key.clone(), token, sender));
                receiver
            });
            sources.push(Source::Store(flight.clone(), known));
        }
        self.metrics.cache_hits.inc_by(hits);
        self.metrics.cache_misses.inc_by(keys.len() as u64 - hits);
        if !wanted.is_empty() {
            // A task of its own: others wait for it even when this client goes away.
            tokio::spawn(Arc::clone(self).fetch(wanted));
        }
        sources
    }

    async fn fetch(self: Arc<Self>, wanted: Vec<(DocumentKey, Option<FillToken>, watch::Sender<Shared>)>) {
        let keys: Vec<DocumentKey> = wanted.iter().map(|(key, ..)| key.clone()).collect();
        let result = self.store.get_many(&keys).await;
        self.metrics.store_reads.inc_by(keys.len() as u64);
        {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            for key in &keys {
                flights.remove(key);
            }
        }
        match result {
            Ok(found) => {
                for ((key, token, sender), stored) in wanted.into_iter().zip(found) {
                    let known = stored.map_or_else(|| Versioned::stored(0, None), to_versioned);
                    sender.send_replace(Some(Ok(known.clone())));
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
                for (_, _, sender) in wanted {
                    sender.send_replace(Some(Err(Arc::clone(&reason))));
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
