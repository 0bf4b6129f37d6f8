//! Reads: cache, then store. A document is read from the store once at a time, however many want it (unless a write
//! of it was stored since that read began), and all documents of a collection that are wanted when the database may be asked are read in one operation.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::early::Early;
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

/// A read that has landed is shared for so long with those who still come for it: they looked into the cache before it
/// was filled, and were not heard until now.
const LANDED_SHARED_FOR: Duration = Duration::from_millis(20);

/// Reads documents on behalf of all requests of the process.
pub struct Reader {
    cache: Arc<dyn Cache>,
    journal: Arc<dyn Journal>,
    store: Arc<dyn Store>,
    throttle: Arc<dyn Throttle>,
    metrics: Arc<Metrics>,
    early: Early,
    flights: Mutex<Flights>,
}

/// Reads that are under way or wait for their turn.
#[derive(Default)]
struct Flights {
    /// Each with the token of the lookup that it began with: a later one may have to see what was stored since.
    by_key: HashMap<DocumentKey, (FillToken, watch::Receiver<Shared>)>,
    waiting: VecDeque<Wanted>,
    /// Being refreshed, each once at a time.
    early: HashSet<DocumentKey>,
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
    keeps: Keeps,
    landed: watch::Sender<Shared>,
}

/// What becomes of what was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    /// The cache has part of the document.
    Nothing,
    Fill,
    /// Nobody waits for it.
    Refresh,
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
        Arc::new(Self {
            cache,
            journal,
            store,
            throttle,
            metrics,
            early: Early::default(),
            flights: Mutex::default(),
        })
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
        let unknown = |place: &usize| matches!(lookups[*place], Lookup::Partial(..) | Lookup::Miss(_));
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
            let (known, token, keeps) = match lookup {
                Lookup::Known(document, level) => {
                    match level {
                        Level::L1 => near += 1,
                        Level::L2 => far += 1,
                    }
                    sources.push(Source::Known(document));
                    continue;
                }
                Lookup::Expiring(document, left) => {
                    near += 1;
                    if self.early.is_due(left) {
                        self.refresh(key);
                    }
                    sources.push(Source::Known(document));
                    continue;
                }
                Lookup::Partial(known, token) => (known, token, Keeps::Nothing),
                Lookup::Miss(token) => (Versioned::default(), token, Keeps::Fill),
            };
            sources.push(Source::Store(self.join(key, token, keeps)?, known));
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

    /// Reads a document anew before the cache forgets it; whoever wants it meanwhile is served from there.
    fn refresh(self: &Arc<Self>, key: &DocumentKey) {
        {
            let mut flights = self.flights();
            if flights.by_key.contains_key(key) || !flights.early.insert(key.clone()) {
                return;
            }
        }
        if self.join(key, FillToken::default(), Keeps::Refresh).is_ok() {
            self.metrics.early_refreshes.inc();
        } else {
            // Those who wait come first.
            self.flights().early.remove(key);
        }
    }

    fn join(
        self: &Arc<Self>,
        key: &DocumentKey,
        token: FillToken,
        keeps: Keeps,
    ) -> Result<watch::Receiver<Shared>, Arc<str>> {
        let mut flights = self.flights();
        if let Some((began_with, flight)) = flights.by_key.get(key)
            && *began_with == token
        {
            self.metrics.shared_reads.inc();
            return Ok(flight.clone());
        }
        self.begin(&mut flights, key, token, keeps)
    }

    fn begin(
        self: &Arc<Self>,
        flights: &mut Flights,
        key: &DocumentKey,
        token: FillToken,
        keeps: Keeps,
    ) -> Result<watch::Receiver<Shared>, Arc<str>> {
        if flights.waiting.len() >= MAX_WAITING {
            return Err("too many documents wait to be read from the database".into());
        }
        let (landed, flight) = watch::channel(None);
        flights.by_key.insert(key.clone(), (token, flight.clone()));
        flights.waiting.push_back(Wanted { key: key.clone(), token, keeps, landed });
        if !std::mem::replace(&mut flights.is_fetching, true) {
            // A task of its own: others wait for it even when this client goes away.
            tokio::spawn(Arc::clone(self).fetch());
        }
        Ok(flight)
    }

    /// Reads what waits, an operation at a time, until nothing does.
    async fn fetch(self: Arc<Self>) {
        while self.flights().is_wanted() {
            let began = Instant::now();
            let allowed = self.throttle.try_acquire().await;
            let wanted = self.flights().take();
            let keys: Vec<DocumentKey> = wanted.iter().map(|wanted| wanted.key.clone()).collect();
            let result = match allowed {
                Ok(()) => {
                    self.metrics.store_reads.inc_by(keys.len() as u64);
                    let found = self.store.get_many(&keys).await.map_err(|error| error.to_string());
                    self.early.took(began.elapsed());
                    found
                }
                Err(reason) => Err(reason),
            };
            let landing: Vec<(DocumentKey, watch::Receiver<Shared>)> =
                wanted.iter().map(|wanted| (wanted.key.clone(), wanted.landed.subscribe())).collect();
            // After a failure the next one tries again. And what waits only in the journal may come and be stored before
            // the next one looks, with nothing in the cache to say that this read is older.
            let (kept, gone): (Vec<_>, Vec<_>) = landing.into_iter().partition(|(key, _)| {
                result.is_ok() && !(self.journal.finds_held() && derived(key).is_some())
            });
            self.forget(&gone);
            self.land(wanted, result).await;
            let reader = Arc::clone(&self);
            tokio::spawn(async move {
                tokio::time::sleep(LANDED_SHARED_FOR).await;
                reader.forget(&kept);
            });
        }
    }

    /// Nobody joins these any more.
    fn forget(&self, landed: &[(DocumentKey, watch::Receiver<Shared>)]) {
        let mut flights = self.flights();
        for (key, gone) in landed {
            // Another one may have taken its place.
            if flights.by_key.get(key).is_some_and(|(_, flight)| flight.same_channel(gone)) {
                flights.by_key.remove(key);
            }
        }
    }

    /// Reads documents from the store, for a cache that may have missed a write of them which is stored, under this
    /// version.
    ///
    /// # Errors
    /// The store failed, or the cache.
    pub async fn reread(self: &Arc<Self>, keys: &[DocumentKey], version: i64) -> Result<(), Arc<str>> {
        let mut flights = Vec::with_capacity(keys.len());
        for key in keys {
            // Not one that is under way: it may have begun before the write was stored.
            flights.push((key, self.begin(&mut self.flights(), key, FillToken::default(), Keeps::Nothing)?));
        }
        for (key, mut flight) in flights {
            let landed = flight.wait_for(Option::is_some).await.map_err(|_| "the read was given up")?.clone();
            let mut known = landed.unwrap_or_else(|| Err("the read was given up".into()))?;
            if known.document() == Some(None) {
                // The store does not tell since when. That write is stored, so not only since before it.
                known = Versioned::stored(version, None);
            }
            let filled = self.cache.fill(key, known, FillToken::default()).await;
            filled.map_err(|error| Arc::from(error.to_string()))?;
        }
        Ok(())
    }

    async fn land(&self, wanted: Vec<Wanted>, result: Result<Vec<Option<StoredDocument>>, String>) {
        match result {
            Ok(found) => {
                for (Wanted { key, token, keeps, landed }, stored) in wanted.into_iter().zip(found) {
                    let is_absent = stored.is_none();
                    let known = stored.map_or_else(|| Versioned::stored(0, None), to_versioned);
                    landed.send_replace(Some(Ok(known.clone())));
                    // That there is none must not be remembered where an accepted write would not correct it.
                    let is_kept = !(is_absent && self.journal.finds_held() && derived(&key).is_some());
                    let kept = match keeps {
                        Keeps::Fill if is_kept => self.cache.fill(&key, known, token).await,
                        Keeps::Refresh if is_kept => self.cache.refresh(&key, known).await,
                        _ => Ok(()),
                    };
                    if let Err(error) = kept {
                        self.metrics.cache_errors.inc();
                        tracing::debug!(%error, "the cache was not filled");
                    }
                    if keeps == Keeps::Refresh {
                        self.flights().early.remove(&key);
                    }
                }
            }
            Err(reason) => {
                let reason: Arc<str> = reason.into();
                for wanted in wanted {
                    if wanted.keeps == Keeps::Refresh {
                        self.flights().early.remove(&wanted.key);
                    }
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
mod tests;
