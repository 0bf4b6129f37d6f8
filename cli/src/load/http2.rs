//! The client's side of one HTTP/2 connection: hyper's connection, polled from the thread's own epoll loop. A user
//! has one request at a time, so one stream.

use std::error::Error as _;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use http::header::SET_COOKIE;
use http::uri::Scheme;
use http_body::Body as _;
use hyper::client::conn::http2::{self, Connection, SendRequest};

use super::check::{Needle, Search};
use super::client::{Progress, Ready};
use super::clock::{Clock, Nanos};
use super::exchange::Times;
use super::http2_request::{self, RequestBody};
use super::outcome::{Failure, Outcome};
use super::scenario::Expectation;
use super::set_cookies::SetCookies;
use super::tasks::{Spawner, Task, Tasks};
use super::transport::Transport;
use super::wire::WireHandle;

/// Rounds of polling in one go; futures that keep waking each other yield to other users.
const MAX_ROUNDS: usize = 64;
/// Most that a server may send ahead of what was read; it is read and thrown away at once.
const WINDOW_BYTES: u32 = 1 << 20;

type Opened = (SendRequest<RequestBody>, Connection<WireHandle, RequestBody, Spawner>);

pub(super) struct Http2 {
    wire: WireHandle,
    scheme: Scheme,
    clock: Clock,
    opening: Option<Task<hyper::Result<Opened>>>,
    sender: Option<SendRequest<RequestBody>>,
    connection: Option<Task<hyper::Result<()>>>,
    tasks: Tasks,
    exchange: Option<Task<hyper::Result<u16>>>,
    body: RequestBody,
    /// When the head of the response arrived; 0 before.
    first_byte: Arc<AtomicU64>,
    /// What the body is searched for, and whether it was found.
    needle: Option<Arc<Needle>>,
    body_has: Arc<AtomicBool>,
    /// What the response sets, if anyone asks.
    cookies: Option<Arc<Mutex<SetCookies>>>,
    /// Why the connection takes no more requests.
    closed: Option<Failure>,
}

impl Http2 {
    pub(super) fn new(transport: Transport, clock: Clock) -> Self {
        let scheme = if matches!(transport, Transport::Tls(_)) { Scheme::HTTPS } else { Scheme::HTTP };
        let wire = WireHandle::new(transport, clock);
        let tasks = Tasks::default();
        let mut builder = http2::Builder::new(tasks.spawner());
        builder.initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
        let opening = builder.handshake(wire.clone());
        Self {
            wire,
            scheme,
            clock,
            opening: Some(Task::new(opening)),
            sender: None,
            connection: None,
            tasks,
            exchange: None,
            body: RequestBody::default(),
            first_byte: Arc::default(),
            needle: None,
            body_has: Arc::default(),
            cookies: None,
            closed: None,
        }
    }

    /// Makes ready for the next request; false if the connection takes none any more.
    pub(super) fn begin(&mut self, expectation: Expectation) -> bool {
        self.exchange = None;
        self.needle = expectation.needle;
        self.body_has.store(false, Ordering::Relaxed);
        self.cookies = expectation.cookies.then(Arc::default);
        self.wire.lock().begin();
        self.pump();
        self.takes_requests()
    }

