//! Direct mode, for comparisons: what the service does without write-behind. Each read and each write of a request is
//! a database operation of its own, one after the other, and the answer waits for all of them.
//!
//! The writes of a request are not all-or-none here: what was stored before one failed stays stored, and the error
//! says how many those are. A retry with the same operation id stores an insert once and applies other writes again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::cache::{AcceptedWrite, Cache, CacheError, FillToken, Lookup, Versioned};
use crate::contract::Durability;
use crate::journal::{Appended, Backlog, Journal, JournalError, Request, WriteId, WriteState, now_ms};
use crate::metrics::Metrics;
use crate::operation::{DocumentKey, DocumentWrite, Position, json_text};
use crate::store::{Applied, Store, Throttle};

/// Reads from and writes to the store on behalf of the routes.
pub struct Direct {
    store: Arc<dyn Store>,
    throttle: Arc<dyn Throttle>,
    metrics: Arc<Metrics>,
    /// Given out last.
    last: Mutex<Position>,
}

/// Why a request's writes are not all stored. `stored` are those before, which stay.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectError {
    /// Nothing was sent to the database.
    #[error("nothing was stored: {0}")]
    Unavailable(String),
    /// The database refused the first write for good; nothing is stored.
    #[error("writes[0] was refused by the database, and nothing is stored: {reason}")]
    Refused { reason: String },
    /// Some are stored, and the rest certainly not.
    #[error("writes[{stored}] was not stored ({reason}); those before it are, those after it were not tried")]
    Partly { stored: usize, reason: String },
    /// Whether this write is stored is not known.
    #[error(
        "writes[{stored}] may or may not be stored ({reason}); those before it are, those after it were not tried"
    )]
    Unknown { stored: usize, reason: String },
}

impl Direct {
    pub fn new(store: Arc<dyn Store>, throttle: Arc<dyn Throttle>, metrics: Arc<Metrics>) -> Self {
        Self { store, throttle, metrics, last: Mutex::default() }
    }

    /// JSON texts in the order of the keys; `None` where there is no document.
    ///
    /// # Errors
    /// The store failed.
    pub async fn read(&self, keys: &[DocumentKey]) -> Result<Vec<Option<Bytes>>, Arc<str>> {
        let mut documents = Vec::with_capacity(keys.len());
        for key in keys {
            self.throttle.acquire().await;
            let found = self.store.get_many(std::slice::from_ref(key)).await;
            self.metrics.store_reads.inc();
            let found = found.map_err(|error| Arc::from(error.to_string()))?;
            documents.push(found.into_iter().next().flatten().map(|stored| json_text(stored.document)));
        }
        Ok(documents)
    }

    /// Stores the writes one after the other; gives the position of the first. Later writes of one request have later
    /// positions, so that they may be to one document.
    ///
    /// # Errors
    /// The first write that is not certainly stored ends it.
    pub async fn write(&self, request: Request, deadline: Instant) -> Result<Position, DirectError> {
        let first = self.positions(request.writes.len());
        let op_ids: Vec<Arc<str>> =
            (0..request.writes.len()).map(|place| request.write_op_id(place).into()).collect();
        for (place, (write, op_id)) in request.writes.into_iter().zip(op_ids).enumerate() {
            let position = Position { seq: first.seq + place as u64, ..first };
            let write =
                DocumentWrite { key: write.key, op_id, version: position.version(), change: write.change };
            self.write_one(place, write, deadline).await?;
        }
        Ok(first)
    }

    async fn write_one(
        &self,
        stored: usize,
        write: DocumentWrite,
        deadline: Instant,
    ) -> Result<(), DirectError> {
        if timeout_at(deadline, self.throttle.acquire()).await.is_err() {
            let reason = "the database's operations were all taken until the time was over".to_owned();
            return Err(match stored {
                0 => DirectError::Unavailable(reason),
                _ => DirectError::Partly { stored, reason },
            });
        }
        let paid = Paid { unused: AtomicBool::new(true), throttle: &*self.throttle };
        let applied = timeout_at(deadline, self.store.apply(std::slice::from_ref(&write), &paid)).await;
        let reason = match applied {
            Err(_) => "the database did not answer in time".to_owned(),
            Ok(Err(error)) => error.reason().to_owned(),
            Ok(Ok(applied)) => match applied.into_iter().next() {
                Some(Applied::Stored | Applied::Superseded) => return Ok(()),
                Some(Applied::Refused { reason }) if stored == 0 => {
                    return Err(DirectError::Refused { reason });
                }
                Some(Applied::Refused { reason }) => return Err(DirectError::Partly { stored, reason }),
                None => "the store said nothing of it".to_owned(),
            },
        };
        Err(DirectError::Unknown { stored, reason })
    }

    /// Takes the place of a journal's positions: by the clock, never twice, and never back. Several processes on one
    /// database order their writes by their clocks.
    fn positions(&self, count: usize) -> Position {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now_ms();
        let first = if now > last.ms {
            Position { ms: now, seq: 0 }
        } else {
            Position { seq: last.seq + 1, ..*last }
        };
        *last = Position { seq: first.seq + (count as u64).saturating_sub(1), ..first };
        first
    }
}

/// The first operation is paid for; a store that needs more of them asks for the others.
struct Paid<'a> {
    unused: AtomicBool,
    throttle: &'a dyn Throttle,
}

