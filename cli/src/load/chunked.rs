//! The chunked transfer coding (RFC 9112, section 7.1), decoded a read at a time and without keeping a byte.

use super::response::{MAX_HEAD_BYTES, Malformed};

/// Where in the coding the next byte falls.
#[derive(Clone, Copy, Debug)]
enum State {
    Size {
        value: u64,
        digits: u8,
    },
    Extension,
    SizeEnd,
    Data(u64),
    DataCr,
    DataLf,
    /// At the first byte of a trailer line.
    TrailerStart,
    Trailer,
    /// After the CR of the last, empty line.
    FinalLf,
    Done,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Chunked {
    state: State,
    size: u64,
    /// Bytes of the current chunk's extension, or of the trailers: neither may be endless.
    overhead: usize,
    data: u64,
}

impl Chunked {
    pub(super) fn new() -> Self {
        Self { state: State::Size { value: 0, digits: 0 }, size: 0, overhead: 0, data: 0 }
    }

    /// Bytes of the body proper so far.
    pub(super) fn data_bytes(&self) -> u64 {
        self.data
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Consumes what belongs to the body and returns how much that was; `on_data` sees the body proper.
    pub(super) fn feed(&mut self, bytes: &[u8], mut on_data: impl FnMut(&[u8])) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && !self.is_done() {
            if let State::Data(left) = self.state {
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                on_data(&bytes[at..at + take]);
                at += take;
                self.data += take as u64;
                let left = left - take as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data(left) };
            } else {
                self.state = self.step(bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    /// A bare LF ends a line too, as most clients have it.
    fn step(&mut self, byte: u8) -> Result<State, Malformed> {
        match (self.state, byte) {
            (State::Size { value, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == 16 {
                    return Err(Malformed("a chunk size of more than 16 digits"));
                }
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                Ok(State::Size { value: value << 4 | digit, digits: digits + 1 })
            }
            (State::Size { digits: 0, .. }, _) => Err(Malformed("a chunk without a size")),
            (State::Size { value, .. }, _) => {
                self.size = value;
                self.overhead = 0;
                match byte {
                    b'\r' => Ok(State::SizeEnd),
                    b'\n' => Ok(self.after_size()),
                    b';' | b' ' | b'\t' => Ok(State::Extension),
                    _ => Err(Malformed("a chunk size that is not hexadecimal")),
                }
            }
            (State::Extension, b'\n') | (State::SizeEnd, b'\n') => Ok(self.after_size()),
            (State::Extension, _) => self.count_overhead(State::Extension),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataCr | State::DataLf, b'\n') => Ok(State::Size { value: 0, digits: 0 }),
            (State::TrailerStart, b'\r') => Ok(State::FinalLf),
            (State::TrailerStart | State::FinalLf, b'\n') => Ok(State::Done),
            (State::Trailer, b'\n') => Ok(State::TrailerStart),
            (State::TrailerStart | State::Trailer, _) => self.count_overhead(State::Trailer),
            _ => Err(Malformed("a chunk that does not end where its size says")),
        }
    }

    fn after_size(&mut self) -> State {
        self.overhead = 0;
        if self.size == 0 { State::TrailerStart } else { State::Data(self.size) }
    }

    fn count_overhead(&mut self, next: State) -> Result<State, Malformed> {
        self.overhead += 1;
        if self.overhead > MAX_HEAD_BYTES {
            return Err(Malformed("chunk extensions or trailers of more than 64 KiB"));
        }
        Ok(next)
    }
}
