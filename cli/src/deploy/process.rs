//! One process: started into a log file, watched, and ended politely at first.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep};

use super::DeployError;

/// How often a process is looked at while waiting for it.
pub(super) const POLL: Duration = Duration::from_millis(10);
/// The same where the kernel tells nobody.
const POLL_WITHOUT_DESCRIPTOR: Duration = Duration::from_millis(200);
/// After SIGKILL only the kernel has work left.
const KILLED_GRACE: Duration = Duration::from_secs(5);
/// The end of a log that goes into an error.
const TAIL_BYTES: u64 = 2048;

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessSpec {
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    /// The value of a last argument `--listen`; who starts it may know better by then.
    pub(super) listen: Option<String>,
    /// Not arguments: URLs may hold passwords, and arguments show in `ps`.
    pub(super) env: Vec<(String, String)>,
    /// The directory of the control group that it is in from its first instruction on.
    pub(super) group: Option<PathBuf>,
    pub(super) log: PathBuf,
}

/// A process that can be found again: a process id alone may be given to another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) pid: i32,
    /// When it started, in clock ticks after the boot (field 22 of /proc/PID/stat).
    pub(crate) start_ticks: u64,
    pub(crate) log: PathBuf,
}

impl Identity {
    /// Of this process.
    pub(super) fn own(name: &str, log: PathBuf) -> Self {
        let pid = nix::unistd::getpid().as_raw();
        let start_ticks = stat(pid).map_or(0, |(_, start)| start);
        Self { name: name.to_owned(), pid, start_ticks, log }
    }

    /// Whether it still runs; a zombie does not.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(stat(self.pid), Some((state, start)) if start == self.start_ticks && state != 'Z' && state != 'X')
    }
}

/// State and start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; what follows it is regular. State is field 3.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// The process's largest resident set so far, bytes.
pub(crate) fn memory_peak_bytes(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A process that we started, or took over.
pub(super) struct Started {
    pub(super) identity: Identity,
    /// `None`: not our child, so how it ends nobody tells us.
    child: Option<Child>,
}

/// Starts a process in a group of its own, so that a Ctrl-C at the terminal reaches only us.
///
/// With `die_with_us` the kernel ends it when the calling thread ends, however that comes about; so it must be
/// called on a thread that lives as long as the deployment.
pub(super) fn start(spec: &ProcessSpec, die_with_us: bool) -> Result<Started, DeployError> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&spec.log)
        .map_err(DeployError::file("cannot open the log", &spec.log))?;
    let errors = log.try_clone().map_err(DeployError::file("cannot open the log", &spec.log))?;
    let mut command = Command::new(&spec.program);
    command.args(&spec.args);
    if let Some(listen) = &spec.listen {
        command.args(["--listen", listen]);
    }
    command.envs(spec.env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
    // SAFETY: the call takes three numbers and touches no memory, and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // What whoever started us left open, such as a lock, must not stay open for weeks. A kernel before 5.11 cannot.
            nix::libc::syscall(nix::libc::SYS_close_range, 3, u32::MAX, nix::libc::CLOSE_RANGE_CLOEXEC);
            Ok(())
        });
    }
    if let Some(group) = &spec.group {
        let members = group.join("cgroup.procs");
        let mut members = OpenOptions::new()
            .write(true)
            .open(&members)
            .map_err(DeployError::file("cannot open the control group", members))?;
        // SAFETY: `write` is async-signal-safe, and the file is open before the fork.
        unsafe {
            // 0 is whoever writes it.
            command.pre_exec(move || members.write_all(b"0"));
        }
    }
    if die_with_us {
        let parent = nix::unistd::getpid();
        // SAFETY: prctl and getppid are async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
                // The parent may have died before the line above.
                if nix::unistd::getppid() == parent {
                    Ok(())
                } else {
                    Err(io::Error::other("the parent is gone"))
                }
            });
        }
    }
    let child = command.spawn().map_err(|source| DeployError::Start {
        name: spec.name.clone(),
        program: spec.program.clone(),
        source,
    })?;
    let pid = i32::try_from(child.id()).expect("Linux process ids are below 2^22");
    let start_ticks = stat(pid).map_or(0, |(_, start)| start);
    Ok(Started {
        identity: Identity { name: spec.name.clone(), pid, start_ticks, log: spec.log.clone() },
        child: Some(child),
    })
}

impl Started {
    /// One that somebody else started.
    pub(super) fn adopt(identity: Identity) -> Self {
        Self { identity, child: None }
    }

