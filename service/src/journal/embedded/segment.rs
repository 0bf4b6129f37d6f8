//! Segment files: how records are framed, scanned and read back.
//!
//! A record is `u32` payload length, `u32` CRC-32 of the rest, `u64` ms, `u64` seq, payload; little-endian. A
//! segment's name is the position of its first record.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::operation::Position;

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 24;
/// Largest payload that is believed when scanning: well above the largest request body, so that a damaged
/// length cannot make the reader allocate without bound.
pub(super) const MAX_PAYLOAD_BYTES: usize = 64 * 1024 * 1024;

/// One segment on disk.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) first: Position,
    /// Position of its last durable record.
    pub(super) last: Position,
    /// Bytes that are durable; a reader goes no further.
    pub(super) durable_bytes: u64,
}

pub(super) fn path(dir: &Path, first: Position) -> PathBuf {
    dir.join(format!("{:020}-{:020}.log", first.ms, first.seq))
}

/// The first position that a segment's file name tells; `None` for other files.
pub(super) fn parse_name(path: &Path) -> Option<Position> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".log")?;
    let (ms, seq) = stem.split_once('-')?;
    Some(Position { ms: ms.parse().ok()?, seq: seq.parse().ok()? })
}

/// Appends a framed record to `out`.
pub(super) fn frame(position: Position, payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).expect("the append path bounds payloads far below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    let crc_at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&position.ms.to_le_bytes());
    out.extend_from_slice(&position.seq.to_le_bytes());
    out.extend_from_slice(payload);
    let crc = crc32fast::hash(&out[crc_at + 4..]);
    out[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// A record read back.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) position: Position,
    pub(super) payload: Vec<u8>,
}

/// What stands at an offset.
#[derive(Debug)]
pub(super) enum Scan {
    Record(Record),
    /// Exactly the end.
    End,
    /// No whole, undamaged record.
    Damaged(&'static str),
}

/// Reads the record at `offset`, of a file that is believed up to `end`.
pub(super) fn read_at(file: &File, offset: u64, end: u64) -> io::Result<Scan> {
    if offset == end {
        return Ok(Scan::End);
    }
    let rest = end.saturating_sub(offset);
    if rest < HEADER_BYTES as u64 {
        return Ok(Scan::Damaged("a cut header"));
    }
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, offset)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let length = word(0) as usize;
    if length > MAX_PAYLOAD_BYTES || length as u64 > rest - HEADER_BYTES as u64 {
        return Ok(Scan::Damaged("a length beyond the end"));
    }
    let mut payload = vec![0; length];
    file.read_exact_at(&mut payload, offset + HEADER_BYTES as u64)?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[8..]);
    crc.update(&payload);
    if crc.finalize() != word(4) {
        return Ok(Scan::Damaged("a wrong checksum"));
    }
    Ok(Scan::Record(Record { position: Position { ms: long(8), seq: long(16) }, payload }))
}

/// Bytes that a record of this payload takes.
pub(super) fn framed_bytes(payload: &[u8]) -> u64 {
    (HEADER_BYTES + payload.len()) as u64
}
