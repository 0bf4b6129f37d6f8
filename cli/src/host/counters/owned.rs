//! Which listening sockets are the process's: those behind its file descriptors.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use super::listening::sockets_of;
use super::pace::Pace;
use crate::root::Root;

/// The listeners of one process. What other processes listen at in the same network namespace is their affair.
///
/// Reading what tens of thousands of descriptors are takes tens of milliseconds: so it is done only when the namespace's
/// listeners have changed, or none of them is the process's, and at its own pace.
#[derive(Debug, Default)]
pub(super) struct Owned {
    /// The namespace's listeners at the last look.
    seen: HashSet<u32>,
    own: HashSet<u32>,
    pace: Pace,
}

impl Owned {
    /// Those of the last look.
    pub(super) fn last(&self) -> &HashSet<u32> {
        &self.own
    }

    /// Inodes of the process's listeners among those of the namespace; and the processor time that it took to look.
    ///
    /// # Errors
    /// When the process's descriptors are not for us to see. That a process is gone is none: it has what it had.
    pub(super) fn among(
        &mut self,
        all: HashSet<u32>,
        root: &Root,
        pid: u32,
    ) -> (io::Result<&HashSet<u32>>, Duration) {
        let is_known = self.seen == all && !self.own.is_empty();
        if is_known || all.is_empty() || !self.pace.is_due() {
            return (Ok(&self.own), Duration::ZERO);
        }
        let (found, cost) = self.pace.run(|| sockets_of(root, pid));
        match found {
            Ok(sockets) => (self.own, self.seen) = (&sockets & &all, all),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                // Nothing was found out, so that the next one asks again.
                self.pace = Pace::default();
                return (Err(error), cost);
            }
        }
        (Ok(&self.own), cost)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn link(root: &Root, fd: u32, target: &str) {
        let directory = root.path("proc/7/fd");
        fs::create_dir_all(&directory).unwrap();
        symlink(target, directory.join(fd.to_string())).unwrap();
    }

    #[test]
    fn a_process_has_the_listeners_that_it_has_descriptors_of() {
        let (_dir, root) = Root::of(&[]);
        link(&root, 3, "socket:[10]");
        link(&root, 4, "pipe:[11]");
        link(&root, 5, "/socket:[12]");
        link(&root, 6, "socket:[99]");
        let mut owned = Owned::default();
        let all = || HashSet::from([10, 11, 12, 13]);
        let (found, cost) = owned.among(all(), &root, 7);
        assert_eq!(found.unwrap(), &HashSet::from([10]));
        assert!(cost > Duration::ZERO);
        // Nothing has changed, so that nobody looks.
        assert_eq!(owned.among(all(), &root, 7).1, Duration::ZERO);
        // The process is gone.
        fs::remove_dir_all(root.path("proc/7")).unwrap();
        owned.pace = Pace::default();
        let (found, _) = owned.among(HashSet::from([10, 14]), &root, 7);
        assert_eq!(found.unwrap(), &HashSet::from([10]));
    }

    #[test]
    fn a_listener_that_comes_is_found_when_it_is_time() {
        let (_dir, root) = Root::of(&[]);
        link(&root, 3, "socket:[10]");
        let mut owned = Owned::default();
        assert_eq!(owned.among(HashSet::from([13]), &root, 7).0.unwrap(), &HashSet::new());
        link(&root, 4, "socket:[14]");
        owned.pace = Pace::default();
        assert_eq!(owned.among(HashSet::from([13, 14]), &root, 7).0.unwrap(), &HashSet::from([14]));
        // A file where a directory should be stands for one that may not be read.
        fs::remove_dir_all(root.path("proc/7/fd")).unwrap();
        fs::write(root.path("proc/7/fd"), "").unwrap();
        owned.pace = Pace::default();
        for _ in 0..2 {
            assert!(owned.among(HashSet::from([15]), &root, 7).0.is_err());
        }
    }
}
