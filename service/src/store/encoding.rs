//! The stored form of a document: `_id`, `_sk`, then the client's fields. The stamp comes early so that it is
//! found without decoding what follows.

use bson::raw::{CStr, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};
use bson::{Bson, DateTime, Document, cstr};

use super::rules::Existing;
use super::{Stamp, StoredDocument};
use crate::contract::RESERVED_FIELD;
use crate::operation::MAX_DOCUMENT_BYTES;

const ID: &CStr = cstr!("_id");
const RESERVED: &CStr = cstr!("_sk");
const OP: &CStr = cstr!("op");
const VERSION: &CStr = cstr!("v");
pub(super) const DELETED: &CStr = cstr!("deleted");

/// The stamp of a live document, `{op, v}`.
pub(super) fn stamp(op_id: &str, version: i64) -> RawDocumentBuf {
    let mut stamp = RawDocumentBuf::new();
    stamp.append(OP, op_id);
    stamp.append(VERSION, version);
    stamp
}

/// A live document of the client's own bytes. `Err` is the reason why it can never be stored.
pub(super) fn live_raw(
    id: &str,
    op_id: &str,
    version: i64,
    document: &RawDocument,
) -> Result<RawDocumentBuf, String> {
    let invalid = |error| format!("the document is not valid BSON: {error}");
    for field in document {
        let (name, _) = field.map_err(invalid)?;
        if name == ID || name == RESERVED {
            // Not from our own API, which keeps these names out; the slow way leaves them away.
            return live(id, op_id, version, &Document::try_from(document).map_err(invalid)?);
        }
    }
    let fields = document.as_bytes();
    let mut stored = with_capacity(id.len() + op_id.len() + 64 + fields.len()).map_err(invalid)?;
    stored.append(ID, id);
    stored.append(RESERVED, stamp(op_id, version));
    // Without its end, then the client's fields, which bring theirs.
    let mut bytes = stored.into_bytes();
    bytes.pop();
    bytes.extend_from_slice(&fields[4..]);
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(too_large(bytes.len()));
    }
    let length = i32::try_from(bytes.len()).map_err(|_| too_large(bytes.len()))?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    RawDocumentBuf::from_bytes(bytes).map_err(invalid)
}

fn too_large(bytes: usize) -> String {
    format!("the document has {bytes} bytes, the limit is {MAX_DOCUMENT_BYTES}")
}

/// The same of a document in the form of a tree.
pub(super) fn live(
    id: &str,
    op_id: &str,
    version: i64,
    document: &Document,
) -> Result<RawDocumentBuf, String> {
    let invalid = |error| format!("the document is not valid BSON: {error}");
    let mut stored = with_capacity(id.len() + op_id.len() + 64 + 32 * document.len()).map_err(invalid)?;
    stored.append(ID, id);
    stored.append(RESERVED, stamp(op_id, version));
    for (name, value) in document {
        if name != "_id" && name != RESERVED_FIELD {
            append(&mut stored, name, value).map_err(invalid)?;
        }
    }
    let bytes = stored.as_bytes().len();
    if bytes > MAX_DOCUMENT_BYTES {
        return Err(too_large(bytes));
    }
    Ok(stored)
}

/// An empty document with room for more: growing it step by step is most of the cost of encoding.
fn with_capacity(bytes: usize) -> Result<RawDocumentBuf, bson::error::Error> {
    let mut empty = Vec::with_capacity(bytes);
    empty.extend_from_slice(RawDocumentBuf::new().as_bytes());
    RawDocumentBuf::from_bytes(empty)
}

/// The common types go without a copy in between.
fn append(to: &mut RawDocumentBuf, name: &str, value: &Bson) -> Result<(), bson::error::Error> {
    let name: &CStr = name.try_into()?;
    match value {
        Bson::String(value) => to.append(name, value.as_str()),
        Bson::Int32(value) => to.append(name, *value),
        Bson::Int64(value) => to.append(name, *value),
        Bson::Double(value) => to.append(name, *value),
        Bson::Boolean(value) => to.append(name, *value),
        Bson::Document(value) => to.append(name, RawDocumentBuf::try_from(value)?),
        other => to.append(name, RawBson::try_from(other.clone())?),
    }
    Ok(())
}

/// A tombstone.
pub(super) fn tombstone(id: &str, op_id: &str, version: i64, now: DateTime) -> RawDocumentBuf {
    let mut stamp = stamp(op_id, version);
    stamp.append(DELETED, now);
    let mut document = RawDocumentBuf::new();
    document.append(ID, id);
    document.append(RESERVED, stamp);
    document
}

/// What `_sk` says; borrowed from the stored bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RawStamp<'a> {
    pub(super) op_id: &'a str,
    pub(super) version: i64,
    pub(super) deleted: Option<DateTime>,
}

impl<'a> RawStamp<'a> {
    /// `None` for a document that scalekit did not write, or whose stamp somebody broke.
    pub(super) fn of(document: &'a RawDocument) -> Result<Option<Self>, bson::error::Error> {
        let Some(RawBsonRef::Document(stamp)) = document.get(RESERVED_FIELD)? else {
            return Ok(None);
        };
        let (mut op_id, mut version, mut deleted) = (None, None, None);
        for field in stamp {
            match field? {
                (name, RawBsonRef::String(value)) if name == OP => op_id = Some(value),
                (name, value) if name == VERSION => version = number(value),
                (name, RawBsonRef::DateTime(value)) if name == DELETED => deleted = Some(value),
                _ => {}
            }
        }
        Ok(op_id.zip(version).map(|(op_id, version)| Self { op_id, version, deleted }))
    }

