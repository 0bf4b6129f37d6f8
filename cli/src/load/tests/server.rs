//! Small HTTP servers, one thread a connection, whose every byte the test decides.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the server saw.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) connections: AtomicU64,
    /// Requests that arrived whole.
    pub(crate) requests: AtomicU64,
    pub(crate) heads: Mutex<Vec<String>>,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    log: Arc<Log>,
    stop: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

/// The server's side of a connection.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    log: Arc<Log>,
    buffer: Vec<u8>,
}

impl Server {
    /// Serves each connection with `handler`, until the handler returns.
    pub(crate) fn start(handler: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (log, stop) = (Arc::new(Log::default()), Arc::new(AtomicBool::new(false)));
        let streams = Arc::new(Mutex::new(Vec::new()));
        let handler = Arc::new(handler);
        let thread = {
            let (log, stop, streams) = (Arc::clone(&log), Arc::clone(&stop), Arc::clone(&streams));
            std::thread::spawn(move || {
                let mut connections = Vec::new();
                while let Ok((stream, _)) = listener.accept() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    log.connections.fetch_add(1, Ordering::SeqCst);
                    stream.set_nodelay(true).unwrap();
                    let mut peer = Peer { stream, log: Arc::clone(&log), buffer: Vec::new() };
                    streams.lock().unwrap().push(peer.stream.try_clone().unwrap());
                    let handler = Arc::clone(&handler);
                    connections.push(std::thread::spawn(move || handler(&mut peer)));
                }
                connections.into_iter().for_each(|connection| connection.join().unwrap());
            })
        };
        Self { address, log, stop, streams, thread: Some(thread) }
    }

    /// Answers each request with the same bytes after a delay, on connections that stay open.
    pub(crate) fn answering(response: &'static str, delay: Duration) -> Self {
        Self::start(move |peer| {
            while peer.request().is_some() {
                std::thread::sleep(delay);
                if !peer.reply(response) {
                    break;
                }
            }
        })
    }

    pub(crate) fn connections(&self) -> u64 {
        self.log.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.log.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.log.heads.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept call.
        let _ = TcpStream::connect(self.address);
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let outcome = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            outcome.unwrap().unwrap();
        }
    }
}

impl Peer {
    /// The next whole request as `(head, body)`; `None` when the client is gone.
    pub(crate) fn request(&mut self) -> Option<(String, Vec<u8>)> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8(self.buffer[..end].to_vec()).unwrap();
                let length = content_length(&head);
                if self.buffer.len() >= end + 4 + length {
                    let body = self.buffer[end + 4..end + 4 + length].to_vec();
                    self.buffer.drain(..end + 4 + length);
                    self.log.requests.fetch_add(1, Ordering::SeqCst);
                    self.log.heads.lock().unwrap().push(head.clone());
                    return Some((head, body));
                }
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// False when the client is gone.
    pub(crate) fn reply(&mut self, text: &str) -> bool {
        self.stream.write_all(text.as_bytes()).is_ok()
    }

    /// Closes with a reset instead of an orderly end.
    pub(crate) fn reset_on_close(&self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Closes although the server keeps a handle for its own end.
    pub(crate) fn close(&self) {
        self.stream.shutdown(Shutdown::Both).unwrap_or_default();
    }
}

fn content_length(head: &str) -> usize {
    head.lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .map_or(0, |value| value.parse().unwrap())
}
