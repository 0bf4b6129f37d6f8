//! One layer of a profile as it is written: typed, partial and strict. The doc comments are the descriptions
//! of the JSON schema.

use std::fmt;

use scalekit_service::server_url::ServerUrl;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::host_layer::HostLayer;
use super::http_version::HttpVersion;
use super::kubernetes_layer::KubernetesLayer;
use super::setting::{Merge, Setting};
use super::steps::{Stages, Steps};
use super::thresholds::CriteriaLayer;
use super::types::{Backend, DeployMode, DeployTarget, Durability, ScenarioKind};
use super::units::{Rate, Size, Span, Whole};

impl Merge for ServerUrl {}
impl Merge for String {}
impl Merge for Whole {}
impl Merge for Span {}
impl Merge for Rate {}
impl Merge for Size {}
impl Merge for Backend {}
impl Merge for DeployMode {}
impl Merge for DeployTarget {}
impl Merge for Durability {}
impl Merge for ScenarioKind {}
impl Merge for Headers {}
impl Merge for HttpVersion {}
impl Merge for bool {}
impl Merge for Vec<String> {}

/// A section: a struct of settings, merged key by key. The macro keeps the three walks over the keys in step
/// with the keys.
macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct $name {
            $($(#[$field_meta])* pub(crate) $field: Setting<$type>,)*
        }

        impl Merge for $name {
            fn over(self, parent: Self) -> Self {
                Self { $($field: self.$field.over(parent.$field),)* }
            }
            fn fall_back(self, default: Self) -> Self {
                Self { $($field: self.$field.fall_back(default.$field),)* }
            }
            fn sets(&self, path: &[&str]) -> bool {
                match path.split_first() {
                    $(Some((&stringify!($field), rest)) => self.$field.sets(rest),)*
                    _ => false,
                }
            }
        }
    };
}

pub(super) use section;

section! {
    /// A scalekit profile: one situation, from deployment to verdict. A key that is left out comes from the
    /// profile that this one extends (`default`, if it names none); `null` takes an inherited value away.
    Layer {
        /// The profile this one builds on: a built-in name, or a file relative to this one.
        extends: String,
        /// One sentence on what the profile is for.
        description: String,
        /// What the host's kernel and limits must be; `scalekit tune` brings them there.
        host: HostLayer,
        /// What to deploy, and how.
        deploy: DeployLayer,
        /// What load to put on it.
        load: LoadLayer,
        /// When the run passes: a list of thresholds for each metric, in k6's grammar.
        criteria: CriteriaLayer,
    }
}

section! {
    /// What to deploy, and how.
    DeployLayer {
        /// Where the service runs: `local` is processes on this host, `k8s` a Kubernetes cluster.
        target: DeployTarget,
        /// Journal, cache and database: `embedded` in the process, or `redis-mongo`.
        backend: Backend,
        /// How the service takes writes: `write-behind`, or `direct`: each read and each write of a request is a
        /// database operation of its own, without journal, cache and worker, for comparison.
        mode: DeployMode,
        /// Address and port the API listens on; port 0 takes any free one. In a cluster it is `kubernetes.port`.
        listen: String,
        /// URL of the journal's Redis, `redis://[user:password@]host:port`; only with `redis-mongo`.
        #[schemars(with = "Setting<String>")]
        redis_url: ServerUrl,
        /// URL of the cache's Redis; the journal's, when left out; only with `redis-mongo`.
        #[schemars(with = "Setting<String>")]
        cache_url: ServerUrl,
        /// URL of MongoDB, `mongodb://host:port`; only with `redis-mongo`.
        #[schemars(with = "Setting<String>")]
        mongo_url: ServerUrl,
        /// A file with the URL of the journal's Redis and nothing else, such as a mounted secret, instead of `redis_url`;
        /// relative to this file.
        redis_url_file: String,
        /// The same, instead of `cache_url`.
        cache_url_file: String,
        /// The same, instead of `mongo_url`.
        mongo_url_file: String,
        /// A PEM file of the authorities that Redis (`rediss://`) and MongoDB (`tls=true`) are trusted by; the public
        /// ones, when left out.
        backend_ca: String,
        /// Name of the MongoDB database.
        mongo_database: String,
        /// A file of hashed bearer tokens, one of which each request must have; relative to this file. Anybody may ask
        /// anything, when left out.
        tokens_file: String,
        /// The certificate that the service speaks HTTPS with; plain HTTP, when left out.
        tls: ServeTlsLayer,
        /// What an acknowledged write has survived: `fsync` (a power cut) or `os` (the process).
        durability: Durability,
        /// Most database operations, such as `100/s` (1/s to 1000000/s).
        database_ops: Rate,
        /// Most I/O operations a second of the database's device, such as `100/s` (1/s to 1000000/s), by whomever. Fewer
        /// database operations start then, down to one a second; not bounded, when left out.
        database_iops: Rate,
        /// Where these are read, by a process on the database's host: a block device, a file or directory on one, or the
        /// directory of the database's control group; relative to this file. When left out: with `embedded`, where its files
        /// are; else a process with `serve --database-device` reads it for all.
        database_device: String,
        /// What the kernel lets the database do on its disk.
        cap: CapLayer,
        /// Journals that documents are dealt out to by their key (1 to 64). Each has one owner at a time among the
        /// workers, so this is how many workers can share the work; `embedded` takes only 1. It can be changed while
        /// all journals are empty.
        shards: Whole,
        /// Threads of the API; one for each core, when left out (1 to 1024).
        api_threads: Whole,
        /// How the worker batches.
        worker: WorkerLayer,
        /// What the API refuses, so that it stays up.
        limits: LimitsLayer,
        /// Where the service tells what it does.
        telemetry: TelemetryLayer,
        /// How it is deployed to a Kubernetes cluster.
        kubernetes: KubernetesLayer,
        /// How long to wait until the service is ready (1s to 10m).
        ready_timeout: Span,
        /// How long to wait after the load until the journal is empty (1s to 24h).
        drain_timeout: Span,
    }
}

