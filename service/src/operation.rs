//! The domain types that journal, cache, worker and store share: a position in the journal, a document's key,
//! and what is to happen to the document.

use std::fmt;
use std::sync::Arc;

use bson::raw::RawDocumentBuf;
use bson::{Bson, Document};
use bytes::Bytes;

use crate::contract::WriteOp;

/// A place in the journal: milliseconds since the Unix epoch and a sequence within the millisecond, as in a
/// Redis stream id. Positions of one journal only grow, even when the clock goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub ms: u64,
    pub seq: u64,
}

/// Bits of a version that hold the sequence; the milliseconds stand above them.
const SEQUENCE_BITS: u32 = 21;

impl Position {
    /// The version that documents written from this entry carry as `_sk.v`: 42 bits of milliseconds (until the
    /// year 2109) over 21 bits of sequence. A sequence of two million entries in one millisecond, which takes a
    /// clock that stood still for minutes, carries over into the milliseconds, so the order still holds.
    #[must_use]
    pub fn version(self) -> i64 {
        let version = (self.ms << SEQUENCE_BITS).saturating_add(self.seq);
        i64::try_from(version).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// Bytes of a key that is put together on the stack: most are.
const KEY_ROOM: usize = 128;

/// Which document. Clones share the text: a key goes into the journal, the cache and a batch.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentKey {
    /// The collection, NUL, the id. In one piece, so that a key is one allocation, one hash and one comparison.
    text: Arc<str>,
    collection_bytes: usize,
}

impl DocumentKey {
    #[must_use]
    pub fn new(collection: &str, id: &str) -> Self {
        let whole = collection.len() + 1 + id.len();
        let mut room = [0; KEY_ROOM];
        let text = match room.get_mut(..whole) {
            // Put together without an allocation; the NUL is there.
            Some(text) => {
                text[..collection.len()].copy_from_slice(collection.as_bytes());
                text[collection.len() + 1..].copy_from_slice(id.as_bytes());
                std::str::from_utf8(text).map(Arc::from).unwrap_or_default()
            }
            None => [collection, "\0", id].concat().into(),
        };
        Self { text, collection_bytes: collection.len() }
    }

    #[must_use]
    pub fn collection(&self) -> &str {
        &self.text[..self.collection_bytes]
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.text[self.collection_bytes + 1..]
    }

    /// `collection NUL id`: in its order, keys of a collection stand together, by id.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.collection(), self.id())
    }
}

impl fmt::Debug for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}", self.collection(), self.id())
    }
}

/// What happens to a document. The documents are the client's own: without `_id` and without `_sk`.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Create it; if it exists already (and is not deleted), that is a conflict.
    Insert(RawDocumentBuf),
    /// Create or overwrite it.
    Replace(RawDocumentBuf),
    /// Set these top-level fields and remove those whose value is null; creates what is absent.
    Merge(Document),
    Delete,
}

/// For tests, which write documents as trees.
#[cfg(any(test, feature = "testing"))]
impl Change {
    /// # Panics
    /// If the document is not valid BSON.
    #[must_use]
    pub fn insert(document: Document) -> Self {
        Self::Insert(RawDocumentBuf::try_from(&document).expect("a valid document"))
    }

    /// # Panics
    /// If the document is not valid BSON.
    #[must_use]
    pub fn replace(document: Document) -> Self {
        Self::Replace(RawDocumentBuf::try_from(&document).expect("a valid document"))
    }
}

impl Change {
    #[must_use]
    pub fn op(&self) -> WriteOp {
        match self {
            Self::Insert(_) => WriteOp::Insert,
            Self::Replace(_) => WriteOp::Replace,
            Self::Merge(_) => WriteOp::Merge,
            Self::Delete => WriteOp::Delete,
        }
    }

    /// Its document as readers get it; none for a delete.
    #[must_use]
    pub fn json(&self) -> Option<Bytes> {
        match self {
            Self::Insert(document) | Self::Replace(document) => {
                Document::try_from(&**document).ok().map(json_text)
            }
            Self::Merge(fields) => Some(json_text(fields.clone())),
            Self::Delete => None,
        }
    }
}

/// A document as JSON: MongoDB's relaxed extended form.
#[must_use]
pub fn json_text(document: Document) -> Bytes {
    // Every JSON value can be written.
    Bytes::from(serde_json::to_vec(&Bson::Document(document).into_relaxed_extjson()).unwrap_or_default())
}

/// The largest stored document in bytes: MongoDB's limit, held in every store so that they agree.
pub const MAX_DOCUMENT_BYTES: usize = 16 * 1024 * 1024;

/// Why these fields can never be merged, whatever is there: names that are paths or operators to a database.
#[must_use]
pub fn bad_merge_field(fields: &Document) -> Option<String> {
    let name = fields.keys().find(|name| name.is_empty() || name.starts_with('$') || name.contains('.'))?;
    Some(format!(
        "a merge cannot set the field {name:?}: names are not empty, start without `$`, have no dot"
    ))
}

/// One change to one document, as it goes to the store. In one batch each document occurs at most once.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentWrite {
    pub key: DocumentKey,
    /// The id of the (last) write that led to this, kept as `_sk.op`.
    pub op_id: Arc<str>,
    /// [`Position::version`] of the journal entry, kept as `_sk.v`.
    pub version: i64,
    pub change: Change,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_grow_with_positions() {
        let positions = [
            Position { ms: 0, seq: 0 },
            Position { ms: 0, seq: 1 },
            Position { ms: 1, seq: 0 },
            Position { ms: 1_795_000_000_000, seq: 0 },
            Position { ms: 1_795_000_000_000, seq: (1 << SEQUENCE_BITS) - 1 },
            Position { ms: 1_795_000_000_001, seq: 0 },
        ];
        for pair in positions.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].version() < pair[1].version(), "{pair:?}");
        }
        assert_eq!(Position { ms: u64::MAX >> SEQUENCE_BITS, seq: 0 }.version(), i64::MAX, "saturates");
    }
}
