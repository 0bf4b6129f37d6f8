//! `net/netstat` and `net/snmp`: a line of names, then one of values, by section. Columns vary by kernel, so that
//! each is found by its name.

use serde::Serialize;

/// What the TCP of one network namespace counted since the namespace was made (`Documentation/networking/snmp_counter`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tcp {
    /// Connections that found the accept queue full.
    pub(crate) listen_overflows: Option<u64>,
    /// Connections dropped by a listener for any reason, overflows among them.
    pub(crate) listen_drops: Option<u64>,
    /// SYNs dropped, the queue of half-open connections being full.
    pub(crate) syn_queue_drops: Option<u64>,
    /// SYNs answered with a cookie, that queue being full.
    pub(crate) syn_queue_cookies: Option<u64>,
    /// TIME_WAITs cut short, there being too many.
    pub(crate) time_wait_overflows: Option<u64>,
    /// Times that TCP came under memory pressure.
    pub(crate) memory_pressures: Option<u64>,
    /// Connections closed for want of memory.
    pub(crate) aborts_on_memory: Option<u64>,
    /// Times that a receive buffer was pruned.
    pub(crate) prunes: Option<u64>,
    /// SYNs sent again by this side's clients.
    pub(crate) syn_retransmits: Option<u64>,
    /// Connections opened by this side.
    pub(crate) active_opens: Option<u64>,
    /// Connections accepted.
    pub(crate) passive_opens: Option<u64>,
    /// Attempts to connect that failed.
    pub(crate) attempt_fails: Option<u64>,
    pub(crate) retransmitted_segments: Option<u64>,
    pub(crate) sent_segments: Option<u64>,
}

impl Tcp {
    /// From the texts of `net/netstat` and `net/snmp`.
    pub(super) fn parse(netstat: Option<&str>, snmp: Option<&str>) -> Self {
        let extended = |name| value(netstat?, "TcpExt", name);
        let basic = |name| value(snmp?, "Tcp", name);
        Self {
            listen_overflows: extended("ListenOverflows"),
            listen_drops: extended("ListenDrops"),
            syn_queue_drops: extended("TCPReqQFullDrop"),
            syn_queue_cookies: extended("TCPReqQFullDoCookies"),
            time_wait_overflows: extended("TCPTimeWaitOverflow"),
            memory_pressures: extended("TCPMemoryPressures"),
            aborts_on_memory: extended("TCPAbortOnMemory"),
            prunes: extended("PruneCalled"),
            syn_retransmits: extended("TCPSynRetrans"),
            active_opens: basic("ActiveOpens"),
            passive_opens: basic("PassiveOpens"),
            attempt_fails: basic("AttemptFails"),
            retransmitted_segments: basic("RetransSegs"),
            sent_segments: basic("OutSegs"),
        }
    }
}

/// The value under a name of a section; `None` if either is missing or it is no counter.
fn value(text: &str, section: &str, name: &str) -> Option<u64> {
    let rows = |line: &'_ str| line.split_once(':').is_some_and(|(found, _)| found == section);
    let mut lines = text.lines().filter(|line| rows(line));
    let (names, values) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|found| found == name)?;
    values.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // No kernel's: one that has fewer columns than today's, in another order.
    const FEWER: &str = "TcpExt: SyncookiesSent EmbryonicRsts PruneCalled TW TWKilled ListenOverflows ListenDrops \
         TCPAbortOnMemory TCPMemoryPressures TCPReqQFullDoCookies TCPReqQFullDrop TCPSynRetrans\n\
         TcpExt: 0 3 4 90 0 11 13 0 1 7 8 21\n\
         IpExt: InNoRoutes InOctets\nIpExt: 0 99\n";
    const V6_18: &str = "TcpExt: SyncookiesSent SyncookiesRecv SyncookiesFailed EmbryonicRsts PruneCalled RcvPruned \
         OfoPruned TW TWRecycled TWKilled PAWSActive BeyondWindow TSEcrRejected PAWSOldAck ListenOverflows ListenDrops \
         TCPTimeWaitOverflow TCPReqQFullDoCookies TCPReqQFullDrop TCPSynRetrans TCPMemoryPressures \
         TCPMemoryPressuresChrono TCPAbortOnMemory TCPAOBad\n\
         TcpExt: 86 575 0 0 21 0 0 1881951 0 0 0 9 9 9 3034 8956 2 5 6 35 1 40 0 0\n\
         IpExt: InNoRoutes ListenDrops\nIpExt: 0 4\nMPTcpExt: MPCapableSYNRX\nMPTcpExt: 0\n";
    const SNMP: &str = "Ip: Forwarding DefaultTTL\nIp: 1 64\n\
         Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs \
         OutSegs RetransSegs InErrs OutRsts InCsumErrors\n\
         Tcp: 1 200 120000 -1 100 90 3 2 8 1000 2000 7 0 1 0\n";

    #[test]
    fn counters_are_found_by_name_wherever_they_are() {
        let old = Tcp::parse(Some(FEWER), Some(SNMP));
        assert_eq!((old.listen_overflows, old.listen_drops), (Some(11), Some(13)));
        assert_eq!((old.syn_queue_cookies, old.syn_queue_drops), (Some(7), Some(8)));
        assert_eq!(old.time_wait_overflows, None, "a kernel without the column");
        assert_eq!((old.active_opens, old.sent_segments), (Some(100), Some(2000)));
        let new = Tcp::parse(Some(V6_18), None);
        assert_eq!((new.listen_overflows, new.listen_drops), (Some(3034), Some(8956)));
        assert_eq!((new.time_wait_overflows, new.memory_pressures), (Some(2), Some(1)));
        assert_eq!((new.syn_retransmits, new.active_opens), (Some(35), None));
    }

    #[test]
    fn what_is_cut_off_or_not_a_counter_is_unknown() {
        for text in [
            "",
            "TcpExt: ListenDrops\n",
            "TcpExt: ListenDrops\nTcpExt:\n",
            "TcpExt: ListenDrops\nTcpExt: -1\n",
        ] {
            assert_eq!(Tcp::parse(Some(text), Some(text)), Tcp::default(), "{text:?}");
        }
        assert_eq!(value(SNMP, "Tcp", "MaxConn"), None, "a negative value is no counter");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let text = format!("TcpExt: ListenDrops\nTcpExt: {}", String::from_utf8_lossy(&bytes));
            let found = Tcp::parse(Some(&text), Some(&text));
            prop_assert_eq!(found.listen_overflows, None);
        }
    }
}
