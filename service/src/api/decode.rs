//! From a request body to writes and reads, with every bound checked before anything happens.

use std::borrow::Cow;

use bson::Document;
use bson::raw::RawDocumentBuf;
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::error::ApiError;
use super::plain::Cursor;
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
    match plain_transaction(body, op_id) {
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

/// Reads a transaction that is plain and right; any other is `None`.
fn plain_transaction(body: &[u8], op_id: &OperationId) -> Option<Transaction> {
    let mut cursor = Cursor::new(body)?;
    let (mut reads, mut writes) = (None, None);
    let mut texts = Vec::new();
    cursor.object(|cursor, name| match name {
        "reads" if reads.is_none() => {
            let mut keys = Vec::with_capacity(8);
            cursor.list(|cursor| {
                let key = plain_read(cursor)?;
                room_for_one(&keys).then(|| keys.push(key))
            })?;
            reads = Some(keys);
            Some(())
        }
        "writes" if writes.is_none() => {
            let mut decoded = Vec::with_capacity(8);
            texts.reserve(8);
            cursor.list(|cursor| {
                let (write, text) = plain_write(cursor, op_id, decoded.len())?;
                texts.push(text);
                room_for_one(&decoded).then(|| decoded.push(write))
            })?;
            writes = Some(decoded);
            Some(())
        }
        _ => None,
    })?;
    cursor.end()?;
    let (reads, mut writes) = (reads.unwrap_or_default(), writes.unwrap_or_default());
    keep_texts(&mut writes, &texts, op_id);
    Some(Transaction { reads, writes })
}

fn room_for_one<T>(list: &[T]) -> bool {
    list.len() < MAX_OPERATIONS_PER_REQUEST
}

fn plain_read(cursor: &mut Cursor<'_>) -> Option<DocumentKey> {
    let (mut collection, mut id) = (None, None);
    cursor.object(|cursor, name| {
        let field = match name {
            "collection" => &mut collection,
            "id" => &mut id,
            _ => return None,
        };
        field.replace(cursor.string()?).is_none().then_some(())
    })?;
    key(collection?, id?).ok()
}

/// With the text of its document.
fn plain_write<'a>(
    cursor: &mut Cursor<'a>,
    op_id: &OperationId,
    place: usize,
) -> Option<(DecodedWrite, Option<&'a str>)> {
    let (mut collection, mut op, mut id, mut document) = (None, None, None, None);
    cursor.object(|cursor, name| {
        let is_first = match name {
            "collection" => collection.replace(cursor.string()?).is_none(),
            "op" => {
                let known = match cursor.string()? {
                    "insert" => WriteOp::Insert,
                    "replace" => WriteOp::Replace,
                    "merge" => WriteOp::Merge,
                    "delete" => WriteOp::Delete,
                    _ => return None,
                };
                op.replace(known).is_none()
            }
            "id" => id.replace(cursor.string()?).is_none(),
            "document" => document.replace(cursor.document(&RESERVED)?).is_none(),
            _ => false,
        };
        is_first.then_some(())
    })?;
    let (document, text) = document.unzip();
    let document = document.map(RawDocumentBuf::from_bytes).transpose().ok()?;
    if document.as_ref().is_some_and(|document| size(document).is_err()) {
        return None;
    }
    Some((write(collection?, op?, id, document, op_id, place).ok()?, text))
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
mod tests {
    use super::*;
    use axum::response::IntoResponse as _;
    use bson::doc;

    fn status(body: &str) -> u16 {
        transaction(body.as_bytes(), &OperationId::new("op".into()))
            .map_or_else(|error| error.into_response().status().as_u16(), |_| 200)
    }

    #[test]
    fn a_transaction_becomes_keys_and_changes() {
        let body = r#"{"reads":[{"collection":"items","id":"7"}],"writes":[
            {"collection":"orders","op":"insert","document":{"n":1, "t":"ü"}},
            {"collection":"orders","op":"delete","id":"9"}]}"#;
        let decoded = transaction(body.as_bytes(), &OperationId::new("op".into())).unwrap();
        assert_eq!(decoded.reads, [DocumentKey::new("items", "7")]);
        let [insert, delete] = &decoded.writes[..] else { panic!("two writes") };
        assert_eq!(
            (&insert.key, &insert.change),
            (&DocumentKey::new("orders", "op-00"), &Change::insert(doc! {"n": 1, "t": "ü"}))
        );
        assert_eq!(insert.json.as_deref(), Some(r#"{"n":1, "t":"ü"}"#.as_bytes()));
        assert!(insert.is_new && !delete.is_new);
        assert_eq!(delete.change, Change::Delete);
    }

    #[test]
    fn what_is_read_in_one_pass_is_what_serde_reads() {
        let reads = r#""reads":[{"collection":"a","id":"1"},{"id":"2","collection":"b"}]"#;
        let writes = r#""writes" : [
            {"collection":"a","op":"insert","document":{"n":1, "f":12.50}},
            {"document":{"x":[1,{"y":null}]},"op":"replace","id":"7","collection":"a"},
            {"collection":"a","op":"merge","id":"7","document":{"z":null}},
            {"collection":"a","op":"insert","id":"ü","document":{}},
            {"collection":"a","op":"delete","id":"9"}]"#;
        for name in ["op", ""] {
            let op_id = OperationId::new(name.into());
            for body in [
                format!("{{{reads},{writes}}}"),
                format!(" {{ {writes},{reads} }} "),
                format!("{{{reads}}}"),
                "{}".into(),
            ] {
                let plain = plain_transaction(body.as_bytes(), &op_id).unwrap();
                assert_eq!(plain, any_transaction(body.as_bytes(), &op_id).unwrap(), "{body}");
            }
        }
        let unnamed =
            transaction(format!("{{{writes}}}").as_bytes(), &OperationId::new(String::new())).unwrap();
        let first = &unnamed.writes[0];
        assert_eq!((first.key.id(), first.is_new, &first.json), ("", true, &None), "the journal names it");
        assert_eq!(unnamed.writes[1].json.as_deref(), Some(&br#"{"x":[1,{"y":null}]}"#[..]));
    }

    #[test]
    fn what_is_not_json_is_400_and_what_breaks_the_contract_is_422() {
        let large = |bytes| {
            let text = "x".repeat(bytes);
            format!(r#"{{"writes":[{{"collection":"a","op":"insert","document":{{"t":"{text}"}}}}]}}"#)
        };
        let many = |what: &str, one: &str| format!(r#"{{"{what}":[{}]}}"#, vec![one; 65].join(","));
        for (body, expected) in [
            ("{}".to_owned(), 200),
            ("{".into(), 400),
            ("".into(), 400),
            (r#"{"reads":[}"#.into(), 400),
            ("[]".into(), 422),
            (r#"{"read":[]}"#.into(), 422),
            (r#"{"writes":[{"collection":"a","op":"upsert","document":{}}]}"#.into(), 422),
            (r#"{"writes":[{"collection":"a","op":"replace","document":{}}]}"#.into(), 422),
            (r#"{"writes":[{"collection":"a","op":"insert"}]}"#.into(), 422),
            (r#"{"writes":[{"collection":"a","op":"insert","document":[1]}]}"#.into(), 422),
            (r#"{"writes":[{"collection":"a","op":"insert","document":{"_sk":1}}]}"#.into(), 422),
            (r#"{"writes":[{"collection":"a","op":"insert","document":{"_id":1}}]}"#.into(), 422),
            (
                r#"{"writes":[{"collection":"a","op":"insert","document":{"n":{"$date":0},"_id":1}}]}"#
                    .into(),
                422,
            ),
            (r#"{"writes":[{"collection":"a","op":"insert","document":{"n":{"_id":1}}}]}"#.into(), 200),
            (r#"{"writes":[{"collection":"a","op":"merge","id":"1","document":{"a.b":1}}]}"#.into(), 422),
            (r#"{"writes":[{"collection":"a","op":"merge","id":"1","document":{"":1}}]}"#.into(), 422),
            (r#"{"writes":[{"collection":"a","op":"replace","id":"1","document":{"a.b":1}}]}"#.into(), 200),
            (large(MAX_DOCUMENT_BYTES - 2 * STAMP_BYTES), 200),
            (large(MAX_DOCUMENT_BYTES - STAMP_BYTES), 422),
            (r#"{"writes":[{"collection":"a","op":"delete","id":"1","document":{}}]}"#.into(), 422),
            (r#"{"writes":[{"collection":"stats","op":"delete","id":"1"}]}"#.into(), 422),
            (r#"{"writes":[{"collection":"system.users","op":"delete","id":"1"}]}"#.into(), 422),
            (r#"{"reads":[{"collection":"a/b","id":"1"}]}"#.into(), 422),
            (r#"{"reads":[{"collection":"a","id":""}]}"#.into(), 422),
            (r#"{"reads":[{"collection":"a","id":"a\u0000"}]}"#.into(), 422),
            (many("writes", r#"{"collection":"a","op":"insert","document":{}}"#), 422),
            (many("reads", r#"{"collection":"a","id":"1"}"#), 422),
        ] {
            assert_eq!(status(&body), expected, "{body:.200}");
            if expected != 200 {
                let plain = plain_transaction(body.as_bytes(), &OperationId::new("op".into()));
                assert_eq!(plain, None, "what is wrong is for serde to say: {body:.200}");
            }
        }
    }
}
