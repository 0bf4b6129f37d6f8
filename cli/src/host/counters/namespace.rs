//! The network namespace of a process.
//!
//! `/proc/PID/net` shows another namespace's counters to any thread. Netlink and `/proc/sys/net` do not: they are
//! of the calling thread's namespace. `setns` moves one thread, not the process; so it is left to threads that end
//! with the work, and no other thread ever sees it.

use std::fs::{self, File};
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
    let wanted = fs::metadata(&path).map_err(|error| failed(&error))?;
    let own = fs::metadata(root.path("/proc/thread-self/ns/net")).map_err(|error| failed(&error))?;
    if (wanted.dev(), wanted.ino()) == (own.dev(), own.ino()) {
        return Ok(false);
    }
    let namespace = File::open(&path).map_err(|error| failed(&error))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| failed(&error))?;
    Ok(true)
}
