//! From a request body to writes and reads, with every bound checked before anything happens.

mod plain;

use std::borrow::Cow;

use bson::Document;
use bson::raw::RawDocumentBuf;
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::error::ApiError;
use super::transcode;
use crate::contract::{
    MAX_COLLECTION_BYTES, MAX_ID_BYTES, MAX_OPERATIONS_PER_REQUEST, RESERVED_COLLECTIONS, RESERVED_FIELD,
    WriteOp, write_operation_id,
};
use crate::operation::{Change, DocumentKey, MAX_DOCUMENT_BYTES, bad_merge_field};

/// What the service adds to a stored document, at the most: its id and the operation's, and the names of those fields.
const STAMP_BYTES: usize = 1024;
/// Fields that the service keeps itself.
const RESERVED: [&str; 2] = [RESERVED_FIELD, "_id"];

/// A transaction as it is sent.
#[derive(Deserialize, ToSchema)]
#[schema(as = Transaction)]
#[serde(deny_unknown_fields)]
pub(super) struct TransactionBody<'a> {
    /// Documents to read.
    #[serde(borrow, default)]
    #[schema(max_items = 64)]
    reads: Vec<ReadBody<'a>>,
    /// What to write: all of it or nothing.
    #[serde(borrow, default)]
    #[schema(max_items = 64)]
    writes: Vec<WriteBody<'a>>,
}

/// One document to read.
#[derive(Deserialize, ToSchema)]
#[schema(as = Read)]
#[serde(deny_unknown_fields)]
struct ReadBody<'a> {
    #[serde(borrow)]
    #[schema(value_type = String, max_length = 120, pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    collection: Cow<'a, str>,
    #[serde(borrow)]
    #[schema(value_type = String, min_length = 1, max_length = 256)]
    id: Cow<'a, str>,
}

/// One write.
#[derive(Deserialize, ToSchema)]
#[schema(as = Write)]
#[serde(deny_unknown_fields)]
struct WriteBody<'a> {
    #[serde(borrow)]
    #[schema(value_type = String, max_length = 120, pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    collection: Cow<'a, str>,
    op: WriteOp,
    /// Only an insert may come without one; it gets one that derives from the operation.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 256)]
    id: Option<Cow<'a, str>>,
    /// All writes but deletes have one.
    #[serde(borrow, default)]
    #[schema(value_type = Option<super::openapi::Document>)]
    document: Option<&'a RawValue>,
}

/// What a request is called.
#[derive(Clone, Debug)]
pub(super) struct OperationId {
    /// Empty: the journal will name it.
    name: Box<str>,
}

impl OperationId {
    pub(super) fn new(name: String) -> Self {
        Self { name: name.into() }
    }

    pub(super) fn into_name(self) -> Box<str> {
        self.name
    }

    /// The id of an insert that came without one; empty if the journal is to give it.
    fn derive(&self, place: usize) -> String {
        if self.name.is_empty() { String::new() } else { write_operation_id(&self.name, place) }
    }
}

/// A write, checked.
#[derive(Debug, PartialEq)]
pub(super) struct DecodedWrite {
    pub key: DocumentKey,
    pub change: Change,
    /// The client's own text of the document, once it is kept.
    pub json: Option<Bytes>,
    /// The id derives from the operation.
    pub is_new: bool,
}

impl DecodedWrite {
    /// About what it adds to the journal, bytes.
    pub(super) fn bytes(&self) -> u64 {
        let document = match &self.change {
            Change::Insert(document) | Change::Replace(document) => document.as_bytes().len(),
            // A tree, which is about as large as its text.
            Change::Merge(_) | Change::Delete => self.json.as_ref().map_or(0, Bytes::len),
        };
        document as u64
    }
}

#[derive(Debug, PartialEq)]
pub(super) struct Transaction {
    pub reads: Vec<DocumentKey>,
    pub writes: Vec<DecodedWrite>,
}

