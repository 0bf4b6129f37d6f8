//! The embedded document store, on an LSM tree: for a machine without a database server, and for tests.
//!
//! One keyspace holds the documents under `collection NUL id`, a second one the tombstones by age, so that
//! purging them reads nothing else. Both change in one atomic commit.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bson::raw::RawDocument;
use bson::{DateTime, Document};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};

use super::encoding::{self, RawStamp};
use super::rules::{self, Existing, Verdict};
use super::{Applied, Stamp, Store, StoreError, StoredDocument, TOMBSTONE_TTL, Throttle};
use crate::contract::WriteOp;
use crate::operation::{Change, DocumentKey, DocumentWrite};

/// Most writes in one commit.
const COMMIT_WRITES: usize = 5_000;
/// Most bytes of documents in one commit (a single larger document still makes one).
const COMMIT_BYTES: usize = 12 * 1024 * 1024;
/// Writes encoded between two points where other tasks may run.
const ENCODE_SLICE: usize = 256;

/// How much memory and disk the store may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Block cache, in bytes.
    pub cache_bytes: u64,
    /// The write buffer that is turned into a table when full, in bytes; at most five exist at a time.
    pub write_buffer_bytes: u64,
    /// The log of what is still in write buffers, in bytes on disk (the engine's least is 64 MiB).
    pub journal_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 64 * 1024 * 1024,
            write_buffer_bytes: 32 * 1024 * 1024,
            journal_bytes: 256 * 1024 * 1024,
        }
    }
}

/// An open embedded store; clones share it. The directory stays locked until the last clone is dropped.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    documents: Keyspace,
    /// `deleted at (ms, big endian)`, document key -> nothing.
    tombstones: Keyspace,
    /// Held from the comparison of versions to the commit.
    writer: Mutex<()>,
    operations: AtomicU64,
}

/// A write made ready for the blocking part.
struct Prepared {
    /// In the answer.
    place: usize,
    key: Vec<u8>,
    id: Box<str>,
    op: WriteOp,
    op_id: Box<str>,
    version: i64,
    payload: Payload,
}

enum Payload {
    Bytes(Vec<u8>),
    Merge(Document),
    Delete,
}

impl Embedded {
    /// Opens or creates the store in `dir`, with the default [`Options`].
    ///
    /// # Errors
    /// If the directory cannot be used, is in use by another process, or holds something else.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, Options::default())
    }

    /// Opens or creates the store in `dir`.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn open_with(dir: &Path, options: Options) -> Result<Self, StoreError> {
        let failed = |error: fjall::Error| match error {
            fjall::Error::Locked => StoreError::Failed(format!(
                "{} is in use by another process; stop that one, or choose another data directory",
                dir.display()
            )),
            error => StoreError::Failed(format!("cannot open {}: {error}", dir.display())),
        };
        let database = Database::builder(dir)
            .cache_size(options.cache_bytes)
            .max_journaling_size(options.journal_bytes.max(64 * 1024 * 1024))
            .open()
            .map_err(failed)?;
        let keyspace = |name| {
            let create = || {
                KeyspaceCreateOptions::default().max_memtable_size(options.write_buffer_bytes.max(1 << 20))
            };
            database.keyspace(name, create).map_err(failed)
        };
        let (documents, tombstones) = (keyspace("documents")?, keyspace("tombstones")?);
        let inner =
            Inner { database, documents, tombstones, writer: Mutex::new(()), operations: AtomicU64::new(0) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Removes up to `limit` tombstones that are older than [`TOMBSTONE_TTL`] at `now`, in one database
    /// operation; the answer is how many it found. Call it again while that is `limit`.
    ///
    /// # Errors
    /// If the storage fails.
    pub async fn purge(
        &self,
        now: SystemTime,
        limit: usize,
        throttle: &dyn Throttle,
    ) -> Result<usize, StoreError> {
        throttle.acquire().await;
        self.blocking(move |inner| inner.purge(DateTime::from_system_time(now), limit)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.inner.operations.fetch_add(1, Ordering::Relaxed);
        self.blocking_uncounted(work).await
    }

    async fn blocking_uncounted<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .map_err(|error| StoreError::Unavailable(format!("the storage task did not finish: {error}")))?
    }
}

