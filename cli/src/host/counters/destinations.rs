//! Local ports that connections take, by where they go.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::row::Row;

/// Destinations counted, and of those the ones kept, the most used first.
const MAX_DESTINATIONS: usize = 65_536;
const KEPT_DESTINATIONS: usize = 16;
/// `TCP_TIME_WAIT`. A FIN_WAIT2 that is kept in the same way is told as such, and is never taken over.
const TIME_WAIT: u8 = 6;
/// `TCP_TIMEWAIT_LEN`.
const TIME_WAIT_MS: u32 = 60_000;
/// What `net.ipv4.tcp_tw_reuse_delay` was before it was a setting (kernel 6.14), rounded up: the kernel then compared
/// seconds.
const DELAY_MS: u32 = 1000;

/// Local ports that connections to one place take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Destination {
    pub(crate) source: IpAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) time_wait: u32,
    /// Of these, those whose port the next connection may take over, so that it counts as free.
    pub(crate) reusable: u32,
    /// In any other state.
    pub(crate) connected: u32,
}

impl Destination {
    /// Ports that no new connection to the destination can have.
    pub(crate) fn used(&self) -> u32 {
        self.time_wait.saturating_sub(self.reusable).saturating_add(self.connected)
    }
}

/// Which TIME_WAITs a new connection to the same place may take over, as `tcp_twsk_unique` decides
/// (`net/ipv4/tcp_ipv4.c`): by `net.ipv4.tcp_tw_reuse`, only with timestamps, and only when older than a delay.
///
/// Whether the peer uses timestamps is not told of a TIME_WAIT, nor whether the socket was bound to the loopback
/// device: the first is taken for granted, the second for not so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reuse {
    scope: Scope,
    delay_ms: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    None,
    Loopback,
    All,
}

impl Reuse {
    /// From the texts of `tcp_tw_reuse`, `tcp_timestamps` and `tcp_tw_reuse_delay`. What is not known is not reused.
    pub(super) fn parse(reuse: Option<&str>, timestamps: Option<&str>, delay_ms: Option<&str>) -> Self {
        let word = |text: Option<&str>| text.and_then(super::text::number::<u32>);
        let scope = match (word(reuse), word(timestamps)) {
            (_, None | Some(0)) => Scope::None,
            (Some(1), _) => Scope::All,
            (Some(2), _) => Scope::Loopback,
            _ => Scope::None,
        };
        Self { scope, delay_ms: word(delay_ms).unwrap_or(DELAY_MS) }
    }

    fn allows(self, row: &Row) -> bool {
        let in_scope = match self.scope {
            Scope::None => false,
            Scope::Loopback => row.source.ip().is_loopback() || row.destination.ip().is_loopback(),
            Scope::All => true,
        };
        in_scope && TIME_WAIT_MS.saturating_sub(row.expires_ms) > self.delay_ms
    }
}

/// Adds up the ports of the range that connections take. Those of a listener's port were accepted, and take none.
#[derive(Debug)]
pub(super) struct Destinations<'a> {
    range: (u16, u16),
    listening: &'a HashSet<u16>,
    reuse: Reuse,
    counted: HashMap<(IpAddr, SocketAddr), Destination>,
}

impl<'a> Destinations<'a> {
    pub(super) fn new(range: (u16, u16), listening: &'a HashSet<u16>, reuse: Reuse) -> Self {
        Self { range, listening, reuse, counted: HashMap::new() }
    }

    pub(super) fn add(&mut self, row: &Row) {
        let port = row.source.port();
        if !(self.range.0..=self.range.1).contains(&port) || self.listening.contains(&port) {
            return;
        }
        let (source, destination) = (row.source.ip(), row.destination);
        let key = (source, destination);
        if self.counted.len() >= MAX_DESTINATIONS && !self.counted.contains_key(&key) {
            return;
        }
        let none = Destination { source, destination, time_wait: 0, reusable: 0, connected: 0 };
        let found = self.counted.entry(key).or_insert(none);
        if row.state == TIME_WAIT {
            found.time_wait = found.time_wait.saturating_add(1);
            found.reusable = found.reusable.saturating_add(u32::from(self.reuse.allows(row)));
        } else {
            found.connected = found.connected.saturating_add(1);
        }
    }