#[async_trait]
impl Throttle for Paid<'_> {
    async fn acquire(&self) {
        if !self.unused.swap(false, Ordering::Relaxed) {
            self.throttle.acquire().await;
        }
    }
}

/// Stands where there is no journal: nothing ever waits in it.
pub(crate) struct NoJournal;

#[async_trait]
impl Journal for NoJournal {
    fn kind(&self) -> &'static str {
        "none"
    }

    fn durability(&self) -> Durability {
        Durability::Database
    }

    async fn append(&self, _: Request) -> Result<Appended, JournalError> {
        Err(JournalError::Failed("there is none in direct mode".into()))
    }

    /// Ids are given out for what is stored, and nobody remembers them.
    async fn status(&self, _: WriteId) -> Result<WriteState, JournalError> {
        Err(JournalError::Invalid(
            "there is none in direct mode; what was answered with 202 was in the database by then".into(),
        ))
    }

    async fn backlog(&self) -> Result<Backlog, JournalError> {
        Ok(Backlog::default())
    }
}

/// Stands where there is no cache: it knows nothing.
pub(crate) struct NoCache;

#[async_trait]
impl Cache for NoCache {
    fn kind(&self) -> &'static str {
        "none"
    }

    async fn get_many(&self, keys: &[DocumentKey]) -> Result<Vec<Lookup>, CacheError> {
        Ok(vec![Lookup::Miss(FillToken::default()); keys.len()])
    }

    async fn fill(&self, _: &DocumentKey, _: Versioned, _: FillToken) -> Result<(), CacheError> {
        Ok(())
    }

    async fn accepted(&self, _: Vec<AcceptedWrite>) -> Result<(), CacheError> {
        Ok(())
    }

    async fn settled(&self, _: &[(DocumentKey, i64)], _: i64) -> Result<(), CacheError> {
        Ok(())
    }

    async fn invalidate(&self, _: &[DocumentKey]) -> Result<(), CacheError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bson::Document;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::journal::RequestWrite;
    use crate::operation::Change;
    use crate::store::{Stamp, StoreError, StoredDocument};

    /// A double of a store that stores so many writes and then does not answer.
    struct Stalls(Semaphore);

    #[async_trait]
    impl Store for Stalls {
        fn kind(&self) -> &'static str {
            "double"
        }
        async fn get_many(&self, _: &[DocumentKey]) -> Result<Vec<Option<StoredDocument>>, StoreError> {
            Err(StoreError::Unavailable("it is away".into()))
        }
        async fn apply(
            &self,
            _: &[DocumentWrite],
            throttle: &dyn Throttle,
        ) -> Result<Vec<Applied>, StoreError> {
            throttle.acquire().await;
            self.0.acquire().await.unwrap().forget();
            Ok(vec![Applied::Stored])
        }
        async fn stamps(
            &self,
            _: &str,
            _: &str,
            _: Option<&str>,
            _: usize,
        ) -> Result<Vec<Stamp>, StoreError> {
            unreachable!("nobody audits")
        }
        async fn ping(&self) -> Result<(), StoreError> {
            unreachable!("nobody pings")
        }
        fn operations(&self) -> u64 {
            0
        }
    }

    /// Lets so many operations start.
    struct Allows(Semaphore);

    #[async_trait]
    impl Throttle for Allows {
        async fn acquire(&self) {
            self.0.acquire().await.unwrap().forget();
        }
    }

    fn direct(operations: usize, answers: usize) -> Direct {
        let store = Arc::new(Stalls(Semaphore::new(answers)));
        Direct::new(store, Arc::new(Allows(Semaphore::new(operations))), Arc::default())
    }

    fn request(writes: usize) -> Request {
        let write = |n: usize| RequestWrite {
            key: DocumentKey::new("orders", &n.to_string()),
            change: Change::replace(Document::new()),
        };
        Request {
            op_id: "op".into(),
            at_ms: 1,
            writes: (0..writes).map(write).collect(),
            places: None,
            replay: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_of_a_request_that_ran_out_of_time() {
        let deadline = || Instant::now() + Duration::from_secs(1);
        // Operations that may start, writes that the store answers.
        let nothing = direct(0, 9).write(request(3), deadline()).await;
        assert!(matches!(nothing, Err(DirectError::Unavailable(_))), "{nothing:?}");
        let two = direct(2, 9).write(request(3), deadline()).await;
        assert!(matches!(two, Err(DirectError::Partly { stored: 2, .. })), "{two:?}");
        let open = direct(9, 1).write(request(3), deadline()).await;
        assert!(matches!(open, Err(DirectError::Unknown { stored: 1, .. })), "{open:?}");
        assert!(direct(3, 3).write(request(3), deadline()).await.is_ok(), "an operation each, and no more");
    }

    #[tokio::test]
    async fn a_read_that_fails_is_no_missing_document() {
        let read = direct(1, 0).read(&[DocumentKey::new("items", "1")]).await;
        assert!(read.is_err_and(|reason| reason.contains("it is away")));
    }

    #[test]
    fn positions_only_grow() {
        let direct = direct(0, 0);
        let mut last = Position::default();
        for count in [1, 5, 0, 64, 1, 1] {
            let first = direct.positions(count);
            assert!(first.version() > last.version());
            last = Position { seq: first.seq + (count as u64).saturating_sub(1), ..first };
        }
    }
}
