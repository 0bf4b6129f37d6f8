//! Who listens where: listeners by sock_diag, and the processes that hold their sockets by `/proc/PID/fd`.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::listeners::{self, Listener};
use super::namespace;
use super::process::MAX_FILES;
use super::sockets::SockDiag;
use crate::root::Root;

/// Listeners of one network namespace that are looked through.
const MAX_LISTENERS: usize = 65_536;
/// Processes that are looked at.
const MAX_PROCESSES: usize = 100_000;
/// For all processes together.
const DEADLINE: Duration = Duration::from_secs(5);

/// The listeners of the network namespace of a process, the fullest first; of these sockets only, if they are given.
///
/// # Errors
/// What is unknown, and why: the namespace cannot be entered, or the kernel has no sock_diag.
pub(crate) fn listeners(root: &Root, pid: u32, own: Option<&HashSet<u32>>) -> Result<Vec<Listener>, String> {
    let look = || {
        namespace::enter(root, pid)?;
        let rows = SockDiag::open().and_then(|diag| diag.listeners());
        let rows = rows.map_err(|error| format!("sock_diag: {error}: accept queues are unknown"))?;
        Ok(listeners::listeners(&rows, own, MAX_LISTENERS))
    };
    thread::scope(|scope| scope.spawn(look).join())
        .unwrap_or_else(|_| Err("the thread that lists listeners ended early".to_owned()))
}

/// The inodes of a process's sockets.
///
/// # Errors
/// As the system says: the process is gone, or is not ours.
pub(crate) fn sockets_of(root: &Root, pid: u32) -> io::Result<HashSet<u32>> {
    let entries = fs::read_dir(root.path(format!("/proc/{pid}/fd")))?;
    // A descriptor that was closed meanwhile is none any more.
    let links = entries.take(MAX_FILES).filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    Ok(links.filter_map(|link| inode(link.to_str()?)).collect())
}

/// `socket:[123]` → 123.
fn inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Processes that hold one of some sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holders {
    /// In the order of their numbers, the first of which is usually the parent of the others.
    pub(crate) pids: Vec<u32>,
    /// Whether there were processes that could not be looked into.
    pub(crate) are_some_hidden: bool,
}

/// Looks through all processes.
pub(crate) fn holders(root: &Root, inodes: &HashSet<u32>) -> Holders {
    let deadline = Instant::now() + DEADLINE;
    let mut found = Holders::default();
    let Ok(entries) = fs::read_dir(root.path("/proc")) else {
        return Holders { are_some_hidden: true, ..found };
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for (count, pid) in pids.enumerate() {
        if count >= MAX_PROCESSES || Instant::now() > deadline {
            found.are_some_hidden = true;
            break;
        }
        match sockets_of(root, pid) {
            Ok(sockets) if sockets.is_disjoint(inodes) => {}
            Ok(_) => found.pids.push(pid),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => found.are_some_hidden = true,
            // It has ended meanwhile.
            Err(_) => {}
        }
    }
    found.pids.sort_unstable();
    found
}

/// Of processes that hold one listener, those that accept from it, as far as can be told: not whoever opened it for
/// its children, such as systemd or the master of nginx.
pub(crate) fn workers(root: &Root, pids: &[u32]) -> Vec<u32> {
    let parents: HashSet<u32> = pids.iter().filter_map(|pid| parent(root, *pid)).collect();
    pids.iter().copied().filter(|pid| !parents.contains(pid)).collect()
}

/// Field 4 of `/proc/PID/stat`; the name before it, in parentheses, may hold anything.
fn parent(root: &Root, pid: u32) -> Option<u32> {
    let stat = root.known(format!("/proc/{pid}/stat"))?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::os::unix::fs::symlink;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_holders_of_a_socket_are_found_in_a_tree() {
        let (dir, root) = Root::of(&[("proc/stat", ""), ("proc/9/comm", "")]);
        for (pid, fd, target) in [
            (12, 3, "socket:[77]"),
            (12, 4, "/dev/null"),
            (7, 5, "socket:[77]"),
            (8, 3, "socket:[78]"),
            (8, 4, "pipe:[77]"),
        ] {
            let folder = dir.path().join(format!("proc/{pid}/fd"));
            fs::create_dir_all(&folder).unwrap();
            symlink(target, folder.join(fd.to_string())).unwrap();
        }
        let found = holders(&root, &HashSet::from([77]));
        assert_eq!(found, Holders { pids: vec![7, 12], are_some_hidden: false });
        assert_eq!(holders(&root, &HashSet::from([79])), Holders::default());
        assert_eq!(sockets_of(&root, 8).unwrap(), HashSet::from([78]));
        assert_eq!(sockets_of(&root, 9).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn whoever_opened_a_listener_for_its_children_does_not_accept() {
        let (_dir, root) = Root::of(&[
            ("proc/1/stat", "1 (systemd) S 0 1 1"),
            ("proc/20/stat", "20 (nginx: (x) m) S 1 20 20"),
            ("proc/21/stat", "21 (nginx) S 20 20 20"),
            ("proc/22/stat", "22 (nginx) S 20 20 20"),
        ]);
        assert_eq!(workers(&root, &[1, 20, 21, 22]), [21, 22]);
        assert_eq!(workers(&root, &[20]), [20]);
        assert_eq!(workers(&root, &[20, 99]), [20, 99], "one that has ended");
        assert_eq!(workers(&root, &[]), Vec::<u32>::new());
    }

    #[test]
    fn this_process_is_the_holder_of_its_listener() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (root, pid) = (Root::host(), std::process::id());
        let all = listeners(&root, pid, None).unwrap();
        let own = all.iter().find(|listener| listener.address == address).unwrap();
        assert!(sockets_of(&root, pid).unwrap().contains(&own.inodes[0]), "{own:?}");
        let found = holders(&root, &HashSet::from([own.inodes[0]]));
        assert!(found.pids.contains(&pid), "{found:?}");
    }

    proptest! {
        #[test]
        fn any_link_is_read_without_a_panic(link in ".{0,40}", number in any::<u32>()) {
            prop_assert_eq!(inode(&format!("socket:[{number}]")), Some(number));
            prop_assert!(inode(&link).is_none() || link.starts_with("socket:["));
        }
    }
}
