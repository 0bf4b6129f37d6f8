//! The journal entry on the wire and on disk. Integers are little-endian.
//!
//! ```text
//! u8  version = 1, or 2 with what is marked so
//! u16 requests
//!   u64 accepted at, ms since the epoch
//!   u16 length + operation id; 0 for a request that its position names
//!   u8  version 2: 1 for dead letters that are put back, plus 2 if writes have their places, plus 4 if its position
//!     names the request
//!     for one that its position names: u64 salt (see [`PlacedName`])
//!     for dead letters: u16 shard, u64 ms, u64 seq, u16 place of the request that they were;
//!     u8 1 if they are as new, 0 if they keep its version; u32 how often they were buried
//!   u16 writes
//!     u16 version 2, if writes have their places: the place in the client's request
//!     u8  operation: 0 insert, 1 replace, 2 merge, 3 delete
//!     u16 length + collection
//!     u16 length + id; 0 for one that derives from the operation of a request that its position names
//!     BSON document (its own length first), absent for delete
//! ```

use bson::Document;
use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};

use super::{PlacedName, Replay, Request, RequestWrite, WriteId};
use crate::operation::{Change, DocumentKey, Position};

/// The version of what clients send.
pub const VERSION: u8 = 1;
/// The version of an entry with marks: parts of requests whose writes are in several shards, dead letters that are put
/// back, requests that their position names.
pub const MARKED_VERSION: u8 = 2;
/// Version and count of requests, before the first one.
pub const HEAD_BYTES: usize = 3;
/// Marks of a request.
const REPLAYED: u8 = 1;
const PLACED: u8 = 2;
const UNNAMED: u8 = 4;

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
    let is_plain = requests.iter().all(|request| request.replay.is_none() && request.places.is_none());
    let version = if is_plain { VERSION } else { MARKED_VERSION };
    out.push(version);
    put_u16(requests.len(), out)?;
    requests.iter().try_for_each(|request| encode_request(request, None, version, out))
}

/// Appends one request as it stands in an entry of this version. One without an operation id has a salt, by which its
/// position names it.
///
/// # Errors
/// As [`encode`]; `out` may then have a part of it.
pub fn encode_request(
    request: &Request,
    salt: Option<u64>,
    version: u8,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    out.extend_from_slice(&request.at_ms.to_le_bytes());
    put_text(&request.op_id, out)?;
    let places = request.places.as_deref();
    if version == MARKED_VERSION {
        let mark = |is_set, mark| if is_set { mark } else { 0 };
        out.push(
            mark(request.replay.is_some(), REPLAYED)
                | mark(places.is_some(), PLACED)
                | mark(salt.is_some(), UNNAMED),
        );
        if let Some(salt) = salt {
            out.extend_from_slice(&salt.to_le_bytes());
        }
        if let Some(replay) = &request.replay {
            encode_replay(replay, out);
        }
    }
    if version == VERSION && (places.is_some() || request.replay.is_some() || salt.is_some()) {
        return Err(format!("an entry of version {VERSION} has no marks"));
    }
    if salt.is_some() != request.op_id.is_empty() {
        return Err("a request has an operation id or a salt".into());
    }
    if let Some(places) = places
        && places.len() != request.writes.len()
    {
        return Err(format!("{} places of {} writes", places.len(), request.writes.len()));
    }
    put_u16(request.writes.len(), out)?;
    for (place, write) in request.writes.iter().enumerate() {
        if let Some(places) = places {
            out.extend_from_slice(&places[place].to_le_bytes());
        }
        encode_write(write, out)?;
    }
    Ok(())
}

