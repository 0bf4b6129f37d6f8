//! The journal entry on the wire and on disk, version 1. Integers are little-endian.
//!
//! ```text
//! u8  version = 1
//! u16 requests
//!   u64 accepted at, ms since the epoch
//!   u16 length + operation id
//!   u16 writes
//!     u8  operation: 0 insert, 1 replace, 2 merge, 3 delete
//!     u16 length + collection
//!     u16 length + id
//!     BSON document (its own length first), absent for delete
//! ```

use bson::Document;
use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};

use super::{Request, RequestWrite};
use crate::operation::{Change, DocumentKey};

/// The version that this build writes; it reads no other.
pub const VERSION: u8 = 1;

/// Appends an entry that holds `requests` to `out`.
///
/// # Errors
/// A document that BSON cannot hold, or a count or length that does not fit its field; `out` is then as before.
pub fn encode(requests: &[&Request], out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    let result = encode_into(requests, out);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn encode_into(requests: &[&Request], out: &mut Vec<u8>) -> Result<(), String> {
    out.push(VERSION);
    put_u16(requests.len(), out)?;
    requests.iter().try_for_each(|request| encode_request(request, out))
}

/// Appends one request as it stands in an entry.
///
/// # Errors
/// As [`encode`]; `out` may then have a part of it.
pub fn encode_request(request: &Request, out: &mut Vec<u8>) -> Result<(), String> {
    out.extend_from_slice(&request.at_ms.to_le_bytes());
    put_text(&request.op_id, out)?;
    put_u16(request.writes.len(), out)?;
    request.writes.iter().try_for_each(|write| encode_write(write, out))
}

/// Appends one write, the form that dead letters keep.
///
/// # Errors
/// As [`encode`].
pub fn encode_write(write: &RequestWrite, out: &mut Vec<u8>) -> Result<(), String> {
    let tag = match &write.change {
        Change::Insert(_) => 0,
        Change::Replace(_) => 1,
        Change::Merge(_) => 2,
        Change::Delete => 3,
    };
    out.push(tag);
    put_text(write.key.collection(), out)?;
    put_text(write.key.id(), out)?;
    match &write.change {
        Change::Insert(document) | Change::Replace(document) => out.extend_from_slice(document.as_bytes()),
        Change::Merge(fields) => {
            fields.to_writer(&mut *out).map_err(|error| format!("not a BSON document: {error}"))?;
        }
        Change::Delete => {}
    }
    Ok(())
}

/// Reads an entry.
///
/// # Errors
/// What is wrong and where, for bytes that are not exactly one entry of this version.
pub fn decode(bytes: &[u8]) -> Result<Vec<Request>, String> {
    let mut input = Input { bytes, at: 0 };
    let version = input.take(1)?[0];
    if version != VERSION {
        return Err(format!("entry version {version}, this build reads version {VERSION}"));
    }
    let count = input.u16()?;
    let mut requests = Vec::with_capacity(usize::from(count).min(1024));
    for _ in 0..count {
        requests.push(input.request()?);
    }
    input.end("the entry")?;
    Ok(requests)
}

/// Reads what [`encode_request`] wrote.
///
/// # Errors
/// As [`decode`].
pub fn decode_request(bytes: &[u8]) -> Result<Request, String> {
    let mut input = Input { bytes, at: 0 };
    let request = input.request()?;
    input.end("the request")?;
    Ok(request)
}

fn put_u16(value: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let value = u16::try_from(value).map_err(|_| format!("{value} does not fit 16 bits"))?;
    out.extend_from_slice(&value.to_le_bytes());
    Ok(())
}

fn put_text(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    put_u16(text.len(), out)?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("cut off at byte {}", self.at))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u16(&mut self) -> Result<u16, String> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<&'a str, String> {
        let length = usize::from(self.u16()?);
        let at = self.at;
        std::str::from_utf8(self.take(length)?).map_err(|_| format!("no UTF-8 at byte {at}"))
    }

    fn end(&self, what: &str) -> Result<(), String> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            left => Err(format!("{left} bytes left over after {what}")),
        }
    }

    fn request(&mut self) -> Result<Request, String> {
        let at_ms = u64::from_le_bytes(self.array()?);
        let op_id = self.text()?.into();
        let count = self.u16()?;
        let mut writes = Vec::with_capacity(usize::from(count).min(64));
        for _ in 0..count {
            writes.push(self.write()?);
        }
        Ok(Request { op_id, at_ms, writes })
    }

    fn write(&mut self) -> Result<RequestWrite, String> {
        let tag = self.take(1)?[0];
        let key = DocumentKey::new(self.text()?, self.text()?);
        let change = match tag {
            0 => Change::Insert(self.document()?),
            1 => Change::Replace(self.document()?),
            2 => Change::Merge(Document::try_from(&*self.document()?).map_err(|error| error.to_string())?),
            3 => Change::Delete,
            other => return Err(format!("operation {other} at byte {}", self.at)),
        };
        Ok(RequestWrite { key, change })
    }

    fn document(&mut self) -> Result<RawDocumentBuf, String> {
        let at = self.at;
        let length = i32::from_le_bytes(self.array()?);
        self.at = at;
        let length = usize::try_from(length).map_err(|_| format!("negative length at byte {at}"))?;
        let bytes = self.take(length)?;
        let invalid = |error: bson::error::Error| format!("no BSON document at byte {at}: {error}");
        let document = RawDocumentBuf::from_bytes(bytes.to_vec()).map_err(invalid)?;
        // From here on its fields are copied as they are.
        valid(&document, MAX_DEPTH).map_err(|error| format!("no BSON document at byte {at}: {error}"))?;
        Ok(document)
    }
}

