//! What a write may do to what is stored already: the version rule, the same for every store.

use crate::contract::{MAX_COLLECTION_BYTES, WriteOp};
use crate::operation::{Change, DocumentWrite, bad_merge_field};

/// The longest id in bytes. The API's own limit is lower; beyond this the engines' limits come near.
const MAX_STORED_ID_BYTES: usize = 1024;

/// What is stored under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing<'a> {
    Absent,
    Live {
        op_id: &'a str,
        version: i64,
    },
    /// Written by somebody else: it has no version, so any write is newer.
    Foreign,
    /// A tombstone.
    Deleted {
        version: i64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Write,
    Superseded,
    /// An insert over somebody else's document.
    Exists,
}

/// The reason of [`Verdict::Exists`].
pub(super) const EXISTS: &str = "a document with this id exists already";

pub(super) fn decide(op: WriteOp, op_id: &str, version: i64, existing: Existing<'_>) -> Verdict {
    match (op, existing) {
        (_, Existing::Absent) => Verdict::Write,
        (WriteOp::Insert, Existing::Live { op_id: stored, .. }) if stored == op_id => Verdict::Superseded,
        (_, Existing::Live { version: stored, .. } | Existing::Deleted { version: stored })
            if stored >= version =>
        {
            Verdict::Superseded
        }
        (WriteOp::Insert, Existing::Live { .. } | Existing::Foreign) => Verdict::Exists,
        _ => Verdict::Write,
    }
}

/// Why a write can never be stored, whatever is there. Checked before anything is sent, so that a name which
/// means something else to a store (a path, an operator) is refused by all of them.
pub(super) fn refusal(write: &DocumentWrite) -> Option<String> {
    if write.key.collection().is_empty() || write.key.collection().contains('\0') {
        return Some("the collection name is empty or contains a NUL character".to_owned());
    }
    let (collection, id) = (write.key.collection().len(), write.key.id().len());
    if collection > MAX_COLLECTION_BYTES {
        return Some(format!(
            "the collection name has {collection} bytes, the limit is {MAX_COLLECTION_BYTES}"
        ));
    }
    if id > MAX_STORED_ID_BYTES {
        return Some(format!("the id has {id} bytes, the limit is {MAX_STORED_ID_BYTES}"));
    }
    match &write.change {
        Change::Merge(fields) => bad_merge_field(fields),
        Change::Insert(_) | Change::Replace(_) | Change::Delete => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;
    use crate::operation::DocumentKey;

    #[test]
    fn decisions() {
        use Verdict::{Exists, Superseded, Write};
        let live = |op_id, version| Existing::Live { op_id, version };
        let deleted = |version| Existing::Deleted { version };
        // insert, replace, merge, delete of operation "a", version 5
        let table = [
            (Existing::Absent, [Write, Write, Write, Write]),
            (Existing::Foreign, [Exists, Write, Write, Write]),
            (live("a", 5), [Superseded, Superseded, Superseded, Superseded]),
            (live("a", 4), [Superseded, Write, Write, Write]),
            (live("b", 4), [Exists, Write, Write, Write]),
            (live("b", 5), [Superseded, Superseded, Superseded, Superseded]),
            (live("b", 6), [Superseded, Superseded, Superseded, Superseded]),
            (deleted(4), [Write, Write, Write, Write]),
            (deleted(5), [Superseded, Superseded, Superseded, Superseded]),
            (deleted(6), [Superseded, Superseded, Superseded, Superseded]),
        ];
        let ops = [WriteOp::Insert, WriteOp::Replace, WriteOp::Merge, WriteOp::Delete];
        for (existing, expected) in table {
            for (op, expected) in ops.into_iter().zip(expected) {
                assert_eq!(decide(op, "a", 5, existing), expected, "{op:?} over {existing:?}");
            }
        }
    }

    #[test]
    fn names_that_would_be_paths_or_operators_are_refused() {
        let write = |collection: &str, change| DocumentWrite {
            key: DocumentKey::new(collection, "1"),
            op_id: "a".into(),
            version: 1,
            change,
        };
        for name in ["", "a.b", "$set", "."] {
            assert!(refusal(&write("c", Change::Merge(doc! { name: 1 }))).is_some(), "{name:?}");
            assert_eq!(refusal(&write("c", Change::replace(doc! { name: 1 }))), None, "{name:?}");
        }
        assert_eq!(refusal(&write("c", Change::Merge(doc! { "a$": { "b.c": 1 } }))), None);
        assert!(refusal(&write("c\0d", Change::Delete)).is_some());
        assert!(refusal(&write("", Change::Delete)).is_some());
        let mut long = write("c", Change::Delete);
        long.key = DocumentKey::new(&"c".repeat(MAX_COLLECTION_BYTES), &"i".repeat(MAX_STORED_ID_BYTES));
        assert_eq!(refusal(&long), None);
        let longer = [DocumentKey::new(&"c".repeat(121), "i"), DocumentKey::new("c", &"i".repeat(1025))];
        for key in longer {
            long.key = key;
            assert!(refusal(&long).is_some_and(|reason| reason.contains("limit")));
        }
    }
}