fn encode_replay(replay: &Replay, out: &mut Vec<u8>) {
    let WriteId { shard, position, place } = replay.origin;
    out.extend_from_slice(&shard.to_le_bytes());
    out.extend_from_slice(&position.ms.to_le_bytes());
    out.extend_from_slice(&position.seq.to_le_bytes());
    out.extend_from_slice(&place.to_le_bytes());
    out.push(u8::from(replay.as_new));
    out.extend_from_slice(&replay.times.to_le_bytes());
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

/// Of what [`encode_request`] wrote, without when it came: the same for a retry, and another for another request.
#[must_use]
pub fn checksum(request: &[u8]) -> u32 {
    crc32fast::hash(request.get(size_of::<u64>()..).unwrap_or_default())
}

/// The same of an entry of one request.
#[must_use]
pub fn checksum_of_entry(entry: &[u8]) -> u32 {
    checksum(entry.get(HEAD_BYTES..).unwrap_or_default())
}

/// Reads the entry at this position of a shard.
///
/// # Errors
/// What is wrong and where, for bytes that are not exactly one entry of a version that this build knows.
pub fn decode(bytes: &[u8], shard: u16, position: Position) -> Result<Vec<Request>, String> {
    let mut input = Input { bytes, at: 0 };
    let version = input.version()?;
    let count = input.u16()?;
    let mut requests = Vec::with_capacity(usize::from(count).min(1024));
    for place in 0..count {
        requests.push(input.request(version, WriteId { shard, position, place })?);
    }
    input.end()?;
    Ok(requests)
}

/// Reads a version and what [`encode_request`] wrote for it as this part of an entry.
///
/// # Errors
/// As [`decode`].
pub fn decode_request(bytes: &[u8], id: WriteId) -> Result<Request, String> {
    let mut input = Input { bytes, at: 0 };
    let version = input.version()?;
    let request = input.request(version, id)?;
    input.end()?;
    Ok(request)
}

/// Reads what [`encode_write`] wrote.
///
/// # Errors
/// As [`decode`].
pub fn decode_write(bytes: &[u8]) -> Result<RequestWrite, String> {
    let mut input = Input { bytes, at: 0 };
    let write = input.write()?;
    input.end()?;
    Ok(write)
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

    fn end(&self) -> Result<(), String> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            left => Err(format!("{left} bytes left over after the entry")),
        }
    }

    fn u8(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, String> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// A flag, so that there is one form of each entry.
    fn flag(&mut self) -> Result<bool, String> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(format!("a flag of {other} at byte {}", self.at - 1)),
        }
    }

    fn version(&mut self) -> Result<u8, String> {
        match self.u8()? {
            version @ (VERSION | MARKED_VERSION) => Ok(version),
            other => Err(format!(
                "entry version {other}, this build reads versions {VERSION} and {MARKED_VERSION}"
            )),
        }
    }

    fn replay(&mut self) -> Result<Box<Replay>, String> {
        let shard = self.u16()?;
        let position =
            Position { ms: u64::from_le_bytes(self.array()?), seq: u64::from_le_bytes(self.array()?) };
        let origin = WriteId { shard, position, place: self.u16()? };
        let as_new = self.flag()?;
        let times = u32::from_le_bytes(self.array()?);
        Ok(Box::new(Replay { origin, as_new, times }))
    }

    fn request(&mut self, version: u8, id: WriteId) -> Result<Request, String> {
        let at_ms = u64::from_le_bytes(self.array()?);
        let op_id = self.text()?;
        let mark = if version == MARKED_VERSION { self.u8()? } else { 0 };
        if mark & !(REPLAYED | PLACED | UNNAMED) != 0 || (mark & UNNAMED != 0) != op_id.is_empty() {
            return Err(format!("a mark of {mark} at byte {}", self.at - 1));
        }
        let op_id = match mark & UNNAMED {
            0 => op_id.into(),
            _ => PlacedName { id, salt: u64::from_le_bytes(self.array()?) }.to_string().into(),
        };
        let replay = if mark & REPLAYED != 0 { Some(self.replay()?) } else { None };
        let count = self.u16()?;
        let mut places = Vec::new();
        let mut writes = Vec::with_capacity(usize::from(count).min(64));
        for _ in 0..count {
            if mark & PLACED != 0 {
                places.push(self.u16()?);
            }
            writes.push(self.write()?);
        }
        let places = (mark & PLACED != 0).then(|| places.into());
        let mut request = Request { op_id, at_ms, writes, places, replay };
        if mark & UNNAMED != 0 {
            request.derive_ids();
        }
        Ok(request)
    }

    fn text(&mut self) -> Result<&'a str, String> {
        let length = usize::from(self.u16()?);
        let at = self.at;
        std::str::from_utf8(self.take(length)?).map_err(|_| format!("no UTF-8 at byte {at}"))
    }

    fn write(&mut self) -> Result<RequestWrite, String> {
        let tag = self.u8()?;
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
mod tests;
