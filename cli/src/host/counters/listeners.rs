//! Accept queues: who waits at a listener, and how many may.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

use serde::Serialize;

use super::row::Row;

/// Listeners of a sample, the fullest first.
pub(super) const MAX_LISTENERS: usize = 16;

/// What listens at one address: a socket, or several that share it (`SO_REUSEPORT`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    /// Connections that wait to be accepted; of several sockets, at the fullest.
    pub(crate) waiting: u32,
    /// How many may there: `listen`'s argument as the kernel kept it, cut to `net.core.somaxconn`.
    pub(crate) backlog: u32,
    /// Packets that the sockets dropped since they are there (`sk_drops`); unknown before kernel 4.7. Each connection
    /// that finds the queue full is one, also between two looks at the queue; but so is a stray packet that opens
    /// nothing, such as a late RST.
    pub(crate) drops: Option<u64>,
    /// Of the sockets that share the address, as `/proc/PID/fd` shows them.
    pub(crate) inodes: Vec<u32>,
}

impl Listener {
    /// In thousandths. Exact: 32 bits times 32 bits.
    fn fill(&self) -> u64 {
        u64::from(self.waiting) * 1000 / u64::from(self.backlog.max(1))
    }
}

/// The listeners of a dump, by address, the fullest first, and `max` at most; of these sockets only, if they are given.
///
/// Each socket of an address has a queue of its own, and the kernel gives each connection to one by its hash: it is
/// refused when that one is full, however empty the others are.
pub(super) fn listeners(rows: &[Row], own: Option<&HashSet<u32>>, max: usize) -> Vec<Listener> {
    let mut found: BTreeMap<SocketAddr, Listener> = BTreeMap::new();
    for row in rows.iter().filter(|row| own.is_none_or(|own| own.contains(&row.inode))) {
        let one = Listener {
            address: row.source,
            waiting: row.receive_queue,
            backlog: row.send_queue,
            drops: row.drops.map(u64::from),
            inodes: vec![row.inode],
        };
        match found.get_mut(&row.source) {
            None => drop(found.insert(row.source, one)),
            Some(all) => {
                all.drops = all.drops.zip(one.drops).map(|(some, more)| some.saturating_add(more));
                all.inodes.push(row.inode);
                if one.fill() > all.fill() {
                    (all.waiting, all.backlog) = (one.waiting, one.backlog);
                }
            }
        }
    }
    let mut found: Vec<Listener> = found.into_values().collect();
    found.sort_by_key(|listener| (Reverse(listener.fill()), listener.address));
    found.truncate(max);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(address: &str, inode: u32, waiting: u32, backlog: u32, drops: Option<u32>) -> Row {
        Row {
            state: 10,
            source: address.parse().unwrap(),
            destination: "0.0.0.0:0".parse().unwrap(),
            expires_ms: 0,
            receive_queue: waiting,
            send_queue: backlog,
            inode,
            drops,
        }
    }

    #[test]
    fn sockets_of_one_address_are_one_listener_as_full_as_the_fullest() {
        let rows = [
            row("0.0.0.0:80", 1, 2, 128, Some(1)),
            row("0.0.0.0:80", 2, 7, 8, Some(4)),
            row("0.0.0.0:80", 3, 50, 128, Some(0)),
            row("[::]:80", 4, 0, 0, None),
        ];
        let listener = |address: &str, waiting, backlog, drops, inodes: &[u32]| Listener {
            address: address.parse().unwrap(),
            waiting,
            backlog,
            drops,
            inodes: inodes.to_vec(),
        };
        let all = listener("0.0.0.0:80", 7, 8, Some(5), &[1, 2, 3]);
        let other = listener("[::]:80", 0, 0, None, &[4]);
        assert_eq!(listeners(&rows, None, 9), [all, other.clone()]);
        let own = listener("0.0.0.0:80", 50, 128, Some(1), &[1, 3]);
        assert_eq!(listeners(&rows, Some(&HashSet::from([1, 3, 4])), 9), [own, other]);
        assert_eq!(listeners(&rows, Some(&HashSet::new()), 9), []);
    }

    proptest! {
        #[test]
        fn the_fullest_is_never_left_out(queues in proptest::collection::vec((0_u32..300, 0_u32..300, 0_u16..40), 1..80)) {
            let rows: Vec<Row> = queues
                .iter()
                .map(|(waiting, backlog, port)| row(&format!("0.0.0.0:{port}"), 1, *waiting, *backlog, Some(1)))
                .collect();
            let found = listeners(&rows, None, MAX_LISTENERS);
            prop_assert!(found.len() <= MAX_LISTENERS);
            let fullest = queues.iter().map(|(waiting, backlog, _)| u64::from(*waiting) * 1000 / u64::from((*backlog).max(1)));
            prop_assert_eq!(found[0].fill(), fullest.max().unwrap());
            prop_assert!(found.windows(2).all(|pair| pair[0].address != pair[1].address));
        }
    }
}
