//! Processors, memory and disks.

use super::*;
use crate::cgroup_path::{Group, Version};
use crate::host::counters::{CgroupCpu, CgroupDevice, CgroupIo, CgroupMemory, Stall};

fn group(version: Version) -> Group {
    Group { version, directory: "/g".into() }
}

#[test]
fn memory_of_host_group_and_tcp_is_held_against_what_connections_need() {
    // 8 KiB an end.
    let mut case = Case { users: 1000, ..Case::default() };
    (case.snapshot.memory.available, case.snapshot.memory.total) = (Some(8 << 20), Some(1 << 30));
    assert!(case.expect("memory", WARN).heuristic);
    case.generator = Some(generator(None));
    case.expect("memory", fails(513));
    for (current, reclaimable, max, status) in [
        (Some(1 << 20), Some(0), Some(9 << 20), WARN),
        (Some(1 << 20), Some(0), Some(3 << 20), fails(257)),
        // Full of page cache, as a group is that has read enough files.
        (Some(3 << 20), Some(2 << 20), Some(3 << 20), fails(257)),
        (Some(99 << 20), Some(98 << 20), Some(99 << 20), OK),
        (Some(1 << 20), None, Some(3 << 20), WARN),
        (Some(1 << 20), None, None, OK),
        (None, None, Some(9 << 20), UNKNOWN),
    ] {
        let (group, stall) = (group(Version::V2), Stall::default());
        let (high_events, max_events, oom_kills) = (None, None, None);
        let memory =
            CgroupMemory { group, current, reclaimable, max, high_events, max_events, oom_kills, stall };
        case.snapshot.cgroups.memory = vec![memory];
        case.expect("memory limit", status);
    }
    for (used, pressure, max, status) in [
        (Some(0), Some(9000), Some(10_000), OK),
        (Some(9500), Some(9000), Some(10_000), fails(251)),
        (Some(10_000), Some(9000), Some(10_000), fails(1)),
        (Some(9500), Some(9000), Some(100_000), WARN),
        (Some(100), Some(900), Some(1000), fails(451)),
        (None, Some(900), Some(1000), UNKNOWN),
        (Some(100), None, None, UNKNOWN),
    ] {
        case.snapshot.sockets.tcp_memory_pages = used;
        (case.snapshot.tcp_memory_pressure_pages, case.snapshot.tcp_memory_max_pages) = (pressure, max);
        case.expect("TCP memory", status);
    }
}

#[test]
fn quotas_and_caps_are_watched() {
    let cpu = |quota_cores| CgroupCpu {
        group: group(Version::V2),
        quota_cores,
        is_limited: Some(quota_cores.is_some()),
        periods: Some(100),
        throttled: Some(0),
        throttled_us: None,
    };
    let throttled = |count: f64| {
        Series::of(
            2,
            &[
                ("cgroup.cpu_periods[/g]", Kind::Counter, vec![Some(0.0), Some(10.0)]),
                ("cgroup.cpu_throttled[/g]", Kind::Counter, vec![Some(0.0), Some(count)]),
            ],
        )
    };
    for (quota, series, status) in [
        (Some(2.0), throttled(2.0), OK),
        (Some(2.0), throttled(3.0), WARN),
        (Some(2.0), Series::default(), UNKNOWN),
        (None, throttled(0.0), OK),
    ] {
        let mut case = Case { users: 1, series, ..Case::default() };
        case.snapshot.cgroups.cpu = vec![cpu(quota)];
        case.expect("CPU quota", status);
        // The groups of this process tell nothing of one that does not show.
        case.service = Some(Service { pid: None, processes: 1, listeners: Ok(Vec::new()) });
        case.expect("CPU quota", UNKNOWN);
    }
    for (cap, writes, status) in [(Some(100), 95.0, WARN), (Some(100), 94.0, OK), (None, 900.0, OK)] {
        let counter = Kind::Counter;
        let series =
            Series::of(2, &[("cgroup.io_writes[/g 8:0]", counter, vec![Some(5.0), Some(5.0 + writes)])]);
        let mut case = Case { users: 1, series, ..Case::default() };
        let device = CgroupDevice { device: "8:0".into(), max_writes_per_s: cap, ..CgroupDevice::default() };
        let stall = Stall::default();
        case.snapshot.cgroups.io = vec![CgroupIo { group: group(Version::V1), devices: vec![device], stall }];
        case.expect("disk cap", status);
    }
}

