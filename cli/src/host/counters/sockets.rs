//! TCP sockets by sock_diag (sock_diag(7)).
//!
//! `/proc/net/tcp` has no listener's limit, and writes each socket as text. A netlink socket belongs for good to the
//! network namespace in which it was made; so it is opened by a thread that is in the process's namespace.

use std::io;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::row::Row;

/// Sockets looked at in one dump.
const MAX_SOCKETS: usize = 1_000_000;
/// One dump takes at most this long.
const DEADLINE: Duration = Duration::from_secs(2);
/// More than any datagram of a dump has (`NLMSG_GOODSIZE` and the kernel's own bound of 32 KiB).
const BUFFER: usize = 64 << 10;

/// Kinds of messages (`linux/netlink.h`, `linux/sock_diag.h`).
const ERROR: u16 = 2;
const DONE: u16 = 3;
const BY_FAMILY: u16 = 20;

/// A netlink socket that asks for the sockets of one network namespace.
pub(super) struct SockDiag {
    socket: Socket,
}

impl SockDiag {
    /// In the calling thread's network namespace.
    ///
    /// # Errors
    /// Without the kernel's `inet_diag`, or netlink (gVisor, seccomp).
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(1, 0)).map_err(io::Error::from)?;
        Ok(Self { socket })
    }

    /// Listeners of IPv4 and IPv6, with their drops.
    ///
    /// # Errors
    /// When the kernel does not answer, or not in time.
    pub(super) fn listeners(&self) -> io::Result<Vec<Row>> {
        let mut found = Vec::new();
        self.each(&StateFlags::LISTEN, ExtensionFlags::SKMEMINFO, |row| found.push(row))?;
        Ok(found)
    }

    /// Calls `found` for each socket that connects two addresses.
    ///
    /// # Errors
    /// When the kernel does not answer, or not in time.
    pub(super) fn connections(&self, found: impl FnMut(Row)) -> io::Result<()> {
        let none = StateFlags::LISTEN | StateFlags::CLOSE | StateFlags::SYN_RECV;
        self.each(&StateFlags::all().difference(none), ExtensionFlags::empty(), found)
    }

    /// Calls `found` for each TCP socket in one of the states.
    fn each(
        &self,
        states: &StateFlags,
        extensions: ExtensionFlags,
        mut found: impl FnMut(Row),
    ) -> io::Result<()> {
        let deadline = Instant::now() + DEADLINE;
        let mut left = MAX_SOCKETS;
        for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            self.ask(InetRequest {
                family,
                protocol: IPPROTO_TCP,
                extensions: extensions.clone(),
                states: states.clone(),
                socket_id,
            })?;
            self.answers(deadline, &mut left, &mut found)?;
        }
        Ok(())
    }

    fn ask(&self, request: InetRequest) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    fn answers(&self, deadline: Instant, left: &mut usize, found: &mut impl FnMut(Row)) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            if Instant::now() > deadline || *left == 0 {
                let what = "more sockets than can be listed in a moment";
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            let size = self.socket.recv(&mut &mut buffer[..], 0)?;
            let rest = buffer.get(..size).ok_or_else(|| malformed("a datagram beyond the buffer"))?;
            if messages(rest, left, found)? {
                return Ok(());
            }
        }
    }
}

/// Reads the messages of one datagram; whether they were the last.
fn messages(mut rest: &[u8], left: &mut usize, found: &mut impl FnMut(Row)) -> io::Result<bool> {
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(malformed)?;
        let payload = message.payload();
        match message.message_type() {
            BY_FAMILY => {
                *left = left.saturating_sub(1);
                found(Row::parse(payload).ok_or_else(|| malformed("a socket that is cut off"))?);
            }
            DONE => return Ok(true),
            // IPv6 that is switched off, or a kernel without inet_diag.
            ERROR => {
                let code = payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                return if code == 0 {
                    Ok(true)
                } else {
                    Err(io::Error::from_raw_os_error(code.saturating_neg()))
                };
            }
            _ => {}
        }
        // Messages are aligned to four bytes. One is never shorter than its head, as `new_checked` sees to.
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        rest = rest.get(length.saturating_add(3) & !3..).unwrap_or_default();
    }
    Ok(false)
}

fn malformed(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a sock_diag answer that cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(16 + payload.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn a_dump_ends_when_it_says_so_and_an_error_is_one() {
        let mut rows = Vec::new();
        let socket = [&[AF_INET][..], &[0; 71]].concat();
        let two = [message(BY_FAMILY, &socket), message(BY_FAMILY, &socket)].concat();
        assert!(!messages(&two, &mut 9, &mut |row| rows.push(row)).unwrap());
        assert_eq!(rows.len(), 2);
        let mut none = |row| panic!("{row:?}");
        assert!(messages(&message(DONE, &[0; 4]), &mut 9, &mut none).unwrap());
        let refused = messages(&message(ERROR, &(-13_i32).to_ne_bytes()), &mut 9, &mut none).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        let cut = messages(&message(BY_FAMILY, &socket[..40]), &mut 9, &mut none).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn any_datagram_ends(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u16..24
        ) {
            let bytes = [message(kind, &[]), bytes].concat();
            let mut rows = 0;
            // An error is an answer too.
            let _ = messages(&bytes, &mut 1000, &mut |_| rows += 1);
            prop_assert!(rows <= bytes.len() / 72);
        }
    }
}
