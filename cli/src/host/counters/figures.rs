//! A snapshot as named numbers: what a series keeps, and what the rules of the findings name.
//!
//! Names are `GROUP.COUNTER`, with the object in brackets where there are several: `listener.waiting[0.0.0.0:8080]`.

use std::fmt::Display;

use super::cgroup::Cgroups;
use super::destinations::Destination;
use super::listeners::Listener;
use super::pressure::Stall;
use super::process::{Limit, Process};
use super::series::Kind;
use super::snapshot::Snapshot;
use crate::cgroup_path::{Group, Version};

/// One number of a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) value: Option<f64>,
}

impl Figure {
    /// A count, which may be unknown.
    pub(crate) fn count(name: String, kind: Kind, value: Option<u64>) -> Self {
        Self { name, kind, value: value.map(number) }
    }
}

/// Destinations that take less than this share of the ports are of no interest.
const MIN_PORT_SHARE: f64 = 0.05;

struct Figures(Vec<Figure>);

impl Figures {
    fn add(&mut self, kind: Kind, name: impl Into<String>, value: Option<f64>) {
        self.0.push(Figure { name: name.into(), kind, value });
    }

    fn counts(&mut self, name: impl Into<String>, value: Option<u64>) {
        self.add(Kind::Counter, name, value.map(number));
    }

