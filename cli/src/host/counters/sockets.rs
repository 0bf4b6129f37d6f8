//! TCP sockets by sock_diag (sock_diag(7)): accept queues as the kernel has them, and ports in use.
//!
//! `/proc/net/tcp` has no listener's limit, and writes each socket as text. A netlink socket belongs for good to the
//! network namespace in which it was made; so it is opened by a thread that is in the process's namespace.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use serde::Serialize;

/// Listeners kept, the fullest first.
const MAX_LISTENERS: usize = 64;
/// Sockets looked at in one dump.
const MAX_SOCKETS: usize = 1_000_000;
/// Destinations counted, and of those the ones kept, the most used first.
const MAX_DESTINATIONS: usize = 65_536;
const KEPT_DESTINATIONS: usize = 16;
/// One dump takes at most this long.
const DEADLINE: Duration = Duration::from_secs(2);
/// More than any datagram of a dump has (`NLMSG_GOODSIZE` and the kernel's own bound of 32 KiB).
const BUFFER: usize = 64 << 10;

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    /// Connections that wait to be accepted.
    pub(crate) waiting: u32,
    /// How many may: `listen`'s argument as the kernel kept it, cut to `net.core.somaxconn`.
    pub(crate) backlog: u32,
}

/// Local ports that connections to one place take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Destination {
    pub(crate) source: IpAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) time_wait: u32,
    /// In any other state.
    pub(crate) connected: u32,
}

impl Destination {
    pub(super) fn used(&self) -> u32 {
        self.time_wait.saturating_add(self.connected)
    }
}

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

    /// Listeners of IPv4 and IPv6, the fullest first.
    ///
    /// # Errors
    /// When the kernel does not answer, or not in time.
    pub(super) fn listeners(&self) -> io::Result<Vec<Listener>> {
        let mut found = Vec::new();
        self.each(&StateFlags::LISTEN, |socket| {
            found.push(Listener {
                address: SocketAddr::new(socket.socket_id.source_address, socket.socket_id.source_port),
                waiting: socket.recv_queue,
                backlog: socket.send_queue,
            });
        })?;
        // Exact: 32 bits times 32 bits.
        let fill =
            |listener: &Listener| u64::from(listener.waiting) * 1000 / u64::from(listener.backlog.max(1));
        found.sort_by_key(|listener| (std::cmp::Reverse(fill(listener)), listener.address));
        found.truncate(MAX_LISTENERS);
        Ok(found)
    }

    /// Ports of the range that connections take, by where they go. Those of a listener's port were accepted, and
    /// take none.
    ///
    /// # Errors
    /// When the kernel does not answer, or not in time.
    pub(super) fn destinations(
        &self,
        range: (u16, u16),
        listening: &HashSet<u16>,
    ) -> io::Result<Vec<Destination>> {
        let mut counted: HashMap<(IpAddr, SocketAddr), (u32, u32)> = HashMap::new();
        let time_wait = StateFlags::TIME_WAIT.bits().trailing_zeros();
        let states =
            StateFlags::all().difference(StateFlags::LISTEN | StateFlags::CLOSE | StateFlags::SYN_RECV);
        self.each(&states, |socket| {
            let id = &socket.socket_id;
            let in_range = (range.0..=range.1).contains(&id.source_port);
            if !in_range || listening.contains(&id.source_port) {
                return;
            }
            let key = (id.source_address, SocketAddr::new(id.destination_address, id.destination_port));
            if counted.len() >= MAX_DESTINATIONS && !counted.contains_key(&key) {
                return;
            }
            let (waits, others) = counted.entry(key).or_default();
            let count = if u32::from(socket.state) == time_wait { waits } else { others };
            *count = count.saturating_add(1);
        })?;
        let mut found: Vec<Destination> = counted
            .into_iter()
            .map(|((source, destination), (time_wait, connected))| Destination {
                source,
                destination,
                time_wait,
                connected,
            })
            .collect();
        found.sort_by_key(|found| (std::cmp::Reverse(found.used()), found.source, found.destination));
        found.truncate(KEPT_DESTINATIONS);
        Ok(found)
    }

    /// Inodes of the listeners whose address is wanted.
    fn inodes(&self, wanted: impl Fn(SocketAddr) -> bool) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        self.each(&StateFlags::LISTEN, |socket| {
            let id = &socket.socket_id;
            if wanted(SocketAddr::new(id.source_address, id.source_port)) {
                found.push(socket.inode);
            }
        })?;
        Ok(found)
    }

    /// Calls `found` for each TCP socket in one of the states.
    fn each(&self, states: &StateFlags, mut found: impl FnMut(&InetResponseHeader)) -> io::Result<()> {
        let deadline = Instant::now() + DEADLINE;
        let mut left = MAX_SOCKETS;
        for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            self.ask(family, socket_id, states.clone())?;
            self.answers(deadline, &mut left, &mut found)?;
        }
        Ok(())
    }

    fn ask(&self, family: u8, socket_id: SocketId, states: StateFlags) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states,
            socket_id,
        };
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    fn answers(
        &self,
        deadline: Instant,
        left: &mut usize,
        found: &mut impl FnMut(&InetResponseHeader),
    ) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            if Instant::now() > deadline || *left == 0 {
                let what = "more sockets than can be listed in a moment";
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            let size = self.socket.recv(&mut &mut buffer[..], 0)?;
            let mut rest = buffer.get(..size).ok_or_else(|| malformed("a datagram beyond the buffer"))?;
            while !rest.is_empty() {
                let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(malformed)?;
                match message.payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                        *left = left.saturating_sub(1);
                        found(&response.header);
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    // IPv6 that is switched off, or a kernel without inet_diag.
                    NetlinkPayload::Error(error) => match error.code {
                        Some(_) => return Err(error.to_io()),
                        None => return Ok(()),
                    },
                    _ => {}
                }
                // Messages are aligned to four bytes; a length of nothing would never end.
                let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
                let aligned = length.saturating_add(3) & !3;
                rest = if length == 0 { &[] } else { rest.get(aligned..).unwrap_or_default() };
            }
        }
    }
}

/// Inodes of the listening sockets of the calling thread's network namespace whose address is wanted.
///
/// # Errors
/// When the kernel does not answer.
pub(crate) fn listening_inodes(wanted: impl Fn(SocketAddr) -> bool) -> io::Result<Vec<u32>> {
    SockDiag::open()?.inodes(wanted)
}

fn malformed(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a sock_diag answer that cannot be read: {error}"))
}
