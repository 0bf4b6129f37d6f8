//! The write-behind log: what is in here is accepted, and stays until the database has it.
//!
//! Two sides: [`Journal`] is what the API appends to, [`Consumer`] is what the worker reads and acknowledges.
//! Redis Streams in production, an embedded append-only log for a machine that has no Redis.

pub mod codec;
pub mod dead;
pub mod embedded;
mod names;
pub mod redis;
pub mod shard;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
pub use dead::{DeadLetter, DeadLetters, KeptLetter, LetterId, Note, Replay, Returned};
use embedded::BacklogBounds;
pub use names::{PlacedName, WriteId, WriteIds};

use crate::contract::{Durability, write_operation_id};
use crate::operation::{Change, DocumentKey, Position};

/// One client request as it is journaled: all of its writes or none.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The client's `Idempotency-Key`, else a name of the service's own. Empty on the way to a journal that names what it
    /// is given ([`Journal::names_requests`]); so are then the ids of inserts that derive from it.
    pub op_id: Box<str>,
    /// When it was accepted, milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub writes: Vec<RequestWrite>,
    /// Of each write its place in the client's request, by which it has its operation id. `None`: all of them are here.
    pub places: Option<Box<[u16]>>,
    /// Of dead letters that are put back.
    pub replay: Option<Box<Replay>>,
}

impl Request {
    /// The id of the write at `place`, which is kept as `_sk.op`.
    #[must_use]
    pub fn write_op_id(&self, place: usize) -> String {
        let original = self.places.as_ref().and_then(|places| places.get(place));
        write_operation_id(&self.op_id, original.map_or(place, |place| usize::from(*place)))
    }

    /// Gives inserts without an id theirs.
    fn derive_ids(&mut self) {
        for place in 0..self.writes.len() {
            if self.writes[place].key.id().is_empty() {
                let id = self.write_op_id(place);
                let write = &mut self.writes[place];
                write.key = DocumentKey::new(write.key.collection(), &id);
            }
        }
    }

    /// Of letters that are put back, their ids.
    #[must_use]
    pub fn letters(&self) -> Vec<LetterId> {
        let (Some(replay), Some(places)) = (&self.replay, &self.places) else { return Vec::new() };
        places.iter().map(|place| LetterId { write: replay.origin, place: Some(*place) }).collect()
    }

    /// What the journal remembers it by, so that a retry adds nothing.
    #[must_use]
    pub fn key(&self) -> Cow<'_, str> {
        match &self.replay {
            Some(replay) => {
                let first = self.places.as_ref().and_then(|places| places.first()).copied();
                replay.key(first.unwrap_or_default()).into()
            }
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    pub ids: WriteIds,
    /// The same operation id was appended before; this is where, and nothing was added.
    pub repeated: bool,
    /// Of a request that the journal named, what the names of its parts have beside their ids.
    pub salt: Option<u64>,
}

impl Appended {
    /// The name that the journal gave the request's first part.
    #[must_use]
    pub fn name(&self) -> Option<PlacedName> {
        self.salt.map(|salt| PlacedName { id: self.ids.first(), salt })
    }

    /// As the only request of an entry of the only shard.
    #[must_use]
    pub fn at(position: Position, repeated: bool) -> Self {
        Self { ids: WriteIds::one(WriteId { shard: 0, position, place: 0 }), repeated, salt: None }
    }
}

/// A request as an entry has it that still waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// That its writes are under.
    pub version: i64,
    pub request: Request,
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
    /// Nothing was accepted: the operation id is another request's.
    #[error("this operation id belongs to another request")]
    Reused,
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

impl WriteState {
    /// Of a request that has this part and another one: what is worse.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        let rank = |state: &Self| match state {
            Self::Stored => 0,
            Self::Superseded => 1,
            Self::Accepted => 2,
            Self::Dead { .. } => 3,
            Self::Unknown => 4,
        };
        if rank(&other) > rank(&self) { other } else { self }
    }
}

/// The API's side.
#[async_trait]
pub trait Journal: Send + Sync {
    /// `embedded` or `redis`.
    fn kind(&self) -> &'static str;

    /// What an append means right now.
    fn durability(&self) -> Durability;

    /// Why nothing is appended now although the journal answers; `None` if there is no such reason.
    fn refuses(&self) -> Option<String> {
        None
    }

    /// Appends a request; returns when it is as durable as [`Journal::durability`] says. An operation id that
    /// was appended before is found again and not added twice.
    async fn append(&self, request: Request) -> Result<Appended, JournalError>;

    /// Whether it takes requests without an operation id and names them. Inserts without an id are then all in the first part
    /// of their request, and derive from its name.
    fn names_requests(&self) -> bool {
        false
    }

    /// Which shard a document belongs to.
    fn shard_of(&self, _key: &DocumentKey) -> u16 {
        0
    }

    async fn status(&self, id: WriteId) -> Result<WriteState, JournalError>;

    async fn backlog(&self) -> Result<Backlog, JournalError>;

    /// Whether [`Journal::held`] finds what waits; if so, nobody else needs to keep documents under ids that derive
    /// from operations.
    fn finds_held(&self) -> bool {
        false
    }

    /// Of each operation (its shard and id) what still waits in the journal. `None`: nothing does, so whatever
    /// was accepted is stored or a dead letter.
    async fn held(&self, operations: &[(u16, &str)]) -> Result<Vec<Option<Held>>, JournalError> {
        Ok(vec![None; operations.len()])
    }

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

    /// Whether another consumer owns the shard, as of the last read.
    fn has_lost(&self) -> bool {
        false
    }

    /// Gives up ownership of the shard, so that a successor need not wait for a lease to expire.
    async fn release(&mut self) {}
}

/// The shards of a service as one of its workers sees them. Workers come and go; each takes a fair share.
#[async_trait]
pub trait Shards: Send {
    /// Says that this worker is there; how many shards it is to own. To be called once a second or so, or the worker
    /// counts as gone.
    ///
    /// [`JournalError::Failed`]: this worker must end.
    async fn share(&mut self) -> Result<usize, JournalError>;

    /// Takes a shard that nobody owns, not one of `held`; `None` if there is none now.
    async fn take(&mut self, held: &BTreeSet<u16>) -> Result<Option<(u16, Box<dyn Consumer>)>, JournalError>;

    /// Says that this worker goes.
    async fn leave(&mut self);
}

/// Now, in milliseconds since the Unix epoch; 0 on a clock before it.
#[must_use]
pub fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
