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

/// Bytes read at once; a larger record is read whole.
const READ_AHEAD_BYTES: usize = 256 * 1024;

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

/// Reads one segment from an offset on, a block at a time.
pub(super) struct Reader {
    file: File,
    /// Of the next record.
    offset: u64,
    /// What was read ahead; its first byte is the one at `offset`, once `used` is taken off.
    block: Vec<u8>,
    used: usize,
}

impl Reader {
    pub(super) fn new(file: File) -> Self {
        Self { file, offset: 0, block: Vec::new(), used: 0 }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record of a file that is believed up to `end`. After damage it stays where it is.
    pub(super) fn next(&mut self, end: u64) -> io::Result<Scan> {
        if self.offset == end {
            return Ok(Scan::End);
        }
        let rest = end.saturating_sub(self.offset);
        if rest < HEADER_BYTES as u64 {
            return Ok(Scan::Damaged("a cut header"));
        }
        let header: [u8; HEADER_BYTES] = {
            let mut header = [0; HEADER_BYTES];
            header.copy_from_slice(self.peek(HEADER_BYTES, rest)?);
            header
        };
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let length = word(0) as usize;
        if length > MAX_PAYLOAD_BYTES || length as u64 > rest - HEADER_BYTES as u64 {
            return Ok(Scan::Damaged("a length beyond the end"));
        }
        let record = self.peek(HEADER_BYTES + length, rest)?;
        if crc32fast::hash(&record[8..]) != word(4) {
            return Ok(Scan::Damaged("a wrong checksum"));
        }
        let payload = record[HEADER_BYTES..].to_vec();
        self.used += HEADER_BYTES + length;
        self.offset += (HEADER_BYTES + length) as u64;
        Ok(Scan::Record(Record { position: Position { ms: long(8), seq: long(16) }, payload }))
    }

    /// The next `count` bytes, of which the file holds `rest` or more.
    fn peek(&mut self, count: usize, rest: u64) -> io::Result<&[u8]> {
        if self.block.len() - self.used < count {
            let ahead = usize::try_from(rest).unwrap_or(usize::MAX).min(READ_AHEAD_BYTES).max(count);
            self.block.clear();
            self.block.resize(ahead, 0);
            self.used = 0;
            self.file.read_exact_at(&mut self.block, self.offset)?;
        }
        Ok(&self.block[self.used..self.used + count])
    }
}

/// Bytes that a record of this payload takes.
pub(super) fn framed_bytes(payload: &[u8]) -> u64 {
    (HEADER_BYTES + payload.len()) as u64
}
