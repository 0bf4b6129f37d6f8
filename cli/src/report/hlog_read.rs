//! Reads a run's interval log back: every line is decoded, and the intervals are merged into the whole again.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

/// The metric whose intervals are merged.
pub(crate) const MERGED: &str = "http_req_total_duration";
/// Longest line, and largest histogram: several times what three digits from 1 µs to 60 s can need.
const MAX_BYTES: u64 = 1 << 20;
/// Cookie and length of the payload, before a compressed histogram.
const COMPRESSED_HEADER: usize = 8;
/// Of an uncompressed one; the length of its payload is in the second four bytes.
const HEADER: usize = 40;

/// An interval log that cannot be used: exit status 104.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error(
        "{0}: the run has no interval log\nhelp: copy it from where the run wrote it, to the side of its report.json"
    )]
    NotFound(PathBuf),
    #[error("{path}: cannot read the interval log: {error}\nhelp: make it a readable file")]
    Unreadable { path: PathBuf, error: io::Error },
    #[error(
        "{path}: line {line} of the interval log is damaged: {what}\nhelp: copy it again from where it was written"
    )]
    Damaged { path: PathBuf, line: u64, what: String },
    #[error(
        "{path}: the interval log holds {found} of the {expected} requests in the report\nhelp: copy both again from where they were written"
    )]
    Incomplete { path: PathBuf, found: u64, expected: u64 },
}

/// Reads a whole log; gives the merged histogram (µs) of [`MERGED`]. Takes constant memory.
///
/// # Errors
/// See [`LogError`]. `expected` is how many samples the report has of that metric; a log with more or fewer is
/// not this run's, or not whole.
pub(crate) fn read_log(path: &Path, expected: u64) -> Result<Option<Histogram<u64>>, LogError> {
    let unreadable = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => LogError::NotFound(path.to_owned()),
        _ => LogError::Unreadable { path: path.to_owned(), error },
    };
    let file = File::open(path).map_err(unreadable)?;
    let merged = merge(BufReader::new(file)).map_err(|error| match error {
        MergeError::Io(error) => unreadable(error),
        MergeError::Damaged { line, what } => LogError::Damaged { path: path.to_owned(), line, what },
    })?;
    let found = merged.as_ref().map_or(0, Histogram::len);
    if found != expected {
        return Err(LogError::Incomplete { path: path.to_owned(), found, expected });
    }
    Ok(merged)
}

#[derive(Debug)]
enum MergeError {
    Io(io::Error),
    Damaged { line: u64, what: String },
}

fn merge(mut input: impl BufRead) -> Result<Option<Histogram<u64>>, MergeError> {
    let mut merged: Option<Histogram<u64>> = None;
    let mut decoder = Decoder::default();
    let (mut text, mut line, mut is_log) = (Vec::new(), 0, false);
    loop {
        text.clear();
        (&mut input).take(MAX_BYTES).read_until(b'\n', &mut text).map_err(MergeError::Io)?;
        if text.is_empty() && is_log {
            return Ok(merged);
        }
        line += 1;
        let damaged = |what: String| MergeError::Damaged { line, what };
        if !text.ends_with(b"\n") {
            let what = if text.len() as u64 == MAX_BYTES { "it is too long" } else { "it ends early" };
            return Err(damaged(what.to_owned()));
        }
        is_log |= text.starts_with(b"#[Histogram log format version 1.");
        match IntervalLogIterator::new(&text).next() {
            // A comment, or the legend.
            None | Some(Ok(LogEntry::StartTime(_) | LogEntry::BaseTime(_))) => {}
            Some(Ok(LogEntry::Interval(_))) if !is_log => {
                return Err(damaged("there is no version of the format before it".to_owned()));
            }
            Some(Ok(LogEntry::Interval(interval))) => {
                let histogram = decoder.decode(interval.encoded_histogram()).map_err(damaged)?;
                if interval.tag().is_none_or(|tag| tag.as_str() != MERGED) {
                    continue;
                }
                let merged = merged.get_or_insert_with(|| Histogram::new_from(&histogram));
                merged.add(histogram).map_err(|error| damaged(error.to_string()))?;
            }
            Some(Err(_)) => return Err(damaged("it is no line of an interval log".to_owned())),
        }
    }
}

#[derive(Default)]
struct Decoder {
    inner: Deserializer,
    plain: Vec<u8>,
}

impl Decoder {
    /// Unpacks by itself, so that no length in a file makes it allocate more than a histogram can need.
    fn decode(&mut self, text: &str) -> Result<Histogram<u64>, String> {
        let packed = BASE64.decode(text).map_err(|error| format!("not Base64: {error}"))?;
        let stream = packed.get(COMPRESSED_HEADER..).ok_or("it ends early")?;
        self.plain.clear();
        let unpacked = ZlibDecoder::new(stream).take(MAX_BYTES).read_to_end(&mut self.plain);
        unpacked.map_err(|error| format!("not a compressed histogram: {error}"))?;
        let length = self.plain.get(4..8).and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
        if length.map(|length| length as usize) != self.plain.len().checked_sub(HEADER) {
            return Err("not a histogram of the length that it gives".to_owned());
        }
        self.inner.deserialize(&mut self.plain.as_slice()).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
#[path = "hlog_tests.rs"]
mod tests;
