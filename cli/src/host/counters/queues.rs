//! What bounds the queues of connections of a listener: settings of a network namespace.

use serde::Serialize;

use super::text::number;
use crate::root::Root;

/// Read by a thread that is in the namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct QueueLimits {
    /// Cuts the backlog that a listener asks for, when it begins to listen.
    pub(crate) somaxconn: Option<u64>,
    /// 0: none; 1: when the queue of half-open connections is full; 2: always.
    pub(crate) syncookies: Option<u64>,
    /// Bounds half-open connections where there are no cookies.
    pub(crate) max_syn_backlog: Option<u64>,
    pub(crate) netdev_max_backlog: Option<u64>,
    /// Whether connections can be tracked at all; unknown where modules do not show.
    pub(crate) has_conntrack: Option<bool>,
}

impl QueueLimits {
    pub(super) fn read(root: &Root) -> Self {
        let sysctl = |name: &str| number(&root.known(format!("/proc/sys/net/{name}"))?);
        // A module that is built in shows there too, since it has parameters.
        let modules = root.path("/sys/module");
        let shows = std::fs::read_dir(&modules).is_ok_and(|mut entries| entries.next().is_some());
        Self {
            somaxconn: sysctl("core/somaxconn"),
            syncookies: sysctl("ipv4/tcp_syncookies"),
            max_syn_backlog: sysctl("ipv4/tcp_max_syn_backlog"),
            netdev_max_backlog: sysctl("core/netdev_max_backlog"),
            has_conntrack: shows.then(|| modules.join("nf_conntrack").exists()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_what_is_not_there_is_unknown() {
        let (_dir, root) = Root::of(&[
            ("proc/sys/net/core/somaxconn", "4096\n"),
            ("proc/sys/net/ipv4/tcp_syncookies", "1\n"),
            ("sys/module/kernel/x", ""),
        ]);
        let expected = QueueLimits {
            somaxconn: Some(4096),
            syncookies: Some(1),
            has_conntrack: Some(false),
            ..QueueLimits::default()
        };
        assert_eq!(QueueLimits::read(&root), expected);
        let (_dir, root) = Root::of(&[("sys/module/nf_conntrack/parameters/hashsize", "4\n")]);
        assert_eq!(QueueLimits::read(&root).has_conntrack, Some(true));
        let (_dir, root) = Root::of(&[]);
        assert_eq!(QueueLimits::read(&root), QueueLimits::default());
    }
}
