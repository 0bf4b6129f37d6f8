//! What one process of the service is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::access::Access;
use crate::api::RequestLimits;
use crate::authorities::Authorities;
use crate::contract::Durability;
use crate::journal::embedded::BacklogBounds;
use crate::server_url::ServerUrl;
use crate::telemetry::TraceSettings;
use crate::worker::BatchSettings;

/// Which parts the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Api,
    Worker,
    /// Both; the only role of an embedded backend, whose files one process holds.
    All,
}

impl Role {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::All => "all",
        }
    }
}

/// Where journal, cache and store are.
#[derive(Clone, Debug)]
pub enum Backend {
    /// In this process, in files under the directory.
    Embedded { data_dir: PathBuf },
    /// Direct mode, for comparisons: each read and each write of a request is an operation of its own in the
    /// database. No journal, no cache, no worker.
    Direct(DirectStore),
    RedisMongo {
        redis_url: ServerUrl,
        /// Falls back to `redis_url`.
        cache_url: Option<ServerUrl>,
        mongo_url: ServerUrl,
        mongo_database: String,
        /// Whom servers with TLS are trusted by; `None`: the public authorities.
        authorities: Option<Authorities>,
    },
}

impl Backend {
    #[must_use]
    pub fn is_direct(&self) -> bool {
        matches!(self, Self::Direct(_))
    }
}

/// The database of direct mode.
#[derive(Clone, Debug)]
pub enum DirectStore {
    Embedded { data_dir: PathBuf },
    Mongo { url: ServerUrl, database: String, authorities: Option<Authorities> },
}

/// One process.
#[derive(Clone, Debug)]
pub struct Config {
    pub role: Role,
    pub backend: Backend,
    pub listen: SocketAddr,
    /// Who may ask.
    pub access: Access,
    /// Connections that the kernel may queue for the process.
    pub backlog: u32,
    pub max_connections: usize,
    /// A 202 must mean at least this, or the process does not start.
    pub durability: Durability,
    pub database_ops_per_s: u32,
    /// Most I/O operations a second of the database's device, by whomever; `None`: not bounded.
    pub database_iops_per_s: Option<u32>,
    /// Where they are read: a block device, a path on one, or a control group. `None`: with an embedded database where its
    /// files are, else by other processes.
    pub database_device: Option<PathBuf>,
    /// Journals that documents are dealt out to by their keys, from 1 to [`MAX_SHARDS`]; with `RedisMongo` only.
    ///
    /// [`MAX_SHARDS`]: crate::journal::shard::MAX_SHARDS
    pub shards: u16,
    pub batch: BatchSettings,
    pub requests: RequestLimits,
    pub backlog_bounds: BacklogBounds,
    /// The oldest accepted write may wait this long before new ones get 503; at most
    /// [`crate::cache::redis::MAX_BACKLOG_AGE`].
    pub max_backlog_age: Duration,
    /// For requests to finish, and again for the worker to empty the journal, once a stop was asked for.
    pub shutdown_grace: Duration,
    /// The name of this worker, stable over restarts.
    pub worker_name: String,
    /// `None`: nothing is traced.
    pub traces: Option<TraceSettings>,
}
