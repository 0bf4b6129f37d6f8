//! Documents: where they end up, and how they are read back. MongoDB in production, an embedded store for a
//! machine that has none.
//!
//! A stored document is the client's own plus `_id` and `_sk: {op, v}`. A deleted one leaves a tombstone,
//! `{_id, _sk: {op, v, deleted: <date>}}`, so that a late delivery of an older write cannot bring it back;
//! tombstones are purged after [`TOMBSTONE_TTL`].

mod encoding;
mod rules;
mod traced;

pub mod embedded;
pub mod mongo;

#[cfg(test)]
mod suite;

use std::time::Duration;

use async_trait::async_trait;
use bson::Document;

use crate::operation::{DocumentKey, DocumentWrite};

pub use embedded::Embedded;
pub use mongo::Mongo;
pub use traced::Traced;

/// How long a tombstone outlives its document. A delivery later than that could revive it; it is far above
/// the time that a worker can hold an entry before another one reclaims it.
pub const TOMBSTONE_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// A document as read back, without `_id` and `_sk`.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredDocument {
    /// `_sk.v`; 0 for a document that scalekit did not write.
    pub version: i64,
    pub document: Document,
}

/// What the audit needs of a stored document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub id: String,
    /// `_sk.op`
    pub op_id: String,
    /// `_sk.v`
    pub version: i64,
    /// A tombstone.
    pub deleted: bool,
}

/// What became of one [`DocumentWrite`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Durable in the store.
    Stored,
    /// The store holds this write already, or a newer state of the document: nothing to do, a success.
    Superseded,
    /// Permanently refused; goes to the dead letters with this reason. The other writes are not affected.
    Refused { reason: String },
}

/// The store could not be used at all; nothing is known of the writes, deliver them again. Only [`StoreError::Failed`]
/// can be a fault of the writes: after any other they wait, however often it comes.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// Try again later. It is away, its disk is full, it is no primary, or it does not let us.
    #[error("the database cannot be reached: {0}")]
    Unavailable(String),
    /// No answer within the time that an operation has, or the server gave up on it. It may have been applied. What is
    /// slow now is better sent in smaller parts.
    #[error("the database does not answer in time: {0}")]
    TimedOut(String),
    /// The server turned the operation away because it has too much to do. Try again later, and less.
    #[error("the database is overloaded: {0}")]
    Overloaded(String),
    /// It answered with something that is not known to be a fault of the server, nor one of a document. A single write
    /// that is answered so again and again becomes a dead letter; so a store must not say it while the server fails
    /// other writes in the same way.
    #[error("the database failed: {0}")]
    Failed(String),
}

impl StoreError {
    /// What happened, without the kind of error.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Unavailable(reason)
            | Self::TimedOut(reason)
            | Self::Overloaded(reason)
            | Self::Failed(reason) => reason,
        }
    }

    /// Whether less load would help.
    #[must_use]
    pub fn is_pressure(&self) -> bool {
        matches!(self, Self::TimedOut(_) | Self::Overloaded(_))
    }
}

/// Asked before each database operation (a command, a commit), so that no path can pass the limit by.
#[async_trait]
pub trait Throttle: Send + Sync {
    /// Returns when the next operation may start.
    async fn acquire(&self);

    /// The same on behalf of a client: rather than wait for long, it says why no operation can be allowed now.
    async fn try_acquire(&self) -> Result<(), String> {
        self.acquire().await;
        Ok(())
    }
}

/// No limit: for reads on behalf of a waiting client, for the audit and for tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unlimited;

#[async_trait]
impl Throttle for Unlimited {
    async fn acquire(&self) {}
}

/// A document store. All methods may be called concurrently.
#[async_trait]
pub trait Store: Send + Sync {
    /// `embedded` or `mongodb`.
    fn kind(&self) -> &'static str;

    /// Reads documents; the answer has the keys' order. Deleted ones are `None`.
    async fn get_many(&self, keys: &[DocumentKey]) -> Result<Vec<Option<StoredDocument>>, StoreError>;

    /// Applies writes durably, in as few database operations as it can, asking `throttle` before each; the
    /// answer has the writes' order. The writes must be of distinct documents. A write whose version is not
    /// newer than the stored one changes nothing ([`Applied::Superseded`]). An insert over a live document
    /// of another write is [`Applied::Refused`].
    async fn apply(
        &self,
        writes: &[DocumentWrite],
        throttle: &dyn Throttle,
    ) -> Result<Vec<Applied>, StoreError>;

    /// For the audit: stamps of the documents in `collection` whose `_sk.op` starts with `op_prefix`, in the
    /// order of their ids, those after `after`, at most `limit`. It looks at `_sk.op`, not at the id, so a
    /// copy under a second id shows.
    async fn stamps(
        &self,
        collection: &str,
        op_prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Stamp>, StoreError>;

    /// Is it there?
    async fn ping(&self) -> Result<(), StoreError>;

    /// Database operations since the start, reads and writes.
    fn operations(&self) -> u64;
}
