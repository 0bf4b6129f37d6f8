//! The reader on a tree as a kernel shows it, and on this host.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::*;
use crate::host::findings::{Evidence, Resource, attribute};
use crate::root::Root;

/// A moment long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn write(root: &Path, path: &str, text: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn an_empty_tree_gives_nothing_but_the_reason() {
    let root = tempfile::tempdir().unwrap();
    let found = snapshot(&Root::new(root.path()), 7);
    let [problem] = &found.problems[..] else { panic!("{:?}", found.problems) };
    assert!(problem.contains("network namespace of process 7"), "{problem}");
    let nothing = Snapshot {
        pid: 7,
        at_unix_ms: found.at_unix_ms,
        problems: found.problems.clone(),
        ..Snapshot::default()
    };
    assert_eq!(found, nothing);
    assert!(figures::figures(&found).iter().all(|figure| figure.value.is_none()), "unknown, not zero");
}

#[test]
fn a_tree_is_read_in_all_its_parts() {
    let root = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| write(root.path(), path, text.as_bytes());
    put("proc/7/net/netstat", "TcpExt: ListenOverflows ListenDrops\nTcpExt: 3 8\n");
    put("proc/7/net/snmp", "Tcp: ActiveOpens\nTcp: 4\n");
    put("proc/7/net/sockstat", "sockets: used 9\nTCP: inuse 1 orphan 0 tw 2 alloc 3 mem 5\n");
    put("proc/7/net/softnet_stat", "0000000a 00000001 00000000\n");
    put("proc/7/net/stat/nf_conntrack", "entries drop\n00000001 0000000f\n");
    put("proc/sys/net/netfilter/nf_conntrack_count", "40\n");
    put("proc/sys/net/netfilter/nf_conntrack_max", "100\n");
    put("proc/sys/net/ipv4/tcp_mem", "10\t20\t30\n");
    put("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n");
    put("proc/sys/fs/file-nr", "549\t0\t1000\n");
    put("proc/stat", "cpu  1 2 3 4 5 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n");
    put("proc/meminfo", "MemTotal: 4 kB\n");
    put("proc/diskstats", "254 0 vda 1 0 0 0 2 0 0 0 0 3 0\n");
    put("proc/pressure/cpu", "some avg10=1.00 total=77\n");
    // The same file is the same namespace.
    put("proc/thread-self/ns/net", "");
    fs::create_dir_all(root.path().join("proc/7/ns")).unwrap();
    fs::hard_link(root.path().join("proc/thread-self/ns/net"), root.path().join("proc/7/ns/net")).unwrap();
    let found = snapshot(&Root::new(root.path()), 7);
    let figures = figures::figures(&found);
    let value =
        |name: &str| figures.iter().find(|figure| figure.name == name).and_then(|figure| figure.value);
    for (name, expected) in [
        ("tcp.listen_overflows", 3.0),
        ("tcp.listen_drops_other", 5.0),
        ("tcp.active_opens", 4.0),
        ("sockets.time_wait", 2.0),
        ("tcp.memory_pages", 5.0),
        ("tcp.memory_pressure_pages", 20.0),
        ("softnet.dropped", 1.0),
        ("conntrack.dropped", 15.0),
        ("conntrack.entries", 40.0),
        ("conntrack.max", 100.0),
        ("ports.available", 28_232.0),
        ("files.open", 549.0),
        ("cpu.stolen", 8.0),
        ("memory.total", 4096.0),
        ("disk.operations[254:0]", 3.0),
        ("pressure.cpu_some_us", 77.0),
    ] {
        assert_eq!(value(name), Some(expected), "{name}");
    }
    assert_eq!(value("tcp.prunes"), None);
}

#[test]
fn files_of_any_bytes_are_read_without_a_panic() {
    let root = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for path in [
        "proc/7/net/netstat",
        "proc/7/net/snmp",
        "proc/7/net/sockstat",
        "proc/7/net/softnet_stat",
        "proc/7/net/stat/nf_conntrack",
        "proc/7/limits",
        "proc/7/cgroup",
        "proc/self/mountinfo",
        "proc/stat",
        "proc/meminfo",
        "proc/diskstats",
        "proc/pressure/io",
        "proc/sys/fs/file-nr",
        "proc/sys/net/ipv4/tcp_mem",
    ] {
        let bytes: Vec<u8> = (0..4096).map(|_| random.u8(..)).collect();
        write(root.path(), path, &bytes);
    }
    let found = snapshot(&Root::new(root.path()), 7);
    assert_eq!((found.processors.total, found.tcp.listen_drops), (None, None));
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

#[test]
fn a_sampler_stops_with_a_last_sample_and_tells_its_cost() {
    let sampler = Sampler::start(Root::host(), std::process::id()).unwrap();
    let series = sampler.stop();
    assert!(series.at_ms.len() >= 2, "{:?}", series.at_ms);
    let deltas = series.deltas();
    let total = &deltas["cpu.total"];
    assert!(total.after >= total.before && total.before.is_some(), "{total:?}");
    assert!(series.cost_ms > 0.0 && series.duration_ms > 0.0);
    assert!(series.cost_share() > 0.0);
    drop(Sampler::start(Root::host(), std::process::id()).unwrap());
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
