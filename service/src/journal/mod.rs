//! The write-behind log: what is in here is accepted, and stays until the database has it.
//!
//! Two sides: [`Journal`] is what the API appends to, [`Consumer`] is what the worker reads and acknowledges.
//! Redis Streams in production, an embedded append-only log for a machine that has no Redis.

pub mod codec;
pub mod dead;
pub mod embedded;
pub mod redis;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
pub use dead::{DeadLetter, DeadLetters, KeptLetter, LetterId, Note, Replay, Returned};
use embedded::BacklogBounds;

use crate::contract::{Durability, write_operation_id};
use crate::operation::{Change, DocumentKey, Position};

/// One client request as it is journaled: all of its writes or none.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The client's `Idempotency-Key`, else a UUIDv7.
    pub op_id: Box<str>,
    /// When it was accepted, milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub writes: Vec<RequestWrite>,
    /// Of dead letters that are put back.
    pub replay: Option<Box<Replay>>,
}

impl Request {
    /// The id of the write at `place`, which is kept as `_sk.op`.
    #[must_use]
    pub fn write_op_id(&self, place: usize) -> String {
        let replayed = self.replay.as_ref().and_then(|replay| replay.places.get(place));
        write_operation_id(&self.op_id, replayed.map_or(place, |place| usize::from(*place)))
    }

    /// What the journal remembers it by, so that a retry adds nothing.
    #[must_use]
    pub fn key(&self) -> Cow<'_, str> {
        match &self.replay {
            Some(replay) => replay.key().into(),
            None => Cow::Borrowed(&self.op_id),
        }
    }
}

/// One write of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestWrite {
    pub key: DocumentKey,
    pub change: Change,
}

/// A journal entry: one or more whole requests under one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub position: Position,
    pub requests: Vec<Request>,
    /// Size in the journal, bytes.
    pub bytes: usize,
}

/// What the worker gets: an entry, or bytes that it cannot understand, which it must not drop.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    Entry(Entry),
    Undecodable { position: Position, reason: String, payload: Bytes },
}

impl Delivery {
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            Self::Entry(entry) => entry.position,
            Self::Undecodable { position, .. } => *position,
        }
    }
}

/// The journal has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub position: Position,
    /// The same operation id was appended before; this is that entry's position and nothing was added.
    pub repeated: bool,
}

/// Why an append failed, by what the client may conclude.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum JournalError {
    /// Nothing was accepted.
    #[error("the journal cannot be reached: {0}")]
    Unavailable(String),
    /// Nothing was accepted.
    #[error("the journal is full: {0}")]
    Full(String),
    /// Nothing was accepted, nor ever will be: the request cannot be journaled.
    #[error("the request cannot be journaled: {0}")]
    Invalid(String),
    /// It may or may not have been accepted; a retry with the same operation id settles it.
    #[error("the journal did not answer in time: {0}")]
    Unknown(String),
    /// The journal itself is damaged or refuses; needs a person.
    #[error("the journal failed: {0}")]
    Failed(String),
}

/// How much waits for the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    pub entries: u64,
    /// 0 where the journal does not tell.
    pub bytes: u64,
    /// When the oldest entry that waits was appended, milliseconds since the epoch.
    pub oldest_ms: Option<u64>,
    /// Entries that have left the journal so far. Only differences mean something; it may begin anew.
    pub removed: u64,
    /// Dead letters, which are no part of the backlog and have no bound.
    pub dead_letters: u64,
}

impl Backlog {
    /// The bound that it has reached, in words.
    #[must_use]
    pub fn full(&self, bounds: BacklogBounds) -> Option<String> {
        let of =
            |waiting, what, bound| format!("{waiting} {what} wait for the database, the bound is {bound}");
        if self.entries >= bounds.entries {
            return Some(of(self.entries, "entries", bounds.entries));
        }
        (self.bytes >= bounds.bytes).then(|| of(self.bytes, "bytes", bounds.bytes))
    }
}

/// Names one accepted request: shard, position of the entry, place in the entry. Its text form,
/// `shard.ms.seq.place`, is the `write_id` that clients get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WriteId {
    pub shard: u16,
    pub position: Position,
    pub place: u16,
}

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.shard, self.position.ms, self.position.seq, self.place)
    }
}

impl FromStr for WriteId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let mut next = || parts.next().filter(|part| part.bytes().all(|b| b.is_ascii_digit())).ok_or(());
        let id = Self {
            shard: next()?.parse().map_err(drop)?,
            position: Position { ms: next()?.parse().map_err(drop)?, seq: next()?.parse().map_err(drop)? },
            place: next()?.parse().map_err(drop)?,
        };
        if parts.next().is_some() { Err(()) } else { Ok(id) }
    }
}

/// Where an accepted request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteState {
    /// In the journal, not yet in the database.
    Accepted,
    /// In the database.
    Stored,
    /// A dead letter that was put back under its old version, and the document was written since: nothing was done.
    Superseded,
    /// At least one of its writes was refused by the database for good.
    Dead { reason: String },
    /// The journal never gave out this id.
    Unknown,
}

/// The API's side.
#[async_trait]
pub trait Journal: Send + Sync {
    /// `embedded` or `redis`.
    fn kind(&self) -> &'static str;

    /// What an append means right now.
    fn durability(&self) -> Durability;

    /// Appends a request; returns when it is as durable as [`Journal::durability`] says. An operation id that
    /// was appended before is found again and not added twice.
    async fn append(&self, request: Request) -> Result<Appended, JournalError>;

    async fn status(&self, id: WriteId) -> Result<WriteState, JournalError>;

    async fn backlog(&self) -> Result<Backlog, JournalError>;

    /// None where no write can become one.
    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        None
    }
}

/// The worker's side. One consumer owns a shard at a time and sees its entries in order.
#[async_trait]
pub trait Consumer: Send {
    /// The next entries, after those that it returned before; waits up to `wait` for the first. Entries that
    /// were delivered and never acknowledged, to this consumer or a dead one, come first. Empty when nothing
    /// came in time, or while another consumer owns the shard. After an error it starts again from what is
    /// not acknowledged.
    async fn read(
        &mut self,
        max_entries: usize,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>, JournalError>;

    /// These are stored or buried; the journal may forget them. They must be all that [`Consumer::read`]
    /// returned up to the last of them.
    async fn ack(&mut self, positions: &[Position]) -> Result<(), JournalError>;

    /// Keeps dead letters durably. Burying one again raises its count, and adds no second one.
    async fn bury(&mut self, letters: &[DeadLetter]) -> Result<(), JournalError>;

    /// These entries hold replayed letters that changed nothing, which their status has to tell.
    async fn superseded(&mut self, _entries: &[WriteId]) -> Result<(), JournalError> {
        Ok(())
    }

    /// Start again from what is not acknowledged: a batch failed and must be delivered once more.
    fn rewind(&mut self);

    /// Gives up ownership of the shard, so that a successor need not wait for a lease to expire.
    async fn release(&mut self) {}
}

/// Now, in milliseconds since the Unix epoch; 0 on a clock before it.
#[must_use]
pub fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_ids_round_trip_and_reject_everything_else() {
        let id = WriteId { shard: 3, position: Position { ms: 1_795_000_000_000, seq: 7 }, place: 2 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "1", "0.1.2", "0.1.2.3.4", "0.-1.2.3", "a.b.c.d", "0.1.2.70000", "+0.1.2.3", "0..2.3"]
        {
            assert_eq!(bad.parse::<WriteId>(), Err(()), "{bad}");
        }
    }
}
