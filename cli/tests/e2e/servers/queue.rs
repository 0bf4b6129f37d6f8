//! Listeners whose accept queue is the point: one that nobody empties, and one that is emptied too late.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::Socket;

use super::{BACKLOG, Log, listener};

/// Listens, accepts nothing, and its queue is full: further SYNs are dropped.
pub(crate) struct Blackhole {
    pub(crate) url: String,
    listener: TcpListener,
    fillers: Vec<TcpStream>,
}

impl Blackhole {
    pub(crate) fn new() -> Self {
        let (socket, address) = listener(0);
        let mut fillers = Vec::new();
        while let Ok(filler) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            fillers.push(filler);
            assert!(fillers.len() < 64, "the queue of a listener with backlog 0 does not fill");
        }
        Self { url: format!("http://{address}/"), listener: socket.into(), fillers }
    }

    /// How many got in beside those that fill the queue, by the queue itself.
    pub(crate) fn entered(self) -> usize {
        self.listener.set_nonblocking(true).unwrap();
        let accepted = std::iter::from_fn(|| self.listener.accept().ok()).count();
        accepted - self.fillers.len()
    }
}

/// A queue of one, which nobody empties for a while after the first connection. Then the queue is made long enough
/// for all, and every connection is served at once, on threads. (If the queue stayed short, the SYNs that return
/// together after a second would meet a full SYN queue and be answered with cookies: connected, as the client
/// sees it, to a server that drops their data until the accept queue has room; with few in a crowd at a time,
/// that takes half a minute.)
pub(crate) struct PausedAccept {
    pub(crate) url: String,
    pub(crate) log: Arc<Log>,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PausedAccept {
    pub(crate) fn start(pause: Duration) -> Self {
        let (socket, address) = listener(1);
        let (log, stop) = (Arc::<Log>::default(), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (log, stop) = (Arc::clone(&log), Arc::clone(&stop));
            std::thread::spawn(move || accept_late(&socket, pause, &log, &stop))
        };
        Self { url: format!("http://{address}/"), log, address, stop, thread: Some(thread) }
    }
}

fn accept_late(listener: &Socket, pause: Duration, log: &Arc<Log>, stop: &AtomicBool) {
    let mut connections = Vec::new();
    while let Ok((socket, _)) = listener.accept() {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        if connections.is_empty() {
            std::thread::sleep(pause);
            listener.listen(BACKLOG).unwrap();
        }
        log.connected();
        let (log, stream) = (Arc::clone(log), TcpStream::from(socket));
        // The client hanging up is the normal end.
        connections.push(std::thread::spawn(move || answer(&stream, &log).ok()));
    }
    for connection in connections {
        connection.join().unwrap();
    }
}

/// One small request at a time, each in one piece as a loopback delivers them.
fn answer(mut stream: &TcpStream, log: &Log) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer)? > 0 {
        log.started();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        log.finished();
    }
    Ok(())
}

impl Drop for PausedAccept {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept call. The clients are gone by now, and with them the connections' threads.
        let _ = TcpStream::connect(self.address);
        let outcome = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            outcome.unwrap().unwrap();
        }
    }
}
