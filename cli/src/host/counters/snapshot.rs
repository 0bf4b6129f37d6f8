//! All counters at one moment.

use serde::Serialize;

use super::cgroup::Cgroups;
use super::conntrack::Conntrack;
use super::disks::Disk;
use super::listeners::Listener;
use super::memory::Memory;
use super::paired::Tcp;
use super::ports::Ports;
use super::pressure::Pressures;
use super::process::{Files, Process};
use super::processors::Processors;
use super::queues::QueueLimits;
use super::sockstat::Sockets;
use super::softnet::Softnet;

/// Of the host, and of one process, its network namespace and its control groups. Each part may be unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Snapshot {
    pub(crate) pid: u32,
    /// Milliseconds since 1970.
    pub(crate) at_unix_ms: u64,
    pub(crate) processors: Processors,
    pub(crate) pressure: Pressures,
    pub(crate) memory: Memory,
    pub(crate) disks: Option<Vec<Disk>>,
    pub(crate) files: Files,
    pub(crate) process: Process,
    /// The load generator, where there is one.
    pub(crate) generator: Option<Process>,
    pub(crate) cgroups: Cgroups,
    pub(crate) tcp: Tcp,
    /// Connections that listeners dropped for another reason than a full queue.
    pub(crate) listen_drops_other: Option<u64>,
    pub(crate) sockets: Sockets,
    /// Pages beyond which TCP is under pressure: the second value of `net.ipv4.tcp_mem`.
    pub(crate) tcp_memory_pressure_pages: Option<u64>,
    /// Pages that TCP never exceeds: the third.
    pub(crate) tcp_memory_max_pages: Option<u64>,
    pub(crate) softnet: Softnet,
    pub(crate) conntrack: Conntrack,
    /// Of the network namespace that the reader came from, if it is another one.
    pub(crate) host_conntrack: Option<Conntrack>,
    pub(crate) queues: QueueLimits,
    /// The process's own, the fullest first. Those of the whole network namespace where the process's descriptors
    /// cannot be read.
    pub(crate) listeners: Option<Vec<Listener>>,
    pub(crate) ports: Option<Ports>,
    /// What could not be read, why, and what to do.
    pub(crate) problems: Vec<String>,
}