/// Reads a transaction; inserts without an id get theirs from `op_id` and their place.
pub(super) fn transaction(body: &[u8], op_id: &OperationId) -> Result<Transaction, ApiError> {
    match plain::transaction(body, op_id) {
        Some(transaction) => Ok(transaction),
        None => any_transaction(body, op_id),
    }
}

/// Reads any transaction, or says what is wrong with it.
fn any_transaction(body: &[u8], op_id: &OperationId) -> Result<Transaction, ApiError> {
    // serde would take an array for a struct, field by field.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(ApiError::unprocessable(
            "the body: expected an object with `reads` and `writes`, found an array",
        ));
    }
    let parsed: TransactionBody = serde_json::from_slice(body).map_err(|error| json_error(&error))?;
    for (what, count) in [("reads", parsed.reads.len()), ("writes", parsed.writes.len())] {
        if count > MAX_OPERATIONS_PER_REQUEST {
            return Err(ApiError::unprocessable(format!(
                "`{what}` has {count} entries, at most {MAX_OPERATIONS_PER_REQUEST} are allowed; send the rest in another request"
            )));
        }
    }
    let mut reads = Vec::with_capacity(parsed.reads.len());
    for (place, read) in parsed.reads.iter().enumerate() {
        reads.push(key(&read.collection, &read.id).map_err(|error| error.at(&format!("reads[{place}]")))?);
    }
    let mut writes = Vec::with_capacity(parsed.writes.len());
    let mut texts = Vec::with_capacity(parsed.writes.len());
    for (place, body) in parsed.writes.into_iter().enumerate() {
        let WriteBody { collection, op, id, document: raw } = body;
        let decoded = raw.map(parse).transpose().and_then(|document| {
            texts.push(raw.map(RawValue::get));
            write(&collection, op, id.as_deref(), document, op_id, place)
        });
        writes.push(decoded.map_err(|error| error.at(&format!("writes[{place}]")))?);
    }
    keep_texts(&mut writes, &texts, op_id);
    Ok(Transaction { reads, writes })
}

/// Gives the writes the texts of their documents, all in one allocation: they come and go together. What the journal is
/// to name is read from the journal, and needs none.
fn keep_texts(writes: &mut [DecodedWrite], texts: &[Option<&str>], op_id: &OperationId) {
    let is_kept = |write: &DecodedWrite| !(write.is_new && op_id.name.is_empty());
    let kept = || writes.iter().zip(texts).filter(|(write, _)| is_kept(write));
    let bytes = kept().filter_map(|(_, text)| Some((*text)?.len())).sum();
    let mut room = BytesMut::with_capacity(bytes);
    for (write, text) in writes.iter_mut().zip(texts) {
        if let Some(text) = text
            && is_kept(write)
        {
            room.extend_from_slice(text.as_bytes());
            write.json = Some(room.split().freeze());
        }
    }
}

/// Reads the body of a single write, which is the document itself.
pub(super) fn single(
    collection: &str,
    op: WriteOp,
    id: Option<&str>,
    body: &[u8],
    op_id: &OperationId,
) -> Result<DecodedWrite, ApiError> {
    let document = match op {
        WriteOp::Delete => None,
        _ => Some(serde_json::from_slice::<&RawValue>(body).map_err(|error| json_error(&error))?),
    };
    let text = document.map(RawValue::get);
    let document = document.map(parse).transpose().map_err(Invalid::into_error)?;
    let mut decoded = write(collection, op, id, document, op_id, 0).map_err(Invalid::into_error)?;
    keep_texts(std::slice::from_mut(&mut decoded), &[text], op_id);
    Ok(decoded)
}

/// What is wrong with one part of a request.
#[derive(Debug)]
pub(super) struct Invalid(String);

impl Invalid {
    fn at(self, place: &str) -> ApiError {
        ApiError::unprocessable(format!("{place}: {}", self.0))
    }

