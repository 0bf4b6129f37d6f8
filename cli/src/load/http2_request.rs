//! A request as HTTP/2 carries it, made from the bytes of HTTP/1.1 that every scenario renders; its body goes out
//! in pieces, so that memory does not grow with it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body::{Body, Frame, SizeHint};

const MAX_HEADERS: usize = 128;
/// Of a body that is held at once.
const PIECE_BYTES: usize = 64 * 1024;
/// What concerns one connection of HTTP/1.1 and must not be in HTTP/2 (RFC 9113, section 8.2.2); the host goes into
/// `:authority`.
const LEFT_OUT: [&str; 6] =
    ["host", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// Parses a rendered request; returns it and where its body begins. `None` if HTTP/2 cannot say it.
pub(super) fn parse<B>(rendered: &[u8], scheme: Scheme, body: B) -> Option<(Request<B>, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(body_start) = parsed.parse(rendered).ok()? else { return None };
    let mut request = Request::new(body);
    *request.version_mut() = Version::HTTP_2;
    *request.method_mut() = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    let mut authority = None;
    request.headers_mut().reserve(parsed.headers.len());
    for header in &*parsed.headers {
        if header.name.eq_ignore_ascii_case("host") {
            authority = Some(Authority::try_from(header.value).ok()?);
        }
        if LEFT_OUT.iter().any(|name| header.name.eq_ignore_ascii_case(name)) {
            continue;
        }
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority?);
    parts.path_and_query = Some(PathAndQuery::try_from(parsed.path?).ok()?);
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    Some((request, body_start))
}

/// The body on its way.
#[derive(Debug, Default)]
pub(super) struct Upload {
    piece: Option<Bytes>,
    /// Where the next piece begins in the rendered request, and how much is left from there.
    next: usize,
    left: usize,
    /// hyper waits for the next piece.
    waiting: Option<Waker>,
}

/// A handle to it; only one thread uses it, so the lock is never contended.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestBody(Arc<Mutex<Upload>>);

impl RequestBody {
    pub(super) fn lock(&self) -> MutexGuard<'_, Upload> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upload {
    pub(super) fn begin(&mut self, rendered: &[u8], body_start: usize) {
        *self = Self { next: body_start, left: rendered.len() - body_start, ..Self::default() };
        self.supply(rendered);
    }

    /// Puts the next piece there, if there is none.
    pub(super) fn supply(&mut self, rendered: &[u8]) {
        if self.left == 0 || self.piece.is_some() {
            return;
        }
        let end = self.next + self.left.min(PIECE_BYTES);
        match rendered.get(self.next..end) {
            Some(piece) => {
                self.piece = Some(Bytes::copy_from_slice(piece));
                self.left -= piece.len();
                self.next = end;
            }
            // The same request renders to the same bytes; should it not, the server finds it too short.
            None => self.left = 0,
        }
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    pub(super) fn wants_piece(&self) -> bool {
        self.waiting.is_some()
    }

    /// All of it is with hyper.
    pub(super) fn is_done(&self) -> bool {
        self.piece.is_none() && self.left == 0
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut upload = self.lock();
        match upload.piece.take() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None if upload.left == 0 => Poll::Ready(None),
            None => {
                upload.waiting = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_done()
    }

    fn size_hint(&self) -> SizeHint {
        let upload = self.lock();
        SizeHint::with_exact((upload.left + upload.piece.as_ref().map_or(0, Bytes::len)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_translated() {
        let text =
            "POST /a?b=c HTTP/1.1\r\nHost: h:1\r\nX-A: b\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
        let (request, body_start) = parse(text.as_bytes(), Scheme::HTTPS, ()).unwrap();
        assert_eq!(
            (request.method(), request.uri().to_string()),
            (&Method::POST, "https://h:1/a?b=c".into())
        );
        let headers: Vec<_> = request.headers().iter().map(|(name, value)| (name.as_str(), value)).collect();
        assert_eq!(
            headers,
            [("x-a", "b"), ("content-length", "2")]
                .map(|(name, value)| (name, &*Box::leak(Box::new(HeaderValue::from_static(value)))))
        );
        assert_eq!(&text[body_start..], "hi");
    }

    #[test]
    fn what_http2_cannot_say_is_refused() {
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET /<> HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET",
        ] {
            assert!(parse(text.as_bytes(), Scheme::HTTP, ()).is_none(), "{text}");
        }
    }

    #[test]
    fn a_body_goes_out_in_pieces() {
        let rendered = vec![7; 10 + 2 * PIECE_BYTES + 1];
        let mut body = RequestBody::default();
        body.lock().begin(&rendered, 10);
        assert_eq!(body.size_hint().exact(), Some(2 * PIECE_BYTES as u64 + 1));
        let mut context = Context::from_waker(Waker::noop());
        let mut lengths = Vec::new();
        loop {
            match Pin::new(&mut body).poll_frame(&mut context) {
                Poll::Ready(Some(frame)) => lengths.push(frame.unwrap().into_data().unwrap().len()),
                Poll::Ready(None) => break,
                Poll::Pending => {
                    assert!(body.lock().wants_piece());
                    body.lock().supply(&rendered);
                    assert!(!body.lock().wants_piece());
                }
            }
        }
        assert_eq!(lengths, [PIECE_BYTES, PIECE_BYTES, 1]);
        assert!(body.is_end_stream() && body.lock().is_done());
    }
}
