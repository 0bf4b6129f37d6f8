//! Reads the host: with what it calls, the one place of the counters that touches it.

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cgroup::{Cgroups, Places};
use super::conntrack::{Conntrack, Outer};
use super::destinations::{Destinations, Reuse};
use super::disks;
use super::listeners::{Listener, MAX_LISTENERS, listeners};
use super::memory::Memory;
use super::namespace;
use super::other_drops::OtherDrops;
use super::owned::Owned;
use super::pace::Pace;
use super::paired::Tcp;
use super::ports::Ports;
use super::pressure::Pressures;
use super::process::{Files, Process, open_files};
use super::processors::{Busiest, Processors};
use super::queues::QueueLimits;
use super::row::Row;
use super::snapshot::Snapshot;
use super::sockets::SockDiag;
use super::sockstat::Sockets;
use super::softnet::Softnet;
use super::watched::{Life, Watched};
use crate::root::Root;

/// Reads one process's counters, from a thread that is in its network namespace.
pub(super) struct Reader {
    root: Root,
    watched: Watched,
    /// The load generator's process, where there is one; if it is the watched one, no service's process is known.
    generator: Option<u32>,
    /// Why the thread is not in the process's network namespace.
    outside: Option<String>,
    /// The connection tracking of the namespace that the thread left.
    outer: Option<Outer>,
    diag: Option<SockDiag>,
    /// `net.ipv4.tcp_mem`.
    tcp_memory: Option<String>,
    places: Places,
    owned: Owned,
    drops: OtherDrops,
    busiest: Busiest,
    /// Tens of thousands of sockets, or of descriptors before kernel 6.2, take tens of milliseconds to list.
    ports_pace: Pace,
    files_pace: Pace,
    /// Processor time that what has a pace of its own took in the last reading.
    pub(super) paced_cost: Duration,
}

/// The counters at this moment; `pid` is the process whose namespace, groups and files are meant.
pub(crate) fn snapshot(root: &Root, pid: u32) -> Snapshot {
    thread::scope(|scope| scope.spawn(|| Reader::enter(root.clone(), pid, None).read()).join())
        .unwrap_or_else(|_| Snapshot {
            pid,
            problems: vec!["the thread that reads the counters ended early".to_owned()],
            ..Snapshot::default()
        })
}

impl Reader {
    /// Moves the calling thread into the process's network namespace, so it must be a thread for this alone.
    pub(super) fn enter(root: Root, pid: u32, generator: Option<u32>) -> Self {
        let watched = Watched::new(&root, pid);
        // One for the whole machine, and shown in the first network namespace only.
        let tcp_mem = || root.known("/proc/sys/net/ipv4/tcp_mem");
        let (before, outer) = (tcp_mem(), Outer::open(&root));
        let (outside, is_elsewhere) = match namespace::enter(&root, pid) {
            Ok(moved) => (None, moved),
            Err(problem) => (Some(problem), true),
        };
        let tcp_memory = before.or_else(tcp_mem);
        Self {
            root,
            watched,
            generator,
            outside,
            outer: outer.filter(|_| is_elsewhere),
            diag: None,
            tcp_memory,
            places: Places::default(),
            owned: Owned::default(),
            drops: OtherDrops::default(),
            busiest: Busiest::default(),
            ports_pace: Pace::default(),
            files_pace: Pace::default(),
            paced_cost: Duration::ZERO,
        }
    }

    /// What may take long comes last, so that all else is of the time at which the reading began.
    pub(super) fn read(&mut self) -> Snapshot {
        self.paced_cost = Duration::ZERO;
        let now = SystemTime::now();
        let mut problems: Vec<String> = self.outside.iter().cloned().collect();
        let pid = self.watched.pid;
        // It holds only if the process is still alive after it was read.
        let moved = self.places.moved(&self.root, pid);
        let life = self.watched.look(&self.root, now);
        problems.extend(self.watched.problem());
        let is_gone = life.is_alive == Some(false);
        if let Some(text) = moved.filter(|_| !is_gone) {
            self.places = Places::find(&self.root, text);
        }
        let mut snapshot = self.base(now, life);
        snapshot.problems = problems;
        if self.files_pace.is_due() {
            let service = (!is_gone && !self.is_generator()).then_some(pid);
            let count = |pid: Option<u32>| open_files(&self.root, pid?);
            let ((files, generators), cost) = self.files_pace.run(|| (count(service), count(self.generator)));
            snapshot.process.open_files = files;
            if let Some(generator) = &mut snapshot.generator {
                generator.open_files = generators;
            }
            self.paced_cost += cost;
        }
        if self.outside.is_none() {
            self.sockets(&mut snapshot);
        }
        snapshot
    }

    /// Whether nothing is known of a service but where the load on it is made.
    fn is_generator(&self) -> bool {
        self.generator == Some(self.watched.pid)
    }

