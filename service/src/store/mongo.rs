//! The MongoDB document store.
//!
//! Writes go as raw `insert` and `update` commands, unordered, so that the server's word on each document is
//! seen in full. An update names its document by `_id` and asks for an older version; if a newer one is there,
//! the upsert collides on `_id`. What collided is looked up in one `find` and decided by the same rules as
//! everywhere, then, where it lost a race, written again.

mod codes;
mod command;
mod reply;
mod write;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;
use bson::{Document, doc};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use mongodb::options::{ClientOptions, Tls};
use mongodb::{Client, Database};

use self::reply::CommandError;
use super::{Applied, Stamp, Store, StoreError, StoredDocument, Throttle, Unlimited, encoding, rules};
use crate::authorities::Authorities;
use crate::contract::RESERVED_FIELD;
use crate::operation::{DocumentKey, DocumentWrite};
use crate::server_url::ServerUrl;

const MAX_POOL_SIZE: u32 = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for a batch of a scan, which reads a whole collection.
const SCAN_TIMEOUT: Duration = Duration::from_secs(60);
/// Most ids in one `find`.
const FIND_IDS: usize = 5_000;
/// Most stamps in one `find`: some 600 bytes each at most, far below the 16 MiB of an answer.
const FIND_STAMPS: usize = 10_000;
/// Stamps in one answer to a scan.
const SCAN_BATCH: u32 = 10_000;
/// Collections that are read, or written, at the same time: the server's journal flush serves all who wait.
const CONCURRENT_COLLECTIONS: usize = 4;

/// How long a command may take in all: to find a server, to connect, and for the answer. After that its outcome counts
/// as unknown. The server is told to give up earlier (`command`), so that it says so itself unless it hangs.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// A client waits for it.
    read: Duration,
    /// Writes, and pages of the audit, which have no index.
    long: Duration,
}

const PATIENCE: Patience = Patience { read: Duration::from_secs(10), long: Duration::from_secs(30) };

/// A connection pool to one database.
pub struct Mongo {
    database: Database,
    patience: Patience,
    operations: AtomicU64,
    /// Collections whose tombstone index this process has asked for.
    indexed: Mutex<HashSet<Box<str>>>,
}

impl Mongo {
    /// Prepares a pool. It connects on first use, so that the service can start before the database does;
    /// [`Store::ping`] tells whether it is there.
    ///
    /// # Errors
    /// If the URL or the names in it cannot be resolved. The URL is never part of a message: it may hold a
    /// password.
    pub async fn connect(url: &str, database: &str) -> Result<Self, StoreError> {
        Self::open(&url.into(), database, None).await
    }

    /// The same, with the authorities that a server is trusted by where the URL says `tls=true` and names none; the
    /// public ones, when left out.
    ///
    /// # Errors
    /// As [`Mongo::connect`].
    pub async fn open(
        url: &ServerUrl,
        database: &str,
        authorities: Option<&Authorities>,
    ) -> Result<Self, StoreError> {
        let invalid = |error: mongodb::error::Error| {
            // The parser quotes what it does not like, which may be the password.
            let has_credentials = url.expose().contains('@');
            let detail = if has_credentials { String::new() } else { format!(": {}", error.kind) };
            StoreError::Failed(format!(
                "the MongoDB URL cannot be used (expected mongodb://[user:password@]host[:port]/...){detail}"
            ))
        };
        let mut options = ClientOptions::parse(url.expose()).await.map_err(invalid)?;
        if let (Some(authorities), Some(Tls::Enabled(tls))) = (authorities, &mut options.tls) {
            tls.ca_file_path.get_or_insert_with(|| authorities.file().to_owned());
        }
        options.app_name.get_or_insert_with(|| "scalekit".to_owned());
        options.max_pool_size.get_or_insert(MAX_POOL_SIZE);
        options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
        options.server_selection_timeout.get_or_insert(CONNECT_TIMEOUT);
        // Every command is asked for and counted here, so the driver must not repeat one by itself.
        options.retry_reads = Some(false);
        options.retry_writes = Some(false);
        let client = Client::with_options(options).map_err(invalid)?;
        Ok(Self {
            database: client.database(database),
            patience: PATIENCE,
            operations: AtomicU64::new(0),
            indexed: Mutex::new(HashSet::new()),
        })
    }