#[test]
fn what_was_short_while_watching_is_a_warning() {
    for (check, counter, whole, grown, status) in [
        ("CPU", "cpu.busy", Some("cpu.total"), 91.0, WARN),
        ("CPU", "cpu.busy", Some("cpu.total"), 90.0, OK),
        ("stolen CPU", "cpu.stolen", Some("cpu.total"), 11.0, WARN),
        ("CPU pressure", "pressure.cpu_some_us", None, 300_000.0, WARN),
        ("memory pressure", "pressure.memory_full_us", None, 200_000.0, OK),
        ("disk pressure", "pressure.io_full_us", None, 200_001.0, WARN),
        ("network backlog", "softnet.dropped", None, 1.0, WARN),
        ("network backlog", "softnet.dropped", None, 0.0, OK),
    ] {
        let mut columns = vec![(counter, Kind::Counter, vec![Some(7.0), Some(7.0 + grown)])];
        columns.extend(whole.map(|whole| (whole, Kind::Counter, vec![Some(0.0), Some(100.0)])));
        let case = Case { users: 1, series: Series::of(2, &columns), ..Case::default() };
        case.expect(check, status);
        let same = case.rows().iter().filter(|row| row.counter == counter).count();
        assert_eq!(same, 1, "a finding about {counter} does not repeat its row");
    }
    // What only the findings know has a row of its own.
    let overflows = vec![Some(3.0), Some(5.0)];
    let series = Series::of(2, &[("tcp.listen_overflows", Kind::Counter, overflows)]);
    let case = Case { users: 1, series, service: Some(service(128, 0)), ..Case::default() };
    let rows = case.rows();
    let row = rows.iter().find(|row| row.counter == "tcp.listen_overflows").unwrap();
    assert_eq!((row.status, row.check.as_str()), (WARN, "accept queue"));
    assert_eq!(row.tune, ["net.core.somaxconn"]);
}

#[test]
fn caps_on_servers_are_told_of_once() {
    let capped = |directory: &str, cap| {
        let group = Group { version: Version::V2, directory: directory.into() };
        let device = CgroupDevice { device: "8:0".into(), max_writes_per_s: cap, ..CgroupDevice::default() };
        CgroupIo { group, devices: vec![device], stall: Stall::default() }
    };
    let series = |directory: &str, writes: f64| {
        let counter = format!("cgroup.io_writes[{directory} 8:0]");
        Series::of(2, &[(&counter, Kind::Counter, vec![Some(0.0), Some(writes)])])
    };
    let server = |name: &str, directory: &str, cap, writes| {
        let mut snapshot = Snapshot::default();
        snapshot.cgroups.io = vec![capped(directory, cap)];
        Server { name: name.to_owned(), snapshot, series: series(directory, writes) }
    };
    let mut case = Case { users: 1, series: series("/g", 10.0), ..Case::default() };
    case.snapshot.cgroups.io = vec![capped("/g", Some(100))];
    case.servers = vec![
        server("MongoDB", "/db", Some(100), 99.0),
        server("Redis", "/g", Some(100), 10.0),
        server("another", "/free", None, 1000.0),
    ];
    case.expect("disk cap", OK);
    case.expect("disk cap of MongoDB", WARN);
    case.expect("disk cap of another", OK);
    assert!(case.rows().iter().all(|row| row.check != "disk cap of Redis"), "it shares the service's group");
    let hidden = Server { snapshot: Snapshot::default(), ..server("hidden", "/x", None, 0.0) };
    case.servers = vec![hidden];
    case.expect("disk cap of hidden", UNKNOWN);
}
