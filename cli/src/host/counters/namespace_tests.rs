//! The reader in another network namespace than its own, which the tests make.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use socket2::{Domain, Socket, Type};

use super::live_tests::{PATIENCE, begin, until, value};
use super::*;
use crate::host::findings::{Evidence, Resource, attribute};
use crate::root::Root;

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
        let destinations = now.ports.as_ref().and_then(|ports| ports.destinations.as_ref());
        let begun = destinations
            .is_some_and(|all| all.iter().any(|to| to.destination == address && to.connected == 64));
        if full && begun && now.tcp.listen_overflows > Some(0) || Instant::now() > deadline {
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
