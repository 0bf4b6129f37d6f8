//! Connections that listeners dropped for another reason than a full queue: what is left of one counter when others
//! are taken off.

use super::paired::Tcp;

/// Readings that must agree.
const READINGS: usize = 3;

/// Such a difference, which only grows.
///
/// The kernel adds each counter up over the processors, one after the other, while they go on counting; so a
/// difference can be a few too high or too low for a moment. A rise is believed only as far as it is still there when
/// read again at once, and the first value, from which all are counted, is the highest of as many readings: what
/// comes and goes is never a rise.
#[derive(Debug, Default)]
pub(super) struct OtherDrops {
    held: Option<u64>,
}

impl OtherDrops {
    /// From counters just read; `again` reads them again.
    pub(super) fn settle(&mut self, now: &Tcp, mut again: impl FnMut() -> Tcp) -> Option<u64> {
        let now = difference(now)?;
        if self.held.is_some_and(|held| now <= held) {
            return self.held;
        }
        let more = (1..READINGS).filter_map(|_| difference(&again()));
        self.held = Some(match self.held {
            None => more.fold(now, u64::max),
            Some(held) => more.fold(now, u64::min).max(held),
        });
        self.held
    }
}

/// `ListenDrops` has each `ListenOverflows` (`tcp_v4_syn_recv_sock`, `tcp_conn_request`) and each `TCPReqQFullDrop`
/// (`tcp_syn_flood_action`) in it. A SYN that is answered with a cookie is not dropped.
fn difference(tcp: &Tcp) -> Option<u64> {
    let rest = tcp.listen_drops?.saturating_sub(tcp.listen_overflows?);
    Some(rest.saturating_sub(tcp.syn_queue_drops.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(drops: u64, overflows: u64, queue: u64) -> Tcp {
        Tcp {
            listen_drops: Some(drops),
            listen_overflows: Some(overflows),
            syn_queue_drops: Some(queue),
            ..Tcp::default()
        }
    }

    #[test]
    fn what_other_counters_have_already_is_taken_off() {
        assert_eq!(difference(&tcp(10, 4, 3)), Some(3));
        assert_eq!(difference(&tcp(3, 4, 0)), Some(0));
        assert_eq!(difference(&Tcp { syn_queue_drops: None, ..tcp(10, 4, 0) }), Some(6));
        assert_eq!(difference(&Tcp { listen_overflows: None, ..tcp(10, 4, 0) }), None);
    }

    #[test]
    fn a_flicker_is_no_rise_and_a_rise_is_one() {
        let mut drops = OtherDrops::default();
        let mut settle = |readings: &[Tcp]| {
            let mut later = readings.iter().skip(1);
            drops.settle(&readings[0], || later.next().unwrap().clone())
        };
        // The first is read while something is counted.
        assert_eq!(settle(&[tcp(9, 4, 0), tcp(10, 4, 0), tcp(10, 5, 0)]), Some(6));
        assert_eq!(settle(&[tcp(20, 15, 0)]), Some(6), "too low");
        assert_eq!(
            settle(&[tcp(30, 23, 0), tcp(32, 26, 0), tcp(34, 28, 0)]),
            Some(6),
            "too high for a moment"
        );
        assert_eq!(
            settle(&[tcp(40, 33, 0), tcp(41, 34, 0), tcp(42, 34, 1)]),
            Some(7),
            "one more, and it stays"
        );
        assert_eq!(drops.settle(&Tcp::default(), Tcp::default), None);
    }
}