    /// Whether it still runs; reaps it if not.
    pub(super) fn is_alive(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => self.identity.is_alive(),
        }
    }

    /// Returns once it has ended, with how.
    pub(super) async fn wait(&mut self) -> String {
        // Whom the descriptor means is certain only if it is alive after it was had.
        let descriptor = descriptor(self.identity.pid);
        while self.is_alive() {
            match &descriptor {
                // A descriptor stays readable; the pause is for the moment between end and zombie.
                Ok(descriptor) => {
                    let _ = descriptor.readable().await;
                    sleep(POLL).await;
                }
                // A kernel before 5.3.
                Err(_) => sleep(POLL_WITHOUT_DESCRIPTOR).await,
            }
        }
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) => how(status),
            _ => "ended, nobody knows how".to_owned(),
        }
    }

    pub(super) fn ended(&self) -> DeployError {
        let Identity { name, log, .. } = self.identity.clone();
        DeployError::Ended { name, tail: tail(&log), log }
    }

    pub(super) fn not_ready(&self, waited: Duration) -> DeployError {
        let Identity { name, log, .. } = self.identity.clone();
        DeployError::NotReady { name, seconds: waited.as_secs(), tail: tail(&log), log }
    }

    /// Asks it to end, and ends it if it does not within `grace`.
    pub(super) async fn stop(&mut self, grace: Duration) -> Result<(), DeployError> {
        let identity = self.identity.clone();
        end(&identity, grace, || self.is_alive()).await
    }
}

/// A descriptor that becomes readable when the process ends.
fn descriptor(pid: i32) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the call takes two numbers and touches no memory of ours.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).expect("descriptors are small");
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given it to us, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an owned descriptor stays open, and the same, as long as it is owned, which is as long as this is.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The same for a process of an earlier command, which is not our child.
pub(super) async fn stop(identity: &Identity, grace: Duration) -> Result<(), DeployError> {
    end(identity, grace, || identity.is_alive()).await
}

async fn end(
    identity: &Identity,
    grace: Duration,
    mut is_alive: impl FnMut() -> bool,
) -> Result<(), DeployError> {
    for (signal, patience) in [(Signal::SIGTERM, grace), (Signal::SIGKILL, KILLED_GRACE)] {
        if !is_alive() {
            return Ok(());
        }
        // It can only fail when the process is gone, which the wait notices.
        let _ = kill(Pid::from_raw(identity.pid), signal);
        let deadline = Instant::now() + patience;
        while is_alive() && Instant::now() < deadline {
            sleep(POLL).await;
        }
    }
    if is_alive() {
        return Err(DeployError::Stuck { name: identity.name.clone(), pid: identity.pid });
    }
    Ok(())
}

/// The last lines of a log.
pub(super) fn tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) if text.trim().is_empty() => "  (empty)".into(),
        Ok(text) => text.lines().map(|line| format!("  {line}\n")).collect::<String>().trim_end().to_owned(),
        Err(error) => format!("  (cannot be read: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dir: &Path, script: &str) -> ProcessSpec {
        ProcessSpec {
            name: "test".into(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            listen: None,
            env: vec![("GREETING".into(), "hello".into())],
            group: None,
            log: dir.join("test.log"),
        }
    }

    #[tokio::test]
    async fn a_process_is_started_into_its_log_and_ends_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let mut started = start(&spec(dir.path(), "echo $GREETING; exec sleep 60"), true).unwrap();
        let identity = started.identity.clone();
        while !tail(&identity.log).contains("hello") {
            assert!(started.is_alive());
            sleep(POLL).await;
        }
        assert!(identity.is_alive());
        let other = Identity { start_ticks: identity.start_ticks + 1, ..identity.clone() };
        assert!(!other.is_alive(), "the same process id of another time is another process");
        started.stop(Duration::from_secs(10)).await.unwrap();
        assert!(!identity.is_alive());
    }

    #[tokio::test]
    async fn one_that_will_not_end_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut started =
            start(&spec(dir.path(), "trap '' TERM; echo ready; while :; do sleep 0.01; done"), true).unwrap();
        while !tail(&started.identity.log).contains("ready") {
            sleep(POLL).await;
        }
        started.stop(Duration::from_millis(50)).await.unwrap();
        assert!(!started.is_alive());
    }

    #[tokio::test]
    async fn one_that_ends_early_shows_why() {
        let dir = tempfile::tempdir().unwrap();
        let mut started = start(&spec(dir.path(), "echo no such option; exit 3"), true).unwrap();
        while started.is_alive() {
            sleep(POLL).await;
        }
        assert!(started.ended().to_string().contains("no such option"));
    }

    #[tokio::test]
    async fn one_that_was_taken_over_is_watched_as_well_as_a_child() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = start(&spec(dir.path(), "exec sleep 60"), true).unwrap();
        let mut adopted = Started::adopt(child.identity.clone());
        let pid = Pid::from_raw(child.identity.pid);
        let (killed, seen) = tokio::join!(
            async {
                let _ = kill(pid, Signal::SIGKILL);
                child.wait().await
            },
            adopted.wait()
        );
        assert_eq!(killed, "ended by signal 9");
        assert!(seen.contains("nobody knows"), "{seen}");
        let mut failing = start(&spec(dir.path(), "exit 3"), true).unwrap();
        assert_eq!(failing.wait().await, "ended with status 3");
    }

    #[tokio::test]
    async fn what_we_have_open_is_not_open_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("lock")).unwrap();
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let mut started = start(&spec(dir.path(), "ls -l /proc/self/fd"), true).unwrap();
        assert_eq!(started.wait().await, "ended with status 0");
        let said = tail(&started.identity.log);
        assert!(said.contains("test.log") && !said.contains("/lock"), "{said}");
    }
}
