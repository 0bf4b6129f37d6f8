//! The domain types: a profile resolved, complete and within bounds.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use scalekit_service::server_url::ServerUrl;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::agents::{self, AgentAddress};
use super::host::Host;
use super::http_version::HttpVersion;
use super::kubernetes::Kubernetes;
use super::steps::StageText;
use super::written;

/// One situation, from deployment to verdict. Serialized, it has the form of a profile file, with passwords
/// blanked out, so that it may go into a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Profile {
    /// Built-in name, or the file's name without its ending.
    #[serde(skip)]
    pub(crate) name: String,
    pub(crate) description: String,
    /// Left out where it asks for nothing.
    #[serde(skip_serializing_if = "Host::is_empty")]
    pub(crate) host: Host,
    pub(crate) deploy: Deploy,
    pub(crate) load: Load,
    #[serde(serialize_with = "written::criteria")]
    pub(crate) criteria: Vec<CriterionSpec>,
    /// What it was put together from, the top layer first.
    #[serde(skip)]
    pub(crate) sources: Vec<String>,
    /// What the reader should know about how it was resolved, such as criteria that fell away.
    #[serde(skip)]
    pub(crate) notes: Vec<String>,
}

impl Profile {
    /// How many users the host is for.
    pub(crate) fn users(&self) -> u32 {
        self.host.users.unwrap_or(self.load.vus)
    }
}

/// One threshold, not yet understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CriterionSpec {
    pub(crate) metric: String,
    pub(crate) expression: String,
    /// End the run when it fails.
    pub(crate) abort_on_fail: bool,
    /// How long into the run it is not yet evaluated for that.
    pub(crate) delay_abort_eval: Duration,
    /// `file:line:column`, or the flag it came from.
    pub(crate) location: String,
}

/// Where the service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum DeployTarget {
    /// Processes on this host.
    Local,
    /// Pods in a Kubernetes cluster.
    K8s,
}

/// Journal, cache and database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum Backend {
    /// In the process, on the local disk.
    Embedded,
    /// Redis Streams for the journal, Redis for the cache, MongoDB for the documents.
    RedisMongo,
}

/// How the service takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum DeployMode {
    /// Into the journal; a worker carries them into the database.
    WriteBehind,
    /// Into the database, one by one, while the client waits.
    Direct,
}

/// What an acknowledged write has survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum Durability {
    /// It is on the device: survives a power cut.
    Fsync,
    /// It is with the operating system: survives the process.
    Os,
}

/// What to deploy, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Deploy {
    pub(crate) target: DeployTarget,
    pub(crate) backend: Backend,
    pub(crate) mode: DeployMode,
    /// Port 0 takes any free one.
    pub(crate) listen: SocketAddr,
    #[serde(serialize_with = "written::url_without_password")]
    pub(crate) redis_url: Option<ServerUrl>,
    #[serde(serialize_with = "written::url_without_password")]
    pub(crate) cache_url: Option<ServerUrl>,
    #[serde(serialize_with = "written::url_without_password")]
    pub(crate) mongo_url: Option<ServerUrl>,
    /// Files with URLs instead; all paths are absolute.
    pub(crate) redis_url_file: Option<PathBuf>,
    pub(crate) cache_url_file: Option<PathBuf>,
    pub(crate) mongo_url_file: Option<PathBuf>,
    /// Whom Redis and MongoDB are trusted by.
    pub(crate) backend_ca: Option<PathBuf>,
    pub(crate) mongo_database: String,
    /// Of hashed tokens. `None`: anybody may ask anything.
    pub(crate) tokens_file: Option<PathBuf>,
    /// `None`: plain HTTP.
    pub(crate) tls: Option<ServeTls>,
    pub(crate) durability: Durability,
    /// Most database operations a second.
    #[serde(rename = "database_ops", serialize_with = "written::rate")]
    pub(crate) database_ops_per_s: u32,
    /// Most I/O operations a second of the database's device. `None`: not bounded.
    #[serde(rename = "database_iops", serialize_with = "written::optional_rate")]
    pub(crate) database_iops_per_s: Option<u32>,
    /// A device, a path on it, or a control group. `None`: others read it, or it is where an embedded database is.
    pub(crate) database_device: Option<PathBuf>,
    pub(crate) cap: DatabaseCap,
    /// Journals that documents are dealt out to.
    pub(crate) shards: u16,
    /// `None`: one for each core.
    pub(crate) api_threads: Option<u32>,
    pub(crate) worker: Worker,
    pub(crate) limits: Limits,
    pub(crate) telemetry: Telemetry,
    pub(crate) kubernetes: Kubernetes,
    #[serde(serialize_with = "written::span")]
    pub(crate) ready_timeout: Duration,
    #[serde(serialize_with = "written::span")]
    pub(crate) drain_timeout: Duration,
}

