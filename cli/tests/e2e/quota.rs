//! Control groups with a CPU quota, of either version.

use std::fs;
use std::path::PathBuf;

use crate::sandbox::SCALEKIT;

/// A control group with a CPU quota; removed when dropped, for which it must be empty.
pub(crate) struct Quota {
    pub(crate) directory: PathBuf,
    files: Files,
}

/// Files with what sets the quota, and what lifts it.
type Files = &'static [(&'static str, &'static str, &'static str)];

/// Tenths of a processor do not matter to the tests; that it is little does.
const V1: Files = &[("cpu.cfs_period_us", "100000", "100000"), ("cpu.cfs_quota_us", "10000", "-1")];
const V2: Files = &[("cpu.max", "10000 100000", "max 100000")];

impl Quota {
    /// A tenth of a processor. `None` where this process may not make one.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let point = |line: &str| line.split(' ').nth(4).map(PathBuf::from);
        let v1 = mounts.lines().find(|line| line.contains(" - cgroup ") && line.ends_with(",cpu"));
        let v2 = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        [(v1.and_then(point), V1), (v2.and_then(point), V2)].into_iter().find_map(|(mounted, files)| {
            let directory = mounted?.join(format!("scalekit-e2e-{name}-{}", std::process::id()));
            fs::create_dir(&directory).ok()?;
            let quota = Self { directory, files };
            quota.write(|(_, tenth, _)| tenth).then_some(quota)
        })
    }

    /// Without a limit from now on.
    pub(crate) fn lift(&self) {
        assert!(self.write(|(_, _, none)| none), "what was set can be set back");
    }

    /// The file that sets it.
    pub(crate) fn file(&self) -> String {
        let (name, ..) = self.files.last().unwrap();
        self.directory.join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, value: impl Fn(&(&str, &'static str, &'static str)) -> &'static str) -> bool {
        self.files.iter().all(|file| {
            let path = self.directory.join(file.0);
            // Writing must not make a file where the controller has none.
            path.exists() && fs::write(path, value(file)).is_ok()
        })
    }

    /// The words that run the program under test in it from its first instruction on.
    pub(crate) fn prefix(&self) -> Vec<String> {
        let procs = self.directory.join("cgroup.procs");
        ["sh", "-c", "echo $$ > \"$0\" && exec \"$@\"", procs.to_str().unwrap()].map(str::to_owned).into()
    }

    /// The same, as a command line with these arguments after the program `sh`.
    pub(crate) fn command(&self, args: &[&str]) -> Vec<String> {
        let words = self.prefix().into_iter().skip(1);
        words.chain([SCALEKIT.to_owned()]).chain(args.iter().map(|arg| (*arg).to_owned())).collect()
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // Fails only while a process is in it, which the test has reaped.
        let _ = fs::remove_dir(&self.directory);
    }
}
