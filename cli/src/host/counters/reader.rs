//! Reads the host: the one place of the counters that touches it.

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use super::cgroup::Cgroups;
use super::conntrack::Conntrack;
use super::disks;
use super::memory::Memory;
use super::namespace;
use super::paired::Tcp;
use super::ports::Ports;
use super::pressure::Pressures;
use super::process::{Files, Process};
use super::processors::Processors;
use super::snapshot::Snapshot;
use super::sockets::{Listener, SockDiag};
use super::sockstat::Sockets;
use super::softnet::Softnet;
use crate::root::Root;

/// Tens of thousands of sockets take tens of milliseconds to list; after a list comes a pause of so many times its
/// duration, which keeps lists below half a percent of a processor.
const PAUSE_AFTER_PORTS: u32 = 200;

/// Reads one process's counters, from a thread that is in its network namespace.
pub(super) struct Reader {
    root: Root,
    pid: u32,
    /// The load generator's process, where there is one; if it is `pid`, there is no other to look at.
    generator: Option<u32>,
    /// Why the thread is not in the process's network namespace.
    outside: Option<String>,
    diag: Option<SockDiag>,
    tcp_memory_pressure_pages: Option<u64>,
    next_ports: Instant,
    /// Processor time that listing the ports took in the last reading; its pause is its own.
    pub(super) ports_cost: Duration,
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
        // One for the whole machine, and shown in the first network namespace only.
        let tcp_mem = || root.known("/proc/sys/net/ipv4/tcp_mem");
        let before = tcp_mem();
        let outside = namespace::enter(&root, pid).err();
        let pages = before.or_else(tcp_mem).and_then(|text| text.split_whitespace().nth(1)?.parse().ok());
        Self {
            root,
            pid,
            generator,
            outside,
            diag: None,
            tcp_memory_pressure_pages: pages,
            next_ports: Instant::now(),
            ports_cost: Duration::ZERO,
        }
    }

    pub(super) fn read(&mut self) -> Snapshot {
        self.ports_cost = Duration::ZERO;
        let mut problems: Vec<String> = self.outside.iter().cloned().collect();
        let (listeners, ports) = match self.outside {
            None => self.sockets(&mut problems),
            Some(_) => (None, None),
        };
        let text = |path: &str| self.root.known(path);
        let net = |name: &str| self.root.known(format!("/proc/{}/net/{name}", self.pid));
        let parsed = |path: &str| text(path).unwrap_or_default();
        let mut conntrack = Conntrack::read(&self.root, net("stat/nf_conntrack").as_deref());
        if self.outside.is_some() {
            // Those of the reader's own namespace.
            (conntrack.entries, conntrack.max) = (None, None);
        }
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Snapshot {
            pid: self.pid,
            at_unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            processors: Processors::parse(&parsed("/proc/stat")),
            pressure: Pressures::read(&self.root),
            memory: Memory::parse(&parsed("/proc/meminfo")),
            disks: text("/proc/diskstats").as_deref().map(disks::parse),
            files: Files::parse(&parsed("/proc/sys/fs/file-nr")),
            process: match self.generator {
                Some(generator) if generator == self.pid => Process::default(),
                _ => Process::read(&self.root, self.pid),
            },
            generator: self.generator.map(|pid| Process::read(&self.root, pid)),
            cgroups: Cgroups::read(&self.root, self.pid),
            tcp: Tcp::parse(net("netstat").as_deref(), net("snmp").as_deref()),
            sockets: Sockets::parse(net("sockstat").as_deref(), net("sockstat6").as_deref()),
            tcp_memory_pressure_pages: self.tcp_memory_pressure_pages,
            softnet: Softnet::parse(&net("softnet_stat").unwrap_or_default()),
            conntrack,
            listeners,
            ports,
            problems,
        }
    }

    /// What sock_diag tells, by a netlink socket that is kept; after an error a new one is opened next time, since
    /// the rest of an answer may still lie in the old one.
    fn sockets(&mut self, problems: &mut Vec<String>) -> (Option<Vec<Listener>>, Option<Ports>) {
        let sysctl = |name: &str| self.root.known(format!("/proc/sys/net/ipv4/{name}"));
        let reserved = sysctl("ip_local_reserved_ports").unwrap_or_default();
        let mut ports = sysctl("ip_local_port_range").and_then(|range| Ports::parse(&range, &reserved));
        let diag = match self.diag.take().map_or_else(SockDiag::open, Ok) {
            Ok(diag) => diag,
            Err(error) => {
                problems.push(format!("sock_diag: {error}: accept queues and ports in use are unknown"));
                return (None, ports);
            }
        };
        let listeners = match diag.listeners() {
            Ok(listeners) => listeners,
            Err(error) => {
                problems.push(format!("sock_diag: {error}: accept queues are unknown"));
                return (None, ports);
            }
        };
        let (started, before) = (Instant::now(), processor_time());
        if let Some(ports) = ports.as_mut().filter(|_| started >= self.next_ports) {
            let listening: HashSet<u16> = listeners.iter().map(|listener| listener.address.port()).collect();
            let destinations = diag.destinations(ports.range, &listening);
            self.ports_cost = processor_time().saturating_sub(before);
            self.next_ports = Instant::now() + started.elapsed() * PAUSE_AFTER_PORTS;
            match destinations {
                Ok(destinations) => ports.destinations = Some(destinations),
                Err(error) => {
                    problems.push(format!("sock_diag: {error}: ports in use are unknown"));
                    return (Some(listeners), Some(ports.clone()));
                }
            }
        }
        self.diag = Some(diag);
        (Some(listeners), ports)
    }
}

/// Of the calling thread.
pub(super) fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
