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
