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
}

impl QueueLimits {
    pub(super) fn read(root: &Root) -> Self {
        let sysctl = |name: &str| number(&root.known(format!("/proc/sys/net/{name}"))?);
        Self {
            somaxconn: sysctl("core/somaxconn"),
            syncookies: sysctl("ipv4/tcp_syncookies"),
            max_syn_backlog: sysctl("ipv4/tcp_max_syn_backlog"),
            netdev_max_backlog: sysctl("core/netdev_max_backlog"),
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
        ]);
        let expected = QueueLimits { somaxconn: Some(4096), syncookies: Some(1), ..QueueLimits::default() };
        assert_eq!(QueueLimits::read(&root), expected);
        let (_dir, root) = Root::of(&[]);
        assert_eq!(QueueLimits::read(&root), QueueLimits::default());
    }
}
