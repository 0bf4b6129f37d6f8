//! Which process serves an address of this host: the one that has its listening socket open.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::counters::{Holders, holders, listeners, workers};
use crate::root::Root;

/// The port of the discard service (RFC 863): any will do.
const DISCARD: u16 = 9;
/// Programs that listen in the stead of a container's process, by the name that `/proc/PID/comm` cuts at 15 bytes.
const PROXIES: [&str; 2] = ["docker-proxy", "rootlessport"];

/// A process that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    /// So many processes have the socket open, as a server's workers do.
    pub(crate) of: usize,
}

/// Whether packets to this address stay on this host.
pub(crate) fn is_of_this_host(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    // From one's own address to itself leads the route to it; nothing is sent.
    let routed = || {
        let any = if ip.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((ip, DISCARD)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    ip.is_loopback() || ip.is_unspecified() || routed() == Some(ip)
}

/// The process that accepts connections to an address of this host, in this process's network namespace.
///
/// # Errors
/// Why it is not known.
pub(crate) fn process_listening(address: SocketAddr) -> Result<Holder, String> {
    let root = Root::host();
    let serving = listeners(&root, std::process::id(), None)?
        .into_iter()
        .filter(|listener| serves(listener.address, address))
        .flat_map(|listener| listener.inodes)
        .collect::<HashSet<u32>>();
    if serving.is_empty() {
        return Err(format!("nobody listens on {address} in this network namespace"));
    }
    let Holders { pids, .. } = holders(&root, &serving);
    let pid = workers(&root, &pids).first().copied().ok_or_else(|| {
        format!("the process that listens on {address} cannot be seen: it is another user's or another container's")
    })?;
    if is_proxy(&root, pid) {
        return Err(format!("a proxy (process {pid}) listens on {address} for a process in a container"));
    }
    Ok(Holder { pid, of: pids.len() })
}

/// Whether a process only passes on what another one answers.
pub(crate) fn is_proxy(root: &Root, pid: u32) -> bool {
    let name = root.known(format!("/proc/{pid}/comm"));
    name.is_some_and(|name| PROXIES.contains(&name.trim()))
}

/// Whether a listener there gets connections to an address. One that is bound to no address gets all, also IPv4's if it is
/// of IPv6 (unless it is told not to be, and then another listener is there).
pub(crate) fn serves(listener: SocketAddr, address: SocketAddr) -> bool {
    let (bound, wanted) = (listener.ip().to_canonical(), address.ip().to_canonical());
    listener.port() == address.port()
        && (bound == wanted
            || bound == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            || bound == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && wanted.is_ipv4()
            || wanted.is_unspecified())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_serves_its_own_address_or_all() {
        for (listener, address, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "10.0.0.1:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "10.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
        ] {
            assert_eq!(
                serves(listener.parse().unwrap(), address.parse().unwrap()),
                expected,
                "{listener} {address}"
            );
        }
    }

    #[test]
    fn a_listener_of_this_process_is_this_process() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        // A test may fork a child at this moment, which has the socket until it becomes another program.
        assert!(process_listening(address).is_ok_and(|holder| holder.of >= 1));
        drop(listener);
        let gone = process_listening(address).unwrap_err();
        assert!(gone.contains(&address.to_string()), "{gone}");
    }

    #[test]
    fn a_containers_proxy_is_not_its_service() {
        let (_dir, root) = Root::of(&[("proc/7/comm", "docker-proxy\n"), ("proc/8/comm", "nginx\n")]);
        assert!(is_proxy(&root, 7));
        assert!(!is_proxy(&root, 8) && !is_proxy(&root, 9));
    }

    #[test]
    fn addresses_of_this_host_are_told_from_others() {
        for (ip, expected) in
            [("127.0.0.1", true), ("::1", true), ("::ffff:127.0.0.1", true), ("192.0.2.1", false)]
        {
            assert_eq!(is_of_this_host(ip.parse().unwrap()), expected, "{ip}");
        }
    }
}
