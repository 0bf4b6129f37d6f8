//! One socket of a sock_diag answer: `struct inet_diag_msg` and its attributes (`linux/inet_diag.h`).
//!
//! It is read here and not by a crate, since what is needed of a TIME_WAIT is how long it still lasts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};

/// Size of the struct, in bytes.
const FIXED: usize = 72;
/// `INET_DIAG_SKMEMINFO`, and the place of its `SK_MEMINFO_DROPS` (`linux/sock_diag.h`).
const MEMORY: u16 = 7;
const DROPS: usize = 8;

/// A TCP socket. IPv4 addresses in the form of IPv6 are IPv4 addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// `TCP_ESTABLISHED` = 1, and so on (`net/tcp_states.h`).
    pub(super) state: u8,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    /// Until the timer runs out, in ms; of a TIME_WAIT, how long it still lasts.
    pub(super) expires_ms: u32,
    /// Of a listener: connections that wait, and how many may.
    pub(super) receive_queue: u32,
    pub(super) send_queue: u32,
    /// What `/proc/PID/fd` shows as `socket:[…]`; 0 where no process holds it.
    pub(super) inode: u32,
    /// `sk_drops`; known if it was asked for, since kernel 4.7.
    pub(super) drops: Option<u32>,
}

impl Row {
    /// `None` if it is cut off, or of another family.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (fixed, attributes) = bytes.split_at_checked(FIXED)?;
        let family = fixed[0];
        let port = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let word = |at: usize| u32::from_ne_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let address = |at: usize| {
            let octets: [u8; 16] = fixed[at..at + 16].try_into().ok()?;
            match family {
                AF_INET => Some(IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]))),
                AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()),
                _ => None,
            }
        };
        Some(Self {
            state: fixed[1],
            source: SocketAddr::new(address(8)?, port(4)),
            destination: SocketAddr::new(address(24)?, port(6)),
            expires_ms: word(52),
            receive_queue: word(56),
            send_queue: word(60),
            inode: word(68),
            drops: attribute(attributes, MEMORY).and_then(|memory| nth(memory, DROPS)),
        })
    }
}

fn nth(bytes: &[u8], place: usize) -> Option<u32> {
    let bytes = bytes.get(place * 4..place * 4 + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// The value of an attribute: length and kind in 16 bits each, then the value, aligned to four bytes.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]);
        if kind == wanted {
            return bytes.get(4..length);
        }
        // Shorter than its own head: it would never end.
        bytes = bytes.get(length.next_multiple_of(4)..).filter(|_| length >= 4)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(family: u8, source: [u8; 16]) -> Vec<u8> {
        let mut bytes = vec![0; FIXED];
        (bytes[0], bytes[1]) = (family, 6);
        bytes[4..8].copy_from_slice(&[0x1f, 0x90, 0x00, 0x50]);
        bytes[8..24].copy_from_slice(&source);
        bytes[52..56].copy_from_slice(&59_000_u32.to_ne_bytes());
        bytes[56..60].copy_from_slice(&3_u32.to_ne_bytes());
        bytes[60..64].copy_from_slice(&128_u32.to_ne_bytes());
        bytes[68..72].copy_from_slice(&4711_u32.to_ne_bytes());
        bytes
    }

    #[test]
    fn fields_are_where_the_kernel_puts_them() {
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
        let mut with_drops = bytes(AF_INET6, mapped);
        // An attribute of one byte, padded, then the memory's nine words.
        with_drops.extend([5_u16, 8].iter().flat_map(|part| part.to_ne_bytes()));
        with_drops.extend([1, 0, 0, 0]);
        with_drops.extend([40_u16, MEMORY].iter().flat_map(|part| part.to_ne_bytes()));
        with_drops.extend((1_u32..10).flat_map(u32::to_ne_bytes));
        let row = Row::parse(&with_drops).unwrap();
        let expected = Row {
            state: 6,
            source: "127.0.0.1:8080".parse().unwrap(),
            destination: "[::]:80".parse().unwrap(),
            expires_ms: 59_000,
            receive_queue: 3,
            send_queue: 128,
            inode: 4711,
            drops: Some(9),
        };
        assert_eq!(row, expected);
        let plain = Row::parse(&bytes(AF_INET, mapped)).unwrap();
        assert_eq!((plain.source, plain.drops), ("0.0.0.0:8080".parse().unwrap(), None));
        assert_eq!(Row::parse(&bytes(1, mapped)), None, "another family");
        assert_eq!(Row::parse(&with_drops[..FIXED - 1]), None, "cut off");
        // A memory without the word for drops, as before kernel 4.7.
        with_drops.truncate(FIXED + 8 + 4 + 32);
        with_drops[FIXED + 8..FIXED + 10].copy_from_slice(&36_u16.to_ne_bytes());
        assert_eq!(Row::parse(&with_drops).unwrap().drops, None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), family in prop::sample::select(vec![AF_INET, AF_INET6])
        ) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = family;
            }
            prop_assert_eq!(Row::parse(&bytes).is_some(), bytes.len() >= FIXED);
        }
    }
}
