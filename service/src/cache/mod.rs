//! The read cache: what was read lately, and what was accepted and may not be in the database yet, so that a
//! client reads its own writes at once.

pub mod in_process;
pub mod redis;
pub mod versioned;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::operation::DocumentKey;
pub use versioned::{CacheChange, Versioned};

/// What the cache says of a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup {
    /// Known: the document's JSON text, or that there is none; and who knew.
    Known(Option<Bytes>, Level),
    /// Known in this process, and Redis will forget it so soon: [`Cache::refresh`] may come before that.
    Expiring(Option<Bytes>, Duration),
    /// Only merges are known; the database has the rest.
    Partial(Versioned, FillToken),
    /// Nothing. The token goes back with the fill.
    Miss(FillToken),
}

/// Where a cache knows a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// In this process.
    L1,
    /// In Redis.
    L2,
}

/// Taken before the database is read; a fill under it does nothing if a write was stored in between, and what was
/// read under another one may be older than what this lookup has to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FillToken(u64);

/// A write that the journal has accepted.
#[derive(Clone, Debug)]
pub struct AcceptedWrite {
    pub key: DocumentKey,
    /// Of its journal entry.
    pub version: i64,
    pub change: CacheChange,
}

/// The cache cannot be used; reads go to the database, accepted writes are still safe in the journal.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the cache cannot be reached: {0}")]
pub struct CacheError(pub String);

/// A cache of documents. A cache may forget, except what is accepted and not stored yet.
#[async_trait]
pub trait Cache: Send + Sync {
    /// `in-process` or `redis`.
    fn kind(&self) -> &'static str;

    /// The answer has the keys' order.
    async fn get_many(&self, keys: &[DocumentKey]) -> Result<Vec<Lookup>, CacheError>;

    /// Keeps what a read of the database found.
    async fn fill(&self, key: &DocumentKey, found: Versioned, token: FillToken) -> Result<(), CacheError>;

    /// Keeps what a read of the database found in place of what is about to be forgotten. Only for
    /// what a lookup found to be [`Lookup::Expiring`].
    async fn refresh(&self, _key: &DocumentKey, _found: Versioned) -> Result<(), CacheError> {
        Ok(())
    }

    /// Makes the writes of one request visible, each under its version; of one document, in this order.
    async fn accepted(&self, writes: Vec<AcceptedWrite>) -> Result<(), CacheError>;

    /// The database has these documents up to these versions. Whatever was accepted up to `up_to` is stored or
    /// refused by now.
    async fn settled(&self, documents: &[(DocumentKey, i64)], up_to: i64) -> Result<(), CacheError>;

    /// Forgets: the database refused what is in here.
    async fn invalidate(&self, keys: &[DocumentKey]) -> Result<(), CacheError>;
}
