//! A double of a network between a client and a real server, for faults that the loopback interface cannot be made to
//! have: bytes that do not arrive, or arrive late, in one direction. All else (connecting, resetting) is real.

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const BUFFER_BYTES: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToServer = 0,
    ToClient = 1,
}

/// What becomes of bytes on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Forward,
    /// They wait, as TCP lets them wait behind a network that is cut, and go on when it is not.
    Hold,
    /// They are gone. What comes after them would make no sense, so end this with [`Proxy::cut`].
    Drop,
}

struct Shared {
    modes: watch::Sender<[Mode; 2]>,
    /// Counts the cuts.
    cuts: watch::Sender<u64>,
    /// What stops its way when it comes by.
    trap: Mutex<Option<(Way, Vec<u8>)>>,
}

/// See the module. Ends when dropped, with its connections.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Between a port of its own and this one, both on the loopback interface.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let (modes, cuts) = (watch::channel([Mode::Forward; 2]).0, watch::channel(0).0);
        let shared = Arc::new(Shared { modes, cuts, trap: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, server, Arc::clone(&shared)));
        Self { port, shared, accepting }
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, way: Way, mode: Mode) {
        self.shared.modes.send_modify(|modes| modes[way as usize] = mode);
    }

    /// Holds this way from the bytes on in which `word` comes by, for all connections.
    pub fn hold_at(&self, way: Way, word: &[u8]) {
        *self.shared.trap.lock().unwrap_or_else(PoisonError::into_inner) = Some((way, word.to_owned()));
    }

    /// Returns once the word of [`Self::hold_at`] has come by.
    pub async fn held(&self, way: Way) {
        let mut modes = self.shared.modes.subscribe();
        // The sender lives as long as this proxy.
        let _ = modes.wait_for(|modes| modes[way as usize] == Mode::Hold).await;
    }

    /// Ends all connections, with what is held of them; new ones are taken.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, server: u16, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut cuts = shared.cuts.subscribe();
            cuts.mark_unchanged();
            tokio::select! {
                // A server that is away ends the client's connection, as its own refusal would.
                _ = join(client, server, &shared) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

async fn join(client: TcpStream, server: u16, shared: &Shared) -> io::Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // One that ends takes the other with it: neither Redis nor MongoDB half-closes.
    tokio::select! {
        ended = pump(from_client, to_server, Way::ToServer, shared) => ended,
        ended = pump(from_server, to_client, Way::ToClient, shared) => ended,
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way, shared: &Shared) -> io::Result<()> {
    let mut modes = shared.modes.subscribe();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut passed = Vec::new();
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let bytes = &buffer[..count];
        shared.look(way, &mut passed, bytes);
        let Ok(mode) =
            modes.wait_for(|modes| modes[way as usize] != Mode::Hold).await.map(|modes| modes[way as usize])
        else {
            return Ok(());
        };
        if mode == Mode::Forward {
            to.write_all(bytes).await?;
        }
    }
}

impl Shared {
    /// Holds the way if its word comes by; `passed` keeps the end of what came before, for a word that is split.
    fn look(&self, way: Way, passed: &mut Vec<u8>, bytes: &[u8]) {
        let mut trap = self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, word)) = trap.as_ref().filter(|(trapped, _)| *trapped == way) else {
            return passed.clear();
        };
        passed.extend_from_slice(bytes);
        if passed.windows(word.len()).any(|window| window == word) {
            *trap = None;
            self.modes.send_modify(|modes| modes[way as usize] = Mode::Hold);
            return passed.clear();
        }
        let keep = word.len().saturating_sub(1).min(passed.len());
        passed.drain(..passed.len() - keep);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Answers with what it gets.
    async fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        port
    }

    async fn client(proxy: &Proxy) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap()
    }

    async fn expect(stream: &mut TcpStream, text: &[u8]) {
        let mut got = vec![0; text.len()];
        tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(got, text);
    }

    async fn expect_nothing(stream: &mut TcpStream) {
        let waited = tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await;
        assert!(waited.is_err(), "{waited:?}");
    }

    #[tokio::test]
    async fn what_is_held_goes_on_and_what_is_dropped_does_not() {
        let proxy = Proxy::start(echo().await).await;
        let mut stream = client(&proxy).await;
        stream.write_all(b"one").await.unwrap();
        expect(&mut stream, b"one").await;
        for way in [Way::ToServer, Way::ToClient] {
            proxy.set(way, Mode::Hold);
            stream.write_all(b"two").await.unwrap();
            expect_nothing(&mut stream).await;
            proxy.set(way, Mode::Forward);
            expect(&mut stream, b"two").await;
            proxy.set(way, Mode::Drop);
            stream.write_all(b"three").await.unwrap();
            expect_nothing(&mut stream).await;
            proxy.set(way, Mode::Forward);
            stream.write_all(b"four").await.unwrap();
            expect(&mut stream, b"four").await;
        }
    }

    #[tokio::test]
    async fn a_word_stops_its_way_even_in_two_pieces() {
        let proxy = Proxy::start(echo().await).await;
        let mut stream = client(&proxy).await;
        proxy.hold_at(Way::ToServer, b"XACK");
        stream.write_all(b"ping XA").await.unwrap();
        expect(&mut stream, b"ping XA").await;
        stream.write_all(b"CK 1").await.unwrap();
        proxy.held(Way::ToServer).await;
        expect_nothing(&mut stream).await;
        proxy.set(Way::ToServer, Mode::Forward);
        expect(&mut stream, b"CK 1").await;
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_takes_new_ones() {
        let proxy = Proxy::start(echo().await).await;
        let mut stream = client(&proxy).await;
        stream.write_all(b"one").await.unwrap();
        expect(&mut stream, b"one").await;
        proxy.cut();
        assert!(!matches!(stream.read(&mut [0; 8]).await, Ok(1..)), "it is over");
        let mut stream = client(&proxy).await;
        stream.write_all(b"two").await.unwrap();
        expect(&mut stream, b"two").await;
    }
}