    fn gauge(&mut self, name: impl Into<String>, value: Option<u64>) {
        self.add(Kind::Gauge, name, value.map(number));
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}

fn of(name: &str, object: impl Display) -> String {
    format!("{name}[{object}]")
}

/// All numbers, the unknown ones too.
pub(super) fn figures(snapshot: &Snapshot) -> Vec<Figure> {
    let mut all = Figures(Vec::with_capacity(128));
    machine(&mut all, snapshot);
    network(&mut all, snapshot);
    queues(&mut all, snapshot);
    groups(&mut all, &snapshot.cgroups);
    all.0
}

fn machine(all: &mut Figures, snapshot: &Snapshot) {
    let Snapshot { processors, pressure, memory, files, process, generator, .. } = snapshot;
    all.counts("cpu.total", processors.total);
    all.counts("cpu.busy", processors.busy);
    all.counts("cpu.stolen", processors.stolen);
    all.counts("cpu.soft_interrupts", processors.soft_interrupts);
    all.add(Kind::Gauge, "cpu.busiest", processors.busiest);
    let stalls: [(&str, &Stall); 5] = [
        ("pressure.cpu_some", &pressure.cpu.some),
        ("pressure.memory_some", &pressure.memory.some),
        ("pressure.memory_full", &pressure.memory.full),
        ("pressure.io_some", &pressure.io.some),
        ("pressure.io_full", &pressure.io.full),
    ];
    for (name, stall) in stalls {
        all.counts(format!("{name}_us"), stall.total_us);
        all.add(Kind::Gauge, format!("{name}_avg10"), stall.avg10_percent);
    }
    all.gauge("memory.total", memory.total);
    all.gauge("memory.available", memory.available);
    all.gauge("files.open", files.open);
    all.gauge("files.max", files.max);
    all.gauge("process.alive", process.is_alive.map(u64::from));
    all.counts("process.cpu_us", process.cpu_us);
    for (name, process) in [("process", Some(process)), ("generator", generator.as_ref())] {
        if let Some(Process { open_files, max_open_files, .. }) = process {
            all.gauge(format!("{name}.open_files"), *open_files);
            all.gauge(format!("{name}.max_open_files"), max_open_files.and_then(Limit::value));
        }
    }
    for disk in snapshot.disks.iter().flatten() {
        all.counts(of("disk.operations", &disk.device), disk.reads.checked_add(disk.writes));
        all.counts(of("disk.busy_ms", &disk.device), Some(disk.busy_ms));
    }
}

fn network(all: &mut Figures, snapshot: &Snapshot) {
    let Snapshot { tcp, sockets, softnet, conntrack, .. } = snapshot;
    for (name, value) in [
        ("tcp.listen_overflows", tcp.listen_overflows),
        ("tcp.listen_drops", tcp.listen_drops),
        ("tcp.listen_drops_other", snapshot.listen_drops_other),
        ("tcp.syn_queue_drops", tcp.syn_queue_drops),
        ("tcp.syn_queue_cookies", tcp.syn_queue_cookies),
        ("tcp.time_wait_overflows", tcp.time_wait_overflows),
        ("tcp.memory_pressures", tcp.memory_pressures),
        ("tcp.aborts_on_memory", tcp.aborts_on_memory),
        ("tcp.prunes", tcp.prunes),
        ("tcp.syn_retransmits", tcp.syn_retransmits),
        ("tcp.active_opens", tcp.active_opens),
        ("tcp.passive_opens", tcp.passive_opens),
        ("tcp.attempt_fails", tcp.attempt_fails),
        ("tcp.retransmitted_segments", tcp.retransmitted_segments),
        ("tcp.sent_segments", tcp.sent_segments),
        ("softnet.processed", softnet.processed),
        ("softnet.dropped", softnet.dropped),
        ("softnet.squeezed", softnet.squeezed),
        ("conntrack.dropped", conntrack.dropped),
        ("conntrack.early_dropped", conntrack.early_dropped),
        ("conntrack.insert_failed", conntrack.insert_failed),
    ] {
        all.counts(name, value);
    }
    for (name, value) in [
        ("tcp.memory_pages", sockets.tcp_memory_pages),
        ("tcp.memory_pressure_pages", snapshot.tcp_memory_pressure_pages),
        ("sockets.tcp", sockets.tcp_in_use),
        ("sockets.tcp6", sockets.tcp6_in_use),
        ("sockets.orphans", sockets.orphans),
        ("sockets.time_wait", sockets.time_wait),
        ("conntrack.tracked", conntrack.is_tracked.map(u64::from)),
        ("conntrack.entries", conntrack.entries),
        ("conntrack.max", conntrack.max),
    ] {
        all.gauge(name, value);
    }
    if let Some(host) = &snapshot.host_conntrack {
        all.gauge("conntrack.entries[host]", host.entries);
        all.gauge("conntrack.max[host]", host.max);
        all.counts("conntrack.dropped[host]", host.dropped);
        all.counts("conntrack.early_dropped[host]", host.early_dropped);
        all.counts("conntrack.insert_failed[host]", host.insert_failed);
    }
}

fn queues(all: &mut Figures, snapshot: &Snapshot) {
    // The most is told whatever there is, so that "none is full" and "not known" differ.
    let most =
        |listeners: &Vec<Listener>| listeners.iter().map(|listener| listener.waiting).max().unwrap_or(0);
    all.gauge("listener.most_waiting", snapshot.listeners.as_ref().map(most).map(u64::from));
    all.gauge("listener.somaxconn", snapshot.queues.somaxconn);
    all.gauge("tcp.syncookies", snapshot.queues.syncookies);
    for listener in snapshot.listeners.iter().flatten() {
        all.gauge(of("listener.waiting", listener.address), Some(listener.waiting.into()));
        all.gauge(of("listener.backlog", listener.address), Some(listener.backlog.into()));
        all.counts(of("listener.drops", listener.address), listener.drops);
    }
    let ports = snapshot.ports.as_ref();
    let available = ports.map(|ports| ports.available);
    let destinations = ports.and_then(|ports| ports.destinations.as_ref());
    let most_used = destinations.map(|all| all.first().map_or(0, Destination::used));
    all.gauge("ports.available", available.map(u64::from));
    all.gauge("ports.most_used", most_used.map(u64::from));
    for destination in destinations.into_iter().flatten() {
        if f64::from(destination.used()) >= MIN_PORT_SHARE * f64::from(available.unwrap_or(0)) {
            let path = format!("{} > {}", destination.source, destination.destination);
            all.gauge(of("ports.used", &path), Some(destination.used().into()));
        }
    }
}

fn groups(all: &mut Figures, cgroups: &Cgroups) {
    all.gauge("cgroup.cpu_limited", cgroups.is_cpu_limited.map(u64::from));
    let cpu = cgroups.cpu.iter().map(|cpu| &cpu.group);
    let memory = cgroups.memory.iter().map(|memory| &memory.group);
    let mut found: Vec<&Group> = cpu.chain(memory).chain(cgroups.io.iter().map(|io| &io.group)).collect();
    // In version 2 one directory has all controllers.
    found.sort_by_key(|group| &group.directory);
    found.dedup();
    for group in found {
        let version = if group.version == Version::V1 { 1 } else { 2 };
        all.gauge(of("cgroup.version", group.directory.display()), Some(version));
    }
    for cpu in &cgroups.cpu {
        let group = cpu.group.directory.display();
        all.counts(of("cgroup.cpu_periods", &group), cpu.periods);
        all.counts(of("cgroup.cpu_throttled", &group), cpu.throttled);
        all.counts(of("cgroup.cpu_throttled_us", &group), cpu.throttled_us);
        all.add(Kind::Gauge, of("cgroup.cpu_quota_cores", &group), cpu.quota_cores);
    }
    for memory in &cgroups.memory {
        let group = memory.group.directory.display();
        all.gauge(of("cgroup.memory", &group), memory.current);
        all.gauge(of("cgroup.memory_max", &group), memory.max);
        all.counts(of("cgroup.memory_high_events", &group), memory.high_events);
        all.counts(of("cgroup.memory_max_events", &group), memory.max_events);
        all.counts(of("cgroup.memory_oom_kills", &group), memory.oom_kills);
        all.counts(of("cgroup.memory_stall_us", &group), memory.stall.total_us);
    }
    for io in &cgroups.io {
        let group = io.group.directory.display();
        all.counts(of("cgroup.io_stall_us", &group), io.stall.total_us);
        for device in &io.devices {
            let object = format!("{group} {}", device.device);
            all.counts(of("cgroup.io_reads", &object), device.reads);
            all.counts(of("cgroup.io_writes", &object), device.writes);
            all.gauge(of("cgroup.io_max_reads_per_s", &object), device.max_reads_per_s);
            all.gauge(of("cgroup.io_max_writes_per_s", &object), device.max_writes_per_s);
        }
    }
}

/// The name of every number that there can be, without brackets, for the tests of what reads them.
#[cfg(test)]
pub(crate) fn names() -> std::collections::BTreeSet<String> {
    use super::cgroup::{CgroupCpu, CgroupDevice, CgroupIo, CgroupMemory};

    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let group = Group { version: Version::V2, directory: "/".into() };
    let cpu = CgroupCpu {
        group: group.clone(),
        quota_cores: None,
        is_limited: None,
        periods: None,
        throttled: None,
        throttled_us: None,
    };
    let memory = CgroupMemory {
        group: group.clone(),
        current: None,
        reclaimable: None,
        max: None,
        high_events: None,
        max_events: None,
        oom_kills: None,
        stall: Stall::default(),
    };
    let io = CgroupIo { group, devices: vec![CgroupDevice::default()], stall: Stall::default() };
    let destination =
        Destination { source: address.ip(), destination: address, time_wait: 0, reusable: 0, connected: 1 };
    let snapshot = Snapshot {
        disks: Some(super::disks::parse("8 0 sda 1 0 0 0 2 0 0 0 0 3 0\n")),
        generator: Some(Process::default()),
        cgroups: Cgroups { is_cpu_limited: None, cpu: vec![cpu], memory: vec![memory], io: vec![io] },
        listeners: Some(vec![Listener { address, waiting: 0, backlog: 1, drops: None, inodes: Vec::new() }]),
        ports: Some(super::ports::Ports {
            range: (1, 1),
            available: 1,
            destinations: Some(vec![destination]),
        }),
        ..Snapshot::default()
    };
    let name = |figure: Figure| figure.name.split('[').next().map(str::to_owned);
    figures(&snapshot).into_iter().filter_map(name).collect()
}
