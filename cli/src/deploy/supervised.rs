//! The command's side of a supervised deployment: gives a plan to the supervisor, and waits for what becomes of it.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::local::{Request, STOP_GRACE};
use super::plan::{self, Changes, Outcome, Plan};
use super::process::{self, Identity, POLL, ProcessSpec, Started};
use super::state::{Deployment, create_dir};
use super::{DeployError, planning};

/// For all that a supervisor does beside waiting for processes.
const SPARE: Duration = Duration::from_secs(30);

/// Held by whoever changes a deployment; gone with its process.
pub(crate) struct Lock(#[expect(dead_code, reason = "open for as long as the lock is held")] File);

impl Lock {
    /// For a command that changes the deployment in `dir`.
    ///
    /// # Errors
    /// Another one is at it.
    pub(crate) fn of_command(dir: &Path) -> Result<Self, DeployError> {
        create_dir(dir)?;
        Self::take(&dir.join("command.lock"))
    }

    pub(super) fn take(path: &Path) -> Result<Self, DeployError> {
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = open.map_err(DeployError::file("cannot open", path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(fs::TryLockError::WouldBlock) => Err(DeployError::Locked(path.to_owned())),
            Err(fs::TryLockError::Error(source)) => {
                Err(DeployError::File { what: "cannot lock", path: path.to_owned(), source })
            }
        }
    }
}

/// Where the supervisor of the deployment in `dir` logs.
pub(super) fn log_file(dir: &Path) -> PathBuf {
    dir.join("supervisor.log")
}

/// What came of a `deploy`.
pub(crate) struct Deployed {
    pub(crate) deployment: Deployment,
    pub(crate) changes: Changes,
    /// Nothing kept the processes up that ran.
    pub(crate) was_unsupervised: bool,
}

/// Brings the deployment to what the request says, from whatever is there. If nothing was there before and something does
/// not come up, nothing is there afterwards. The caller has the lock.
///
/// # Errors
/// The part that did not come up, with the end of its log.
pub(crate) async fn deploy(
    request: &Request<'_>,
    before: Option<&Deployment>,
) -> Result<Deployed, DeployError> {
    let plan = planning::plan(request, before).await?;
    let was_alive = before.is_some_and(Deployment::is_alive);
    let was_unsupervised = was_alive && !before.is_some_and(Deployment::is_supervised);
    match hand_over(&plan, request.binary, request.stop).await {
        Ok(outcome) => {
            let deployment = plan::read(&plan.deployment.record())?;
            Ok(Deployed { deployment, changes: outcome.changes, was_unsupervised })
        }
        Err(error) => {
            // The supervisor gives it back, unless it did not even start.
            if let (false, Some(cap)) = (was_alive, &plan.deployment.cap) {
                let _ = cap.release().await;
            }
            Err(error)
        }
    }
}

/// Gives a plan to the supervisor, of which there is one afterwards, and waits until all is as it says.
pub(super) async fn hand_over(plan: &Plan, binary: &Path, stop: &AtomicBool) -> Result<Outcome, DeployError> {
    let dir = &plan.deployment.dir;
    let before: Option<Deployment> = plan::read(&plan.deployment.record()).ok();
    plan.write(dir)?;
    let running = before.as_ref().and_then(|before| before.supervisor.clone()).filter(Identity::is_alive);
    let is_first = !before.as_ref().is_some_and(Deployment::is_alive);
    let mut supervisor = match running {
        Some(identity) => {
            // If it has just ended, the wait below says so.
            let _ = kill(Pid::from_raw(identity.pid), Signal::SIGHUP);
            Started::adopt(identity)
        }
        None => start(dir, binary)?,
    };
    // Each part may have to end first, and then takes as long as it may.
    let parts = u32::try_from(plan.parts.len()).unwrap_or(u32::MAX);
    let deadline = Instant::now() + SPARE + (plan.ready_timeout + 2 * STOP_GRACE).saturating_mul(parts);
    loop {
        // Looked at before its outcome is, since it may end right after it wrote that.
        let is_alive = supervisor.is_alive();
        if let Ok(outcome) = plan::read::<Outcome>(&Outcome::file(dir))
            && outcome.id == plan.id
        {
            return match outcome.problem.clone() {
                None => Ok(outcome),
                Some(problem) => {
                    if is_first {
                        // Nothing is left, not even it, and not what it has said.
                        let _ = supervisor.wait().await;
                        let _ = fs::remove_file(Outcome::file(dir));
                    }
                    Err(DeployError::NotUp(problem))
                }
            };
        }
        if !is_alive {
            return Err(supervisor.ended());
        }
        if Instant::now() >= deadline {
            return Err(DeployError::NotUp(format!(
                "the supervisor (process {}) does not say what has become of the deployment; see {}",
                supervisor.identity.pid,
                log_file(dir).display()
            )));
        }
        if stop.load(Ordering::Relaxed) {
            if is_first {
                supervisor.stop(STOP_GRACE * 6).await?;
            }
            return Err(DeployError::Interrupted);
        }
        sleep(POLL).await;
    }
}

fn start(dir: &Path, binary: &Path) -> Result<Started, DeployError> {
    let spec = ProcessSpec {
        name: "supervisor".into(),
        program: binary.to_owned(),
        args: vec!["supervise".into(), "--dir".into(), dir.into()],
        listen: None,
        env: Vec::new(),
        group: None,
        log: log_file(dir),
    };
    process::start(&spec, false)
}
