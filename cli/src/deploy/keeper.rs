//! Keeps one process up: starts it, waits until it is ready, and starts it again when it ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::DeployError;
use super::backoff::Backoff;
use super::board::Board;
use super::local::{STOP_GRACE, start};
use super::plan::Part;
use super::process::Started;

/// How a process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Starting,
    Ready,
    /// It did not come up the last time; it is tried again.
    Failed(String),
}

/// A process that is kept up.
pub(super) struct Keeper {
    pub(super) part: Part,
    standing: watch::Receiver<Standing>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), DeployError>>,
}

impl Keeper {
    /// `running`: one that was started before. `ready_timeout`: for each start.
    pub(super) fn new(
        part: Part,
        running: Option<Started>,
        board: Arc<Board>,
        ready_timeout: Duration,
    ) -> Self {
        let stop = CancellationToken::new();
        let (tell, standing) = watch::channel(Standing::Starting);
        let keeping = Keeping {
            part: part.clone(),
            board,
            ready_timeout,
            stop: stop.clone(),
            tell,
            backoff: Backoff::default(),
        };
        Self { part, standing, stop, task: tokio::spawn(keeping.keep(running)) }
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(*self.standing.borrow(), Standing::Failed(_))
    }

    /// Waits until it is ready, or has failed.
    pub(super) async fn is_up(&mut self) -> Result<(), String> {
        match self.standing.wait_for(|standing| *standing != Standing::Starting).await.as_deref() {
            Ok(Standing::Ready) => Ok(()),
            Ok(Standing::Failed(problem)) => Err(problem.clone()),
            Ok(Standing::Starting) | Err(_) => Err(format!("{} is not kept up any more", self.part.name())),
        }
    }

    /// Ends the process.
    pub(super) async fn stop(self) -> Result<(), DeployError> {
        self.stop.cancel();
        // A task that panicked has no process any more that it could end.
        self.task.await.unwrap_or(Ok(()))
    }
}

struct Keeping {
    part: Part,
    board: Arc<Board>,
    ready_timeout: Duration,
    stop: CancellationToken,
    tell: watch::Sender<Standing>,
    backoff: Backoff,
}

impl Keeping {
    async fn keep(mut self, mut running: Option<Started>) -> Result<(), DeployError> {
        let name = self.part.name().to_owned();
        loop {
            let began = Instant::now();
            let started = match running.take() {
                Some(running) => Ok(running),
                None => start(&self.part, self.board.address(&name).as_deref(), false),
            };
            let how = match started {
                Ok(mut process) => {
                    let stop = self.stop.clone();
                    let how = tokio::select! {
                        biased;
                        () = stop.cancelled() => None,
                        how = self.serve(&mut process) => Some(how),
                    };
                    let Some(how) = how else { return process.stop(STOP_GRACE).await };
                    how
                }
                Err(error) => {
                    self.fail(error.to_string());
                    error.to_string()
                }
            };
            self.board.ended(&name, how.lines().next().unwrap_or_default());
            let pause = self.backoff.next(began.elapsed(), fastrand::f64());
            tracing::warn!("{name} {how}; it is started again in {} ms", pause.as_millis());
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = sleep(pause) => {}
            }
        }
    }

    /// From its start to its end, of which it tells how.
    async fn serve(&self, process: &mut Started) -> String {
        self.board.started(&self.part, &process.identity);
        match self.part.readiness.wait(process, self.ready_timeout, None).await {
            Ok(url) => {
                self.board.ready(self.part.name(), url);
                self.tell.send_replace(Standing::Ready);
                tracing::info!("{} is ready, process {}", self.part.name(), process.identity.pid);
                let how = process.wait().await;
                self.tell.send_replace(Standing::Starting);
                how
            }
            Err(error) => {
                let how = if process.is_alive() {
                    "was not ready in time".to_owned()
                } else {
                    process.wait().await
                };
                if let Err(stuck) = process.stop(STOP_GRACE).await {
                    tracing::error!("{stuck}");
                }
                self.fail(error.to_string());
                how
            }
        }
    }

    fn fail(&self, problem: String) {
        self.tell.send_replace(Standing::Failed(problem));
    }
}