/// What the kernel lets the database do on its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct DatabaseCap {
    /// Most reads a second, and as many writes. `None`: no cap.
    #[serde(rename = "iops", serialize_with = "written::optional_rate")]
    pub(crate) iops_per_s: Option<u32>,
    /// A run without proof that the cap holds is invalid.
    pub(crate) required: bool,
    /// Of a MongoDB that was started elsewhere: its control group, and a directory on its disk. Both absolute.
    pub(crate) group: Option<PathBuf>,
    pub(crate) directory: Option<PathBuf>,
}

/// The service's certificate and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ServeTls {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// How the worker batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Worker {
    pub(crate) batch_max_writes: u32,
    #[serde(serialize_with = "written::size")]
    pub(crate) batch_max_bytes: u64,
    /// How long an incomplete batch waits for more.
    #[serde(serialize_with = "written::span")]
    pub(crate) linger: Duration,
}

/// Where the service tells what it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Telemetry {
    /// `None`: no traces.
    #[serde(serialize_with = "written::text_without_password")]
    pub(crate) otlp_endpoint: Option<String>,
}

/// What the API refuses, so that it stays up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Limits {
    #[serde(serialize_with = "written::size")]
    pub(crate) max_body_bytes: u64,
    #[serde(serialize_with = "written::span")]
    pub(crate) request_timeout: Duration,
    pub(crate) max_connections: u32,
    /// Connections that may wait to be accepted.
    pub(crate) backlog: u32,
    pub(crate) max_backlog_entries: u64,
    #[serde(serialize_with = "written::size")]
    pub(crate) max_backlog_bytes: u64,
    #[serde(serialize_with = "written::span")]
    pub(crate) max_backlog_age: Duration,
}

/// What a user does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum ScenarioKind {
    /// Transactions of the bundled service.
    Transactions,
    /// One request over and over.
    Request,
    /// Several requests, one after the other, over and over.
    Steps,
}

/// What users trust over TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TlsSpec {
    /// A PEM file of certificate authorities, beside the usual ones.
    pub(crate) ca: Option<String>,
    pub(crate) insecure_skip_verify: bool,
}

/// The scenario `transactions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TransactionsSpec {
    /// Documents that exist before the run.
    pub(crate) items: u32,
    pub(crate) reads: u32,
    pub(crate) writes: u32,
    pub(crate) item_collection: String,
    pub(crate) write_collection: String,
}

/// The scenario `request`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RequestSpec {
    pub(crate) method: String,
    #[serde(serialize_with = "written::headers_without_secrets")]
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Option<String>,
}

/// One request of the scenario `steps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct StepSpec {
    pub(crate) name: String,
    /// Path and query; `None`: those of the URL.
    pub(crate) path: Option<String>,
    #[serde(flatten)]
    pub(crate) request: RequestSpec,
    /// Statuses that pass its check; empty: no check.
    #[serde(serialize_with = "written::statuses")]
    pub(crate) status: Vec<RangeInclusive<u16>>,
    /// What a body must have to pass its check.
    pub(crate) body_contains: Option<String>,
    /// Before the next step.
    #[serde(serialize_with = "written::span")]
    pub(crate) think_time: Duration,
}

/// What load to put on the service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Load {
    /// `None`: the deployed service.
    #[serde(serialize_with = "written::text_without_password")]
    pub(crate) url: Option<String>,
    pub(crate) scenario: ScenarioKind,
    pub(crate) transactions: TransactionsSpec,
    pub(crate) request: RequestSpec,
    pub(crate) steps: Vec<StepSpec>,
    /// A CSV file.
    pub(crate) data: Option<PathBuf>,
    /// Users keep cookies, from one step of an iteration to the next.
    pub(crate) cookies: bool,
    pub(crate) http: HttpVersion,
    /// A user keeps its connection from one request to the next.
    pub(crate) connection_reuse: bool,
    /// Where the users connect from, in turn; empty: the kernel chooses.
    pub(crate) local_ips: Vec<IpAddr>,
    pub(crate) tls: TlsSpec,
    /// With stages of users the most; with a rate, as many as can be busy at once.
    pub(crate) vus: u32,
    /// Open model: iterations a second; with stages the highest.
    #[serde(rename = "rate", serialize_with = "written::optional_rate")]
    pub(crate) rate_per_s: Option<u32>,
    /// Closed model with a schedule.
    #[serde(serialize_with = "written::optional_span")]
    pub(crate) pacing: Option<Duration>,
    pub(crate) stages: Vec<StageText>,
    pub(crate) iterations: Option<u64>,
    pub(crate) seed: u64,
    #[serde(serialize_with = "written::span")]
    pub(crate) think_time: Duration,
    #[serde(serialize_with = "written::span")]
    pub(crate) warmup: Duration,
    #[serde(serialize_with = "written::span")]
    pub(crate) duration: Duration,
    #[serde(serialize_with = "written::span")]
    pub(crate) timeout: Duration,
    /// The machines that make the load; none: this one.
    #[serde(serialize_with = "agents::serialize")]
    pub(crate) agents: Vec<AgentAddress>,
    /// `None`: chosen from the cores.
    pub(crate) threads: Option<u32>,
}