/// Deepest nesting that is read; MongoDB takes 100 levels, and JSON bodies have at most 128.
const MAX_DEPTH: usize = 200;

/// Whether all of a document can be read, down to its last field.
fn valid(document: &RawDocument, depth: usize) -> Result<(), String> {
    for field in document {
        valid_value(field.map_err(|error| error.to_string())?.1, depth)?;
    }
    Ok(())
}

fn valid_value(value: RawBsonRef<'_>, depth: usize) -> Result<(), String> {
    if depth == 0 {
        return Err(format!("nested deeper than {MAX_DEPTH} levels"));
    }
    match value {
        RawBsonRef::Document(inner) => valid(inner, depth - 1),
        RawBsonRef::Array(items) => items
            .into_iter()
            .try_for_each(|item| valid_value(item.map_err(|error| error.to_string())?, depth - 1)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;
    use proptest::prelude::*;

    fn sample() -> Vec<Request> {
        let write = |id: &str, change| RequestWrite { key: DocumentKey::new("orders", id), change };
        vec![
            Request { op_id: "a".into(), at_ms: 5, writes: vec![] },
            Request {
                op_id: "k-1".into(),
                at_ms: u64::MAX,
                writes: vec![
                    write("1", Change::insert(doc! {"amount": 12.5, "n": 3_i64})),
                    write("2", Change::replace(doc! {})),
                    write("ü", Change::Merge(doc! {"gone": null})),
                    write("4", Change::Delete),
                ],
            },
        ]
    }

    fn encoded() -> Vec<u8> {
        let requests = sample();
        let mut out = Vec::new();
        encode(&requests.iter().collect::<Vec<_>>(), &mut out).unwrap();
        out
    }

    #[test]
    fn round_trip() {
        assert_eq!(decode(&encoded()).unwrap(), sample());
    }

    #[test]
    fn unknown_versions_and_every_cut_are_errors() {
        let mut bytes = encoded();
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        bytes.push(0);
        assert!(decode(&bytes).unwrap_err().contains("left over"));
        bytes[0] = 9;
        assert!(decode(&bytes).unwrap_err().contains("version 9"));
    }

    #[test]
    fn too_long_an_id_is_refused_and_leaves_nothing() {
        let request = Request { op_id: "x".repeat(70_000).into(), at_ms: 0, writes: vec![] };
        let mut out = vec![1, 2];
        assert!(encode(&[&request], &mut out).is_err());
        assert_eq!(out, [1, 2]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), flip in any::<(usize, u8)>()) {
            let _ = decode(&bytes);
            let mut valid = encoded();
            let at = flip.0 % valid.len();
            valid[at] ^= flip.1;
            let _ = decode(&valid);
            bytes.insert(0, VERSION);
            let _ = decode(&bytes);
        }
    }
}
