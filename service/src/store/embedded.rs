//! The embedded document store, on an LSM tree: for a machine without a database server, and for tests.
//!
//! One keyspace holds the documents under `collection NUL id`, a second one the tombstones by age, so that
//! purging them reads nothing else. Both change in one atomic commit.

mod engine;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use bson::DateTime;
use fjall::{Database, KeyspaceCreateOptions};

use self::engine::{Engine, Prepared};
use super::{Applied, Stamp, Store, StoreError, StoredDocument, Throttle};
use crate::operation::{DocumentKey, DocumentWrite};

/// Most writes in one commit.
const COMMIT_WRITES: usize = 5_000;
/// Most bytes of documents in one commit (a single larger document still makes one).
const COMMIT_BYTES: usize = 12 * 1024 * 1024;
/// Writes encoded between two points where other tasks may run.
const ENCODE_SLICE: usize = 256;

/// Threads that flush and compact. With more than one, the engine keeps the first for flushes, and while a compaction
/// is due that one hands it round and round the queue: a processor's time for nothing. One keeps up with far more
/// than the database operations that a profile allows.
const ENGINE_THREADS: usize = 1;

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
    engine: Arc<Engine>,
    operations: Arc<AtomicU64>,
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
            .worker_threads(ENGINE_THREADS)
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
        let engine = Engine { database, documents, tombstones, writer: Mutex::new(()) };
        Ok(Self { engine: Arc::new(engine), operations: Arc::default() })
    }

    /// Removes all tombstones that are older than [`TOMBSTONE_TTL`] at `now`, up to `most` in one database
    /// operation; the answer is how many there were.
    ///
    /// # Errors
    /// If the storage fails.
    pub async fn purge(
        &self,
        now: SystemTime,
        most: usize,
        throttle: &dyn Throttle,
    ) -> Result<usize, StoreError> {
        let now = DateTime::from_system_time(now);
        let (most, mut purged) = (most.max(1), 0);
        loop {
            throttle.acquire().await;
            let found = self.blocking(move |engine| engine.purge(now, most)).await?;
            purged += found;
            if found < most {
                return Ok(purged);
            }
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.operations.fetch_add(1, Ordering::Relaxed);
        self.blocking_uncounted(work).await
    }

    async fn blocking_uncounted<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let engine = Arc::clone(&self.engine);
        tokio::task::spawn_blocking(move || work(&engine))
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
        let keys = keys.to_vec();
        self.blocking(move |engine| keys.iter().map(|key| engine.get(key.as_bytes())).collect()).await
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
            || [collection.as_bytes(), &[0]].concat(),
            // The least key that is greater.
            |after| [collection.as_bytes(), &[0], after.as_bytes(), &[0]].concat(),
        );
        let end = [collection.as_bytes(), &[1]].concat();
        let op_prefix = op_prefix.to_owned();
        self.blocking(move |engine| engine.stamps(first, end, &op_prefix, limit)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.blocking_uncounted(Engine::check).await
    }

    fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
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
        for (place, applied) in self.blocking(move |engine| engine.apply(chunk)).await? {
            answer[place] = applied;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
