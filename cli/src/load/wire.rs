//! The socket of an HTTP/2 connection as hyper wants it: readiness comes from the thread's epoll loop, and nothing
//! is asked of a socket that has no news.

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use hyper::rt::ReadBufCursor;

use super::client::Ready;
use super::clock::{Clock, Nanos};
use super::outcome::Failure;
use super::transport::Transport;

/// A response that keeps the socket full yields to other users after so many reads.
const READS_AT_ONCE: u32 = 32;

/// What hyper and the connection's owner share.
#[derive(Debug)]
pub(super) struct Wire {
    transport: Transport,
    clock: Clock,
    readable: bool,
    writable: bool,
    /// The peer has closed: reading must go on to the end of what is there.
    hung_up: bool,
    reads_left: u32,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Written, but perhaps still with TLS.
    unflushed: bool,
    last_flush: Nanos,
    sent: u64,
    received: u64,
    failure: Option<Failure>,
}

/// A handle to the wire; only one thread uses it, so the lock is never contended.
#[derive(Clone, Debug)]
pub(super) struct WireHandle(Arc<Mutex<Wire>>);

impl WireHandle {
    pub(super) fn new(transport: Transport, clock: Clock) -> Self {
        Self(Arc::new(Mutex::new(Wire {
            transport,
            clock,
            // The server's first frames may have come along with the end of the handshake.
            readable: true,
            writable: true,
            hung_up: false,
            reads_left: READS_AT_ONCE,
            reader: None,
            writer: None,
            unflushed: false,
            last_flush: 0,
            sent: 0,
            received: 0,
            failure: None,
        })))
    }

    /// A panic elsewhere leaves the plain values here as good as they were.
    pub(super) fn lock(&self) -> MutexGuard<'_, Wire> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire {
    /// Begins to count anew.
    pub(super) fn begin(&mut self) {
        self.sent = 0;
        self.received = 0;
    }

    /// The socket has news.
    pub(super) fn on_ready(&mut self, ready: Ready) {
        self.hung_up |= ready.hung_up;
        if ready.readable {
            self.readable = true;
            self.transport.on_readable(ready.hung_up);
        }
        self.writable |= ready.writable;
    }

    /// Lets reads and writes go on that found no news, or had had their share.
    pub(super) fn grant(&mut self) {
        self.reads_left = READS_AT_ONCE;
        if self.readable
            && let Some(waker) = self.reader.take()
        {
            waker.wake();
        }
        if self.writable
            && let Some(waker) = self.writer.take()
        {
            waker.wake();
        }
    }

    /// There may be more to read, for which no event will come.
    pub(super) fn is_starved(&self) -> bool {
        self.readable && self.reads_left == 0
    }

    pub(super) fn is_hung_up(&self) -> bool {
        self.hung_up
    }

    /// When the last of what was written went to the kernel; `None` while some of it waits.
    pub(super) fn flushed(&self) -> Option<Nanos> {
        (self.writable && !self.unflushed).then_some(self.last_flush)
    }

    /// Bytes sent and received since [`Self::begin`].
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.sent, self.received)
    }

    /// What befell the socket itself.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.failure
    }

    fn fail(&mut self, error: io::Error) -> io::Error {
        self.failure = Some(Failure::of_established(&error));
        error
    }

    fn poll_read(&mut self, context: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        while self.readable && self.reads_left > 0 {
            self.reads_left -= 1;
            match self.transport.read(buffer) {
                Ok(0) if !buffer.is_empty() => {
                    self.failure = Some(Failure::Eof);
                    return Poll::Ready(Ok(0));
                }
                Ok(count) => {
                    self.received += count as u64;
                    self.readable = self.hung_up || !self.transport.is_drained(count, buffer.len());
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(self.fail(error))),
            }
        }
        remember(&mut self.reader, context);
        Poll::Pending
    }

    fn poll_write(
        &mut self,
        context: &Context<'_>,
        mut write: impl FnMut(&mut Transport) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        while self.writable {
            match write(&mut self.transport) {
                Ok(count) => {
                    self.sent += count as u64;
                    self.unflushed = true;
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(self.fail(error))),
            }
        }
        remember(&mut self.writer, context);
        Poll::Pending
    }

    fn poll_flush(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        while self.unflushed && self.writable {
            match self.transport.flush() {
                Ok(()) => {
                    self.unflushed = false;
                    self.last_flush = self.clock.now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(self.fail(error))),
            }
        }
        if self.unflushed {
            remember(&mut self.writer, context);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

fn remember(slot: &mut Option<Waker>, context: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(context.waker()),
        None => *slot = Some(context.waker().clone()),
    }
}

impl hyper::rt::Read for WireHandle {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let result = self.lock().poll_read(context, buffer.initialize_unfilled());
        result.map_ok(|count| {
            // SAFETY: all that was unfilled has been initialized just above, and no more than that was filled.
            unsafe { buffer.advance(count) }
        })
    }
}

impl hyper::rt::Write for WireHandle {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.lock().poll_write(context, |transport| transport.write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.lock().poll_write(context, |transport| transport.write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_flush(context)
    }

    /// The socket is closed by letting go of it.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_flush(context)
    }
}
