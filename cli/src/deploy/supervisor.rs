//! The process that keeps a deployment up. It goes by the plan in the deployment's directory: it reads it at its start and
//! at each SIGHUP, changes what differs, and writes down what became of it. SIGTERM ends everything, in order. If it is
//! killed, the processes run on, and the next supervisor takes them over.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::board::Board;
use super::keeper::Keeper;
use super::plan::{self, Changes, Outcome, Plan};
use super::process::{Identity, Started};
use super::state::{Deployment, forget};
use super::supervised::{Lock, log_file};
use super::{DeployError, rotation};

/// How often logs are looked at for their size, and a record that is behind is written again.
const TICK: Duration = Duration::from_secs(1);

/// Keeps the deployment in `dir` up until it is told to end.
///
/// # Errors
/// There is another supervisor, or no plan that can be read, or a process that cannot be ended.
pub(crate) async fn supervise(dir: &Path) -> Result<(), DeployError> {
    let _lock = Lock::take(&dir.join("supervisor.lock"))?;
    let listen = |kind| signal(kind).map_err(DeployError::file("cannot listen for signals, in", dir));
    let (mut end, mut anew) = (listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    // Of a terminal that it may have been started from.
    let _interrupts = listen(SignalKind::interrupt())?;
    let mut supervisor = Supervisor::new(dir)?;
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_due = true;
    loop {
        if std::mem::take(&mut is_due) && !supervisor.follow_plan(&mut end).await? {
            break;
        }
        tokio::select! {
            _ = end.recv() => break,
            _ = anew.recv() => is_due = true,
            _ = tick.tick() => {
                supervisor.bound_logs();
                supervisor.board.catch_up();
            }
        }
    }
    tracing::info!("stopping: the API first, the databases last");
    let result = supervisor.stop().await;
    if !supervisor.was_up {
        supervisor.leave_nothing().await;
    }
    result
}

struct Supervisor {
    dir: std::path::PathBuf,
    board: Arc<Board>,
    /// In the order of their start.
    keepers: Vec<Keeper>,
    /// Whether anything was up before, or is; if not, a deployment that fails is taken away.
    was_up: bool,
}

impl Supervisor {
    /// Takes over what runs already.
    fn new(dir: &Path) -> Result<Self, DeployError> {
        let plan = Plan::read(dir)?;
        let before: Option<Deployment> = plan::read(&plan.deployment.record()).ok();
        let mut deployment = before.unwrap_or_else(|| plan.deployment.clone());
        deployment.supervisor = Some(Identity::own("supervisor", log_file(dir)));
        let board = Arc::new(Board::new(deployment.clone()));
        let alive = deployment.processes.into_iter().filter(|process| process.identity.is_alive());
        let keepers: Vec<Keeper> = alive
            .map(|process| {
                tracing::info!("taking over {}, process {}", process.identity.name, process.identity.pid);
                let running = Some(Started::adopt(process.identity));
                Keeper::new(process.part, running, Arc::clone(&board), plan.ready_timeout)
            })
            .collect();
        Ok(Self { dir: dir.to_owned(), board, was_up: !keepers.is_empty(), keepers })
    }

    /// False: nothing is up, or it was told to end.
    async fn follow_plan(&mut self, end: &mut Signal) -> Result<bool, DeployError> {
        let plan = match Plan::read(&self.dir) {
            Ok(plan) => plan,
            // What runs goes on by the plan of before.
            Err(error) if self.was_up => {
                tracing::error!("{error}");
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        let recorded = self.board.plan(&plan.deployment, &plan.parts);
        let outcome = match recorded {
            // What nobody could find again must not be started.
            Err(error) if !self.was_up => {
                Outcome { id: plan.id, changes: Changes::default(), problem: Some(error.to_string()) }
            }
            _ => tokio::select! {
                _ = end.recv() => return Ok(false),
                outcome = self.change(&plan) => outcome,
            },
        };
        if let Some(problem) = &outcome.problem {
            tracing::error!("{problem}");
        }
        if outcome.problem.is_none() && !self.was_up {
            // Whoever waits for it would wait in vain, and for something that nobody knows of.
            self.was_up = plan::write(&Outcome::file(&self.dir), &outcome).is_ok();
            if self.was_up {
                return Ok(true);
            }
        }
        if !self.was_up {
            // Told only once it is true that nothing is left.
            if let Err(stuck) = self.stop().await {
                tracing::error!("{stuck}");
            }
            self.leave_nothing().await;
        }
        if let Err(error) = plan::write(&Outcome::file(&self.dir), &outcome) {
            tracing::error!("{error}");
        }
        Ok(self.was_up)
    }

    /// Changes what differs: what is not wanted ends first, the rest goes in the order of the plan.
    async fn change(&mut self, plan: &Plan) -> Outcome {
        // What has failed is tried anew, and so counts as another.
        let sound = self.keepers.iter().map(|keeper| {
            let mut part = keeper.part.clone();
            if keeper.has_failed() {
                part.reads.push_str("\nfailed");
            }
            part
        });
        let changes = Changes::between(&sound.collect::<Vec<_>>(), &plan.parts);
        tracing::info!("{}", changes.text());
        let mut problem = None;
        for name in &changes.stopped {
            problem = problem.or(self.end(name, false).await.err().map(|error| error.to_string()));
        }
        for (place, part) in plan.parts.iter().enumerate() {
            let name = part.name();
            if changes.restarted.iter().any(|restarted| restarted == name) {
                problem = problem.or(self.end(name, true).await.err().map(|error| error.to_string()));
            }
            if !self.keepers.iter().any(|keeper| keeper.part.name() == name) {
                let keeper = Keeper::new(part.clone(), None, Arc::clone(&self.board), plan.ready_timeout);
                self.keepers.insert(place.min(self.keepers.len()), keeper);
            }
            // Once one has failed, what needs it would only fail for want of it.
            if problem.is_none()
                && let Some(keeper) = self.keepers.iter_mut().find(|keeper| keeper.part.name() == name)
            {
                problem = keeper.is_up().await.err();
                if problem.is_some() && !self.was_up {
                    break;
                }
            }
        }
        Outcome { id: plan.id, changes, problem }
    }

    async fn end(&mut self, name: &str, is_wanted: bool) -> Result<(), DeployError> {
        let Some(place) = self.keepers.iter().position(|keeper| keeper.part.name() == name) else {
            return Ok(());
        };
        let result = self.keepers.remove(place).stop().await;
        self.board.stopped(name, is_wanted);
        result
    }

    /// Ends everything, those first that need the others.
    async fn stop(&mut self) -> Result<(), DeployError> {
        let mut result = Ok(());
        while let Some(keeper) = self.keepers.pop() {
            let name = keeper.part.name().to_owned();
            result = result.and(keeper.stop().await);
            self.board.stopped(&name, true);
            tracing::info!("{name} has ended");
        }
        result
    }

    async fn leave_nothing(&self) {
        if let Some(cap) = self.board.read(|deployment| deployment.cap.clone())
            && let Err(error) = cap.release().await
        {
            tracing::error!("{error}");
        }
        if let Err(error) = forget(&self.dir) {
            tracing::error!("{error}");
        }
    }

    fn bound_logs(&self) {
        let mut logs: Vec<_> = self.keepers.iter().map(|keeper| keeper.part.spec.log.clone()).collect();
        logs.push(log_file(&self.dir));
        for log in logs {
            if let Err(error) = rotation::rotate(&log, rotation::MAX_BYTES) {
                tracing::warn!("{} could not be kept short: {error}", log.display());
            }
        }
    }
}