section! {
    /// What the kernel lets the database do on its disk: a limit of its control group, which a probe puts to the test
    /// before the load.
    CapLayer {
        /// Most reads a second, and as many writes, such as `100/s` (1/s to 1000000/s); no cap, when left out. Only with
        /// `redis-mongo`.
        iops: Rate,
        /// Whether a run is invalid unless the probe, and the counters while it lasted, have shown that the cap holds.
        required: bool,
        /// The directory of the control group that a MongoDB of `mongo_url` is in; relative to this file. One that is
        /// started here gets a group of its own.
        group: String,
        /// A directory on the disk of that MongoDB's files, where the probe may write; relative to this file.
        directory: String,
    }
}

section! {
    /// The certificate that the service speaks HTTPS with.
    ServeTlsLayer {
        /// A PEM file: the certificate, then those up to an authority; relative to this file.
        cert: String,
        /// A PEM file with the private key of the certificate; relative to this file.
        key: String,
    }
}

section! {
    /// How the worker batches writes before they go to the database.
    WorkerLayer {
        /// Most writes in one database operation (1 to 100000).
        batch_max_writes: Whole,
        /// Most bytes in one database operation (1KiB to 45MiB, under MongoDB's message limit).
        batch_max_bytes: Size,
        /// How long an incomplete batch waits for more writes (0s to 1m).
        linger: Span,
    }
}

section! {
    /// What the API refuses, so that it stays up.
    LimitsLayer {
        /// Largest request body (1KiB to 16MiB).
        max_body_bytes: Size,
        /// Longest time one request may take in the service (10ms to 5m).
        request_timeout: Span,
        /// Most open connections (1 to 2000000); 20,000 or a quarter more than the users, when left out.
        max_connections: Whole,
        /// Connections that may wait to be accepted (1 to 65535); the kernel caps it at net.core.somaxconn.
        backlog: Whole,
        /// Most journal entries not yet in the database; beyond it, requests get 503 (1 to 1000000000).
        max_backlog_entries: Whole,
        /// Most journal bytes not yet in the database; beyond it, requests get 503 (1MiB to 1024GiB).
        max_backlog_bytes: Size,
        /// Longest time the oldest journal entry may wait for the database; beyond it, requests get 503 (1s to 5m).
        max_backlog_age: Span,
    }
}

section! {
    /// Where the service tells what it does, beside `/metrics`.
    TelemetryLayer {
        /// Base URL of an OpenTelemetry collector's OTLP/HTTP port, `http://host:4318`; no traces, when left out.
        otlp_endpoint: String,
    }
}

