//! The embedded journal: an append-only log in segment files, group-committed, for one process.
//!
//! ```text
//! DIR/lock                 held while a process uses the log
//! DIR/<ms>-<seq>.log       segments, oldest first; removed when all of their entries are acknowledged
//! DIR/checkpoint           the last acknowledged position
//! DIR/dead-letters.jsonl   what the database refused
//! ```

mod checkpoint;
mod consumer;
mod dead;
mod dead_line;
mod letters;
mod recent;
mod recovery;
mod segment;
mod shared;
mod writer;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::{Appended, Backlog, DeadLetters, Journal, JournalError, Request, WriteId, WriteState, codec};
use crate::contract::Durability;
pub use consumer::EmbeddedConsumer;
use shared::Shared;
use writer::{Job, Writer};

/// A segment is closed at this size, so that acknowledged ones can be removed.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Requests that may wait for the writer; beyond it, the answer is 503. A client that goes away leaves its request
/// here, so connections are no bound.
const WAITING_REQUESTS: usize = 65_536;
/// Bytes of requests that may wait for the writer, about.
const WAITING_BYTES: u64 = 256 * 1024 * 1024;

/// How much may wait for the database.
#[derive(Clone, Copy, Debug)]
pub struct BacklogBounds {
    pub entries: u64,
    pub bytes: u64,
}

/// The log of one directory.
pub struct EmbeddedJournal {
    jobs: Option<SyncSender<Job>>,
    writer: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    durability: Durability,
    bounds: BacklogBounds,
    /// Held for its lock.
    _lock: File,
}

impl EmbeddedJournal {
    /// Opens the log in `dir`, which is created if needed, and recovers what a crash left.
    ///
    /// # Errors
    /// The directory cannot be used, another process uses it, or a segment before the last one is damaged.
    pub fn open(dir: &Path, durability: Durability, bounds: BacklogBounds) -> Result<Self, JournalError> {
        Self::open_with(dir, durability, bounds, SEGMENT_BYTES, super::now_ms)
    }

    fn open_with(
        dir: &Path,
        durability: Durability,
        bounds: BacklogBounds,
        segment_bytes: u64,
        clock: fn() -> u64,
    ) -> Result<Self, JournalError> {
        std::fs::create_dir_all(dir).map_err(|error| at(dir, &error))?;
        let lock = lock(dir)?;
        let recovered = recovery::recover(dir).map_err(|error| at(dir, &error))?;
        let shared = Arc::new(recovered.shared);
        let (jobs, waiting) = sync_channel(WAITING_REQUESTS);
        let writer = Writer {
            dir: PathBuf::from(dir),
            durability,
            shared: Arc::clone(&shared),
            recent: recovered.recent,
            last: recovered.last,
            open: None,
            segment_bytes,
            clock,
        };
        let writer = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || writer.run(&waiting))
            .map_err(|error| at(dir, &error))?;
        Ok(Self { jobs: Some(jobs), writer: Some(writer), shared, durability, bounds, _lock: lock })
    }

    /// The worker's side. One at a time; a second one would see the same entries.
    #[must_use]
    pub fn consumer(&self) -> EmbeddedConsumer {
        EmbeddedConsumer::new(Arc::clone(&self.shared))
    }
}

impl Drop for EmbeddedJournal {
    fn drop(&mut self) {
        // The writer ends when its senders are gone; what it took is written before.
        self.jobs.take();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn at(dir: &Path, error: &io::Error) -> JournalError {
    JournalError::Failed(format!("{}: {error}", dir.display()))
}

/// A process that has the journal open has it for longer.
const LOCKED_FOR: Duration = Duration::from_millis(250);

fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join("lock");
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(|e| at(&path, &e))?;
    let patience = Instant::now() + LOCKED_FOR;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // Whoever starts a program holds all locks in it, from the fork until the program is there.
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < patience => {
                std::thread::sleep(LOCKED_FOR / 50);
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(JournalError::Failed(format!("{} is in use by another process", dir.display())));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(at(&path, &error)),
        }
    }
}

#[async_trait]
impl Journal for EmbeddedJournal {
    fn kind(&self) -> &'static str {
        "embedded"
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    async fn append(&self, request: Request) -> Result<Appended, JournalError> {
        if let Some(reason) = self.shared.backlog().full(self.bounds) {
            return Err(JournalError::Full(reason));
        }
        let mut payload = Vec::with_capacity(256 * request.writes.len() + 64);
        codec::encode(&[&request], &mut payload).map_err(JournalError::Invalid)?;
        let too_many = || JournalError::Unavailable("too many requests wait for the disk".into());
        let bytes = payload.len() as u64;
        if self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed) >= WAITING_BYTES {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(too_many());
        }
        let (reply, answer) = oneshot::channel();
        let (op_id, checksum) = match request.replay {
            // Its key says what it is.
            Some(_) => (request.key().into(), 0),
            None => (request.op_id, codec::checksum_of_entry(&payload)),
        };
        let job = Job { op_id, checksum, payload, reply };
        let jobs = self.jobs.as_ref().expect("the sender is taken only on drop");
        jobs.try_send(job).map_err(|error| {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => too_many(),
                TrySendError::Disconnected(_) => JournalError::Failed("its writer has ended".into()),
            }
        })?;
        answer.await.unwrap_or_else(|_| Err(JournalError::Unknown("its writer has ended".into())))
    }

    async fn status(&self, id: WriteId) -> Result<WriteState, JournalError> {
        self.shared.status(id)
    }

    async fn backlog(&self) -> Result<Backlog, JournalError> {
        self.shared.healthy()?;
        Ok(Backlog { dead_letters: self.shared.dead().count(), ..self.shared.backlog() })
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }
}

#[cfg(test)]
mod tests;
