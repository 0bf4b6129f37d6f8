//! The incremental parser of HTTP/1.x responses. It keeps a head only while that is incomplete, and of a body
//! nothing but its length and what a search needs, so memory is bounded whatever a server sends.

use std::sync::Arc;

use super::check::{Needle, Search};
use super::chunked::Chunked;
use super::head::{BodyLength, Head, HeadMemo};
use super::set_cookies::SetCookies;

/// Longest response head, and longest chunk extension or trailer section.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;
/// A larger buffer of an incomplete head is given back once the head is complete.
const KEPT_BYTES: usize = 4096;

/// What is wrong with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// The result of feeding bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// The response goes on.
    More,
    /// The response is complete; so many of the bytes lie behind its end.
    Complete { rest: usize },
}

#[derive(Debug)]
enum State {
    Head,
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Done,
}

#[derive(Debug)]
pub(super) struct ResponseParser {
    state: State,
    /// The part of a head that has arrived, if it did not arrive whole.
    partial: Vec<u8>,
    to_head: bool,
    status: u16,
    keep_alive: bool,
    body_bytes: u64,
    /// What the body is searched for, if for anything.
    needle: Option<Arc<Needle>>,
    search: Search,
    /// The cookies that it sets, if anyone asks.
    cookies: Option<Box<SetCookies>>,
}

impl ResponseParser {
    pub(super) fn new() -> Self {
        Self {
            state: State::Head,
            partial: Vec::new(),
            to_head: false,
            status: 0,
            keep_alive: true,
            body_bytes: 0,
            needle: None,
            search: Search::default(),
            cookies: None,
        }
    }

    /// Makes ready for the next response, the body of which is searched for `needle`. `to_head`: it answers a HEAD
    /// request and has no body whatever it says.
    pub(super) fn reset(&mut self, to_head: bool, needle: Option<Arc<Needle>>) {
        self.to_head = to_head;
        self.needle = needle;
        self.search.reset();
        self.state = State::Head;
        self.clear_partial();
        self.status = 0;
        self.keep_alive = true;
        self.body_bytes = 0;
    }

    /// Has the next response's cookies collected.
    pub(super) fn collect_cookies(&mut self) {
        self.cookies.get_or_insert_default().clear();
    }

    pub(super) fn cookies(&self) -> Option<&SetCookies> {
        self.cookies.as_deref()
    }

    /// Whether the body so far has what it is searched for.
    pub(super) fn body_has(&self) -> bool {
        self.search.found()
    }

    /// The final status, once the head is complete; 0 before.
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    /// Whether the connection may carry another request after this response.
    pub(super) fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Bytes of the body so far, without the framing of chunks.
    #[cfg(test)]
    pub(super) fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.partial.capacity()
    }

    /// Takes the next bytes of the connection. `memo`: of any connection to the same server.
    pub(super) fn feed(&mut self, mut bytes: &[u8], memo: &mut HeadMemo) -> Result<Fed, Malformed> {
        loop {
            match &mut self.state {
                State::Head => match self.feed_head(bytes, memo)? {
                    Some(used) => bytes = &bytes[used..],
                    None => return Ok(Fed::More),
                },
                State::Length(left) => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= take as u64;
                    self.body_bytes += take as u64;
                    if let Some(needle) = &self.needle {
                        self.search.feed(needle, &bytes[..take]);
                    }
                    bytes = &bytes[take..];
                    if *left > 0 {
                        return Ok(Fed::More);
                    }
                    self.state = State::Done;
                }
                State::Chunked(chunked) => {
                    let used = chunked.feed(bytes, |data| {
                        if let Some(needle) = &self.needle {
                            self.search.feed(needle, data);
                        }
                    })?;
                    self.body_bytes = chunked.data_bytes();
                    bytes = &bytes[used..];
                    if !chunked.is_done() {
                        return Ok(Fed::More);
                    }
                    self.state = State::Done;
                }
                State::UntilClose => {
                    self.body_bytes += bytes.len() as u64;
                    if let Some(needle) = &self.needle {
                        self.search.feed(needle, bytes);
                    }
                    return Ok(Fed::More);
                }
                State::Done => return Ok(Fed::Complete { rest: bytes.len() }),
            }
        }
    }

    /// The peer has closed its side. True if that is the proper end of this response.
    pub(super) fn close(&mut self) -> bool {
        if matches!(self.state, State::UntilClose) {
            self.state = State::Done;
        }
        matches!(self.state, State::Done)
    }

    /// Returns how many bytes the head took, or `None` if it is not complete.
    fn feed_head(&mut self, bytes: &[u8], memo: &mut HeadMemo) -> Result<Option<usize>, Malformed> {
        let before = self.partial.len();
        if before == 0 {
            // The usual case: the head arrived whole and is parsed where it lies.
            if self.cookies.is_none()
                && let Some((head, end)) = memo.recall(bytes)
            {
                self.take_head(head);
                return Ok(Some(end));
            }
            check_start(bytes)?;
            let visible = &bytes[..bytes.len().min(MAX_HEAD_BYTES)];
            if let Some(end) = head_end(visible, 0) {
                let head = Head::parse(&bytes[..end], self.cookies.as_deref_mut())?;
                memo.keep(&bytes[..end], head);
                self.take_head(head);
                return Ok(Some(end));
            }
            self.keep(visible)?;
            return Ok(None);
        }
        self.keep(&bytes[..bytes.len().min(MAX_HEAD_BYTES - before)])?;
        check_start(&self.partial)?;
        // The end may straddle what was there and what has come.
        let Some(end) = head_end(&self.partial, before.saturating_sub(3)) else {
            if self.partial.len() >= MAX_HEAD_BYTES {
                return Err(Malformed("a head of more than 64 KiB"));
            }
            return Ok(None);
        };
        let partial = std::mem::take(&mut self.partial);
        let head = Head::parse(&partial[..end], self.cookies.as_deref_mut())?;
        self.take_head(head);
        self.partial = partial;
        self.clear_partial();
        Ok(Some(end - before))
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        if self.partial.is_empty() && bytes.len() >= MAX_HEAD_BYTES {
            return Err(Malformed("a head of more than 64 KiB"));
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    fn clear_partial(&mut self) {
        if self.partial.capacity() > KEPT_BYTES {
            self.partial = Vec::new();
        } else {
            self.partial.clear();
        }
    }

    fn take_head(&mut self, head: Head) {
        if head.is_interim() {
            return;
        }
        self.status = head.status;
        self.keep_alive = head.keep_alive;
        self.state = match head.body {
            _ if self.to_head => State::Done,
            BodyLength::Known(0) => State::Done,
            BodyLength::Known(length) => State::Length(length),
            BodyLength::Chunked => State::Chunked(Chunked::new()),
            BodyLength::UntilClose => {
                self.keep_alive = false;
                State::UntilClose
            }
        };
    }
}

/// Finds garbage at its first byte rather than at the timeout.
fn check_start(bytes: &[u8]) -> Result<(), Malformed> {
    const START: &[u8] = b"HTTP/1.";
    let shown = bytes.len().min(START.len());
    if bytes[..shown] == START[..shown] { Ok(()) } else { Err(Malformed("not an HTTP/1.x response")) }
}

/// The index behind the first empty line at or after `from`.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(found) = bytes.get(at..)?.iter().position(|&byte| byte == b'\n') {
        let next = at + found + 1;
        match bytes.get(next..)? {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            _ => at = next,
        }
    }
    None
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