    async fn read(&self, command: RawDocumentBuf, throttle: &dyn Throttle) -> Result<Document, StoreError> {
        self.run(command, self.patience.read, throttle).await.map_err(CommandError::into_store)
    }

    async fn long(&self, command: RawDocumentBuf, throttle: &dyn Throttle) -> Result<Document, CommandError> {
        self.run(command, self.patience.long, throttle).await
    }

    async fn run(
        &self,
        command: RawDocumentBuf,
        patience: Duration,
        throttle: &dyn Throttle,
    ) -> Result<Document, CommandError> {
        throttle.acquire().await;
        self.operations.fetch_add(1, Ordering::Relaxed);
        match tokio::time::timeout(patience, self.database.run_raw_command(command)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(reply::classify(&error)),
            Err(_) => Err(CommandError::Store(no_answer_within(patience))),
        }
    }

    /// Whole documents (or only their stamps) by id, in any order; absent ones are left out. An answer that
    /// the server cut at its size limit is asked for again without what has come.
    async fn find(
        &self,
        collection: &str,
        ids: &[&str],
        stamps_only: bool,
        throttle: &dyn Throttle,
    ) -> Result<HashMap<String, RawDocumentBuf>, StoreError> {
        let mut found = HashMap::with_capacity(ids.len());
        for ids in ids.chunks(FIND_IDS) {
            let mut missing = ids.to_vec();
            loop {
                let command = command::find_ids(collection, &missing, stamps_only)?;
                let reply = self.read(command, throttle).await?;
                let (documents, complete) = reply::batch(&reply)?;
                let none = documents.is_empty();
                for document in documents {
                    if let Ok(id) = document.get_str("_id") {
                        found.insert(id.to_owned(), document);
                    }
                }
                if complete || none {
                    break;
                }
                missing.retain(|id| !found.contains_key(*id));
            }
        }
        Ok(found)
    }

    /// For the audit of a whole run: one pass over `collection` in no order, calling `each` with the stamp of
    /// every document whose `_sk.op` starts with `op_prefix`. There is no index on `_sk`, so pages in the order
    /// of the ids, as [`Store::stamps`] gives them, would cost a pass each.
    ///
    /// # Errors
    /// As [`Store::stamps`].
    pub async fn scan_stamps(
        &self,
        collection: &str,
        op_prefix: &str,
        mut each: impl FnMut(Stamp),
    ) -> Result<(), StoreError> {
        self.operations.fetch_add(1, Ordering::Relaxed);
        let documents = self.database.collection::<RawDocumentBuf>(collection);
        let cursor = documents
            .find(command::stamps_filter(op_prefix))
            .projection(doc! { RESERVED_FIELD: 1 })
            .batch_size(SCAN_BATCH);
        let mut cursor = scanned(cursor.into_future()).await?;
        while scanned(cursor.advance()).await? {
            let stamp = encoding::audit_stamp(cursor.current(), op_prefix).map_err(invalid_bson)?;
            stamp.into_iter().for_each(&mut each);
        }
        Ok(())
    }

    /// The documents of one collection among `keys`, and the places of their keys.
    async fn read_collection(
        &self,
        collection: &str,
        places: Vec<usize>,
        keys: &[DocumentKey],
    ) -> Result<(Vec<usize>, HashMap<String, RawDocumentBuf>), StoreError> {
        let ids: Vec<&str> = places.iter().map(|place| keys[*place].id()).collect();
        let found = self.find(collection, &ids, false, &Unlimited).await?;
        Ok((places, found))
    }
}

