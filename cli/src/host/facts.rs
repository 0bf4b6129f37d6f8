//! What the plan needs to know of the machine, read once.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use crate::root::Root;

/// Inode of the first network namespace on kernels that number it (`NET_NS_INIT_INO`, `include/uapi/linux/nsfs.h`, 6.18).
const FIRST_NETNS: u64 = 0xEFFF_FFF9;

/// The machine, as far as settings depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Bytes.
    pub(crate) ram: u64,
    pub(crate) cores: u64,
    pub(crate) namespace: Namespace,
    pub(crate) is_root: bool,
    /// The major version of the mongod on PATH.
    pub(crate) mongod: Option<u32>,
}

/// The network namespace that this process is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// `net:[INODE]`
    pub(crate) id: String,
    /// Whether it is the one that the host booted with; `None` if nothing tells.
    pub(crate) is_first: Option<bool>,
}

impl Machine {
    /// Looks at the machine below `root`.
    pub(crate) fn read(root: &Root) -> Self {
        let meminfo = root.text("proc/meminfo").unwrap_or_default();
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
        Self {
            ram: kib.saturating_mul(1024),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64),
            namespace: Namespace::read(root),
            is_root: nix::unistd::geteuid().is_root(),
            mongod: mongod(),
        }
    }
}

impl Namespace {
    fn read(root: &Root) -> Self {
        let link = |path: &str| fs::read_link(root.path(path)).ok().map(|link| link.display().to_string());
        let id = link("proc/self/ns/net").unwrap_or_else(|| "unknown".to_owned());
        let inode = fs::metadata(root.path("proc/self/ns/net")).map(|file| file.ino()).ok();
        let is_first = match link("proc/1/ns/net") {
            _ if inode == Some(FIRST_NETNS) => Some(true),
            // Only the first namespace has the settings that all share.
            _ if root.path("proc/sys/net/core/somaxconn").exists()
                && !root.path("proc/sys/net/core/netdev_max_backlog").exists() =>
            {
                Some(false)
            }
            // In a container process 1 is the container's own, so being alike says nothing; to differ does.
            Some(first) if first != id => Some(false),
            Some(_) if root.path("proc/sys/net/core/netdev_max_backlog").exists() => Some(true),
            _ => None,
        };
        Self { id, is_first }
    }
}

/// `db version v8.0.4` → 8.
fn mongod() -> Option<u32> {
    let output = Command::new("mongod").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, version) = text.split_once("db version v")?;
    version.split('.').next()?.parse().ok()
}
