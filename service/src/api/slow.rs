//! A client that does not read its answer: it is cut off, or it would hold its connection, and the answer's memory,
//! for as long as it likes. (hyper waits for ever.)

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Whoever takes less while an answer waits for it is not slow but absent, or wants to be a burden.
const MIN_BYTES_PER_SECOND: u64 = 1024;

/// A stream whose writes fail when the other side takes next to nothing for `patience`.
pub(super) struct Impatient<S> {
    stream: S,
    patience: Duration,
    window: Option<Window>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// A while in which writes had to wait.
struct Window {
    ends: Instant,
    written: u64,
    /// Whether the last write still waits.
    waits: bool,
}

impl<S> Impatient<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, window: None, timer: None }
    }

    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Looks at what came of a write.
    fn judge(
        &mut self,
        context: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if wrote.is_ready() {
            if let (Poll::Ready(Ok(bytes)), Some(window)) = (&wrote, &mut self.window) {
                window.written += *bytes as u64;
                window.waits = false;
            }
            return wrote;
        }
        match &mut self.window {
            Some(window) if window.waits || Instant::now() < window.ends => window.waits = true,
            _ => self.begin(),
        }
        loop {
            let (Some(timer), Some(window)) = (&mut self.timer, &self.window) else { return Poll::Pending };
            ready!(timer.as_mut().poll(context));
            let least = u64::try_from(self.patience.as_millis())
                .unwrap_or(u64::MAX)
                .saturating_mul(MIN_BYTES_PER_SECOND)
                / 1000;
            if window.written < least.max(1) {
                let error = io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer");
                return Poll::Ready(Err(error));
            }
            self.begin();
        }
    }

    fn begin(&mut self) {
        let ends = Instant::now() + self.patience;
        self.window = Some(Window { ends, written: 0, waits: true });
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(ends),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(ends))),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn pair(buffer: usize) -> (Impatient<DuplexStream>, DuplexStream) {
        let (server, client) = duplex(buffer);
        (Impatient::new(server, PATIENCE), client)
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_cut_off_in_time() {
        let (mut server, _client) = pair(100);
        let started = Instant::now();
        let error = server.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= PATIENCE && started.elapsed() < PATIENCE * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn so_is_who_reads_a_drop_now_and_then() {
        let (mut server, mut client) = pair(100);
        let sipping = tokio::spawn(async move {
            let mut drop = [0; 10];
            while client.read_exact(&mut drop).await.is_ok() {
                tokio::time::sleep(PATIENCE / 4).await;
            }
        });
        let started = Instant::now();
        let error = server.write_all(&[0; 100_000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < PATIENCE * 3);
        drop(server);
        sipping.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_but_reads_gets_everything() {
        let (mut server, mut client) = pair(4096);
        let reading = tokio::spawn(async move {
            let (mut chunk, mut total) = ([0; 4096], 0);
            loop {
                // 2 KiB a second.
                tokio::time::sleep(Duration::from_secs(2)).await;
                match client.read_exact(&mut chunk).await {
                    Ok(bytes) => total += bytes,
                    Err(_) => return total,
                }
            }
        });
        server.write_all(&vec![0; 4096 * 50]).await.unwrap();
        // Nothing to write for long is no fault of the client's.
        tokio::time::sleep(PATIENCE * 10).await;
        server.write_all(&vec![0; 4096 * 3]).await.unwrap();
        drop(server);
        assert_eq!(reading.await.unwrap(), 4096 * 53);
    }
}
