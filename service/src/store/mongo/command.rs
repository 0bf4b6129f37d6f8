//! The commands sent to MongoDB, as raw BSON.

use bson::raw::{CStr, RawArrayBuf, RawDocumentBuf};
use bson::{Bson, Document, cstr, doc};

use crate::contract::RESERVED_FIELD;
use crate::operation::{Change, DocumentWrite, MAX_DOCUMENT_BYTES};
use crate::store::{StoreError, TOMBSTONE_TTL, encoding};

/// Most documents in one command; the server takes 100,000, but answers later the more there are.
pub(super) const MAX_COMMAND_WRITES: usize = 5_000;
/// Most bytes of documents in one command; its body, which they are part of, may have 16 MiB.
pub(super) const MAX_COMMAND_BYTES: usize = 12 * 1024 * 1024;
/// What an array element adds to its document: type, index as text, terminator.
pub(super) const ELEMENT_BYTES: usize = 8;
/// The server's bound for one read, below this side's.
const READ_LIMIT_MS: i32 = 8_000;
/// The server's bound for the work of one write, and for the wait for the majority after it; together below this side's.
const WRITE_LIMIT_MS: i32 = 15_000;
/// The same for a page of the audit, which looks at a whole collection.
const AUDIT_LIMIT_MS: i32 = 27_000;
const WRITE_CONCERN_LIMIT_MS: i32 = 12_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Insert,
    Update,
}

impl Kind {
    /// The command's name and the name of its list.
    fn names(self) -> (&'static CStr, &'static CStr) {
        match self {
            Self::Insert => (cstr!("insert"), cstr!("documents")),
            Self::Update => (cstr!("update"), cstr!("updates")),
        }
    }
}

/// An unordered write command. It is answered when the majority has it in its journal.
pub(super) fn write<'a>(
    kind: Kind,
    collection: &str,
    statements: impl Iterator<Item = &'a RawDocumentBuf>,
) -> RawDocumentBuf {
    let (name, list) = kind.names();
    let mut items = RawArrayBuf::new();
    for statement in statements {
        items.push(statement);
    }
    let mut concern = RawDocumentBuf::new();
    concern.append(cstr!("w"), "majority");
    concern.append(cstr!("j"), true);
    concern.append(cstr!("wtimeout"), WRITE_CONCERN_LIMIT_MS);
    let mut command = RawDocumentBuf::new();
    command.append(name, collection);
    command.append(list, items);
    command.append(cstr!("ordered"), false);
    command.append(cstr!("writeConcern"), concern);
    command.append(cstr!("maxTimeMS"), WRITE_LIMIT_MS);
    command
}

/// A new document. `Err` is the reason why it can never be stored.
pub(super) fn insert(write: &DocumentWrite) -> Result<RawDocumentBuf, String> {
    match &write.change {
        Change::Insert(document) | Change::Replace(document) => {
            encoding::live_raw(write.key.id(), &write.op_id, write.version, document)
        }
        Change::Merge(_) | Change::Delete => Err("not a whole document".to_owned()),
    }
}

/// One upsert that takes effect only over an older version. `$not $gte` also lets it replace a document that
/// has no stamp. An insert comes here when something was in its way, and may replace a tombstone only.
pub(super) fn update(write: &DocumentWrite, now: bson::DateTime) -> Result<RawDocumentBuf, String> {
    let DocumentWrite { key, op_id, version, change } = write;
    let mut older = RawDocumentBuf::new();
    older.append(cstr!("$gte"), *version);
    let mut not = RawDocumentBuf::new();
    not.append(cstr!("$not"), older);
    let mut query = RawDocumentBuf::new();
    query.append(cstr!("_id"), key.id());
    query.append(cstr!("_sk.v"), not);
    let change = match change {
        Change::Insert(_) => {
            let mut exists = RawDocumentBuf::new();
            exists.append(cstr!("$exists"), true);
            query.append(cstr!("_sk.deleted"), exists);
            insert(write)?
        }
        // Its first name is `_id`, so the server takes it for a replacement whatever the client's names are.
        Change::Replace(_) => insert(write)?,
        Change::Merge(fields) => merge(fields, op_id, *version)?,
        Change::Delete => encoding::tombstone(key.id(), op_id, *version, now),
    };
    let mut statement = RawDocumentBuf::new();
    statement.append(cstr!("q"), query);
    statement.append(cstr!("u"), change);
    statement.append(cstr!("upsert"), true);
    Ok(statement)
}

