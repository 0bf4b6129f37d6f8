//! Merges the layers and turns them into the domain `Profile`, bounds checked once, here.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use scalekit_service::cache::redis::MAX_BACKLOG_AGE;
use scalekit_service::contract::{MAX_COLLECTION_BYTES, MAX_OPERATIONS_PER_REQUEST};
use scalekit_service::journal::shard::MAX_SHARDS;

use super::error::ProfileError;
use super::layer::{
    CapLayer, DeployLayer, Headers, Layer, LimitsLayer, LoadLayer, RequestLayer, TelemetryLayer, TlsLayer,
    TransactionsLayer, WorkerLayer,
};
use super::setting::{Merge, Setting};
use super::source::Source;
use super::steps::StepLayer;
use super::text;
use super::types::{
    CriterionSpec, DatabaseCap, Deploy, Limits, Load, Profile, RequestSpec, StepSpec, Telemetry, TlsSpec,
    TransactionsSpec, Worker,
};
use super::units::{Rate, Size, Span, Whole};

const MS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// Connections that are allowed when the profile does not say; more when there are more users.
const DEFAULT_CONNECTIONS: u32 = 20_000;

type Found<T> = Result<T, ProfileError>;

/// The layers, the top one first; knows where each key was set.
pub(super) struct Resolver<'a> {
    pub(super) sources: &'a [Source],
}

/// Merges and resolves; the last source is the base that has every key.
pub(super) fn resolve(name: String, sources: &[Source]) -> Found<Profile> {
    let merged = sources
        .iter()
        .map(|source| source.layer.clone())
        .reduce(|child, parent| child.over(parent))
        .unwrap_or_default();
    let resolver = Resolver { sources };
    let criteria = resolver.criteria(&merged);
    let base = sources.last().map(|source| source.layer.clone()).unwrap_or_default();
    let Layer { description, host, deploy, load, .. } = merged.fall_back(base);
    let load = resolver.load(&load.value().cloned().unwrap_or_default())?;
    let deploy = resolver.deploy(&deploy.value().cloned().unwrap_or_default(), load.vus)?;
    Ok(Profile {
        name,
        description: description.value().cloned().unwrap_or_default(),
        host: resolver.host(&host.value().cloned().unwrap_or_default())?,
        deploy,
        load,
        criteria,
        sources: sources.iter().map(|source| source.name.clone()).collect(),
        notes: Vec::new(),
    })
}

