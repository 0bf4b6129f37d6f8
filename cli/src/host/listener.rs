//! Which process serves an address of this host: the one that has its listening socket open.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::counters::listening_inodes;
use crate::root::Root;

/// Looking through every process's files ends after this, on however large a host.
const PATIENCE: Duration = Duration::from_secs(2);
/// Processes that are looked at, and files of each.
const MAX_PROCESSES: usize = 100_000;
const MAX_FILES: usize = 100_000;

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
    // Only an address of one's own can be bound to.
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

/// The process that accepts connections to an address of this host, in this process's network namespace.
///
/// # Errors
/// Why it is not known.
pub(crate) fn process_listening(address: SocketAddr) -> Result<Holder, String> {
    let inodes = listening_inodes(|listener| serves(listener, address))
        .map_err(|error| format!("sock_diag: {error}: nobody knows who listens on {address}"))?;
    if inodes.is_empty() {
        return Err(format!("nobody listens on {address} in this network namespace"));
    }
    holder(&Root::host(), &inodes).ok_or_else(|| {
        format!("the process that listens on {address} cannot be seen: it is another user's or another container's")
    })
}

/// Whether a listener there gets connections to an address. One that is bound to no address gets all, also IPv4's if it is
/// of IPv6 (unless it is told not to be, and then another listener is there).
fn serves(listener: SocketAddr, address: SocketAddr) -> bool {
    let (bound, wanted) = (listener.ip().to_canonical(), address.ip().to_canonical());
    listener.port() == address.port()
        && (bound == wanted
            || bound == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            || bound == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && wanted.is_ipv4()
            || wanted.is_unspecified())
}

/// Who has one of these sockets open. Of several, one whose parent has it too: parents open sockets, children accept.
fn holder(root: &Root, inodes: &[u32]) -> Option<Holder> {
    let deadline = Instant::now() + PATIENCE;
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    // By process, its parent.
    let mut holders: BTreeMap<u32, Option<u32>> = BTreeMap::new();
    let processes = fs::read_dir(root.path("/proc")).ok()?;
    for entry in processes.filter_map(Result::ok).take(MAX_PROCESSES) {
        if Instant::now() > deadline {
            break;
        }
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Another user's are not shown.
        let Ok(files) = fs::read_dir(entry.path().join("fd")) else { continue };
        let mut targets =
            files.filter_map(Result::ok).take(MAX_FILES).filter_map(|file| fs::read_link(file.path()).ok());
        if targets.any(|target| target.to_str().is_some_and(|target| links.iter().any(|link| link == target)))
        {
            holders.insert(pid, parent(root, pid));
        }
    }
    let of = holders.len();
    let child = holders.iter().find(|(_, parent)| parent.is_some_and(|parent| holders.contains_key(&parent)));
    let pid = *child.or_else(|| holders.iter().next())?.0;
    Some(Holder { pid, of })
}

/// Field 4 of `/proc/PID/stat`; the name before it, in parentheses, may hold anything.
fn parent(root: &Root, pid: u32) -> Option<u32> {
    let stat = root.known(format!("/proc/{pid}/stat"))?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
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
    fn of_several_holders_a_child_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for (pid, parent, link) in
            [(7, 1, "socket:[50]"), (8, 7, "socket:[50]"), (9, 7, "socket:[51]"), (10, 7, "/dev/null")]
        {
            let fds = root.path(format!("/proc/{pid}/fd"));
            fs::create_dir_all(&fds).unwrap();
            std::os::unix::fs::symlink(link, fds.join("3")).unwrap();
            fs::write(root.path(format!("/proc/{pid}/stat")), format!("{pid} (a ) b) S {parent} 1")).unwrap();
        }
        assert_eq!(holder(&root, &[50]), Some(Holder { pid: 8, of: 2 }));
        assert_eq!(holder(&root, &[51]), Some(Holder { pid: 9, of: 1 }));
        assert_eq!(holder(&root, &[52]), None);
        assert_eq!(holder(&Root::new("/nowhere"), &[50]), None);
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