    /// Those that use most ports, first.
    pub(super) fn most_used(self) -> Vec<Destination> {
        let mut found: Vec<Destination> = self.counted.into_values().collect();
        found.sort_by_key(|found| (Reverse(found.used()), found.source, found.destination));
        found.truncate(KEPT_DESTINATIONS);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(source: &str, destination: &str, state: u8, expires_ms: u32) -> Row {
        Row {
            state,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            expires_ms,
            receive_queue: 0,
            send_queue: 0,
            inode: 0,
            drops: None,
        }
    }

    #[test]
    fn a_time_wait_is_free_when_the_kernel_would_take_it_over() {
        let old = 58_000;
        for (reuse, timestamps, delay, rows, free) in [
            (Some("1"), Some("1"), None, row("10.0.0.1:40000", "10.0.0.2:80", 6, old), 1),
            (Some("1"), Some("1"), None, row("10.0.0.1:40000", "10.0.0.2:80", 6, 59_500), 0),
            (Some("1"), Some("1"), Some("400"), row("10.0.0.1:40000", "10.0.0.2:80", 6, 59_500), 1),
            (Some("1"), Some("1"), Some("60000"), row("10.0.0.1:40000", "10.0.0.2:80", 6, 0), 0),
            (Some("2"), Some("1"), None, row("10.0.0.1:40000", "10.0.0.2:80", 6, old), 0),
            (Some("2\n"), Some("1\n"), None, row("10.0.0.1:40000", "127.0.0.2:80", 6, old), 1),
            (Some("2"), Some("1"), None, row("[::1]:40000", "[::1]:80", 6, old), 1),
            (Some("2"), Some("0"), None, row("127.0.0.1:40000", "127.0.0.1:80", 6, old), 0),
            (Some("0"), Some("1"), None, row("127.0.0.1:40000", "127.0.0.1:80", 6, old), 0),
            (None, Some("1"), None, row("127.0.0.1:40000", "127.0.0.1:80", 6, old), 0),
            (Some("2"), None, None, row("127.0.0.1:40000", "127.0.0.1:80", 6, old), 0),
        ] {
            let listening = HashSet::new();
            let reuse = Reuse::parse(reuse, timestamps, delay);
            let mut counted = Destinations::new((32_768, 60_999), &listening, reuse);
            counted.add(&rows);
            let found = counted.most_used();
            assert_eq!((found[0].time_wait, found[0].reusable), (1, free), "{reuse:?} {rows:?}");
            assert_eq!(found[0].used(), 1 - free);
        }
    }

    #[test]
    fn ports_are_counted_by_where_they_go() {
        let listening = HashSet::from([40_080]);
        let reuse = Reuse::parse(Some("0"), Some("1"), None);
        let mut counted = Destinations::new((40_000, 41_000), &listening, reuse);
        for (source, destination, state) in [
            ("10.0.0.1:40001", "10.0.0.2:80", 1),
            ("10.0.0.1:40002", "10.0.0.2:80", 6),
            // A FIN_WAIT2.
            ("10.0.0.1:40003", "10.0.0.2:80", 5),
            ("10.0.0.1:40004", "10.0.0.2:81", 1),
            // Accepted, and out of the range.
            ("10.0.0.1:40080", "10.0.0.2:50000", 1),
            ("10.0.0.1:39999", "10.0.0.2:80", 1),
        ] {
            counted.add(&row(source, destination, state, 1000));
        }
        let found = counted.most_used();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].destination, found[0].connected), ("10.0.0.2:80".parse().unwrap(), 2));
        assert_eq!((found[0].time_wait, found[0].used(), found[1].used()), (1, 3, 1));
    }
}
