//! What the plan needs to know of the machine, read once.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::root::Root;

/// Inode of the first network namespace on kernels that number it (`NET_NS_INIT_INO`, `include/uapi/linux/nsfs.h`, 6.18).
const FIRST_NETNS: u64 = 0xEFFF_FFF9;

/// Inode of the first namespace of processes, on every kernel (`PROC_PID_INIT_INO`, `include/linux/proc_ns.h`).
const FIRST_PIDNS: u64 = 0xEFFF_FFFC;

/// The machine, as far as settings depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Bytes.
    pub(crate) ram: u64,
    pub(crate) cores: u64,
    pub(crate) namespace: Namespace,
    pub(crate) processes: Processes,
    pub(crate) is_root: bool,
    /// The major version of the mongod here, by [`mongod`], where the profile asks.
    pub(crate) mongod: Option<u32>,
}

/// The network namespace that this process is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Namespace {
    /// `net:[INODE]`
    pub(crate) id: String,
    /// Whether it is the one that the host booted with; `None` if nothing tells.
    pub(crate) is_first: Option<bool>,
    /// Names the boot: after the next one the same inode may be of another namespace.
    pub(crate) boot: String,
}

/// The namespace of processes that this process is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Processes {
    /// `pid:[INODE]`
    pub(crate) id: String,
    /// Whether it is the one that every process of the host is seen in.
    pub(crate) is_first: bool,
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
            processes: Processes::read(root),
            is_root: nix::unistd::geteuid().is_root(),
            mongod: None,
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
        let boot = root.known("proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        Self { id, is_first, boot }
    }

    /// How to get into the namespace, if anything that is seen from here holds it.
    pub(super) fn entrance(&self, root: &Root) -> Option<String> {
        let inode: u64 = self.id.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()?;
        let names = |path: &str| fs::read_dir(root.path(path)).into_iter().flatten().filter_map(Result::ok);
        let is_it = |path: &Path| fs::metadata(path).is_ok_and(|file| file.ino() == inode);
        if let Some(named) = names("run/netns").find(|entry| is_it(&entry.path())) {
            return Some(format!("ip netns exec {}", named.file_name().display()));
        }
        let processes: Vec<PathBuf> = names("proc")
            .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
            .map(|entry| entry.path())
            .collect();
        let link = |path: &Path| fs::read_link(path).unwrap_or_default();
        let leads_to_it = |path: &Path| link(path).as_os_str() == self.id.as_str();
        // Managers of containers keep theirs at places of their own, as mounts that perhaps only some processes see.
        let mut seen = Vec::new();
        for process in std::iter::once(root.path("proc/self")).chain(processes.iter().cloned()) {
            let mounts = link(&process.join("ns/mnt"));
            if seen.contains(&mounts) && !mounts.as_os_str().is_empty() {
                continue;
            }
            seen.push(mounts);
            let text = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
            let place = text.lines().find_map(|line| {
                let mut fields = line.split(' ').skip(3);
                (fields.next()? == self.id).then(|| fields.next())?
            });
            if let Some(place) = place {
                let from =
                    if seen.len() == 1 { String::new() } else { format!("{}/root", process.display()) };
                return Some(format!("nsenter --net={from}{place}"));
            }
        }
        let spaces = processes.iter().map(|process| process.join("ns/net"));
        let files = processes.iter().flat_map(|process| {
            let entries = fs::read_dir(process.join("fd")).into_iter().flatten().filter_map(Result::ok);
            entries.map(|entry| entry.path())
        });
        let held = spaces.chain(files).find(|path| leads_to_it(path));
        held.map(|path| format!("nsenter --net={}", path.display()))
    }
}

impl Processes {
    fn read(root: &Root) -> Self {
        let path = root.path("proc/self/ns/pid");
        let id =
            fs::read_link(&path).map_or_else(|_| "unknown".to_owned(), |link| link.display().to_string());
        Self { id, is_first: fs::metadata(&path).is_ok_and(|file| file.ino() == FIRST_PIDNS) }
    }
}

/// Whether this is the inside of a container, whose /etc is its own.
pub(crate) fn is_container(root: &Root) -> bool {
    let marks = [".dockerenv", "run/.containerenv", "run/systemd/container"];
    let environment = root.known("proc/1/environ").unwrap_or_default();
    marks.iter().any(|mark| root.path(mark).exists())
        || environment.split('\0').any(|variable| variable.starts_with("container="))
}

/// How long a mongod may take to tell its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// The major version of the mongod that runs, or else of the one on PATH.
pub(crate) fn mongod(root: &Root) -> Option<u32> {
    let entries = fs::read_dir(root.path("proc")).into_iter().flatten().filter_map(Result::ok);
    let running = entries.map(|entry| entry.path()).find_map(|process| {
        let text = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let program = (text.trim() == "mongod").then(|| roots_program(&process.join("exe"))).flatten()?;
        // Looked at after it was opened: the process may have become another program's meanwhile.
        is_of_this_host(root, &process).then_some(program)
    });
    // By a path through this process, which has it open: what was looked at is what is run.
    let path = |program: &File| format!("/proc/{}/fd/{}", std::process::id(), program.as_raw_fd());
    let program = running.as_ref().map_or_else(|| "mongod".to_owned(), path);
    version(&output_of(Command::new(program).arg("--version"))?)
}

/// Whether a process sees the files and users that this one sees. The root of a container is not the host's, and what it
/// owns there may be anything.
fn is_of_this_host(root: &Root, process: &Path) -> bool {
    ["ns/mnt", "ns/user"].iter().all(|space| {
        let own = fs::read_link(root.path("proc/self").join(space)).ok();
        own.is_some() && own == fs::read_link(process.join(space)).ok()
    })
}

/// The program that a process runs, if nobody but root can have written it: this one may be root, and is to run it.
fn roots_program(exe: &Path) -> Option<File> {
    let is_mongod = fs::read_link(exe).ok()?.file_name()? == "mongod";
    let program = File::open(exe).ok()?;
    let file = program.metadata().ok()?;
    (is_mongod && file.uid() == 0 && file.mode() & 0o022 == 0).then_some(program)
}

/// What a program prints that ends in time.
fn output_of(command: &mut Command) -> Option<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let until = Instant::now() + VERSION_TIMEOUT;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > until {
            // It may have ended by itself just now.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut text = Vec::new();
    // A version is some lines, which the pipe holds.
    child.stdout.take()?.take(64 << 10).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// `db version v8.0.4` → 8.
fn version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("db version v")?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
