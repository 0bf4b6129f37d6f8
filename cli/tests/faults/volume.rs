//! A file system of its own for a Redis, in a mount namespace that only its processes see, and gone with the last of
//! them: small, or one that can lose its power.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::Command;

use crate::sandbox::{Running, Sandbox, free_port, wait_for};

/// `_IOR('X', 125, __u32)` of ext4 (and XFS): no block is written any more, as after a power cut. See ioctl_ext4 in
/// e2fsprogs' and `godown` in xfstests' sources.
const SHUTDOWN: u32 = 0x8004_587d;
/// What is in the file system's own journal and not on the disk yet is lost, too.
const WITHOUT_FLUSHING_ITS_LOG: u32 = 2;

pub(crate) struct Volume {
    /// Keeps the namespace, and in it what is mounted.
    holder: Running,
    dir: PathBuf,
    mount: String,
}

impl Volume {
    /// In memory; so large.
    pub(crate) fn small(sandbox: &Sandbox, size: &str) -> Self {
        Self::new(sandbox, format!("mount -t tmpfs -o size={size} none {}", place(sandbox)))
    }

    /// ext4 on a file.
    pub(crate) fn on_a_disk(sandbox: &Sandbox) -> Self {
        let image = sandbox.path("image");
        File::create(&image).unwrap().set_len(96 << 20).unwrap();
        sandbox.run(program(sandbox, "mkfs.ext4", &["-q", "-F", "image"])).expect(0);
        Self::new(sandbox, format!("mount -o loop {} {}", image.display(), place(sandbox)))
    }

    fn new(sandbox: &Sandbox, mount: String) -> Self {
        let dir = sandbox.path("volume");
        std::fs::create_dir(&dir).unwrap();
        let script = format!("{mount} && touch mounted && exec sleep 600");
        let mut holder = sandbox.start(program(sandbox, "unshare", &["--mount", "sh", "-c", &script]));
        wait_for("the volume", || {
            assert!(!holder.has_ended(), "{}", holder.said());
            sandbox.path("mounted").exists().then_some(())
        });
        Self { holder, dir, mount }
    }

    /// A program that sees the volume.
    fn command(&self, sandbox: &Sandbox, words: &[&str]) -> Command {
        let pid = self.holder.pid().to_string();
        // The working directory is not on the volume's side, so paths must be whole.
        let enter = ["--target", &pid, "--mount"];
        program(sandbox, "nsenter", &[&enter[..], words].concat())
    }

    /// Makes it larger.
    pub(crate) fn grow(&self, sandbox: &Sandbox, size: &str) {
        self.run(sandbox, &format!("mount -o remount,size={size} {}", self.dir.display()));
    }

    fn run(&self, sandbox: &Sandbox, script: &str) {
        sandbox.run(self.command(sandbox, &["sh", "-c", script])).expect(0);
    }

    /// The disk takes nothing any more, and what was not flushed is gone when the power is back.
    pub(crate) fn cut_power(&self) {
        let inside = format!("/proc/{}/root{}", self.holder.pid(), self.dir.display());
        let root = File::open(inside).unwrap();
        let mut flags = WITHOUT_FLUSHING_ITS_LOG;
        // SAFETY: the descriptor is open, and the kernel reads a u32 through the pointer, which lives on.
        let done = unsafe { nix::libc::ioctl(root.as_raw_fd(), SHUTDOWN as _, &raw mut flags) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }

    /// Nothing may run on it.
    pub(crate) fn restore_power(&self, sandbox: &Sandbox) {
        self.run(sandbox, &format!("umount {} && {}", self.dir.display(), self.mount));
    }

    /// A Redis with its files on the volume, once it answers.
    pub(crate) fn redis(&self, sandbox: &Sandbox, port: u16, fsync: &str) -> Running {
        let (port_text, dir) = (port.to_string(), self.dir.display().to_string());
        let words = [
            "redis-server",
            "--bind",
            "127.0.0.1",
            "--port",
            &port_text,
            "--dir",
            &dir,
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            fsync,
        ];
        let mut redis = sandbox.start(self.command(sandbox, &words));
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
        wait_for("Redis", || {
            assert!(!redis.has_ended(), "it ended: {}", redis.said());
            // It says LOADING first.
            let mut connection = client.get_connection().ok()?;
            redis::cmd("PING").query::<String>(&mut connection).ok()
        });
        redis
    }
}

fn place(sandbox: &Sandbox) -> String {
    sandbox.path("volume").display().to_string()
}

/// A program of the system's administration, too.
fn program(sandbox: &Sandbox, name: &str, args: &[&str]) -> Command {
    let mut command = sandbox.program(name, args);
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// A port for a Redis on a volume, if volumes can be had; if not, says what is not tested.
pub(crate) fn port_if_possible(what: &str) -> Option<u16> {
    let why = if !nix::unistd::geteuid().is_root() {
        "not root, so nothing can be mounted".to_owned()
    } else {
        let sandbox = Sandbox::new();
        // Both kinds: a place in memory, and a file that is a disk.
        let probe = "mount -t tmpfs none /mnt && command -v mkfs.ext4 && losetup -f";
        let probed = sandbox.run(program(&sandbox, "unshare", &["--mount", "sh", "-c", probe]));
        if probed.status == Some(0) {
            return Some(free_port());
        }
        format!("this root may not mount, or there is no mkfs.ext4 or loop device ({})", probed.stderr.trim())
    };
    eprintln!("SKIPPED: {why}; {what} is NOT tested");
    None
}