    pub(super) fn into_error(self) -> ApiError {
        ApiError::unprocessable(self.0)
    }
}

fn json_error(error: &serde_json::Error) -> ApiError {
    let detail = format!("the body: {error}");
    if error.is_data() { ApiError::unprocessable(detail) } else { ApiError::malformed(detail) }
}

fn write(
    collection: &str,
    op: WriteOp,
    id: Option<&str>,
    document: Option<RawDocumentBuf>,
    op_id: &OperationId,
    place: usize,
) -> Result<DecodedWrite, Invalid> {
    let (key, is_new) = match (op, id) {
        (_, Some(id)) => (key(collection, id)?, false),
        (WriteOp::Insert, None) => {
            collection_name(collection)?;
            (DocumentKey::new(collection, &op_id.derive(place)), true)
        }
        (_, None) => return Err(Invalid("`id` is missing; only an insert may come without one".into())),
    };
    let change = match (op, document) {
        (WriteOp::Delete, None) => Change::Delete,
        (WriteOp::Delete, Some(_)) => return Err(Invalid("a delete takes no `document`".into())),
        (_, None) => return Err(Invalid("`document` is missing".into())),
        (WriteOp::Insert, Some(document)) => Change::Insert(document),
        (WriteOp::Replace, Some(document)) => Change::Replace(document),
        (WriteOp::Merge, Some(document)) => {
            let fields = Document::try_from(&*document).map_err(|error| Invalid(error.to_string()))?;
            // Known now, so there is no 202 for what can only become a dead letter.
            if let Some(reason) = bad_merge_field(&fields) {
                return Err(Invalid(reason));
            }
            Change::Merge(fields)
        }
    };
    Ok(DecodedWrite { key, change, json: None, is_new })
}

fn parse(raw: &RawValue) -> Result<RawDocumentBuf, Invalid> {
    let transcode::Transcoded { document, reserved } = transcode::document(raw.get(), &RESERVED)
        .map_err(|error| Invalid(format!("`document` must be a JSON object: {error}")))?;
    size(&document)?;
    if let Some(name) = reserved {
        return Err(Invalid(format!(
            "`document` has the field `{name}`, which the service keeps itself; leave it out"
        )));
    }
    Ok(document)
}

fn size(document: &RawDocumentBuf) -> Result<(), Invalid> {
    let bytes = document.as_bytes().len();
    if bytes > MAX_DOCUMENT_BYTES - STAMP_BYTES {
        return Err(Invalid(format!(
            "`document` would have {bytes} bytes in the database, the limit is {MAX_DOCUMENT_BYTES}"
        )));
    }
    Ok(())
}

/// Checks a collection's name and an id.
pub(super) fn key(collection: &str, id: &str) -> Result<DocumentKey, Invalid> {
    collection_name(collection)?;
    let is_control = |byte: u8| byte.is_ascii_control();
    // Beyond ASCII there are more of them.
    let has_control =
        if id.is_ascii() { id.bytes().any(is_control) } else { id.chars().any(char::is_control) };
    if id.is_empty() || id.len() > MAX_ID_BYTES || has_control {
        return Err(Invalid(format!(
            "an id has 1 to {MAX_ID_BYTES} bytes and no control characters, found {} bytes",
            id.len()
        )));
    }
    Ok(DocumentKey::new(collection, id))
}

pub(super) fn collection_name(name: &str) -> Result<(), Invalid> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let fits = !name.is_empty() && name.len() <= MAX_COLLECTION_BYTES && name.bytes().all(plain);
    if !fits || !name.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(Invalid(format!(
            "a collection's name has 1 to {MAX_COLLECTION_BYTES} letters, digits, `_`, `-` or `.` and begins with a letter or digit, found {name:?}"
        )));
    }
    if name.starts_with("system.") || RESERVED_COLLECTIONS.contains(&name) {
        return Err(Invalid(format!("the name {name:?} is reserved; choose another collection")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
