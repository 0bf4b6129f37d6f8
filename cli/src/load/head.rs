//! The head of an HTTP/1.x response: its status, how its body is delimited, and whether the connection persists.

use std::mem::MaybeUninit;

use super::response::Malformed;
use super::set_cookies::SetCookies;

const MAX_HEADERS: usize = 128;
/// A longer head is not worth remembering: comparing it is no longer cheap.
const MAX_REMEMBERED_BYTES: usize = 1024;

/// How the body is delimited (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    Known(u64),
    Chunked,
    UntilClose,
}

/// What a head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) body: BodyLength,
    /// RFC 9112, section 9.3.
    pub(super) keep_alive: bool,
}

impl Head {
    /// Parses a head that ends with its empty line. `cookies` takes those that the final response sets.
    pub(super) fn parse(bytes: &[u8], cookies: Option<&mut SetCookies>) -> Result<Self, Malformed> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            bytes,
            &mut headers,
        );
        match parsed {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            Ok(_) => return Err(Malformed("a head that does not end at its empty line")),
            Err(httparse::Error::TooManyHeaders) => return Err(Malformed("more than 128 headers")),
            Err(_) => return Err(Malformed("a head that is not HTTP/1.x")),
        }
        let status = response.code.unwrap_or(0);
        if !(100..=999).contains(&status) || status == 101 {
            return Err(Malformed("a status that no request asked for"));
        }
        if status < 200 {
            // The final response follows; what frames an interim one is its empty line alone.
            return Ok(Self { status, body: BodyLength::Known(0), keep_alive: true });
        }
        if let Some(cookies) = cookies {
            let set = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("set-cookie"));
            set.for_each(|header| cookies.add(header.value));
        }
        let mut head = Self::framed(response.version == Some(1), response.headers)?;
        head.status = status;
        if status == 204 || status == 304 {
            head.body = BodyLength::Known(0);
        }
        Ok(head)
    }

    /// What the headers say of the body and the connection.
    fn framed(http_1_1: bool, headers: &[httparse::Header<'_>]) -> Result<Self, Malformed> {
        let (mut close, mut keep, mut coded, mut chunked) = (false, false, false, false);
        let mut length = None;
        for header in headers {
            if header.name.eq_ignore_ascii_case("content-length") {
                let value = content_length(header.value)?;
                if length.is_some_and(|other| other != value) {
                    return Err(Malformed("two different content lengths"));
                }
                length = Some(value);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                coded = true;
                // Only the last coding delimits the body.
                chunked = tokens(header.value).last().is_some_and(|t| t.eq_ignore_ascii_case(b"chunked"));
            } else if header.name.eq_ignore_ascii_case("connection") {
                close |= tokens(header.value).any(|token| token.eq_ignore_ascii_case(b"close"));
                keep |= tokens(header.value).any(|token| token.eq_ignore_ascii_case(b"keep-alive"));
            }
        }
        // A length beside a transfer coding is a sign of confusion on the way: use the coding, trust no more.
        let confused = coded && length.is_some();
        let body = match length {
            _ if chunked => BodyLength::Chunked,
            Some(length) if !coded => BodyLength::Known(length),
            _ => BodyLength::UntilClose,
        };
        Ok(Self { status: 0, body, keep_alive: !close && !confused && (http_1_1 || keep) })
    }

    /// The final response follows this one.
    pub(super) fn is_interim(&self) -> bool {
        self.status < 200
    }
}

/// The last head that came in one piece. A server sends the same head over and over, but for its date, which changes once
/// a second: comparing it costs a tenth of parsing it.
#[derive(Debug, Default)]
pub(super) struct HeadMemo {
    bytes: Vec<u8>,
    head: Option<Head>,
}

impl HeadMemo {
    /// What the head at the beginning of `bytes` says, and its length, if it is the last one again.
    pub(super) fn recall(&self, bytes: &[u8]) -> Option<(Head, usize)> {
        self.head.filter(|_| bytes.starts_with(&self.bytes)).map(|head| (head, self.bytes.len()))
    }

    pub(super) fn keep(&mut self, bytes: &[u8], head: Head) {
        if head.is_interim() {
            return;
        }
        self.head = (bytes.len() <= MAX_REMEMBERED_BYTES).then_some(head);
        self.bytes.clear();
        if self.head.is_some() {
            self.bytes.extend_from_slice(bytes);
        }
    }
}

fn content_length(value: &[u8]) -> Result<u64, Malformed> {
    let text = std::str::from_utf8(value).unwrap_or("").trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed("a content length that is not a number"));
    }
    text.parse().map_err(|_| Malformed("a content length beyond 64 bits"))
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}
