//! Dead letters: what names one, what is kept of it, what becomes of it, and what a replay keeps of where it came
//! from. The same for both journals.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Appended, JournalError, Request, WriteId, WriteState};
use crate::contract::MAX_OPERATIONS_PER_REQUEST;
use crate::operation::Position;

/// A write that the database refused for good, or an entry that nobody can read. Kept, never dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The request that it came with; it stays the same however often the letter is replayed.
    pub write_id: WriteId,
    pub reason: String,
    /// `_sk.op` of the write; empty for an undecodable entry.
    pub op_id: String,
    /// The write as it was journaled (see [`super::codec`]), or the whole payload of an undecodable entry.
    pub payload: Bytes,
    /// It was replayed, and is refused again.
    pub returned: Option<Returned>,
}

/// How a letter came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned {
    /// The entry that it was replayed in.
    pub entry: WriteId,
    /// How often it had been buried before that.
    pub times: u32,
}

impl DeadLetter {
    #[must_use]
    pub fn id(&self) -> LetterId {
        LetterId { write: self.write_id, place: place_of(&self.op_id) }
    }
}

/// The place of a write in its request, by its operation id.
#[must_use]
pub fn place_of(write_op_id: &str) -> Option<u16> {
    write_op_id.rsplit_once('-')?.1.parse().ok()
}

/// Names one letter: its request's `write_id` and its place in the request; an entry that nobody can read has none. Its
/// text form is `shard.ms.seq.place[.place]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LetterId {
    pub write: WriteId,
    pub place: Option<u16>,
}

impl LetterId {
    /// All ids that letters of one request may have.
    pub fn all_of(write: WriteId) -> impl Iterator<Item = Self> {
        // A request has no more writes than that.
        let places = 0..u16::try_from(MAX_OPERATIONS_PER_REQUEST).unwrap_or(u16::MAX);
        std::iter::once(None).chain(places.map(Some)).map(move |place| Self { write, place })
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some(place) => write!(f, "{}.{place}", self.write),
            None => self.write.fmt(f),
        }
    }
}

impl FromStr for LetterId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Ok(write) = text.parse() {
            return Ok(Self { write, place: None });
        }
        let (write, place) = text.rsplit_once('.').ok_or(())?;
        if !place.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(());
        }
        Ok(Self { write: write.parse()?, place: Some(place.parse().map_err(drop)?) })
    }
}

/// A letter as the journal keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptLetter {
    /// When it was buried first, and its place in the order of letters.
    pub at: Position,
    /// When it was buried last, milliseconds since the Unix epoch.
    pub last_ms: u64,
    /// How often it was buried.
    pub times: u32,
    pub letter: DeadLetter,
}

/// What a request that puts letters back keeps of where they came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The request that they were, whose version they keep.
    pub origin: WriteId,
    /// They get the version of the new entry instead.
    pub as_new: bool,
    /// How often they were buried.
    pub times: u32,
}

impl Replay {
    /// What the journal remembers it by (and the place of its first write), so that the same letters are put back once. No client's key has such a
    /// character.
    #[must_use]
    pub fn key(&self, first: u16) -> String {
        format!("\u{1}replay {} {first} {}", self.origin, self.times)
    }
}

/// What became of a request, where its place in the journal does not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Its letters were put back as this one.
    Replayed(WriteId),
    /// A replay that changed nothing, since the document was written later.
    Superseded,
    /// A replay that was refused again.
    Dead(String),
    /// Its letters were given up.
    Dropped(String),
}

impl Note {
    #[must_use]
    pub fn encode(&self) -> String {
        match self {
            Self::Replayed(id) => format!("replayed {id}"),
            Self::Superseded => "superseded".into(),
            Self::Dead(reason) => format!("dead {reason}"),
            Self::Dropped(reason) => format!("dropped {reason}"),
        }
    }

    /// Where its request stands by that.
    #[must_use]
    pub fn state(self) -> WriteState {
        match self {
            // Its entry is gone from all memory; it was put back, so it is not lost.
            Self::Replayed(_) => WriteState::Stored,
            Self::Superseded => WriteState::Superseded,
            Self::Dead(reason) => WriteState::Dead { reason },
            Self::Dropped(reason) => {
                WriteState::Dead { reason: format!("{reason} (and then the dead letter was dropped)") }
            }
        }
    }

    /// `None` for a text that [`Note::encode`] did not make.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "replayed" => rest.parse().ok().map(Self::Replayed),
            "superseded" => Some(Self::Superseded),
            "dead" => Some(Self::Dead(rest.into())),
            "dropped" => Some(Self::Dropped(rest.into())),
            _ => None,
        }
    }
}

/// The dead letters of a journal, for those who look after them. Letters are customers' data: none is ever evicted.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Those after a position, oldest first, at most `limit`.
    async fn page(&self, after: Position, limit: usize) -> Result<Vec<KeptLetter>, JournalError>;

    async fn letter(&self, id: LetterId) -> Result<Option<KeptLetter>, JournalError>;

    /// The letter of the write with this operation id; the newest if there are several.
    async fn by_operation(&self, op_id: &str) -> Result<Option<KeptLetter>, JournalError>;

    /// All letters of one request, in the order of their places.
    async fn of_request(&self, write: WriteId) -> Result<Vec<KeptLetter>, JournalError>;

    /// Appends the request, which holds these letters, and forgets them once it is durable. `None`: they are gone, and
    /// nothing was appended.
    async fn replay(&self, letters: &[LetterId], request: Request) -> Result<Option<Appended>, JournalError>;

    /// Gives a letter up; whether it was there.
    async fn drop_letter(&self, id: LetterId) -> Result<bool, JournalError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_reject_everything_else() {
        let write = WriteId { shard: 0, position: Position { ms: 1_795_000_000_000, seq: 7 }, place: 0 };
        for (id, text) in [
            (LetterId { write, place: None }, "0.1795000000000.7.0"),
            (LetterId { write, place: Some(12) }, "0.1795000000000.7.0.12"),
        ] {
            assert_eq!(id.to_string(), text);
            assert_eq!(text.parse(), Ok(id));
        }
        for bad in ["", "1", "0.1.2", "0.1.2.3.", "0.1.2.3.+4", "0.1.2.3.4.5", "0.1.2.3.70000", "key-00"] {
            assert_eq!(bad.parse::<LetterId>(), Err(()), "{bad}");
        }
        assert_eq!((place_of("a-b-07"), place_of(""), place_of("a-x")), (Some(7), None, None));
        assert_eq!(LetterId::all_of(write).count(), MAX_OPERATIONS_PER_REQUEST + 1);
    }

    #[test]
    fn notes_round_trip() {
        let write = WriteId { shard: 0, position: Position { ms: 5, seq: 7 }, place: 0 };
        for note in [
            Note::Replayed(write),
            Note::Superseded,
            Note::Dead("a reason with spaces".into()),
            Note::Dropped(String::new()),
        ] {
            assert_eq!(Note::decode(&note.encode()), Some(note));
        }
        assert_eq!(Note::decode("replayed nonsense"), None);
        assert_eq!(Note::decode(""), None);
    }
}
