//! Network namespaces that the tests make: kernel settings of their own, with nothing of the host changed.

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};

use crate::sandbox::{Output, SCALEKIT, Sandbox};

/// A network namespace with its loopback up, gone with the value.
pub(crate) struct Namespace(String);

impl Namespace {
    /// `None`, with what is not tested on stderr, where this process may not make one.
    pub(crate) fn new(what: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: not root, so no network namespace can be made; {what} is NOT tested");
            return None;
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self(format!("scalekit-{}-{count}", std::process::id()));
        let made = Command::new("ip").args(["netns", "add", &namespace.0]).output();
        let made = made.expect("iproute2 is installed by ./test");
        if !made.status.success() {
            let said = String::from_utf8_lossy(&made.stderr);
            let said = said.trim();
            eprintln!("SKIPPED: this root may not make a network namespace ({said}); {what} is NOT tested");
            return None;
        }
        let up = Command::new("ip").args(["-n", &namespace.0, "link", "set", "lo", "up"]).status();
        assert!(up.unwrap().success());
        Some(namespace)
    }

    /// The words that run a program in it, with mounts of its own.
    pub(crate) fn prefix(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.0]
    }

    /// The same with the tests' own mounts, in which control groups are: `ip netns exec` has a /sys of its own.
    pub(crate) fn enter(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net=/var/run/netns/{}", self.0)]
    }

    pub(crate) fn command(&self, sandbox: &Sandbox, args: &[&str]) -> Command {
        sandbox.program("ip", &[&self.prefix()[1..], &[SCALEKIT], args].concat())
    }

    pub(crate) fn scalekit(&self, sandbox: &Sandbox, args: &[&str]) -> Output {
        sandbox.run(self.command(sandbox, args))
    }

    /// What a program printed there; it must succeed.
    #[track_caller]
    pub(crate) fn output(&self, program: &[&str]) -> String {
        let output = Command::new("ip").args(&self.prefix()[1..]).args(program).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A kernel setting.
    pub(crate) fn get(&self, key: &str) -> String {
        let text = self.output(&["cat", &format!("/proc/sys/{}", key.replace('.', "/"))]);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Sets one that is the namespace's own.
    #[track_caller]
    pub(crate) fn set(&self, key: &str, value: &str) {
        let script = "echo \"$1\" > \"$0\"";
        self.output(&["sh", "-c", script, &format!("/proc/sys/{}", key.replace('.', "/")), value]);
        assert_eq!(self.get(key), value, "{key}");
    }

    /// A thread of the tests that is in it.
    pub(crate) fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let namespace = File::open(format!("/var/run/netns/{}", self.0)).unwrap();
        thread::spawn(move || {
            // Moves this thread alone.
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A test that fails has told its reason already.
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}
