//! How a process tells that it is ready, and waiting for that.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scalekit_service::redis_link::RedisLink;
use scalekit_service::store::Store as _;
use scalekit_service::store::mongo::Mongo;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};

use super::DeployError;
use super::process::{POLL, Started};

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Readiness {
    /// A server on 127.0.0.1.
    Redis {
        port: u16,
    },
    Mongo {
        port: u16,
    },
    /// It writes the address that it serves into a file. `scheme`: of the URL that makes of it.
    File {
        path: PathBuf,
        scheme: String,
    },
}

impl Readiness {
    /// The port of a server.
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Self::Redis { port } | Self::Mongo { port } => Some(*port),
            Self::File { .. } => None,
        }
    }

    /// Forgets what an earlier process said.
    pub(super) fn prepare(&self) -> Result<(), DeployError> {
        match self {
            Self::File { path, .. } => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(DeployError::File { what: "cannot remove", path: path.clone(), source: error })
                }
                _ => Ok(()),
            },
            Self::Redis { .. } | Self::Mongo { .. } => Ok(()),
        }
    }

    /// `Some` once it is ready, with its URL if it is a process of the service.
    async fn ask(&self) -> Option<Option<String>> {
        match self {
            Self::Redis { port } => {
                let link = RedisLink::new(&format!("redis://127.0.0.1:{port}"))
                    .expect("a URL made of a port is well-formed");
                link.lease().await.ok().map(|_| None)
            }
            Self::Mongo { port } => {
                let url = format!("mongodb://127.0.0.1:{port}");
                Mongo::connect(&url, "admin").await.ok()?.ping().await.ok().map(|()| None)
            }
            Self::File { path, scheme } => {
                let address = fs::read_to_string(path).ok()?;
                Some(Some(format!("{scheme}://{address}")))
            }
        }
    }

    /// Waits until the process is ready, and gives its URL if it is one of the service.
    ///
    /// # Errors
    /// It ended, took longer than `patience`, or the user wants out.
    pub(super) async fn wait(
        &self,
        process: &mut Started,
        patience: Duration,
        stop: Option<&AtomicBool>,
    ) -> Result<Option<String>, DeployError> {
        let deadline = Instant::now() + patience;
        loop {
            // One that has ended has its port to somebody else, who may answer.
            if !process.is_alive() {
                return Err(process.ended());
            }
            if let Ok(Some(ready)) = timeout_at(deadline, self.ask()).await
                && process.is_alive()
            {
                return Ok(ready);
            }
            if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Err(DeployError::Interrupted);
            }
            if Instant::now() >= deadline {
                return Err(process.not_ready(patience));
            }
            sleep(POLL).await;
        }
    }
}
