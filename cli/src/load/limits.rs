//! The limits of this machine that a plan must fit into: open files and local ports.

use std::ops::RangeInclusive;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::plan::PlanError;

/// Files that the process needs beside the users' sockets: standard streams, reports, libraries, control traffic.
const OTHER_FILES: u64 = 64;
/// The kernel's range of local ports for outgoing connections.
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Makes sure that `users` sockets can be open at once, raising the soft limit if the hard limit allows it.
pub(super) fn ensure_files(users: u32, threads: usize) -> Result<(), PlanError> {
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| PlanError::ReadLimit { source: errno.into() })?;
    match files_to_ask_for(users, threads, soft, hard)? {
        None => Ok(()),
        Some(need) => setrlimit(Resource::RLIMIT_NOFILE, need, hard).map_err(|errno| PlanError::RaiseLimit {
            soft,
            need,
            source: errno.into(),
        }),
    }
}

/// Files that a generator with so many threads needs beside one a user: each thread has an epoll instance and a timer.
pub(crate) fn files_beside_users(threads: usize) -> u64 {
    2 * threads as u64 + OTHER_FILES
}

/// The soft limit to set, or `None` if the present one suffices.
fn files_to_ask_for(users: u32, threads: usize, soft: u64, hard: u64) -> Result<Option<u64>, PlanError> {
    let need = u64::from(users) + files_beside_users(threads);
    if need <= soft {
        Ok(None)
    } else if need <= hard {
        Ok(Some(need))
    } else {
        Err(PlanError::Files { users, need, hard })
    }
}

/// Makes sure that each user can have a local port: one connection each, from one of `locals` addresses to one of
/// `remotes`.
pub(super) fn ensure_ports(users: u32, locals: usize, remotes: usize) -> Result<(), PlanError> {
    // Unreadable, as in some sandboxes: then a shortage shows as no_free_port during the run.
    match read_port_range(Path::new(PORT_RANGE)) {
        Some(range) => check_ports(users, locals * remotes, &range),
        None => Ok(()),
    }
}

fn read_port_range(path: &Path) -> Option<RangeInclusive<u16>> {
    let text = std::fs::read_to_string(path).ok()?;
    let (low, high) = text.trim().split_once(char::is_whitespace)?;
    Some(low.trim().parse().ok()?..=high.trim().parse().ok()?)
}

fn check_ports(users: u32, pairs: usize, range: &RangeInclusive<u16>) -> Result<(), PlanError> {
    // A port can be used once for each pair of a local and a remote address.
    let available = range.len() as u64 * pairs as u64;
    if u64::from(users) <= available {
        return Ok(());
    }
    Err(PlanError::Ports { users, available, low: *range.start(), high: *range.end() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_only_as_far_as_needed() {
        assert_eq!(files_to_ask_for(10_000, 2, 20_000, 20_000).unwrap(), None);
        assert_eq!(files_to_ask_for(10_000, 2, 1024, 20_000).unwrap(), Some(10_068));
        assert_eq!(files_to_ask_for(10_000, 2, 10_067, 10_068).unwrap(), Some(10_068));
    }

    #[test]
    fn too_few_files_names_limit_need_and_remedy() {
        let error = files_to_ask_for(10_000, 2, 1024, 4096).unwrap_err().to_string();
        for part in ["10000 users", "10068", "4096", "ulimit", "LimitNOFILE"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn too_few_ports_names_range_need_and_remedy() {
        assert!(check_ports(28_232, 1, &(32768..=60999)).is_ok());
        assert!(check_ports(40_000, 2, &(32768..=60999)).is_ok());
        let error = check_ports(28_233, 1, &(32768..=60999)).unwrap_err().to_string();
        for part in ["28233 users", "28232", "32768", "60999", "ip_local_port_range", "--local-ips"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn the_port_range_is_read_as_the_kernel_writes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("range");
        assert_eq!(read_port_range(&path), None);
        for (text, expected) in [("32768\t60999\n", Some(32768..=60999)), ("junk", None), ("1 x", None)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_port_range(&path), expected, "{text}");
        }
    }
}
