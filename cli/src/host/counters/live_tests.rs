//! The reader on this host: sockets, processes and network namespaces that the tests make.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use socket2::{Domain, Socket, Type};

use super::figures::figures;
use super::*;
use crate::host::findings::{Evidence, Resource, attribute};
use crate::root::Root;

/// A moment long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Looks again until it is as expected.
fn until<T: std::fmt::Debug>(look: impl Fn() -> T, is_expected: impl Fn(&T) -> bool) -> T {
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

fn value(snapshot: &Snapshot, name: &str) -> Option<f64> {
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

/// A thread in a network namespace of its own, which stands for a process there: the kernel shows a thread's files
/// below `/proc` under its own number too. `None` without the privilege, or `ip` to bring loopback up.
fn in_own_namespace<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).ok()?;
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().ok()?;
        up.success().then(work)
    })
    .join()
    .unwrap()
}

fn listen(backlog: i32) -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(backlog).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Begins to connect, and does not wait.
fn begin(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    // In progress.
    let _ = socket.connect(&address.into());
    socket
}

#[test]
fn a_full_accept_queue_in_another_namespace_is_seen_and_attributed() {
    let (report, reports) = mpsc::channel();
    let (go, begun) = mpsc::channel::<()>();
    let (end, ended) = mpsc::channel::<()>();
    let namespace = thread::spawn(move || {
        in_own_namespace(move || {
            let (listener, address) = listen(16);
            report.send((u32::try_from(nix::unistd::gettid().as_raw()).unwrap(), address)).unwrap();
            begun.recv().unwrap();
            let clients: Vec<Socket> = (0..64).map(|_| begin(address)).collect();
            // Nobody accepts.
            ended.recv().unwrap();
            drop((listener, clients));
        })
    });
    let Ok((tid, address)) = reports.recv() else {
        assert!(namespace.join().unwrap().is_none(), "it reports unless it could not be made");
        eprintln!("SKIPPED: a network namespace cannot be made here");
        return;
    };
    let root = Root::host();
    let before = snapshot(&root, tid);
    assert_eq!(before.problems, Vec::<String>::new());
    let sampler = Sampler::start(root.clone(), tid).unwrap();
    // The namespace is new: its counters start at nothing.
    assert_eq!(before.tcp.listen_overflows, Some(0));
    let listeners = before.listeners.unwrap();
    assert_eq!((listeners.len(), listeners[0].waiting, listeners[0].backlog), (1, 0, 16));
    go.send(()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let after = loop {
        let now = snapshot(&root, tid);
        // The parts of a snapshot are read one after the other.
        let full = now.listeners.as_ref().is_some_and(|listeners| listeners[0].waiting == 17);
        if full && now.tcp.listen_overflows > Some(0) || Instant::now() > deadline {
            break now;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let series = sampler.stop();
    end.send(()).unwrap();
    namespace.join().unwrap();
    // The kernel lets one more wait than the backlog says.
    let listeners = after.listeners.unwrap();
    assert_eq!((listeners[0].address, listeners[0].waiting, listeners[0].backlog), (address, 17, 16));
    assert!(after.tcp.listen_overflows > Some(0), "{:?}", after.tcp);
    let ports = after.ports.unwrap().destinations.unwrap();
    let to_listener = ports.iter().find(|found| found.destination == address).unwrap();
    assert_eq!((to_listener.connected, to_listener.time_wait), (64, 0));
    let found = attribute(Evidence { series: &series, latency: &[], measured_from_ms: 0, disk_cap: None });
    let counters: Vec<&str> = found
        .findings
        .iter()
        .filter(|finding| finding.resource == Resource::AcceptQueue)
        .map(|finding| finding.counter.as_str())
        .collect();
    assert_eq!(counters, ["tcp.listen_overflows", format!("listener.waiting[{address}]").as_str()]);
    // The reader's own namespace is another one.
    let own = snapshot(&root, std::process::id());
    let own = own.listeners.unwrap();
    assert!(own.iter().all(|listener| (listener.address, listener.waiting) != (address, 17)), "{own:?}");
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
    assert_eq!((own.len(), own[0].sockets, own[0].backlog), (1, 3, 64), "{own:?}");
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
    let mut reader = reader::Reader::enter(Root::host(), pid);
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

/// In a network namespace of its own: connects so often and closes at once, so that each leaves a TIME_WAIT.
fn connect_and_close(listener: &TcpListener, times: usize) {
    for _ in 0..times {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        drop(client);
        // It has closed: its side is the one that waits.
        let mut rest = Vec::new();
        io::Read::read_to_end(&mut &server, &mut rest).unwrap();
    }
}

#[test]
fn a_port_that_can_be_taken_over_is_free() {
    let found = in_own_namespace(|| {
        let set = |name: &str, value: &str| fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap();
        set("ip_local_port_range", "20000 20099");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 7001)).unwrap();
        let address = listener.local_addr().unwrap();
        let tid = u32::try_from(nix::unistd::gettid().as_raw()).unwrap();
        let ports = |snapshot: &Snapshot| {
            let destinations = snapshot.ports.as_ref().unwrap().destinations.as_ref().unwrap();
            let found = destinations.iter().find(|found| found.destination == address).unwrap();
            (found.time_wait, found.reusable, found.used())
        };
        let look = || ports(&snapshot(&Root::host(), tid));
        set("tcp_tw_reuse", "0");
        connect_and_close(&listener, 90);
        let kept = until(look, |(time_wait, ..)| *time_wait == 90);
        set("tcp_tw_reuse", "2");
        // They are a second old, and then they are free.
        let freed = until(look, |(_, reusable, _)| *reusable == 90);
        // More connections than there are ports.
        connect_and_close(&listener, 60);
        let reused = look();
        set("tcp_timestamps", "0");
        let without_timestamps = look();
        (kept, freed, reused, without_timestamps)
    });
    let Some((kept, freed, reused, without_timestamps)) = found else {
        eprintln!("SKIPPED: a network namespace cannot be made here");
        return;
    };
    assert_eq!((kept, freed), ((90, 0, 90), (90, 90, 0)));
    let (time_wait, reusable, used) = reused;
    assert!(time_wait <= 100 && used <= 60, "{reused:?}");
    assert_eq!(time_wait - reusable, used);
    assert_eq!(without_timestamps, (time_wait, 0, time_wait));
}

#[test]
fn connection_tracking_of_the_namespace_that_was_left_is_read_too() {
    let outer = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max");
    let Ok(outer) = outer else {
        eprintln!("SKIPPED: this kernel tracks no connections");
        return;
    };
    let (report, reports) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let namespace = thread::spawn(move || {
        in_own_namespace(move || {
            report.send(u32::try_from(nix::unistd::gettid().as_raw()).unwrap()).unwrap();
            ended.recv().unwrap();
        })
    });
    let Ok(tid) = reports.recv() else {
        assert!(namespace.join().unwrap().is_none(), "it reports unless it could not be made");
        eprintln!("SKIPPED: a network namespace cannot be made here");
        return;
    };
    let found = snapshot(&Root::host(), tid);
    let own = snapshot(&Root::host(), std::process::id());
    let is_own = |pid| namespace::is_own(&Root::host(), pid);
    assert_eq!((is_own(tid), is_own(std::process::id())), (false, true));
    end.send(()).unwrap();
    namespace.join().unwrap();
    assert_eq!(value(&found, "conntrack.entries"), Some(0.0), "it is new");
    assert_eq!(value(&found, "conntrack.max[host]"), outer.trim().parse().ok());
    assert!(value(&found, "conntrack.entries[host]").is_some());
    assert!(value(&found, "conntrack.dropped[host]").is_some());
    assert_eq!(own.host_conntrack, None, "its own is the one");
    assert_eq!(value(&own, "conntrack.tracked"), Some(1.0));
}
