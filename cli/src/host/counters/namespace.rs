//! The network namespace of a process.
//!
//! `/proc/PID/net` shows another namespace's counters to any thread. Netlink and `/proc/sys/net` do not: they are
//! of the calling thread's namespace. `setns` moves one thread, not the process; so it is left to threads that end
//! with the work, and no other thread ever sees it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;

use nix::sched::{CloneFlags, setns};

use crate::root::Root;

/// Moves the calling thread into the network namespace of a process; nothing to do, and no privilege needed, if it
/// is there already. Whether it moved.
///
/// # Errors
/// What is unknown because of it, and why: the process is gone, or is not ours (CAP_SYS_ADMIN is needed).
pub(super) fn enter(root: &Root, pid: u32) -> Result<bool, String> {
    let path = root.path(format!("/proc/{pid}/ns/net"));
    let failed = |what: &dyn std::fmt::Display| {
        format!(
            "the network namespace of process {pid} cannot be entered ({what}): its listeners, ports and connection \
             tracking are unknown; run as root to see them"
        )
    };
    let wanted = match fs::metadata(&path) {
        Ok(wanted) => wanted,
        // Another user's process: its namespace is not shown, but the files of it are.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && is_own(root, pid) => {
            return Ok(false);
        }
        Err(error) => return Err(failed(&error)),
    };
    let own = fs::metadata(root.path("/proc/thread-self/ns/net")).map_err(|error| failed(&error))?;
    if (wanted.dev(), wanted.ino()) == (own.dev(), own.ino()) {
        return Ok(false);
    }
    let namespace = File::open(&path).map_err(|error| failed(&error))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| failed(&error))?;
    Ok(true)
}

/// Whether the calling thread is in the network namespace of a process, by a file of which each namespace has one of
/// its own (`proc_alloc_inum`), and which every user may see.
pub(super) fn is_own(root: &Root, pid: u32) -> bool {
    let number = |whose: &str| {
        let metadata = fs::metadata(root.path(format!("/proc/{whose}/net/netstat"))).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let own = number("thread-self");
    own.is_some() && own == number(&pid.to_string())
}