/// The id of the tombstone that [`super::Mongo::control`] writes; a client's has no control characters.
const CONTROL_ID: &str = "\u{1}scalekit.control";

/// An upsert that writes each time, and can be in nobody's way.
pub(super) fn control(now: bson::DateTime) -> RawDocumentBuf {
    let mut query = RawDocumentBuf::new();
    query.append(cstr!("_id"), CONTROL_ID);
    let mut statement = RawDocumentBuf::new();
    statement.append(cstr!("q"), query);
    let version = now.timestamp_millis();
    statement.append(cstr!("u"), encoding::tombstone(CONTROL_ID, CONTROL_ID, version, now));
    statement.append(cstr!("upsert"), true);
    statement
}

/// `$set` and `$unset`; the names were checked, so none is a path or an operator.
fn merge(fields: &Document, op_id: &str, version: i64) -> Result<RawDocumentBuf, String> {
    let (mut set, mut unset) = (Document::new(), Document::new());
    for (name, value) in fields {
        match value {
            _ if name == "_id" || name == RESERVED_FIELD => {}
            Bson::Null => {
                unset.insert(name, "");
            }
            value => {
                set.insert(name, value);
            }
        }
    }
    // A whole new stamp, so that a tombstone's mark goes with the old one.
    set.insert(RESERVED_FIELD, doc! { "op": op_id, "v": version });
    let mut change = doc! { "$set": set };
    if !unset.is_empty() {
        change.insert("$unset", unset);
    }
    let change = RawDocumentBuf::try_from(&change)
        .map_err(|error| format!("the document is not valid BSON: {error}"))?;
    // The server would drop the connection rather than answer.
    let bytes = change.as_bytes().len();
    if bytes > MAX_DOCUMENT_BYTES {
        return Err(format!("the fields to merge have {bytes} bytes, the limit is {MAX_DOCUMENT_BYTES}"));
    }
    Ok(change)
}

/// `limit` and a larger `batchSize`, so that one answer holds all unless it reaches the size limit.
pub(super) fn find_ids(
    collection: &str,
    ids: &[&str],
    stamps_only: bool,
) -> Result<RawDocumentBuf, StoreError> {
    let count = i64::try_from(ids.len()).unwrap_or(i64::MAX - 1);
    let mut command = doc! {
        "find": collection,
        "filter": { "_id": { "$in": ids } },
        "limit": count,
        "batchSize": count + 1,
        "maxTimeMS": READ_LIMIT_MS,
    };
    if stamps_only {
        command.insert("projection", doc! { RESERVED_FIELD: 1 });
    }
    encode(&command)
}

/// Documents of operations that start so.
pub(super) fn stamps_filter(op_prefix: &str) -> Document {
    doc! { "_sk.op": { "$gte": op_prefix, "$lt": format!("{op_prefix}\u{10ffff}") } }
}

/// Comparison with a string finds strings only, so ids of other types are passed over.
pub(super) fn find_stamps(
    collection: &str,
    op_prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<RawDocumentBuf, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX - 1);
    let after = after.map_or_else(|| doc! { "$gte": "" }, |after| doc! { "$gt": after });
    let mut filter = stamps_filter(op_prefix);
    filter.insert("_id", after);
    encode(&doc! {
        "find": collection,
        "filter": filter,
        "projection": { RESERVED_FIELD: 1 },
        "sort": { "_id": 1 },
        "limit": limit,
        "batchSize": limit + 1,
        "maxTimeMS": AUDIT_LIMIT_MS,
    })
}

/// A partial index: live documents are not in it and cost it nothing.
pub(super) fn tombstone_index(collection: &str) -> Result<RawDocumentBuf, StoreError> {
    encode(&doc! {
        "createIndexes": collection,
        "indexes": [{
            "name": "_sk_tombstones",
            "key": { "_sk.deleted": 1 },
            "expireAfterSeconds": i64::try_from(TOMBSTONE_TTL.as_secs()).unwrap_or(i64::MAX),
            "partialFilterExpression": { "_sk.deleted": { "$exists": true } },
        }],
    })
}

pub(super) fn encode(command: &Document) -> Result<RawDocumentBuf, StoreError> {
    RawDocumentBuf::try_from(command)
        .map_err(|error| StoreError::Failed(format!("a command is not valid BSON: {error}")))
}
