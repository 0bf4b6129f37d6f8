//! A control group that counts what its processes do on disks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::device_io::{Device, Hierarchy, Kind, Place};

/// More writes a second than any disk does.
pub const NO_LIMIT: u32 = 4_000_000_000;

/// Gone with the value, before which its processes must have ended.
#[derive(Debug)]
pub struct IoGroup {
    directory: PathBuf,
    hierarchy: Hierarchy,
}

impl IoGroup {
    /// An empty one, on whatever hierarchy counts here.
    ///
    /// # Errors
    /// Why there can be none, for who must skip a test.
    pub fn new() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("not root, so no control group can be made".into());
        }
        let roots = [("/sys/fs/cgroup", "io.stat"), ("/sys/fs/cgroup/blkio", "blkio.throttle.io_serviced")];
        let (root, counter) = roots
            .into_iter()
            .find(|(root, counter)| Path::new(root).join(counter).exists())
            .ok_or("neither a control group of version 2 with the io controller nor blkio of version 1 is mounted")?;
        let directory = Path::new(root).join(format!("scalekit-test-{:x}", fastrand::u64(..)));
        fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let hierarchy = if counter == "io.stat" { Hierarchy::V2 } else { Hierarchy::V1 };
        let group = Self { directory, hierarchy };
        if !group.directory.join(counter).exists() {
            return Err(format!("the io controller is not on below {root}"));
        }
        Ok(group)
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    #[must_use]
    pub fn hierarchy(&self) -> Hierarchy {
        self.hierarchy
    }

    /// Takes a process in.
    ///
    /// # Errors
    /// As the system says.
    pub fn take(&self, pid: u32) -> io::Result<()> {
        fs::write(self.directory.join("cgroup.procs"), pid.to_string())
    }

    /// What a shell says to be in the group, before anything else.
    #[must_use]
    pub fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs &&", self.directory.display())
    }

    /// Has version 1 count on the disks below a path, by a limit that is never reached.
    ///
    /// # Errors
    /// The path is on no disk, or as the system says.
    pub fn count_on(&self, path: &Path) -> Result<(), String> {
        match self.hierarchy {
            Hierarchy::V1 => self.limit_writes(path, NO_LIMIT),
            Hierarchy::V2 => Ok(()),
        }
    }

    /// Has the kernel hold the group's writes to the disks below a path to so many a second.
    ///
    /// # Errors
    /// The path is on no disk, or as the system says.
    pub fn limit_writes(&self, path: &Path, per_second: u32) -> Result<(), String> {
        let place = Place::find(path).map_err(|error| error.to_string())?;
        let disks: &[Device] = match place.kind() {
            Kind::Disks(found) => &found.disks,
            Kind::Group(_) => &[],
        };
        for disk in disks {
            let (file, limit) = match self.hierarchy {
                Hierarchy::V1 => ("blkio.throttle.write_iops_device", format!("{disk} {per_second}")),
                Hierarchy::V2 => ("io.max", format!("{disk} wiops={per_second}")),
            };
            let file = self.directory.join(file);
            fs::write(&file, limit).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(())
    }
}

impl Drop for IoGroup {
    fn drop(&mut self) {
        // A process that has ended is in it for a moment more.
        for _ in 0..200 {
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(std::thread::panicking(), "{} still has processes", self.directory.display());
    }
}