    /// Sends the request: the whole of it at the first call, or the next pieces of its body.
    pub(super) fn send(&mut self, rendered: &[u8], times: &mut Times) -> Progress {
        if self.exchange.is_none() {
            let Some(sender) = &mut self.sender else { return self.ended_without_response() };
            let body = self.body.clone();
            let Some((request, body_start)) = http2_request::parse(rendered, self.scheme.clone(), body)
            else {
                return Progress::Ended(Outcome::Failed(Failure::Unsendable));
            };
            self.body.lock().begin(rendered, body_start);
            self.first_byte.store(0, Ordering::Relaxed);
            let response = sender.send_request(request);
            let (clock, first_byte) = (self.clock, Arc::clone(&self.first_byte));
            let (needle, body_has) = (self.needle.clone(), Arc::clone(&self.body_has));
            let cookies = self.cookies.clone();
            self.exchange = Some(Task::new(async move {
                let response = response.await?;
                first_byte.store(clock.now().max(1), Ordering::Relaxed);
                let status = response.status().as_u16();
                if let Some(cookies) = cookies {
                    let mut cookies = cookies.lock().unwrap_or_else(PoisonError::into_inner);
                    response
                        .headers()
                        .get_all(SET_COOKIE)
                        .iter()
                        .for_each(|value| cookies.add(value.as_bytes()));
                }
                let mut body = response.into_body();
                let mut search = Search::default();
                while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                    // Counted on the wire, searched, and gone.
                    let frame = frame?;
                    if let (Some(needle), Some(data)) = (&needle, frame.data_ref()) {
                        search.feed(needle, data);
                    }
                }
                body_has.store(search.found(), Ordering::Relaxed);
                Ok(status)
            }));
        }
        loop {
            self.body.lock().supply(rendered);
            match self.advance(times) {
                Progress::Pending if self.wants_body() => {}
                progress => return progress,
            }
        }
    }

    pub(super) fn on_ready(&mut self, ready: Ready, times: &mut Times) -> Progress {
        self.wire.lock().on_ready(ready);
        self.advance(times)
    }

    /// The server may ping, change its settings or say that it goes away.
    pub(super) fn on_idle(&mut self, ready: Ready) -> bool {
        self.wire.lock().on_ready(ready);
        self.pump();
        self.takes_requests()
    }

    pub(super) fn wants_body(&self) -> bool {
        self.body.lock().wants_piece()
    }

    pub(super) fn body_has(&self) -> bool {
        self.body_has.load(Ordering::Relaxed)
    }

    /// Shows what the response has set.
    pub(super) fn with_cookies(&self, take: impl FnOnce(&SetCookies)) {
        if let Some(cookies) = &self.cookies {
            take(&cookies.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(super) fn is_reusable(&self) -> bool {
        // A stream whose request is not sent whole is still open.
        self.body.lock().is_done() && self.takes_requests()
    }

    pub(super) fn bytes(&self) -> (u64, u64) {
        self.wire.lock().bytes()
    }

    fn takes_requests(&self) -> bool {
        self.closed.is_none()
            && !self.wire.lock().is_hung_up()
            && self.sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    fn ended_without_response(&self) -> Progress {
        let failure = self.closed.or_else(|| self.wire.lock().failure());
        Progress::Ended(Outcome::Failed(failure.unwrap_or(Failure::Http2Connection)))
    }

    /// Polls what wants to be polled and says how far the request has come.
    fn advance(&mut self, times: &mut Times) -> Progress {
        let (finished, calm) = self.pump();
        let first_byte = match self.first_byte.load(Ordering::Relaxed) {
            0 => None,
            at => Some(at),
        };
        times.first_byte = first_byte;
        if times.sent.is_none() && self.body.lock().is_done() {
            times.sent = self.wire.lock().flushed().map(|at: Nanos| at.max(times.started));
        }
        match finished {
            Some(Ok(status)) => Progress::Ended(Outcome::Response(status)),
            Some(Err(error)) => {
                // The connection's own error tells more than that the socket ended.
                let cause = self.closed.or_else(|| self.wire.lock().failure());
                Progress::Ended(Outcome::Failed(failure_of(&error, cause)))
            }
            None if self.wire.lock().is_starved() || !calm => Progress::Again,
            None => Progress::Pending,
        }
    }

    /// Polls the connection's futures until none wants more or the response is complete. Returns how the request
    /// ended, if it did, and whether all is calm.
    fn pump(&mut self) -> (Option<hyper::Result<u16>>, bool) {
        self.wire.lock().grant();
        for _ in 0..MAX_ROUNDS {
            if let Some(Poll::Ready(opened)) = self.opening.as_mut().map(Task::poll) {
                self.opening = None;
                match opened {
                    Ok((sender, connection)) => {
                        self.sender = Some(sender);
                        self.connection = Some(Task::new(connection));
                    }
                    Err(error) => self.closed = Some(failure_of(&error, self.wire.lock().failure())),
                }
            }
            if let Some(Poll::Ready(result)) = self.connection.as_mut().map(Task::poll) {
                self.connection = None;
                let socket = self.wire.lock().failure();
                self.closed = Some(match result {
                    // In order, so the server said that it goes away, or closed.
                    Ok(()) => socket.unwrap_or(Failure::Http2GoAway),
                    Err(error) => failure_of(&error, socket),
                });
            }
            if let Some(Poll::Ready(result)) = self.exchange.as_mut().map(Task::poll) {
                // What is finished must not be polled again, whoever wakes it.
                self.exchange = None;
                return (Some(result), true);
            }
            self.tasks.poll();
            let woken = self.tasks.is_woken()
                || self.opening.as_ref().is_some_and(Task::is_woken)
                || self.exchange.as_ref().is_some_and(Task::is_woken)
                || self.connection.as_ref().is_some_and(Task::is_woken);
            if !woken {
                return (None, true);
            }
        }
        (None, false)
    }
}

impl fmt::Debug for Http2 {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Http2")
            .field("wire", &self.wire)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// The class of a failed request. `cause` is what befell the connection as a whole.
fn failure_of(error: &hyper::Error, cause: Option<Failure>) -> Failure {
    let mut source = error.source();
    while let Some(link) = source {
        if let Some(error) = link.downcast_ref::<h2::Error>() {
            return match error {
                error if error.is_go_away() && error.is_remote() => Failure::Http2GoAway,
                error if error.is_reset() => Failure::Http2Stream,
                error if error.is_go_away() => Failure::Http2Connection,
                error => cause
                    .or_else(|| error.get_io().map(Failure::of_established))
                    .unwrap_or(Failure::Http2Connection),
            };
        }
        source = link.source();
    }
    cause.unwrap_or(Failure::Http2Connection)
}
