//! `scalekit serve`: one process of the bundled service, in the foreground.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use scalekit_service::api::RequestLimits;
use scalekit_service::config::{self, Config, DirectStore, Role};
use scalekit_service::contract;
use scalekit_service::journal::embedded::BacklogBounds;
use scalekit_service::serve as service;
use scalekit_service::server_url::ServerUrl;
use scalekit_service::telemetry::TraceSettings;
use scalekit_service::worker::BatchSettings;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{access, options};
use crate::args::{Global, ServeArgs, ServeRole};
use crate::exit::ExitStatus;
use crate::profile::{self, Backend, DeployMode, Durability, Layer, Profile, Whole, flag_error};

pub(super) fn serve(global: &Global, args: &ServeArgs) -> anyhow::Result<ExitStatus> {
    let mut layer = Layer::default();
    options::backend(&args.backend, &mut layer)?;
    options::access(&args.access, &mut layer);
    let deploy = layer.deploy.section();
    deploy.listen = args.listen.clone().into();
    deploy.api_threads = args.threads.map(Whole).into();
    deploy.database_device = args.database_device.clone().into();
    let profile = profile::load(&global.profile, layer)?;
    let config = config(&profile, args)?;
    raise_open_files();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = profile.deploy.api_threads {
        builder.worker_threads(threads as usize);
    }
    let runtime = builder.enable_all().thread_name("scalekit").build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let stop = stop_on_signal()?;
        let listener = service::bind(&config)?;
        let address =
            listener.local_addr().context("cannot tell the address that is listened on")?.to_string();
        let ready = || match args.ready_file.as_deref().map(|file| tell(file, &address)) {
            Some(Err(error)) => tracing::error!("the ready file cannot be written: {error:#}"),
            _ => tracing::info!(address, role = config.role.as_str(), "serving"),
        };
        service::run(config.clone(), listener, stop, ready).await?;
        anyhow::Ok(())
    })?;
    Ok(ExitStatus::Done)
}

/// Appears whole, so that whoever waits for it never reads half an address.
pub(super) fn tell(file: &Path, address: &str) -> anyhow::Result<()> {
    let temporary = file.with_extension("new");
    fs::write(&temporary, address)
        .and_then(|()| fs::rename(&temporary, file))
        .with_context(|| format!("{}", file.display()))
}

fn config(profile: &Profile, args: &ServeArgs) -> anyhow::Result<Config> {
    let deploy = &profile.deploy;
    let role = match args.role {
        ServeRole::Api => Role::Api,
        ServeRole::Worker => Role::Worker,
        ServeRole::All => Role::All,
    };
    let is_direct = deploy.mode == DeployMode::Direct;
    if is_direct && role == Role::Worker {
        return Err(flag_error(
            "serve worker",
            "has nothing to do in the mode `direct`: the API itself writes to the database",
            "use `serve api`, or the mode write-behind",
        )
        .into());
    }
    let servers = deploy.servers()?;
    let url = |url: Option<ServerUrl>, flag: &str| {
        url.ok_or_else(|| {
            flag_error(
                flag,
                "is needed for the backend `redis-mongo`",
                format!("give {flag} URL, or {flag}-file FILE; `scalekit deploy` starts servers of its own"),
            )
        })
    };
    let backend = match deploy.backend {
        Backend::Embedded if is_direct => {
            config::Backend::Direct(DirectStore::Embedded { data_dir: args.data_dir.clone() })
        }
        Backend::RedisMongo if is_direct => config::Backend::Direct(DirectStore::Mongo {
            url: url(servers.mongo, "--mongo-url")?,
            database: deploy.mongo_database.clone(),
            authorities: servers.authorities,
        }),
        Backend::Embedded => config::Backend::Embedded { data_dir: args.data_dir.clone() },
        Backend::RedisMongo => config::Backend::RedisMongo {
            redis_url: url(servers.redis, "--redis-url")?,
            cache_url: servers.cache,
            mongo_url: url(servers.mongo, "--mongo-url")?,
            mongo_database: deploy.mongo_database.clone(),
            authorities: servers.authorities,
        },
    };
    // The name that all of OpenTelemetry's own tools read.
    let standard = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok().filter(|url| !url.is_empty());
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    Ok(Config {
        role,
        backend,
        listen: deploy.listen,
        access: access::checked(profile)?,
        backlog: deploy.limits.backlog,
        max_connections: deploy.limits.max_connections as usize,
        durability: match deploy.durability {
            Durability::Fsync => contract::Durability::Fsync,
            Durability::Os => contract::Durability::Os,
        },
        database_ops_per_s: deploy.database_ops_per_s,
        database_iops_per_s: deploy.database_iops_per_s,
        database_device: deploy.database_device.clone(),
        shards: deploy.shards,
        batch: BatchSettings {
            max_writes: deploy.worker.batch_max_writes as usize,
            max_bytes: size(deploy.worker.batch_max_bytes),
            linger: deploy.worker.linger,
        },
        requests: RequestLimits {
            max_body_bytes: size(deploy.limits.max_body_bytes),
            request_timeout: deploy.limits.request_timeout,
        },
        backlog_bounds: BacklogBounds {
            entries: deploy.limits.max_backlog_entries,
            bytes: deploy.limits.max_backlog_bytes,
        },
        max_backlog_age: deploy.limits.max_backlog_age,
        shutdown_grace: deploy.limits.request_timeout,
        worker_name: args.worker_name.clone(),
        traces: traces(
            args.telemetry.otlp_endpoint.clone().or(standard),
            args.telemetry.trace_ratio,
            profile,
        )?,
    })
}

/// The collector that a flag or the environment names, else the profile's.
fn traces(named: Option<String>, ratio: f64, profile: &Profile) -> anyhow::Result<Option<TraceSettings>> {
    let Some(endpoint) = named.or_else(|| profile.deploy.telemetry.otlp_endpoint.clone()) else {
        return Ok(None);
    };
    if !endpoint.starts_with("http://") {
        return Err(flag_error(
            "--otlp-endpoint",
            format!("expected an http:// URL, found {endpoint:?}"),
            "give the collector's OTLP/HTTP port, such as http://127.0.0.1:4318; for TLS run a collector beside the service",
        )
        .into());
    }
    Ok(Some(TraceSettings { endpoint, ratio }))
}

/// Each client is a file; the usual soft limit of 1024 would stop a crowd at the door.
pub(super) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
}

pub(super) fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut interrupts = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let mut terminations = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
        }
        tracing::info!("stopping: finishing what is under way");
        stopping.cancel();
    });
    Ok(stop)
}
