//! Whether a connection is between two requests, told from outside of hyper, which holds its buffers (16 KiB, half of them
//! touched) for as long as it has the connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Nothing was asked yet.
const FRESH: u8 = 0;
const ASKED: u8 = 1;
/// hyper has the answer, or a part of it.
const ANSWERED: u8 = 2;
/// All of the answer that hyper had has left.
const FLUSHED: u8 = 3;

/// What one connection is at. Only the connection's own task tells and asks.
#[derive(Default)]
pub(super) struct Pulse {
    at: AtomicU8,
    /// The last attempt to read found nothing.
    waits: AtomicBool,
    /// The end of hyper's work is no end of the connection.
    stays_open: AtomicBool,
}

impl Pulse {
    /// hyper begins with the connection, and does not leave it before its first answer.
    pub(super) fn begin(&self) {
        self.at.store(FRESH, Relaxed);
    }

    /// A request has come; it is answered when this is dropped.
    pub(super) fn ask(self: &Arc<Self>) -> Asked {
        self.at.store(ASKED, Relaxed);
        Asked(Arc::clone(self))
    }

    /// Whether an answer has left, and nothing came after its request.
    pub(super) fn rests(&self) -> bool {
        self.at.load(Relaxed) == FLUSHED && self.waits()
    }

    pub(super) fn waits(&self) -> bool {
        self.waits.load(Relaxed)
    }

    /// Whether a shutdown of the stream does nothing.
    pub(super) fn stay_open(&self, stays_open: bool) {
        self.stays_open.store(stays_open, Relaxed);
    }

    fn becomes(&self, from: u8, to: u8) {
        if self.at.load(Relaxed) == from {
            self.at.store(to, Relaxed);
        }
    }
}

/// A request that is being answered.
pub(super) struct Asked(Arc<Pulse>);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.at.store(ANSWERED, Relaxed);
    }
}

/// A stream that tells its pulse what is done with it.
pub(super) struct Felt<S> {
    stream: S,
    /// Read already, by the hyper that had it before.
    unread: Bytes,
    pulse: Arc<Pulse>,
}

impl<S> Felt<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, unread: Bytes::new(), pulse: Arc::default() }
    }

    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    pub(super) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Puts these back: they are read before what comes.
    pub(super) fn unread(mut self, bytes: Bytes) -> Self {
        debug_assert!(!self.has_unread(), "hyper reads all that it was given before it waits");
        // Even none keep the buffer that they are of.
        self.unread = if bytes.is_empty() { Bytes::new() } else { bytes };
        self
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Felt<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.has_unread() {
            let mut unread = std::mem::take(&mut self.unread);
            let bytes = unread.len().min(buffer.remaining());
            buffer.put_slice(&unread[..bytes]);
            unread.advance(bytes);
            if !unread.is_empty() {
                self.unread = unread;
            }
            self.pulse.waits.store(false, Relaxed);
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.pulse.waits.store(read.is_pending(), Relaxed);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Felt<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.pulse.becomes(FLUSHED, ANSWERED);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pulse.becomes(FLUSHED, ANSWERED);
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when it has written all that it had, and not before.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.pulse.becomes(ANSWERED, FLUSHED);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pulse.stays_open.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn what_is_put_back_is_read_first_and_its_buffer_is_gone_then() {
        let (stream, mut client) = duplex(100);
        client.write_all(b"to").await.unwrap();
        let buffer = Bytes::from(b"what was read".to_vec());
        let mut felt = Felt::new(stream).unread(buffer.slice(9..));
        assert!(felt.has_unread() && !buffer.is_unique());
        let mut read = [0; 3];
        felt.read_exact(&mut read).await.unwrap();
        assert_eq!((&read, felt.has_unread()), (b"rea", true));
        felt.read_exact(&mut read).await.unwrap();
        assert_eq!((&read, felt.has_unread()), (b"dto", false));
        assert!(buffer.is_unique());
        let felt = felt.unread(buffer.slice(3..3));
        assert!(buffer.is_unique() && !felt.has_unread(), "nothing that was read too much keeps a buffer");
    }

    #[tokio::test]
    async fn it_rests_when_all_of_an_answer_has_left_and_nothing_came_after_it() {
        let (stream, mut client) = duplex(100);
        let mut felt = Felt::new(stream);
        let pulse = Arc::clone(felt.pulse());
        let reads_nothing = async |felt: &mut Felt<_>| {
            assert!(futures_util::poll!(std::pin::pin!(felt.read_u8())).is_pending());
        };
        pulse.begin();
        reads_nothing(&mut felt).await;
        felt.flush().await.unwrap();
        assert!(!pulse.rests(), "nothing was asked yet");
        let asked = pulse.ask();
        felt.flush().await.unwrap();
        assert!(!pulse.rests());
        drop(asked);
        assert!(!pulse.rests(), "the answer is not flushed");
        felt.write_all(b"answer").await.unwrap();
        assert!(!pulse.rests());
        felt.flush().await.unwrap();
        assert!(pulse.rests());
        felt.write_all(b"more of it").await.unwrap();
        assert!(!pulse.rests());
        felt.flush().await.unwrap();
        assert!(pulse.rests());
        client.write_all(b"n").await.unwrap();
        felt.read_u8().await.unwrap();
        assert!(!pulse.rests(), "the next request has begun");
        reads_nothing(&mut felt).await;
        assert!(pulse.rests());
        pulse.begin();
        assert!(!pulse.rests());
    }

    #[tokio::test]
    async fn a_shutdown_is_none_while_it_stays_open() {
        let (stream, mut client) = duplex(100);
        let mut felt = Felt::new(stream);
        felt.pulse().stay_open(true);
        felt.shutdown().await.unwrap();
        felt.write_all(b"on").await.unwrap();
        felt.pulse().stay_open(false);
        felt.shutdown().await.unwrap();
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"on");
    }
}
