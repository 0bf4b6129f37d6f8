//! Counters of the host and of one process on it: read at one moment ([`Snapshot`]) or once a second ([`Sampler`]).
//!
//! Each file reads one kind of text and is pure on it; only [`Reader`] touches the host. What is missing is `None`:
//! unknown, never zero. TCP's counters belong to a network namespace, so that they are read below `/proc/PID/net`,
//! and what has no such file (sock_diag, `/proc/sys/net`) by a thread that entered the process's namespace.

mod cgroup;
mod conntrack;
mod disks;
mod figures;
mod memory;
mod merge;
mod namespace;
mod paired;
mod ports;
mod pressure;
mod process;
mod processors;
mod reader;
mod sampler;
mod series;
mod snapshot;
mod sockets;
mod sockstat;
mod softnet;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use self::reader::snapshot;
pub(crate) use self::sampler::Sampler;
pub(crate) use self::series::{Column, Deltas, Kind, Series};
pub(crate) use self::snapshot::Snapshot;
pub(crate) use self::sockets::listening_inodes;