impl Resolver<'_> {
    /// The topmost layer that says anything about the key.
    pub(super) fn source_of(&self, path: &[&str]) -> Option<usize> {
        self.sources.iter().position(|source| source.layer.sets(path))
    }

    /// Where the key was set.
    pub(super) fn place(&self, path: &[&str]) -> String {
        self.source_of(path)
            .map_or_else(|| "profile default".to_owned(), |index| self.sources[index].place(path))
    }

    pub(super) fn error(
        &self,
        path: &[&str],
        message: impl Display,
        help: impl Into<String>,
    ) -> ProfileError {
        ProfileError::new(self.place(path), format!("{}: {message}", path.join(".")), help)
    }

    pub(super) fn required<T: Copy>(&self, path: &[&str], setting: &Setting<T>) -> Found<T> {
        setting.value().copied().ok_or_else(|| self.missing(path))
    }

    fn missing(&self, path: &[&str]) -> ProfileError {
        self.error(path, "expected a value, found none", "set it")
    }

    fn bounded<T: PartialOrd + Display>(
        &self,
        path: &[&str],
        value: T,
        range: RangeInclusive<T>,
    ) -> Found<T> {
        if range.contains(&value) {
            return Ok(value);
        }
        let (low, high) = range.into_inner();
        let message = format!("expected {low} to {high}, found {value}");
        let help = if value < low { format!("use at least {low}") } else { format!("use at most {high}") };
        Err(self.error(path, message, help))
    }

    pub(super) fn whole(
        &self,
        path: &[&str],
        setting: &Setting<Whole>,
        range: RangeInclusive<u32>,
    ) -> Found<u32> {
        let Whole(value) = self.required(path, setting)?;
        let (low, high) = range.into_inner();
        let value = self.bounded(path, value, u64::from(low)..=u64::from(high))?;
        // Within a range of u32, so it fits.
        Ok(u32::try_from(value).unwrap_or(high))
    }

    pub(super) fn optional(
        &self,
        path: &[&str],
        setting: &Setting<Whole>,
        range: RangeInclusive<u32>,
    ) -> Found<Option<u32>> {
        setting.value().map(|_| self.whole(path, setting, range)).transpose()
    }

    pub(super) fn size(
        &self,
        path: &[&str],
        setting: &Setting<Size>,
        range: RangeInclusive<u64>,
    ) -> Found<u64> {
        let (low, high) = range.into_inner();
        let value = self.required(path, setting)?;
        if value.0 < low || value.0 > high {
            let (low, high) = (Size(low), Size(high));
            let message = format!("expected {low} to {high}, found {value}");
            return Err(self.error(path, message, "choose a size within these bounds"));
        }
        Ok(value.0)
    }

    pub(super) fn span(
        &self,
        path: &[&str],
        setting: &Setting<Span>,
        range: RangeInclusive<Duration>,
    ) -> Found<Duration> {
        let value = self.required(path, setting)?;
        if !range.contains(&value.0) {
            let (low, high) = range.into_inner();
            let message = format!("expected {} to {}, found {value}", Span(low), Span(high));
            return Err(self.error(path, message, "choose a duration within these bounds"));
        }
        Ok(value.0)
    }

    pub(super) fn text(
        &self,
        path: &[&str],
        setting: &Setting<String>,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Found<String> {
        let value = setting.value().ok_or_else(|| self.missing(path))?;
        match check(value) {
            Ok(()) => Ok(value.clone()),
            Err(expected) => {
                // What comes before an @ may be a password.
                let host = value.rsplit_once('@').map(|(_, host)| format!("***@{host}"));
                let shown: String = host.as_deref().unwrap_or(value).chars().take(80).collect();
                Err(self.error(path, format!("expected {expected}, found {shown:?}"), "correct the value"))
            }
        }
    }

    fn optional_url(
        &self,
        path: &[&str],
        setting: &Setting<String>,
        schemes: &[&str],
    ) -> Found<Option<String>> {
        setting.value().map(|_| self.text(path, setting, |url| text::url(url, schemes))).transpose()
    }

    fn deploy(&self, layer: &DeployLayer, vus: u32) -> Found<Deploy> {
        let listen_path = ["deploy", "listen"];
        let listen = self.text(&listen_path, &layer.listen, text::address)?;
        let redis = &["redis", "rediss"];
        let mongo = &["mongodb", "mongodb+srv"];
        let operations = self.required(&["deploy", "database_ops"], &layer.database_ops)?;
        let Rate(operations) = operations;
        let operations = Setting::To(Whole(operations));
        let iops = layer.database_iops.value().map(|rate| Whole(rate.0)).into();
        Ok(Deploy {
            target: self.required(&["deploy", "target"], &layer.target)?,
            backend: self.required(&["deploy", "backend"], &layer.backend)?,
            mode: self.required(&["deploy", "mode"], &layer.mode)?,
            listen: listen.parse().map_err(|_| self.missing(&listen_path))?,
            redis_url: self.server_url(&["deploy", "redis_url"], &layer.redis_url, redis)?,
            cache_url: self.server_url(&["deploy", "cache_url"], &layer.cache_url, redis)?,
            mongo_url: self.server_url(&["deploy", "mongo_url"], &layer.mongo_url, mongo)?,
            redis_url_file: self.file(&["deploy", "redis_url_file"], &layer.redis_url_file)?,
            cache_url_file: self.file(&["deploy", "cache_url_file"], &layer.cache_url_file)?,
            mongo_url_file: self.file(&["deploy", "mongo_url_file"], &layer.mongo_url_file)?,
            backend_ca: self.file(&["deploy", "backend_ca"], &layer.backend_ca)?,
            tokens_file: self.file(&["deploy", "tokens_file"], &layer.tokens_file)?,
            tls: self.serve_tls(&layer.tls.value().cloned().unwrap_or_default())?,
            mongo_database: self
                .text(&["deploy", "mongo_database"], &layer.mongo_database, |name| text::name(name, 63))?,
            durability: self.required(&["deploy", "durability"], &layer.durability)?,
            database_ops_per_s: self.whole(&["deploy", "database_ops"], &operations, 1..=1_000_000)?,
            database_iops_per_s: self.optional(&["deploy", "database_iops"], &iops, 1..=1_000_000)?,
            database_device: self.file(&["deploy", "database_device"], &layer.database_device)?,
            cap: self.cap(&layer.cap.value().cloned().unwrap_or_default())?,
            shards: self.shards(&layer.shards)?,
            api_threads: self.optional(&["deploy", "api_threads"], &layer.api_threads, 1..=1024)?,
            worker: self.worker(&layer.worker.value().cloned().unwrap_or_default())?,
            limits: self.limits(&layer.limits.value().cloned().unwrap_or_default(), vus)?,
            telemetry: self.telemetry(&layer.telemetry.value().cloned().unwrap_or_default())?,
            kubernetes: self.kubernetes(&layer.kubernetes.value().cloned().unwrap_or_default())?,
            ready_timeout: self.span(
                &["deploy", "ready_timeout"],
                &layer.ready_timeout,
                SECOND..=10 * MINUTE,
            )?,
            drain_timeout: self.span(
                &["deploy", "drain_timeout"],
                &layer.drain_timeout,
                SECOND..=24 * HOUR,
            )?,
        })
    }

    fn shards(&self, setting: &Setting<Whole>) -> Found<u16> {
        let shards = self.whole(&["deploy", "shards"], setting, 1..=u32::from(MAX_SHARDS))?;
        // Its bound is one of the type, too.
        Ok(u16::try_from(shards).unwrap_or(MAX_SHARDS))
    }

    fn cap(&self, layer: &CapLayer) -> Found<DatabaseCap> {
        let key = |key| ["deploy", "cap", key];
        let iops = layer.iops.value().map(|rate| Whole(rate.0)).into();
        Ok(DatabaseCap {
            iops_per_s: self.optional(&key("iops"), &iops, 1..=1_000_000)?,
            required: self.required(&key("required"), &layer.required)?,
            group: self.file(&key("group"), &layer.group)?,
            directory: self.file(&key("directory"), &layer.directory)?,
        })
    }

    fn worker(&self, layer: &WorkerLayer) -> Found<Worker> {
        let key = |key| ["deploy", "worker", key];
        Ok(Worker {
            batch_max_writes: self.whole(&key("batch_max_writes"), &layer.batch_max_writes, 1..=100_000)?,
            // MongoDB's wire messages end at 48 MB.
            batch_max_bytes: self.size(&key("batch_max_bytes"), &layer.batch_max_bytes, KIB..=45 * MIB)?,
            linger: self.span(&key("linger"), &layer.linger, Duration::ZERO..=MINUTE)?,
        })
    }

    fn telemetry(&self, layer: &TelemetryLayer) -> Found<Telemetry> {
        let key = ["deploy", "telemetry", "otlp_endpoint"];
        Ok(Telemetry { otlp_endpoint: self.optional_url(&key, &layer.otlp_endpoint, &["http"])? })
    }

    fn limits(&self, layer: &LimitsLayer, vus: u32) -> Found<Limits> {
        let key = |key| ["deploy", "limits", key];
        let entries =
            self.whole(&key("max_backlog_entries"), &layer.max_backlog_entries, 1..=1_000_000_000)?;
        let connections = self.optional(&key("max_connections"), &layer.max_connections, 1..=2_000_000)?;
        Ok(Limits {
            max_body_bytes: self.size(&key("max_body_bytes"), &layer.max_body_bytes, KIB..=16 * MIB)?,
            request_timeout: self.span(
                &key("request_timeout"),
                &layer.request_timeout,
                10 * MS..=5 * MINUTE,
            )?,
            max_connections: connections
                .unwrap_or_else(|| DEFAULT_CONNECTIONS.max(vus.saturating_add(vus / 4))),
            backlog: self.whole(&key("backlog"), &layer.backlog, 1..=65_535)?,
            max_backlog_entries: u64::from(entries),
            max_backlog_bytes: self.size(
                &key("max_backlog_bytes"),
                &layer.max_backlog_bytes,
                MIB..=1024 * GIB,
            )?,
            // The service's own bound: what waits longer could leave the cache before it is in the database.
            max_backlog_age: self.span(
                &key("max_backlog_age"),
                &layer.max_backlog_age,
                SECOND..=MAX_BACKLOG_AGE,
            )?,
        })
    }

    fn load(&self, layer: &LoadLayer) -> Found<Load> {
        let key = |key| ["load", key];
        let rate = layer.rate.value().map(|rate| Whole(rate.0)).into();
        let mut load = Load {
            url: self.optional_url(&key("url"), &layer.url, &["http", "https"])?,
            scenario: self.required(&key("scenario"), &layer.scenario)?,
            transactions: self.transactions(&layer.transactions.value().cloned().unwrap_or_default())?,
            request: self.request(&layer.request.value().cloned().unwrap_or_default())?,
            steps: self.steps(layer.steps.value().map_or(&[], |steps| &steps.0))?,
            data: self.data(&layer.data),
            cookies: self.required(&key("cookies"), &layer.cookies)?,
            http: self.required(&key("http"), &layer.http)?,
            connection_reuse: self.required(&key("connection_reuse"), &layer.connection_reuse)?,
            local_ips: self.local_ips(&layer.local_ips)?,
            tls: self.tls(&layer.tls.value().cloned().unwrap_or_default())?,
            vus: self.whole(&key("vus"), &layer.vus, 1..=1_000_000)?,
            rate_per_s: self.optional(&key("rate"), &rate, 1..=10_000_000)?,
            pacing: layer
                .pacing
                .value()
                .map(|_| self.span(&key("pacing"), &layer.pacing, MS..=HOUR))
                .transpose()?,
            stages: layer.stages.value().map_or_else(Vec::new, |stages| stages.0.clone()),
            iterations: layer
                .iterations
                .value()
                .map(|&Whole(count)| self.bounded(&key("iterations"), count, 1..=1 << 40))
                .transpose()?,
            seed: self.required(&key("seed"), &layer.seed)?.0,
            think_time: self.span(&key("think_time"), &layer.think_time, Duration::ZERO..=HOUR)?,
            warmup: self.span(&key("warmup"), &layer.warmup, Duration::ZERO..=HOUR)?,
            duration: self.span(&key("duration"), &layer.duration, SECOND..=24 * HOUR)?,
            timeout: self.span(&key("timeout"), &layer.timeout, MS..=10 * MINUTE)?,
            agents: self.agents(&layer.agents)?,
            threads: self.optional(&key("threads"), &layer.threads, 1..=1024)?,
        };
        self.model(&mut load)?;
        Ok(load)
    }

    fn local_ips(&self, setting: &Setting<Vec<String>>) -> Found<Vec<IpAddr>> {
        let mut ips = Vec::new();
        for range in setting.value().into_iter().flatten() {
            text::ip_range(range, &mut ips).map_err(|expected| {
                let message = format!("expected {expected}, found {range:?}");
                self.error(&["load", "local_ips"], message, "correct the address")
            })?;
        }
        Ok(ips)
    }

    fn tls(&self, layer: &TlsLayer) -> Found<TlsSpec> {
        let key = |key| ["load", "tls", key];
        let ca = layer.ca.value().map(|_| self.text(&key("ca"), &layer.ca, text::path)).transpose()?;
        let insecure_skip_verify =
            self.required(&key("insecure_skip_verify"), &layer.insecure_skip_verify)?;
        Ok(TlsSpec { ca, insecure_skip_verify })
    }

    fn transactions(&self, layer: &TransactionsLayer) -> Found<TransactionsSpec> {
        let key = |key| ["load", "transactions", key];
        let most = u32::try_from(MAX_OPERATIONS_PER_REQUEST).unwrap_or(u32::MAX);
        let collection = |name: &str| text::name(name, MAX_COLLECTION_BYTES);
        Ok(TransactionsSpec {
            items: self.whole(&key("items"), &layer.items, 1..=10_000_000)?,
            reads: self.whole(&key("reads"), &layer.reads, 0..=most)?,
            writes: self.whole(&key("writes"), &layer.writes, 0..=most)?,
            item_collection: self.text(&key("item_collection"), &layer.item_collection, collection)?,
            write_collection: self.text(&key("write_collection"), &layer.write_collection, collection)?,
        })
    }

    fn request(&self, layer: &RequestLayer) -> Found<RequestSpec> {
        let method = self.text(&["load", "request", "method"], &layer.method, text::method)?;
        let headers = self.headers(&["load", "request", "headers"], &layer.headers)?;
        let body = self.body(&["load", "request", "body"], &layer.body)?;
        Ok(RequestSpec { method, headers, body })
    }

    /// Path, name and the like of each step; the engine checks what it will send.
    fn steps(&self, layers: &[StepLayer]) -> Found<Vec<StepSpec>> {
        let mut steps = Vec::with_capacity(layers.len());
        for (index, layer) in layers.iter().enumerate() {
            let number = index.to_string();
            let key = |key| ["load", "steps", &number, key];
            let name = layer.name.value().cloned().unwrap_or_else(|| format!("step {}", index + 1));
            if steps.iter().any(|step: &StepSpec| step.name == name) {
                let message = format!("two steps are named {name:?}");
                return Err(self.error(&key("name"), message, "name them differently"));
            }
            let checks = layer.checks.value().cloned().unwrap_or_default();
            let statuses = checks.status.value().cloned().unwrap_or_default();
            let think = &layer.think_time;
            steps.push(StepSpec {
                name,
                path: layer.path.value().cloned(),
                request: RequestSpec {
                    method: match layer.method.value() {
                        Some(_) => self.text(&key("method"), &layer.method, text::method)?,
                        None => "GET".to_owned(),
                    },
                    headers: self.headers(&["load", "steps", &number, "headers"], &layer.headers)?,
                    body: self.body(&key("body"), &layer.body)?,
                },
                status: statuses.into_iter().map(|range| range.0).collect(),
                body_contains: checks.body_contains.value().cloned(),
                think_time: match think.value() {
                    Some(_) => self.span(&key("think_time"), think, Duration::ZERO..=HOUR)?,
                    None => Duration::ZERO,
                },
            });
        }
        Ok(steps)
    }

    fn headers(&self, path: &[&str], setting: &Setting<Headers>) -> Found<Vec<(String, String)>> {
        let headers = setting.value().cloned().unwrap_or_default().0;
        for (name, value) in &headers {
            if let Err(expected) = text::header(name, value) {
                let path = [path, &[name]].concat();
                return Err(self.error(&path, format!("expected {expected}"), "correct the header"));
            }
        }
        Ok(headers)
    }

    fn body(&self, path: &[&str], setting: &Setting<String>) -> Found<Option<String>> {
        setting.value().map(|_| self.text(path, setting, text::body)).transpose()
    }

    /// Relative to the file that names it; from the command line, to the current directory.
    fn data(&self, setting: &Setting<String>) -> Option<PathBuf> {
        let path = setting.value()?;
        let source = self.source_of(&["load", "data"]).map(|index| &self.sources[index]);
        let directory =
            source.filter(|source| source.text.is_some()).and_then(|source| Path::new(&source.name).parent());
        Some(directory.map_or_else(|| PathBuf::from(path), |directory| directory.join(path)))
    }

    /// The thresholds that are left after merging, each with its place.
    fn criteria(&self, merged: &Layer) -> Vec<CriterionSpec> {
        let mut specs = Vec::new();
        for (metric, list) in merged.criteria.value().map(|layer| &layer.0).into_iter().flatten() {
            for (index, threshold) in list.value().into_iter().flatten().enumerate() {
                let index = index.to_string();
                specs.push(CriterionSpec {
                    metric: metric.clone(),
                    expression: threshold.expression.clone(),
                    abort_on_fail: threshold.abort_on_fail,
                    delay_abort_eval: threshold.delay_abort_eval.map_or(Duration::ZERO, |span| span.0),
                    location: self.place(&["criteria", metric, &index]),
                });
            }
        }
        specs
    }
}