#[async_trait]
impl Store for Embedded {
    fn kind(&self) -> &'static str {
        "embedded"
    }

    async fn get_many(&self, keys: &[DocumentKey]) -> Result<Vec<Option<StoredDocument>>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<_> = keys.iter().map(|key| storage_key(&key.collection, &key.id)).collect();
        self.blocking(move |inner| keys.iter().map(|key| inner.get(key)).collect()).await
    }

    async fn apply(
        &self,
        writes: &[DocumentWrite],
        throttle: &dyn Throttle,
    ) -> Result<Vec<Applied>, StoreError> {
        let mut answer = vec![Applied::Superseded; writes.len()];
        let mut chunk = Vec::with_capacity(writes.len().min(COMMIT_WRITES));
        let mut bytes = 0;
        for (place, write) in writes.iter().enumerate() {
            if place % ENCODE_SLICE == ENCODE_SLICE - 1 {
                tokio::task::yield_now().await;
            }
            let prepared = match Prepared::new(place, write) {
                Ok(prepared) => prepared,
                Err(reason) => {
                    answer[place] = Applied::Refused { reason };
                    continue;
                }
            };
            let size = prepared.size();
            if chunk.len() == COMMIT_WRITES || (bytes + size > COMMIT_BYTES && !chunk.is_empty()) {
                self.commit(std::mem::take(&mut chunk), throttle, &mut answer).await?;
                bytes = 0;
            }
            bytes += size;
            chunk.push(prepared);
        }
        self.commit(chunk, throttle, &mut answer).await?;
        Ok(answer)
    }

    async fn stamps(
        &self,
        collection: &str,
        op_prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Stamp>, StoreError> {
        let first = after.map_or_else(
            || storage_key(collection, ""),
            // The least key that is greater.
            |after| [storage_key(collection, after), vec![0]].concat(),
        );
        let end = [collection.as_bytes(), &[1]].concat();
        let op_prefix = op_prefix.to_owned();
        self.blocking(move |inner| inner.stamps(first, end, &op_prefix, limit)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // Fails once a write has failed: the engine takes no more writes then.
        self.blocking_uncounted(|inner| inner.database.persist(PersistMode::Buffer).map_err(failed)).await
    }

    fn operations(&self) -> u64 {
        self.inner.operations.load(Ordering::Relaxed)
    }
}

impl Embedded {
    async fn commit(
        &self,
        chunk: Vec<Prepared>,
        throttle: &dyn Throttle,
        answer: &mut [Applied],
    ) -> Result<(), StoreError> {
        if chunk.is_empty() {
            return Ok(());
        }
        throttle.acquire().await;
        for (place, applied) in self.blocking(move |inner| inner.apply(chunk)).await? {
            answer[place] = applied;
        }
        Ok(())
    }
}

impl Prepared {
    fn new(place: usize, write: &DocumentWrite) -> Result<Self, String> {
        if let Some(reason) = rules::refusal(write) {
            return Err(reason);
        }
        let DocumentKey { collection, id } = &write.key;
        let payload = match &write.change {
            Change::Insert(document) | Change::Replace(document) => {
                Payload::Bytes(encoding::live(id, &write.op_id, write.version, document)?.into_bytes())
            }
            Change::Merge(fields) => Payload::Merge(fields.clone()),
            Change::Delete => Payload::Delete,
        };
        Ok(Self {
            place,
            key: storage_key(collection, id),
            id: id.clone(),
            op: write.change.op(),
            op_id: write.op_id.clone(),
            version: write.version,
            payload,
        })
    }

    /// About how many bytes it adds to a commit.
    fn size(&self) -> usize {
        self.key.len()
            + match &self.payload {
                Payload::Bytes(bytes) => bytes.len(),
                Payload::Merge(_) | Payload::Delete => 1024,
            }
    }
}

impl Inner {
    fn get(&self, key: &[u8]) -> Result<Option<StoredDocument>, StoreError> {
        let Some(value) = self.documents.get(key).map_err(failed)? else {
            return Ok(None);
        };
        encoding::decode(raw(key, &value)?).map_err(|error| corrupt(key, &error))
    }

    fn apply(&self, chunk: Vec<Prepared>) -> Result<Vec<(usize, Applied)>, StoreError> {
        let now = DateTime::now();
        // The lock guards no data of its own and a commit is atomic: nothing is left half done by a panic.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = OwnedWriteBatch::with_capacity(self.database.clone(), chunk.len())
            .durability(Some(PersistMode::SyncAll));
        let mut answer = Vec::with_capacity(chunk.len());
        for write in chunk {
            let place = write.place;
            answer.push((place, self.apply_one(write, now, &mut batch)?));
        }
        batch.commit().map_err(failed)?;
        Ok(answer)
    }

    fn apply_one(
        &self,
        write: Prepared,
        now: DateTime,
        batch: &mut OwnedWriteBatch,
    ) -> Result<Applied, StoreError> {
        let Prepared { key, id, op, op_id, version, payload, .. } = write;
        let stored = self.documents.get(&key).map_err(failed)?;
        let stored = stored.as_ref().map(|value| raw(&key, value)).transpose()?;
        let stamp = match stored {
            Some(document) => RawStamp::of(document).map_err(|error| corrupt(&key, &error))?,
            None => None,
        };
        let existing = stored.map_or(Existing::Absent, |_| RawStamp::existing(stamp));
        match rules::decide(op, &op_id, version, existing) {
            Verdict::Superseded => return Ok(Applied::Superseded),
            Verdict::Exists => return Ok(Applied::Refused { reason: rules::EXISTS.to_owned() }),
            Verdict::Write => {}
        }
        let value = match payload {
            Payload::Bytes(bytes) => bytes,
            Payload::Delete => {
                batch.insert(&self.tombstones, tombstone_key(now, &key), Vec::new());
                encoding::tombstone(&id, &op_id, version, now).into_bytes()
            }
            Payload::Merge(fields) => {
                let document =
                    stored.map(encoding::decode).transpose().map_err(|error| corrupt(&key, &error))?;
                let mut document = document.flatten().map(|stored| stored.document).unwrap_or_default();
                encoding::merge(&mut document, &fields);
                match encoding::live(&id, &op_id, version, &document) {
                    Ok(bytes) => bytes.into_bytes(),
                    Err(reason) => return Ok(Applied::Refused { reason }),
                }
            }
        };
        if let Some(RawStamp { deleted: Some(deleted), .. }) = stamp {
            let old = tombstone_key(deleted, &key);
            if op != WriteOp::Delete || deleted != now {
                batch.remove(&self.tombstones, old);
            }
        }
        batch.insert(&self.documents, key, value);
        Ok(Applied::Stored)
    }

    fn stamps(
        &self,
        first: Vec<u8>,
        end: Vec<u8>,
        op_prefix: &str,
        limit: usize,
    ) -> Result<Vec<Stamp>, StoreError> {
        let mut found = Vec::new();
        if limit == 0 || first >= end {
            return Ok(found);
        }
        for entry in self.documents.range(first..end) {
            let (key, value) = entry.into_inner().map_err(failed)?;
            let stamp = encoding::audit_stamp(raw(&key, &value)?, op_prefix)
                .map_err(|error| corrupt(&key, &error))?;
            found.extend(stamp);
            if found.len() == limit {
                break;
            }
        }
        Ok(found)
    }

    fn purge(&self, now: DateTime, limit: usize) -> Result<usize, StoreError> {
        let ttl = i64::try_from(TOMBSTONE_TTL.as_millis()).unwrap_or(i64::MAX);
        let cutoff = DateTime::from_millis(now.timestamp_millis().saturating_sub(ttl));
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch =
            OwnedWriteBatch::with_capacity(self.database.clone(), 0).durability(Some(PersistMode::SyncAll));
        let mut found = 0;
        for entry in self.tombstones.range(..tombstone_key(cutoff, &[])).take(limit) {
            let by_age = entry.key().map_err(failed)?;
            let key = by_age.get(8..).unwrap_or_default();
            found += 1;
            if let Some(value) = self.documents.get(key).map_err(failed)? {
                let stamp = RawStamp::of(raw(key, &value)?).map_err(|error| corrupt(key, &error))?;
                let expired = stamp.and_then(|stamp| stamp.deleted).is_some_and(|deleted| deleted < cutoff);
                if expired {
                    batch.remove(&self.documents, key);
                }
            }
            batch.remove(&self.tombstones, by_age);
        }
        batch.commit().map_err(failed)?;
        Ok(found)
    }
}

/// Collection names hold no NUL, so no key of one collection is a prefix of another's.
fn storage_key(collection: &str, id: &str) -> Vec<u8> {
    [collection.as_bytes(), &[0], id.as_bytes()].concat()
}

fn tombstone_key(deleted: DateTime, key: &[u8]) -> Vec<u8> {
    let ms = u64::try_from(deleted.timestamp_millis()).unwrap_or(0);
    [&ms.to_be_bytes(), key].concat()
}

fn raw<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a RawDocument, StoreError> {
    RawDocument::from_bytes(value).map_err(|error| corrupt(key, &error))
}

fn corrupt(key: &[u8], error: &bson::error::Error) -> StoreError {
    let key = String::from_utf8_lossy(key).replace('\0', "/");
    StoreError::Failed(format!("the stored document {key} is corrupt: {error}"))
}

fn failed(error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Poisoned => StoreError::Failed(
            "an earlier write to the data directory failed; check the disk and restart the service"
                .to_owned(),
        ),
        error => StoreError::Failed(format!("the data directory cannot be used: {error}")),
    }
}

#[cfg(test)]
mod tests;
