//! A server for thousands of connections: one thread, one epoll loop, one fixed answer.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

const ANSWER: &[u8] = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}";

pub(crate) struct Crowd {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    pub(crate) fn start() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(4096).unwrap();
        let listener = TcpListener::from(socket);
        listener.set_nonblocking(true).unwrap();
        let mut crowd = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            connections: Arc::default(),
            stop: Arc::default(),
            thread: None,
        };
        let (requests, connections, stop) =
            (Arc::clone(&crowd.requests), Arc::clone(&crowd.connections), Arc::clone(&crowd.stop));
        let thread = std::thread::spawn(move || serve(&listener, &requests, &connections, &stop));
        crowd.thread = Some(thread);
        crowd
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let outcome = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            outcome.unwrap().unwrap();
        }
    }
}

fn serve(listener: &TcpListener, requests: &AtomicU64, connections: &AtomicU64, stop: &AtomicBool) {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, 0)).unwrap();
    // Indexed by file descriptor; 0 is standard input and so stands for the listener.
    let mut peers: Vec<Option<(TcpStream, Vec<u8>)>> = Vec::new();
    let mut events = [EpollEvent::empty(); 512];
    while !stop.load(Ordering::SeqCst) {
        let count = epoll.wait(&mut events, 20u8).unwrap_or(0);
        for event in &events[..count] {
            if event.data() == 0 {
                while let Ok((stream, _)) = listener.accept() {
                    connections.fetch_add(1, Ordering::SeqCst);
                    stream.set_nonblocking(true).unwrap();
                    stream.set_nodelay(true).unwrap();
                    let index = stream.as_raw_fd() as usize;
                    epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, index as u64)).unwrap();
                    peers.resize_with(peers.len().max(index + 1), || None);
                    peers[index] = Some((stream, Vec::new()));
                }
                continue;
            }
            let index = usize::try_from(event.data()).unwrap();
            let Some((stream, pending)) = peers[index].as_mut() else { continue };
            if !answer(stream, pending, requests) {
                peers[index] = None;
            }
        }
    }
}

/// Reads what is there and answers each whole request; false when the client is gone.
fn answer(stream: &mut TcpStream, pending: &mut Vec<u8>, requests: &AtomicU64) -> bool {
    let mut chunk = [0; 8192];
    match stream.read(&mut chunk) {
        Ok(0) => return false,
        Ok(count) => pending.extend_from_slice(&chunk[..count]),
        Err(error) => return error.kind() == ErrorKind::WouldBlock,
    }
    while let Some(end) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = std::str::from_utf8(&pending[..end]).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let whole = end + 4 + length.map_or(0, |value| value.parse::<usize>().unwrap());
        if pending.len() < whole {
            break;
        }
        pending.drain(..whole);
        requests.fetch_add(1, Ordering::SeqCst);
        if stream.write_all(ANSWER).is_err() {
            return false;
        }
    }
    true
}
