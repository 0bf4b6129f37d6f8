//! Bringing the service up: on this host, as processes of this same binary, with Redis and MongoDB where no URL
//! names them; or in a Kubernetes cluster.

mod backoff;
mod board;
pub(crate) mod cap;
mod keeper;
pub(crate) mod kubernetes;
mod local;
mod parts;
mod plan;
mod planning;
mod process;
mod readiness;
mod rotation;
mod state;
mod supervised;
mod supervisor;
pub(crate) mod systemd;

use std::io;
use std::path::PathBuf;

pub(crate) use local::{Lifetime, Request, Running, STOP_GRACE, up};
pub(crate) use process::memory_peak_bytes;
pub(crate) use state::{Deployment, Member, Role, StateDir, forget, save};
pub(crate) use supervised::{Deployed, Lock, deploy};
pub(crate) use supervisor::supervise;

/// Why the service is not up, or not down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployError {
    #[error("{what} {}: {source}", path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("`{program}` is not on PATH: install it ({package}), or name a running server with {flag}")]
    NotOnPath { program: &'static str, package: &'static str, flag: &'static str },
    #[error("{name} could not be started ({}): {source}", program.display())]
    Start { name: String, program: PathBuf, source: io::Error },
    #[error("{name} ended before it was ready; the end of {}:\n{tail}", log.display())]
    Ended { name: String, log: PathBuf, tail: String },
    #[error("{name} was not ready within {seconds} s; the end of {}:\n{tail}", log.display())]
    NotReady { name: String, seconds: u64, log: PathBuf, tail: String },
    #[error("{name} (process {pid}) did not end, not even killed")]
    Stuck { name: String, pid: i32 },
    #[error(transparent)]
    Cap(#[from] cap::CapError),
    #[error("{0}")]
    NotUp(String),
    #[error("systemd: {0}")]
    Systemd(String),
    #[error(
        "deploy.cap is another one than MongoDB runs under, which it gets only when it starts; end the deployment with \
         `scalekit deploy down`, which keeps its data, and deploy again"
    )]
    CapChanged,
    #[error(
        "another `scalekit` is at work on this deployment ({} is locked); wait for its end, and try again",
        _0.display()
    )]
    Locked(PathBuf),
    #[error("interrupted while the service was starting")]
    Interrupted,
    #[error("no free port on 127.0.0.1: {0}")]
    NoPort(io::Error),
    #[error("neither XDG_STATE_HOME nor HOME is set; set one, so that the deployment can be found again")]
    NoHome,
    #[error("{} is not a deployment's record: {problem}; remove the file if it is of no use", path.display())]
    Record { path: PathBuf, problem: String },
}

impl DeployError {
    fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}
