//! The reader on this host: sockets and processes that the tests make.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::figures::figures;
use super::*;
use crate::root::Root;

/// A moment long enough for any machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Looks again until it is as expected.
pub(super) fn until<T: std::fmt::Debug>(look: impl Fn() -> T, is_expected: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = look();
        if is_expected(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

pub(super) fn value(snapshot: &Snapshot, name: &str) -> Option<f64> {
    figures(snapshot).into_iter().find(|figure| figure.name == name)?.value
}

/// A program that is ended with the test.
struct Program(Child);

impl Program {
    fn start(program: &str, args: &[&str]) -> Self {
        Self(Command::new(program).args(args).spawn().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended cannot be ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_listener_of_this_process_is_seen_with_its_backlog() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let address: SocketAddr = address.parse().unwrap();
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        if socket.bind(&address.into()).is_err() && address.is_ipv6() {
            // This host has no IPv6.
            continue;
        }
        socket.listen(13).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        // Listeners are many on a host under test, and those kept are the fullest: one that waits is.
        let clients: Vec<_> = (0..12).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let deadline = Instant::now() + PATIENCE;
        // The last acknowledgement may still be on its way.
        loop {
            let found = snapshot(&Root::host(), std::process::id());
            let listeners = found.listeners.unwrap_or_else(|| panic!("{:?}", found.problems));
            let own = listeners.iter().find(|listener| listener.address == address);
            if own.is_some_and(|own| (own.waiting, own.backlog) == (12, 13)) {
                break;
            }
            assert!(Instant::now() < deadline, "{own:?}");
            thread::sleep(Duration::from_millis(10));
        }
        drop(clients);
    }
}

/// Begins to connect, and does not wait.
pub(super) fn begin(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    // In progress.
    let _ = socket.connect(&address.into());
    socket
}

/// Two sockets of one address, of which the second has connections waiting.
fn shared_address() -> (Vec<Socket>, SocketAddr, Vec<TcpStream>) {
    let shared = |address: SocketAddr, backlog| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(backlog).unwrap();
        socket
    };
    let first = shared((Ipv4Addr::LOCALHOST, 0).into(), 64);
    let address = first.local_addr().unwrap().as_socket().unwrap();
    let sockets = vec![first, shared(address, 64), shared(address, 64)];
    // The kernel spreads them over the sockets.
    let clients = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    (sockets, address, clients)
}

#[test]
fn sockets_that_share_an_address_are_one_listener() {
    let (sockets, address, clients) = shared_address();
    let waiting = |snapshot: &Snapshot| {
        let listeners = snapshot.listeners.iter().flatten();
        let own: Vec<_> = listeners.filter(|listener| listener.address == address).cloned().collect();
        own
    };
    let found = until(
        || snapshot(&Root::host(), std::process::id()),
        // Forty over three: the fullest has fourteen at least.
        |found| waiting(found).first().is_some_and(|listener| listener.waiting >= 14),
    );
    let own = waiting(&found);
    assert_eq!((own.len(), own[0].inodes.len(), own[0].backlog), (1, 3, 64), "{own:?}");
    let names: Vec<String> = figures(&found).into_iter().map(|figure| figure.name).collect();
    let name = format!("listener.waiting[{address}]");
    assert_eq!(names.iter().filter(|found| **found == name).count(), 1);
    assert_eq!(value(&found, &name), Some(own[0].waiting.into()));
    assert!(value(&found, "listener.most_waiting") >= Some(own[0].waiting.into()));
    drop((sockets, clients));
}

#[test]
fn a_listener_of_another_process_is_not_this_ones() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let other = Program::start("sleep", &["600"]);
    let has_it = |pid| {
        let found = snapshot(&Root::host(), pid);
        assert_eq!(found.problems, Vec::<String>::new());
        let listeners = found.listeners.unwrap();
        listeners.iter().any(|listener| listener.address == address)
    };
    // Listeners are many on a host under test, and those kept are the fullest: one that waits is.
    let clients: Vec<_> = (0..100).map(|_| begin(address)).collect();
    until(|| has_it(std::process::id()), |has_it| *has_it);
    let found = snapshot(&Root::host(), other.0.id());
    assert_eq!(found.listeners, Some(Vec::new()), "it has none");
    assert_eq!(value(&found, "listener.most_waiting"), Some(0.0));
    drop(clients);
}

#[test]
fn the_end_of_a_process_is_seen_and_said() {
    let mut program = Program::start("sleep", &["600"]);
    let pid = program.0.id();
    let mut reader = reader::Reader::enter(Root::host(), pid, None);
    let before = reader.read();
    assert_eq!(value(&before, "process.alive"), Some(1.0));
    assert!(before.process.cpu_us.is_some() && before.process.open_files.is_some(), "{before:?}");
    program.0.kill().unwrap();
    // A zombie first, then nothing at all.
    until(|| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap(), |stat| stat.contains(") Z "));
    let zombie = reader.read();
    program.0.wait().unwrap();
    let gone = reader.read();
    for after in [zombie, gone] {
        assert_eq!(value(&after, "process.alive"), Some(0.0));
        assert_eq!(after.problems.len(), 1, "{:?}", after.problems);
        assert!(after.problems[0].contains(&format!("process {pid} ended at ")), "{:?}", after.problems);
        assert_eq!(after.process, process::Process { is_alive: Some(false), ..Default::default() });
        // The groups and the network namespace are still read.
        let groups = |found: &Snapshot| found.cgroups.memory.len() + found.cgroups.cpu.len();
        assert_eq!(groups(&after), groups(&before));
        assert!(after.tcp.active_opens.is_some());
        assert_eq!(after.listeners, Some(Vec::new()));
    }
}
