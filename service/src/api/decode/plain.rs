//! A transaction in plain JSON, in one pass.

use bson::raw::RawDocumentBuf;

use super::{DecodedWrite, OperationId, RESERVED, Transaction, keep_texts, key, size, write};
use crate::api::plain::Cursor;
use crate::contract::{MAX_OPERATIONS_PER_REQUEST, WriteOp};
use crate::operation::DocumentKey;

/// Reads a transaction that is plain and right; any other is `None`.
pub(super) fn transaction(body: &[u8], op_id: &OperationId) -> Option<Transaction> {
    let mut cursor = Cursor::new(body)?;
    let (mut reads, mut writes) = (None, None);
    let mut texts = Vec::new();
    cursor.object(|cursor, name| match name {
        "reads" if reads.is_none() => {
            let mut keys = Vec::with_capacity(8);
            cursor.list(|cursor| {
                let key = read(cursor)?;
                room_for_one(&keys).then(|| keys.push(key))
            })?;
            reads = Some(keys);
            Some(())
        }
        "writes" if writes.is_none() => {
            let mut decoded = Vec::with_capacity(8);
            texts.reserve(8);
            cursor.list(|cursor| {
                let (write, text) = one_write(cursor, op_id, decoded.len())?;
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

fn read(cursor: &mut Cursor<'_>) -> Option<DocumentKey> {
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
fn one_write<'a>(
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
