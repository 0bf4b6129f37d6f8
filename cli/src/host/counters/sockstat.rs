//! `net/sockstat` and `net/sockstat6`: sockets and their memory.

use serde::Serialize;

use super::text::after;

/// Sockets of one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sockets {
    pub(crate) used: Option<u64>,
    pub(crate) tcp_in_use: Option<u64>,
    pub(crate) tcp6_in_use: Option<u64>,
    pub(crate) orphans: Option<u64>,
    pub(crate) time_wait: Option<u64>,
    /// Memory of all TCP sockets of the machine, whatever their namespace, in pages.
    pub(crate) tcp_memory_pages: Option<u64>,
}

impl Sockets {
    pub(super) fn parse(v4: Option<&str>, v6: Option<&str>) -> Self {
        let column = |text: Option<&str>, line: &str, word: &str| {
            let found = text?.lines().find(|found| found.split(':').next() == Some(line))?;
            after(found, word)
        };
        Self {
            used: column(v4, "sockets", "used"),
            tcp_in_use: column(v4, "TCP", "inuse"),
            tcp6_in_use: column(v6, "TCP6", "inuse"),
            orphans: column(v4, "TCP", "orphan"),
            time_wait: column(v4, "TCP", "tw"),
            tcp_memory_pages: column(v4, "TCP", "mem"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_read() {
        let v4 = "sockets: used 14\nTCP: inuse 1 orphan 2 tw 300 alloc 4 mem 5\nUDP: inuse 0 mem 0\nRAW: inuse 0\n";
        let v6 = "TCP6: inuse 6\nUDP6: inuse 0\nUDPLITE6: inuse 0\nFRAG6: inuse 0 memory 0\n";
        let expected = Sockets {
            used: Some(14),
            tcp_in_use: Some(1),
            tcp6_in_use: Some(6),
            orphans: Some(2),
            time_wait: Some(300),
            tcp_memory_pages: Some(5),
        };
        assert_eq!(Sockets::parse(Some(v4), Some(v6)), expected);
        assert_eq!(Sockets::parse(None, None), Sockets::default());
        let cut = Sockets::parse(Some("sockets: used\nTCP: inuse x"), Some("TCP6:"));
        assert_eq!(cut, Sockets::default(), "without IPv6 or cut off");
    }
}
