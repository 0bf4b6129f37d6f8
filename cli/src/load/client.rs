//! One user's protocol client on an established connection, one request at a time. The only place that knows
//! which protocols there are.

use super::clock::Clock;
use super::exchange::Times;
use super::head::HeadMemo;
use super::http1::Http1;
use super::http2::Http2;
use super::outcome::Outcome;
use super::scenario::Expectation;
use super::set_cookies::SetCookies;

/// What a call came to.
#[derive(Debug)]
pub(super) enum Progress {
    /// The next event will tell.
    Pending,
    /// There may be more to read, for which no event will come.
    Again,
    Ended(Outcome),
}

/// What epoll said of the socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) hung_up: bool,
}

/// What the clients of a thread share.
pub(super) struct Resources<'a> {
    pub(super) clock: Clock,
    /// Received bytes pass through here and are gone.
    pub(super) buffer: &'a mut [u8],
    pub(super) memo: &'a mut HeadMemo,
}

#[derive(Debug)]
pub(super) enum Client {
    Http1(Http1),
    Http2(Box<Http2>),
}

impl Client {
    /// Makes ready for the next request; false if the connection takes none any more.
    pub(super) fn begin(&mut self, expectation: Expectation) -> bool {
        match self {
            Self::Http1(client) => {
                client.begin(expectation);
                true
            }
            Self::Http2(client) => client.begin(expectation),
        }
    }

    /// After the end of a response: whether its body has what it was searched for.
    pub(super) fn body_has(&self) -> bool {
        match self {
            Self::Http1(client) => client.body_has(),
            Self::Http2(client) => client.body_has(),
        }
    }

    /// Shows the cookies that the response has set, if they were to be collected.
    pub(super) fn with_cookies(&self, take: impl FnOnce(&SetCookies)) {
        match self {
            Self::Http1(client) => client.cookies().map_or((), take),
            Self::Http2(client) => client.with_cookies(take),
        }
    }

    /// Sends the request, or what is left of it: the same bytes at each call.
    pub(super) fn send(
        &mut self,
        request: &[u8],
        resources: &mut Resources<'_>,
        times: &mut Times,
    ) -> Progress {
        match self {
            Self::Http1(client) => client.send(request, resources, times),
            Self::Http2(client) => client.send(request, times),
        }
    }

    /// The socket has news of a request.
    pub(super) fn on_ready(
        &mut self,
        ready: Ready,
        resources: &mut Resources<'_>,
        times: &mut Times,
    ) -> Progress {
        match self {
            Self::Http1(client) => client.on_ready(ready, resources, times),
            Self::Http2(client) => client.on_ready(ready, times),
        }
    }

    /// The socket has news although there is no request; false if the connection is of no more use.
    pub(super) fn on_idle(&mut self, ready: Ready) -> bool {
        match self {
            Self::Http1(client) => client.on_idle(ready),
            Self::Http2(client) => client.on_idle(ready),
        }
    }

    /// Whether to call [`Self::send`] again now.
    pub(super) fn wants_to_send(&self, ready: Ready) -> bool {
        match self {
            Self::Http1(client) => client.is_sending() && ready.writable,
            Self::Http2(client) => client.wants_body(),
        }
    }

    /// After the end of a response: whether the connection may carry another request.
    pub(super) fn is_reusable(&self) -> bool {
        match self {
            Self::Http1(client) => client.is_reusable(),
            Self::Http2(client) => client.is_reusable(),
        }
    }

    /// Bytes sent and received for this request, framing of the protocol included, TLS's own left out.
    pub(super) fn bytes(&self) -> (u64, u64) {
        match self {
            Self::Http1(client) => client.bytes(),
            Self::Http2(client) => client.bytes(),
        }
    }
}
