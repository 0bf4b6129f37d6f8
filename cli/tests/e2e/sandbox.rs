//! A home of its own for one test: directories, environment, and every process started from within it, which
//! all carry the directory in their environment or arguments and so can be found and ended.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub(crate) const SCALEKIT: &str = env!("CARGO_BIN_EXE_scalekit");
/// Nothing here takes this long unless it hangs, on however slow a machine.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

/// A short load whose latency bounds no slow machine breaks.
pub(crate) const QUICK: &str = "
description: A short load for tests, with bounds that no slow machine breaks.
deploy:
  database_ops: 500/s
  worker: {linger: 20ms}
  limits: {request_timeout: 20s}
  drain_timeout: 60s
load:
  vus: 20
  think_time: 100ms
  warmup: 0s
  duration: 1500ms
  timeout: 30s
  transactions: {items: 50}
criteria:
  http_req_total_duration: ['p(95)<60000']
  http_req_failed: ['rate<0.01']
  lost_writes: ['count==0']
  duplicated_writes: ['count==0']
  db_ops: ['max<=5000']
";

/// Waits until `condition` gives something.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(POLL);
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Output {
    /// `None`: ended by a signal.
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Itself, if it ended with this status.
    #[track_caller]
    pub(crate) fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// Checks that all of these are in what it printed on stderr.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in\n{}", self.stderr);
        }
        self
    }

    /// Checks that all of these are in what it printed on stdout.
    #[track_caller]
    pub(crate) fn prints(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stdout.contains(word), "no {word:?} in\n{}\n{}", self.stdout, self.stderr);
        }
        self
    }
}

/// A command that runs, with its output in files; killed and reaped when dropped.
pub(crate) struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Whether it has ended; if so, it must not be sent a signal any more.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What it has printed on stderr so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// What it has printed on stdout so far.
    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap()
    }

    /// Waits until it has printed this on stderr.
    pub(crate) fn wait_to_say(&mut self, text: &str) {
        wait_for(text, || {
            let status = self.child.try_wait().unwrap();
            let said = self.said();
            assert!(
                status.is_none() || said.contains(text),
                "ended with {status:?} before {text:?}:\n{said}"
            );
            said.contains(text).then_some(())
        });
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self) -> Output {
        let status = wait_for("the end of a command", || self.child.try_wait().unwrap());
        Output {
            status: status.code(),
            stdout: fs::read_to_string(&self.stdout).unwrap(),
            stderr: fs::read_to_string(&self.stderr).unwrap(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// See the module. Dropped, it ends all that was started from it.
pub(crate) struct Sandbox {
    dir: TempDir,
    commands: std::cell::Cell<u32>,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let sandbox =
            Self { dir: TempDir::with_prefix("scalekit-e2e-").unwrap(), commands: std::cell::Cell::new(0) };
        fs::create_dir(sandbox.path("home")).unwrap();
        sandbox
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the tool keeps what it must find again.
    pub(crate) fn state(&self) -> PathBuf {
        self.path("state/scalekit")
    }

    /// Writes a profile: [`QUICK`], with `changes` on top of it.
    pub(crate) fn profile(&self, name: &str, changes: &str) -> String {
        let base = self.path("quick-base.yaml");
        fs::write(&base, format!("extends: default\n{QUICK}")).unwrap();
        let file = self.path(&format!("{name}.yaml"));
        fs::write(&file, format!("extends: quick-base.yaml\n{changes}")).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// The program under test with a bare environment, in the sandbox's directory.
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Command {
        self.program(SCALEKIT, args)
    }

    /// Any program, so.
    pub(crate) fn program<S: AsRef<std::ffi::OsStr>>(&self, program: &str, args: &[S]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.dir.path()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command.env("HOME", self.path("home")).env("XDG_STATE_HOME", self.path("state"));
        // Root's journal of the host is not below its home.
        command.env("SCALEKIT_TUNE_STATE", self.state().join("tune"));
        command
    }

    /// Runs the program to its end.
    pub(crate) fn scalekit<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Output {
        self.run(self.command(args))
    }

    pub(crate) fn run(&self, command: Command) -> Output {
        self.start(command).wait()
    }

    pub(crate) fn start(&self, mut command: Command) -> Running {
        let number = self.commands.get();
        self.commands.set(number + 1);
        let (stdout, stderr) =
            (self.path(&format!("{number}.stdout")), self.path(&format!("{number}.stderr")));
        command.stdin(Stdio::null());
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        // Of a group of its own, so that a Ctrl-C on the tests does not look like one of theirs.
        command.process_group(0);
        let child = command.spawn().unwrap();
        Running { child, stdout, stderr }
    }

    /// The report folders in `reports`.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        match fs::read_dir(self.path("reports")) {
            Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => panic!("{error}"),
        }
    }

    /// The only report.
    pub(crate) fn report(&self) -> Value {
        let folders = self.folders();
        assert_eq!(folders.len(), 1, "{folders:?}");
        read_json(&folders[0].join("report.json"))
    }

    /// The record of a profile's deployment.
    pub(crate) fn deployment(&self, profile: &str) -> Value {
        read_json(&self.state().join("deployments").join(profile).join("deployment.json"))
    }

    /// The process of this name in a deployment.
    pub(crate) fn process(&self, profile: &str, name: &str) -> i32 {
        let deployment = self.deployment(profile);
        let process =
            deployment["processes"].as_array().unwrap().iter().find(|process| process["name"] == name);
        i32::try_from(process.unwrap()["pid"].as_i64().unwrap()).unwrap()
    }

    /// Kills what would start the processes of a deployment again.
    pub(crate) fn end_supervisor(&self, profile: &str) {
        let pid = i32::try_from(self.deployment(profile)["supervisor"]["pid"].as_i64().unwrap()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        wait_for("the end of the supervisor", || (!is_running(pid)).then_some(()));
    }

    /// What still runs of all that was started from here, as `pid: command line`.
    pub(crate) fn processes(&self) -> Vec<String> {
        let needle = self.dir.path().to_str().unwrap().as_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            // One that is just ending has neither.
            let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
            let (arguments, environment) = (read("cmdline"), read("environ"));
            // Redis writes its title over both, and works in its directory.
            let place = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            let place = place.into_os_string().into_encoded_bytes();
            let ours = [&arguments, &environment, &place].iter().any(|text| contains(text, needle));
            if ours && is_running(pid) {
                found.push(format!("{pid}: {}", String::from_utf8_lossy(&arguments).replace('\0', " ")));
            }
        }
        found
    }

    /// Nothing may be left running, and nothing of a run be left on disk.
    #[track_caller]
    pub(crate) fn expect_clean(&self) {
        assert_eq!(self.processes(), Vec::<String>::new());
        let runs = self.state().join("runs");
        let left: Vec<_> = fs::read_dir(&runs).map(|dir| dir.collect()).unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let start = Instant::now();
        loop {
            let left = self.processes();
            if left.is_empty() || start.elapsed() > Duration::from_secs(10) {
                break;
            }
            for process in left {
                let pid = process.split(':').next().and_then(|pid| pid.parse().ok()).unwrap();
                // It may have ended since it was seen.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(POLL);
        }
    }
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}

/// Whether a process exists and is no zombie.
pub(crate) fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

pub(crate) fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A port that nobody listens on.
pub(crate) use scalekit_service::testing::free_port;
