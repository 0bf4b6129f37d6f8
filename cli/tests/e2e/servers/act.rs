//! What a server does with one request.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::Log;

/// How a connection goes on after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It takes the next request.
    Keep,
    /// FIN.
    Close,
    /// RST.
    Reset,
    /// Open, and silent.
    Hold,
}

#[derive(Clone, Debug)]
pub(crate) struct Act {
    /// Before the first byte.
    pub(super) delay: Duration,
    bytes: &'static str,
    /// The pause after each byte; none: all at once.
    drip: Option<Duration>,
    /// Bytes of filler behind `bytes`.
    flood: u64,
    pub(super) end: End,
}

/// Of a flood, at once.
static BLOCK: [u8; 64 * 1024] = [b'x'; 64 * 1024];

impl Act {
    /// These bytes as they are, and then the next request.
    pub(crate) fn raw(bytes: &'static str) -> Self {
        Self { delay: Duration::ZERO, bytes, drip: None, flood: 0, end: End::Keep }
    }

    /// 200, after a delay.
    pub(crate) fn ok_after(delay: Duration) -> Self {
        Self { delay, ..Self::raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") }
    }

    pub(crate) fn then(self, end: End) -> Self {
        Self { end, ..self }
    }

    pub(crate) fn dripping(self, pause: Duration) -> Self {
        Self { drip: Some(pause), ..self }
    }

    pub(crate) fn flooding(self, bytes: u64) -> Self {
        Self { flood: bytes, ..self }
    }

    /// Sends what there is to send.
    pub(super) async fn perform(&self, stream: &mut TcpStream, log: &Log) -> io::Result<()> {
        let piece = self.drip.map_or(self.bytes.len().max(1), |_| 1);
        for bytes in self.bytes.as_bytes().chunks(piece) {
            stream.write_all(bytes).await?;
            log.sent(bytes.len());
            if let Some(pause) = self.drip {
                tokio::time::sleep(pause).await;
            }
        }
        let mut left = self.flood;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK.len());
            let count = stream.write(&BLOCK[..most]).await?;
            log.sent(count);
            left -= count as u64;
        }
        Ok(())
    }
}
