//! The reader on a tree as a kernel shows it.

use std::fs;
use std::path::Path;

use super::*;
use crate::root::Root;

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

const STAT: &str = "7 (app) S 1 7 7 0 -1 4194304 1 0 0 0 120 30 0 0 20 0 3 0 500 4096 1\n";
const EVENTS: &str = "sys/fs/cgroup/app/memory.events.local";

/// Process 7 in the reader's own network namespace.
fn tree() -> tempfile::TempDir {
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
    put("proc/7/stat", STAT);
    put("proc/7/fd/3", "");
    put("proc/7/cgroup", "0::/app\n");
    put("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n");
    put("sys/fs/cgroup/app/cpu.stat", "usage_usec 9\n");
    put("sys/fs/cgroup/app/memory.current", "4096\n");
    put(EVENTS, "high 0\nmax 0\noom_kill 4\n");
    root
}

#[test]
fn a_tree_is_read_in_all_its_parts() {
    let root = tree();
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
        ("process.alive", 1.0),
        ("process.cpu_us", 1_500_000.0),
        ("process.open_files", 1.0),
        ("listener.most_waiting", 0.0),
        ("cgroup.cpu_limited", 0.0),
        ("cgroup.memory_oom_kills[/sys/fs/cgroup/app]", 4.0),
        ("conntrack.tracked", 1.0),
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
        "proc/7/stat",
        "proc/self/mountinfo",
        "proc/stat",
        "proc/meminfo",
        "proc/diskstats",
        "proc/pressure/io",
        "proc/sys/fs/file-nr",
        "proc/sys/net/ipv4/tcp_mem",
        "proc/sys/net/netfilter/nf_conntrack_count",
        "proc/sys/net/netfilter/nf_conntrack_max",
    ] {
        let bytes: Vec<u8> = (0..4096).map(|_| random.u8(..)).collect();
        write(root.path(), path, &bytes);
    }
    let found = snapshot(&Root::new(root.path()), 7);
    assert_eq!((found.processors.total, found.tcp.listen_drops), (None, None));
    assert_eq!((found.process.is_alive, found.conntrack.entries), (None, None));
    assert_eq!(found.host_conntrack.unwrap().entries, None);
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

#[test]
fn what_killed_a_process_is_read_when_it_is_gone() {
    let root = tree();
    let mut reader = reader::Reader::enter(Root::new(root.path()), 7, None);
    let kills = |found: &Snapshot| found.cgroups.memory.first().and_then(|memory| memory.oom_kills);
    assert_eq!(kills(&reader.read()), Some(4));
    write(root.path(), EVENTS, b"high 0\nmax 9\noom_kill 5\n");
    // On its way out of version 1 it is shown in the root.
    write(root.path(), "proc/7/cgroup", b"0::/\n");
    write(root.path(), "proc/7/stat", STAT.replace(" S ", " Z ").as_bytes());
    let dying = reader.read();
    fs::rename(root.path().join("proc/7/net"), root.path().join("proc/thread-self/net")).unwrap();
    fs::remove_dir_all(root.path().join("proc/7")).unwrap();
    let gone = reader.read();
    assert_eq!((kills(&dying), kills(&gone)), (Some(5), Some(5)));
    assert_eq!(gone.problems, dying.problems);
    assert_eq!(gone.tcp.listen_overflows, Some(3), "the namespace is this thread's too");
    // Another process has its number now.
    write(root.path(), "proc/7/stat", STAT.replace(" 500 ", " 900 ").as_bytes());
    write(root.path(), "proc/7/cgroup", b"0::/\n");
    write(root.path(), "proc/7/limits", b"Max open files            1024   1024   files\n");
    let anew = reader.read();
    assert_eq!(anew.process, process::Process { is_alive: Some(false), ..Default::default() });
    assert_eq!(kills(&anew), Some(5));
}

#[test]
fn groups_are_looked_up_again_when_the_process_is_moved() {
    let root = tree();
    let mut reader = reader::Reader::enter(Root::new(root.path()), 7, None);
    let group = |found: &Snapshot| found.cgroups.memory[0].group.directory.clone();
    assert_eq!(group(&reader.read()), Path::new("/sys/fs/cgroup/app"));
    write(root.path(), "proc/7/cgroup", b"0::/other\n");
    write(root.path(), "sys/fs/cgroup/other/memory.current", b"1\n");
    assert_eq!(group(&reader.read()), Path::new("/sys/fs/cgroup/other"));
}

/// As many objects of each kind as are ever kept.
#[test]
fn no_column_is_left_out_of_the_largest_snapshot() {
    let root = tree();
    let put = |path: &str, text: &str| write(root.path(), path, text.as_bytes());
    let deep: String = (0..20).map(|depth| format!("/d{depth}")).collect();
    put("proc/7/cgroup", &format!("0::{deep}\n"));
    let mut group = Path::new("sys/fs/cgroup").join(deep.trim_start_matches('/'));
    let devices: String = (0..40).map(|at| format!("8:{at} rios={at} wios=1\n")).collect();
    let caps: String = (0..40).map(|at| format!("8:{at} riops=9 wiops=9\n")).collect();
    for _ in 0..20 {
        let own = group.to_str().unwrap();
        put(&format!("{own}/cpu.stat"), "nr_periods 1\nnr_throttled 1\nthrottled_usec 1\n");
        put(&format!("{own}/cpu.max"), "1 2\n");
        put(&format!("{own}/memory.current"), "1\n");
        put(&format!("{own}/memory.max"), "1\n");
        put(&format!("{own}/io.stat"), &devices);
        put(&format!("{own}/io.max"), &caps);
        group.pop();
    }
    let disks: String = (0..40).map(|at| format!("8 {at} sd{at} 1 0 0 0 2 0 0 0 0 3 0\n")).collect();
    put("proc/diskstats", &disks);
    let mut found = snapshot(&Root::new(root.path()), 7);
    let address = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let listener = |port| listeners::Listener {
        address: address(port),
        waiting: 1,
        backlog: 1,
        drops: Some(1),
        inodes: vec![1],
    };
    found.listeners = Some((0..16).map(listener).collect());
    let destination = |port| destinations::Destination {
        source: address(port).ip(),
        destination: address(port),
        time_wait: 0,
        reusable: 0,
        connected: 20_000,
    };
    let destinations = Some((0..16).map(destination).collect());
    found.ports = Some(ports::Ports { range: (1, 20_000), available: 20_000, destinations });
    found.host_conntrack = Some(conntrack::Conntrack::default());
    let mut series = Series::default();
    series.push(0, &found, 10);
    assert_eq!(series.left_out, 0);
    let objects = |counter: &str| series.counters.keys().filter(|name| name.starts_with(counter)).count();
    for (counter, expected) in [
        ("listener.waiting[", 16),
        ("ports.used[", 16),
        ("disk.operations[", 16),
        ("cgroup.cpu_throttled[", 16),
        ("cgroup.io_writes[", 16),
        ("conntrack.entries", 2),
    ] {
        assert_eq!(objects(counter), expected, "{counter}");
    }
}
