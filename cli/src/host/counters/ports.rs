//! Local ports for outgoing connections: how many there are, and how many each destination takes.

use std::collections::HashSet;

use serde::Serialize;

use super::destinations::Destination;

/// Of one network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Ports {
    /// First and last port of `net.ipv4.ip_local_port_range`.
    pub(crate) range: (u16, u16),
    /// Ports of the range that are not reserved: so many connections can there be from one address to one
    /// destination.
    pub(crate) available: u32,
    /// The most used ones; `None`: not looked at this time, or unknown.
    pub(crate) destinations: Option<Vec<Destination>>,
}

impl Ports {
    /// From the texts of `ip_local_port_range` and `ip_local_reserved_ports`.
    pub(super) fn parse(range: &str, reserved: &str) -> Option<Self> {
        let mut words = range.split_whitespace();
        let range: (u16, u16) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        if range.0 > range.1 {
            return None;
        }
        let reserved: HashSet<u16> = reserved
            .trim()
            .split(',')
            .filter(|part| !part.is_empty())
            .filter_map(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                Some(first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?)
            })
            .flatten()
            .filter(|port| (range.0..=range.1).contains(port))
            .collect();
        let all = u32::from(range.1) - u32::from(range.0) + 1;
        let available = all.saturating_sub(u32::try_from(reserved.len()).unwrap_or(u32::MAX));
        Some(Self { range, available, destinations: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reserved_ports_of_the_range_are_not_available() {
        for (range, reserved, expected) in [
            ("32768\t60999\n", "\n", Some(28_232)),
            ("10240 65535", "27017,30000-32767,80", Some(55_296 - 1 - 2768)),
            ("1000 1001", "1000-1001,1000", Some(0)),
            ("9 1", "", None),
            ("1", "", None),
            ("a b", "", None),
        ] {
            assert_eq!(Ports::parse(range, reserved).map(|ports| ports.available), expected, "{range:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(range in "[0-9 ]{0,20}", reserved in "[0-9,-]{0,60}") {
            let found = Ports::parse(&range, &reserved);
            prop_assert!(found.is_none_or(|ports| ports.available <= 65_536));
        }
    }
}