    pub(super) fn existing(stamp: Option<Self>) -> Existing<'a> {
        match stamp {
            None => Existing::Foreign,
            Some(Self { version, deleted: Some(_), .. }) => Existing::Deleted { version },
            Some(Self { op_id, version, deleted: None }) => Existing::Live { op_id, version },
        }
    }
}

/// A version, also where a shell rewrote it as another kind of number.
fn number(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int64(value) => Some(value),
        RawBsonRef::Int32(value) => Some(value.into()),
        // Saturates; the exact value of a version that was forced into a double is lost anyway.
        RawBsonRef::Double(value) => Some(value as i64),
        _ => None,
    }
}

/// The client's own document; `None` for a tombstone.
pub(super) fn decode(document: &RawDocument) -> Result<Option<StoredDocument>, bson::error::Error> {
    let stamp = RawStamp::of(document)?;
    if stamp.is_some_and(|stamp| stamp.deleted.is_some()) {
        return Ok(None);
    }
    let version = stamp.map_or(0, |stamp| stamp.version);
    let mut fields = Document::new();
    for field in document {
        let (name, value) = field?;
        if name != ID && name != RESERVED {
            fields.insert(name.as_str(), Bson::try_from(value)?);
        }
    }
    Ok(Some(StoredDocument { version, document: fields }))
}

/// The stamp for the audit, if `_sk.op` starts with `op_prefix` and the id is a string.
pub(super) fn audit_stamp(
    document: &RawDocument,
    op_prefix: &str,
) -> Result<Option<Stamp>, bson::error::Error> {
    let Some(stamp) = RawStamp::of(document)?.filter(|stamp| stamp.op_id.starts_with(op_prefix)) else {
        return Ok(None);
    };
    let Some(RawBsonRef::String(id)) = document.get("_id")? else {
        return Ok(None);
    };
    Ok(Some(Stamp {
        id: id.to_owned(),
        op_id: stamp.op_id.to_owned(),
        version: stamp.version,
        deleted: stamp.deleted.is_some(),
    }))
}

/// Sets the given fields and removes those given as null.
pub(super) fn merge(into: &mut Document, fields: &Document) {
    for (name, value) in fields {
        if *value == Bson::Null {
            into.remove(name);
        } else {
            into.insert(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn documents_round_trip_without_the_reserved_fields() {
        let document = doc! {
            "a": 1, "nested": { "_id": 2, "x": [1, "two"] }, "": Bson::Null, "long": 5_i64, "real": 1.5,
            "text": "ü", "flag": true, "list": [{ "a": 1 }, [2]], "at": DateTime::from_millis(7),
        };
        let mut with_reserved = document.clone();
        with_reserved.insert("_id", "forged");
        with_reserved.insert("_sk", doc! { "v": i64::MAX });
        for given in [&document, &with_reserved] {
            let stored = live("id", "op", 7, given).unwrap();
            let whole = Document::try_from(stored.as_ref()).unwrap();
            assert_eq!(whole.keys().take(2).collect::<Vec<_>>(), ["_id", "_sk"]);
            assert_eq!(whole.get_str("_id").unwrap(), "id");
            assert_eq!(whole.get_document("_sk").unwrap(), &doc! { "op": "op", "v": 7_i64 });
            let read = decode(&stored).unwrap().unwrap();
            assert_eq!(read, StoredDocument { version: 7, document: document.clone() });
        }
    }

    #[test]
    fn tombstones_and_foreign_documents() {
        let stored = tombstone("id", "op", 7, DateTime::from_millis(5));
        assert_eq!(decode(&stored).unwrap(), None);
        let stamp = Stamp { id: "id".into(), op_id: "op".into(), version: 7, deleted: true };
        assert_eq!(audit_stamp(&stored, "o").unwrap(), Some(stamp));
        assert_eq!(audit_stamp(&stored, "x").unwrap(), None);
        for broken in [doc! { "_id": 1 }, doc! { "_sk": 1 }, doc! { "_sk": { "op": 1, "v": 1 } }] {
            let raw = RawDocumentBuf::try_from(&broken).unwrap();
            assert_eq!(RawStamp::existing(RawStamp::of(&raw).unwrap()), Existing::Foreign, "{broken}");
        }
        for version in [Bson::Int32(3), Bson::Int64(3), Bson::Double(3.0)] {
            let raw = RawDocumentBuf::try_from(&doc! { "_sk": { "op": "a", "v": version } }).unwrap();
            assert_eq!(RawStamp::of(&raw).unwrap().unwrap().version, 3);
        }
    }

    #[test]
    fn what_cannot_be_stored_says_why() {
        let reason = live("id", "op", 1, &doc! { "big": "x".repeat(MAX_DOCUMENT_BYTES) }).unwrap_err();
        assert!(reason.contains("16777216"), "{reason}");
        for bad in [doc! { "a\0b": 1 }, doc! { "x": { "a\0b": 1 } }, doc! { "x": [{ "a\0b": 1 }] }] {
            let reason = live("id", "op", 1, &bad).unwrap_err();
            assert!(reason.contains("not valid BSON"), "{reason}");
        }
    }

    #[test]
    fn merging() {
        let mut document = doc! { "a": 1, "b": 2 };
        merge(&mut document, &doc! { "a": Bson::Null, "c": { "d": Bson::Null }, "gone": Bson::Null });
        assert_eq!(document, doc! { "b": 2, "c": { "d": Bson::Null } });
    }
}