#[async_trait]
impl Store for Mongo {
    fn kind(&self) -> &'static str {
        "mongodb"
    }

    async fn get_many(&self, keys: &[DocumentKey]) -> Result<Vec<Option<StoredDocument>>, StoreError> {
        let mut by_collection: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (place, key) in keys.iter().enumerate() {
            by_collection.entry(key.collection()).or_default().push(place);
        }
        let mut reads = Vec::with_capacity(by_collection.len());
        for (collection, places) in by_collection {
            reads.push(self.read_collection(collection, places, keys));
        }
        let reads: Vec<_> =
            stream::iter(reads).buffer_unordered(CONCURRENT_COLLECTIONS).try_collect().await?;
        let mut answer = vec![None; keys.len()];
        for (places, found) in reads {
            for place in places {
                if let Some(document) = found.get(keys[place].id()) {
                    answer[place] = encoding::decode(document).map_err(invalid_bson)?;
                }
            }
        }
        Ok(answer)
    }

    async fn apply(
        &self,
        writes: &[DocumentWrite],
        throttle: &dyn Throttle,
    ) -> Result<Vec<Applied>, StoreError> {
        let mut answer = vec![Applied::Superseded; writes.len()];
        let mut by_collection: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (place, write) in writes.iter().enumerate() {
            match rules::refusal(write) {
                Some(reason) => answer[place] = Applied::Refused { reason },
                None => by_collection.entry(write.key.collection()).or_default().push(place),
            }
        }
        let mut parts = Vec::with_capacity(by_collection.len());
        for (collection, places) in by_collection {
            parts.push(self.write_collection(collection, places, writes, throttle));
        }
        let done: Vec<_> = stream::iter(parts).buffer_unordered(CONCURRENT_COLLECTIONS).try_collect().await?;
        for (place, applied) in done.into_iter().flatten() {
            answer[place] = applied;
        }
        Ok(answer)
    }

    async fn stamps(
        &self,
        collection: &str,
        op_prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Stamp>, StoreError> {
        let mut found: Vec<Stamp> = Vec::new();
        while found.len() < limit {
            let after = found.last().map(|stamp| stamp.id.as_str()).or(after);
            let page = (limit - found.len()).min(FIND_STAMPS);
            let command = command::find_stamps(collection, op_prefix, after, page)?;
            let reply = self.long(command, &Unlimited).await.map_err(CommandError::into_store)?;
            let (documents, _) = reply::batch(&reply)?;
            let received = documents.len();
            for document in documents {
                found.extend(encoding::audit_stamp(&document, op_prefix).map_err(invalid_bson)?);
            }
            if received < page {
                break;
            }
        }
        Ok(found)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let command = command::encode(&doc! { "ping": 1 })?;
        self.read(command, &Unlimited).await.map(drop)
    }

    fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }
}

/// A step of a scan, or why it is not done.
async fn scanned<T>(step: impl Future<Output = Result<T, mongodb::error::Error>>) -> Result<T, StoreError> {
    match tokio::time::timeout(SCAN_TIMEOUT, step).await {
        Ok(Ok(step)) => Ok(step),
        // It reads only, so whoever asked may ask again.
        Ok(Err(error)) => Err(match reply::classify(&error).into_store() {
            StoreError::Failed(reason) => StoreError::Unavailable(reason),
            error => error,
        }),
        Err(_) => Err(no_answer_within(SCAN_TIMEOUT)),
    }
}

fn no_answer_within(patience: Duration) -> StoreError {
    StoreError::TimedOut(format!("MongoDB gave no answer within {} s", patience.as_secs_f64()))
}

fn invalid_bson(error: bson::error::Error) -> StoreError {
    StoreError::Failed(format!("the server sent a document that is not valid BSON: {error}"))
}

#[cfg(test)]
mod tests;
