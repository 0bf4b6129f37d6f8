//! Counters of the host and of one process on it: read at one moment ([`Snapshot`]) or once a second ([`Sampler`]).
//!
//! Each file reads one kind of text and is pure on it; only [`Reader`] touches the host. What is missing is `None`:
//! unknown, never zero. TCP's counters belong to a network namespace, so that they are read below `/proc/PID/net`,
//! and what has no such file (sock_diag, `/proc/sys/net`) by a thread that entered the process's namespace.

mod cgroup;
mod conntrack;
mod destinations;
mod disks;
mod figures;
mod listeners;
mod listening;
#[cfg(test)]
mod live_tests;
mod memory;
mod merge;
mod namespace;
#[cfg(test)]
mod namespace_tests;
mod other_drops;
mod owned;
mod pace;
mod paired;
mod ports;
mod pressure;
mod process;
mod processors;
mod queues;
mod reader;
mod row;
mod sampler;
mod series;
mod snapshot;
mod sockets;
mod sockstat;
mod softnet;
#[cfg(test)]
mod tests;
mod text;
mod watched;

#[cfg(test)]
pub(crate) use self::destinations::Destination;
pub(crate) use self::figures::Figure;
pub(crate) use self::listeners::Listener;
pub(crate) use self::listening::{Holders, holders, listeners, sockets_of, workers};
pub(crate) use self::pace::processor_time;
pub(crate) use self::ports::Ports;
pub(crate) use self::process::Limit;
pub(crate) use self::reader::snapshot;
pub(crate) use self::sampler::Sampler;
pub(crate) use self::series::{Column, Deltas, Kind, Series};
pub(crate) use self::snapshot::Snapshot;
#[cfg(test)]
pub(crate) use self::{
    cgroup::{CgroupCpu, CgroupDevice, CgroupIo, CgroupMemory},
    figures::names,
    pressure::Stall,
};