section! {
    /// What load to put on the service.
    LoadLayer {
        /// The URL to load instead of the deployed service; required for the scenarios `request` and `steps`.
        url: String,
        /// What a user does: `transactions` of the bundled service, one `request` over and over, or `steps`.
        scenario: ScenarioKind,
        /// The scenario `transactions`.
        transactions: TransactionsLayer,
        /// The scenario `request`.
        request: RequestLayer,
        /// The scenario `steps`: these requests, one after the other.
        steps: Steps,
        /// CSV file with a line of column names, relative to this file; its rows are what `${data.COLUMN}` takes in
        /// turn (up to 64 MiB).
        data: String,
        /// Whether each user keeps the cookies that responses set and sends them back, until its next iteration.
        /// A `Cookie` header of a step's own comes first and wins over a cookie of the same name.
        cookies: bool,
        /// The protocol: `auto` (over https what the server picks of HTTP/2 and HTTP/1.1, else HTTP/1.1), `1.1` or
        /// `2`.
        http: HttpVersion,
        /// Whether a user keeps its connection from one request to the next.
        connection_reuse: bool,
        /// Local addresses that users connect from in turn, each an address or a range such as
        /// `127.0.0.2-127.0.0.9` (up to 65536 in all); the kernel chooses, when left out.
        local_ips: Vec<String>,
        /// What users trust when the URL is https.
        tls: TlsLayer,
        /// Users, each with a connection of its own (1 to 1000000). With `rate`, as many as can be busy at once.
        vus: Whole,
        /// How long a user pauses after each iteration (0s to 1h).
        think_time: Span,
        /// Closed model with a schedule, instead of `think_time`: each user starts an iteration each so often, as
        /// long as the one before is over (1ms to 1h).
        pacing: Span,
        /// Open model, instead of `think_time`: so many iterations start a second, such as `2000/s`, whether or not
        /// those before are over (1/s to 10000000/s).
        rate: Rate,
        /// Levels over time, instead of `duration`: `30s:100` goes to 100 users in 30 s, `30s:100/s` to 100
        /// iterations a second. The first stage starts from 0.
        stages: Stages,
        /// The run ends after so many iterations of all users together, or after `duration` (10m, when it is
        /// inherited).
        iterations: Whole,
        /// Of everything random: the same seed sends the same requests.
        seed: Whole,
        /// Time under load before measuring starts (0s to 1h).
        warmup: Span,
        /// Time that is measured (1s to 24h).
        duration: Span,
        /// When a request counts as failed (1ms to 10m).
        timeout: Span,
        /// Make the load on these machines, each with a `scalekit agent`: `HOST:PORT` of each (1 to 100). The users are
        /// dealt out to them. When left out, this machine makes the load.
        agents: Vec<String>,
        /// Threads of the load generator; chosen from the cores, when left out (1 to 1024).
        threads: Whole,
    }
}

section! {
    /// What users trust when the URL is https.
    TlsLayer {
        /// A PEM file of certificate authorities to trust beside Mozilla's.
        ca: String,
        /// Trust any certificate.
        insecure_skip_verify: bool,
    }
}

section! {
    /// The scenario `transactions`: each request reads and writes several documents.
    TransactionsLayer {
        /// Documents that exist before the run, for reading (1 to 10000000).
        items: Whole,
        /// Reads in a request (0 to 64).
        reads: Whole,
        /// Writes in a request (0 to 64).
        writes: Whole,
        /// Collection that is read from.
        item_collection: String,
        /// Collection that is written to.
        write_collection: String,
    }
}

section! {
    /// The scenario `request`: the same request over and over.
    RequestLayer {
        /// HTTP method, such as `GET`.
        method: String,
        /// Headers to send, by name.
        headers: Headers,
        /// Body to send (up to 1 MiB).
        body: String,
    }
}

/// Request headers in the order they are written.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema)]
#[schemars(with = "std::collections::BTreeMap<String, String>", inline)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct HeadersVisitor;
        impl<'de> Visitor<'de> for HeadersVisitor {
            type Value = Headers;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a map of header names to texts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut headers = Vec::new();
                while let Some(header) = map.next_entry()? {
                    headers.push(header);
                }
                Ok(Headers(headers))
            }
        }
        input.deserialize_map(HeadersVisitor)
    }
}