    /// What is read each time.
    fn base(&mut self, now: SystemTime, life: Life) -> Snapshot {
        let root = &self.root;
        let net_root = self.net(life.is_alive == Some(false));
        let net = |name: &str| root.known(format!("{}/{name}", net_root.as_deref()?));
        let parsed = |path: &str| root.known(path).unwrap_or_default();
        let tcp = || Tcp::parse(net("netstat").as_deref(), net("snmp").as_deref());
        let now_tcp = tcp();
        let mut processors = Processors::parse(&parsed("/proc/stat"));
        processors.busiest = self.busiest.since(&processors);
        let tracked = net("stat/nf_conntrack");
        let conntrack = match self.outside {
            None => Conntrack::read(root, tracked.as_deref()),
            Some(_) => Conntrack::of_stat(tracked.as_deref()),
        };
        let tcp_memory = |place| self.tcp_memory.as_deref()?.split_whitespace().nth(place)?.parse().ok();
        let queues = self.outside.is_none().then(|| QueueLimits::read(root));
        // The main thread stays where the program was started.
        let host_stat = root.known("/proc/self/net/stat/nf_conntrack");
        Snapshot {
            pid: self.watched.pid,
            at_unix_ms: milliseconds(now),
            processors,
            pressure: Pressures::read(root),
            memory: Memory::parse(&parsed("/proc/meminfo")),
            disks: root.known("/proc/diskstats").as_deref().map(disks::parse),
            files: Files::parse(&parsed("/proc/sys/fs/file-nr")),
            process: if self.is_generator() {
                Process::default()
            } else {
                Process::read(root, self.watched.pid, life)
            },
            generator: self.generator.map(|pid| Process::read(root, pid, Life::default())),
            cgroups: Cgroups::read(root, &self.places),
            listen_drops_other: self.drops.settle(&now_tcp, tcp),
            tcp: now_tcp,
            sockets: Sockets::parse(net("sockstat").as_deref(), net("sockstat6").as_deref()),
            tcp_memory_pressure_pages: tcp_memory(1),
            tcp_memory_max_pages: tcp_memory(2),
            softnet: Softnet::parse(&net("softnet_stat").unwrap_or_default()),
            conntrack,
            host_conntrack: self.outer.as_ref().map(|outer| outer.read(host_stat.as_deref())),
            queues: queues.unwrap_or_default(),
            ..Snapshot::default()
        }
    }

    /// Where the files of the process's network namespace are. When the process is gone, this thread still is there.
    fn net(&self, is_gone: bool) -> Option<String> {
        match (is_gone, &self.outside) {
            (false, _) => Some(format!("/proc/{}/net", self.watched.pid)),
            (true, None) => Some("/proc/thread-self/net".to_owned()),
            (true, Some(_)) => None,
        }
    }

    /// What sock_diag tells, by a netlink socket that is kept; after an error a new one is opened next time, since
    /// the rest of an answer may still lie in the old one.
    fn sockets(&mut self, snapshot: &mut Snapshot) {
        let root = self.root.clone();
        let sysctl = |name: &str| root.known(format!("/proc/sys/net/ipv4/{name}"));
        let reserved = sysctl("ip_local_reserved_ports").unwrap_or_default();
        snapshot.ports = sysctl("ip_local_port_range").and_then(|range| Ports::parse(&range, &reserved));
        let unknown = |error: std::io::Error, what: &str| format!("sock_diag: {error}: {what} are unknown");
        let (diag, rows) = match self.diag.take().map_or_else(SockDiag::open, Ok).and_then(|diag| {
            let rows = diag.listeners()?;
            Ok((diag, rows))
        }) {
            Ok(found) => found,
            Err(error) => {
                return snapshot.problems.push(unknown(error, "accept queues and ports in use"));
            }
        };
        snapshot.listeners = match snapshot.process.is_alive {
            _ if self.is_generator() => None,
            // Its number may be another's by now.
            Some(false) => Some(listeners(&rows, Some(self.owned.last()), MAX_LISTENERS)),
            _ => Some(self.own_listeners(&rows, &mut snapshot.problems)),
        };
        if let Some(ports) = snapshot.ports.as_mut().filter(|_| self.ports_pace.is_due()) {
            let reuse = Reuse::parse(
                sysctl("tcp_tw_reuse").as_deref(),
                sysctl("tcp_timestamps").as_deref(),
                sysctl("tcp_tw_reuse_delay").as_deref(),
            );
            let listening: HashSet<u16> = rows.iter().map(|row| row.source.port()).collect();
            let mut counted = Destinations::new(ports.range, &listening, reuse);
            let (done, cost) = self.ports_pace.run(|| diag.connections(|row| counted.add(&row)));
            self.paced_cost += cost;
            match done {
                Ok(()) => ports.destinations = Some(counted.most_used()),
                Err(error) => return snapshot.problems.push(unknown(error, "ports in use")),
            }
        }
        self.diag = Some(diag);
    }

    fn own_listeners(&mut self, rows: &[Row], problems: &mut Vec<String>) -> Vec<Listener> {
        let all: HashSet<u32> = rows.iter().map(|row| row.inode).collect();
        let (own, cost) = self.owned.among(all, &self.root, self.watched.pid);
        self.paced_cost += cost;
        match own {
            Ok(own) => listeners(rows, Some(own), MAX_LISTENERS),
            Err(error) => {
                problems.push(format!(
                    "the descriptors of process {} cannot be read ({error}): its listeners are not told from those \
                     of other processes in its network namespace; run as root, or as the process's user",
                    self.watched.pid
                ));
                listeners(rows, None, MAX_LISTENERS)
            }
        }
    }
}

/// Since 1970.
fn milliseconds(moment: SystemTime) -> u64 {
    let since_epoch = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
