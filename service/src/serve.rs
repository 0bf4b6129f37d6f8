//! Puts one process of the service together and runs it until it is told to stop.

mod device;
mod stay;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::access::AccessError;
use crate::api::listener::{self, ConnectionLimits, Door, Patience};
use crate::api::reload;
use crate::api::{self, App, Bounds, Gate, Process, Reader};
use crate::background;
use crate::cache::Cache;
use crate::cache::in_process::InProcessCache;
use crate::cache::redis::RedisCache;
use crate::config::{Backend, Config, DirectStore, Role};
use crate::direct::{Direct, NoCache, NoJournal};
use crate::journal::embedded::EmbeddedJournal;
use crate::journal::redis::Presence;
use crate::journal::redis::RedisJournal;
use crate::journal::{Consumer, Journal, JournalError, Shards};
use crate::metrics::Metrics;
use crate::recall::recall;
use crate::redis_link::RedisLink;
use crate::store::embedded::Embedded;
use crate::store::mongo::Mongo;
use crate::store::{Store, StoreError, Throttle, Traced};
use crate::telemetry::Traces;
use crate::worker::sizing::Sizes;
use crate::worker::{Fleet, Means, Worker};

/// Deleted documents leave tombstones; this often the embedded store drops the expired ones.
const PURGE_INTERVAL: Duration = Duration::from_secs(60);
/// Requests that may be journaled at a time, for each connection: its own, and one that its last client left behind.
const ACCEPTING_PER_CONNECTION: usize = 2;
/// In one database operation.
const PURGE_DOCUMENTS: usize = 10_000;

/// Why the service did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{0}")]
    Journal(#[from] JournalError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Redis(String),
    #[error("{0}")]
    Config(String),
    #[error("{0}")]
    Access(#[from] AccessError),
    #[error("the worker ended badly, see above; what it had not stored is still in the journal")]
    Worker,
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
}

/// What the process is put together from.
struct Parts {
    journal: Arc<dyn Journal>,
    /// None in direct mode.
    work: Option<Work>,
    /// Where other processes rely on the same number of shards.
    presence: Option<Presence>,
    /// The Redis and the database, where several processes use them.
    shared: Option<(Arc<RedisLink>, String)>,
    cache: Arc<dyn Cache>,
    store: Arc<dyn Store>,
    embedded: Option<Arc<Embedded>>,
}

/// The worker's side of the journal.
enum Work {
    One(Box<dyn Consumer>),
    Shards(Box<dyn Shards>),
}

/// Runs until `stop` and everything under way has ended. Call `ready` is when requests are served.
///
/// # Errors
/// Something that it needs is not there, or is not as the configuration demands.
pub async fn run(
    config: Config,
    listener: TcpListener,
    stop: CancellationToken,
    ready: impl FnOnce(),
) -> Result<(), ServeError> {
    let (guard, tls) = config.access.open()?;
    let door = Door { guard: guard.map(Arc::new), tls: tls.map(Arc::new) };
    let address = listener.local_addr().unwrap_or(config.listen);
    for warning in config.access.warnings(address.ip().to_canonical().is_loopback()) {
        tracing::warn!(%address, "{warning}");
    }
    let metrics = Arc::new(Metrics::default());
    let mut parts = connect(&config, &metrics).await?;
    let real = parts.journal.durability();
    if real < config.durability {
        return Err(ServeError::Config(format!(
            "the profile demands durability `{}`, but the journal gives `{}`; for Redis set `appendonly yes` and `appendfsync {}`, or lower deploy.durability",
            config.durability.as_str(),
            real.as_str(),
            if config.durability == crate::contract::Durability::Fsync { "always" } else { "everysec" },
        )));
    }
    let listener = tokio::net::TcpListener::from_std(listener)
        .map_err(|source| ServeError::Io { what: "the listening socket".into(), source })?;
    let instance = uuid::Uuid::now_v7().to_string();
    let traces = match &config.traces {
        Some(settings) => {
            let failed = metrics.trace_exports_failed.clone();
            Traces::start(settings, config.role.as_str(), &instance, failed).map_err(ServeError::Config)?
        }
        None => Traces::default(),
    };
    if traces.is_on() {
        parts.store = Arc::new(Traced(parts.store));
    }
    let bounds = Bounds { backlog: config.backlog_bounds, age: config.max_backlog_age };
    let gate = Arc::new(Gate::new(bounds, metrics.rejected.clone()));
    let watching =
        tokio::spawn(Arc::clone(&gate).watch(Arc::clone(&parts.journal), Arc::clone(&metrics), stop.clone()));
    let is_direct = config.backend.is_direct();
    let device = device::Plan::of(&config)?;
    let limiter = device::governor(parts.shared, device.as_ref(), &config, &metrics);
    let process = Arc::new(Process {
        role: config.role.as_str(),
        mode: if is_direct { "direct" } else { "write-behind" },
        instance,
        started: Instant::now(),
        journal: Arc::clone(&parts.journal),
        cache: Arc::clone(&parts.cache),
        store: Arc::clone(&parts.store),
        gate: Arc::clone(&gate),
        metrics: Arc::clone(&metrics),
        traces: traces.clone(),
        limiter: Arc::clone(&limiter),
        device: device.as_ref().map(device::Plan::shown),
        has_worker: config.role != Role::Api && !is_direct,
    });
    let throttle: Arc<dyn Throttle> = Arc::clone(&limiter) as _;
    let router = match config.role {
        Role::Worker => api::worker_router(process),
        Role::Api | Role::All => api::router(Arc::new(App {
            journal: Arc::clone(&parts.journal),
            cache: Arc::clone(&parts.cache),
            store: Arc::clone(&parts.store),
            reader: Reader::new(
                Arc::clone(&parts.cache),
                Arc::clone(&parts.journal),
                Arc::clone(&parts.store),
                Arc::clone(&throttle),
                Arc::clone(&metrics),
            ),
            direct: is_direct
                .then(|| Direct::new(Arc::clone(&parts.store), Arc::clone(&throttle), Arc::clone(&metrics))),
            gate,
            metrics: Arc::clone(&metrics),
            limits: config.requests,
            accepting: Arc::new(Semaphore::new(ACCEPTING_PER_CONNECTION * config.max_connections)),
            process,
        })),
    };
    let limits = ConnectionLimits {
        max_connections: config.max_connections,
        served: listener::served(),
        shutdown_grace: config.shutdown_grace,
        patience: Patience::USUAL,
    };
    // The worker's last operations are under the limit, too.
    let worked_off = CancellationToken::new();
    let steering = device.map(|device| {
        tokio::spawn(device.run(Arc::clone(&limiter), Arc::clone(&metrics), worked_off.clone()))
    });
    // If this future is dropped, its worker must not go on alone on its thread.
    let gone = CancellationToken::new();
    let _gone = gone.clone().drop_guard();
    // The worker outlives the API, so that what was accepted last is stored too.
    let worker_stop = CancellationToken::new();
    let work = parts.work.filter(|_| config.role != Role::Api);
    let working = if let Some(work) = work {
        let means = Means {
            store: Arc::clone(&parts.store),
            cache: parts.cache,
            throttle: Arc::clone(&throttle),
            settings: config.batch,
            sizes: Arc::new(Sizes::new(config.batch.max_writes, metrics.worker_batch_limit.clone())),
            metrics: Arc::clone(&metrics),
            traces: traces.clone(),
        };
        // A worker of its own leaves the backlog to its successor: it is as safe in Redis.
        let drain = (config.role == Role::All).then_some(config.shutdown_grace);
        let work = worked(work, means, worker_stop.clone(), drain);
        let failed = Arc::new(AtomicBool::new(false));
        let has_failed = Arc::clone(&failed);
        let work = async move {
            if let Err(error) = work.await {
                tracing::error!(%error, "the worker cannot go on");
                failed.store(true, Ordering::Relaxed);
            }
        };
        let gone = gone.clone();
        let thread = background::spawn("worker", async move {
            tokio::select! {
                () = work => {}
                () = gone.cancelled() => {}
            }
        });
        let thread =
            thread.map_err(|source| ServeError::Io { what: "the worker's thread".into(), source })?;
        let stop = stop.clone();
        Some(tokio::task::spawn_blocking(move || {
            let ended = thread.join();
            // Without its worker the process would take writes that nobody stores.
            stop.cancel();
            if ended.is_err() || has_failed.load(Ordering::Relaxed) { Err(()) } else { Ok(()) }
        }))
    } else {
        None
    };
    let purging = parts.embedded.map(|store| tokio::spawn(purge(store, Arc::clone(&throttle), stop.clone())));
    let mut tasks = vec![watching];
    if let Some(guard) = door.guard.clone() {
        tasks.push(tokio::spawn(reload::watch(guard, reload::INTERVAL, stop.clone())));
    }
    // Until the last request is answered, which is later than the stop.
    let served = CancellationToken::new();
    let presence = parts.presence.filter(|_| config.role != Role::Worker);
    let staying = presence.map(|presence| tokio::spawn(stay::stay(presence, stop.clone(), served.clone())));
    if let Some(tls) = door.tls.clone() {
        tasks.push(tokio::spawn(reload::watch(tls, reload::INTERVAL, stop.clone())));
    }
    ready();
    listener::serve(listener, router, limits, door, metrics, stop).await;
    served.cancel();
    worker_stop.cancel();
    let worker_failed = match working {
        Some(working) => !matches!(working.await, Ok(Ok(()))),
        None => false,
    };
    worked_off.cancel();
    tasks.extend(purging);
    tasks.extend(steering);
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "a part of the service ended badly");
        }
    }
    traces.stop().await;
    if worker_failed {
        return Err(ServeError::Worker);
    }
    if let Some(staying) = staying
        && let Ok(Err(error)) = staying.await
    {
        return Err(error.into());
    }
    Ok(())
}

/// The worker of a process, to its end.
async fn worked(
    work: Work,
    means: Means,
    stop: CancellationToken,
    drain: Option<Duration>,
) -> Result<(), JournalError> {
    match work {
        Work::One(consumer) => {
            means.metrics.worker_shards.set(1);
            Worker::new(0, consumer, means).run(stop, CancellationToken::new(), drain).await;
            Ok(())
        }
        Work::Shards(shards) => Fleet { shards, means }.run(stop, drain).await,
    }
}

async fn connect(config: &Config, metrics: &Arc<Metrics>) -> Result<Parts, ServeError> {
    match &config.backend {
        Backend::Embedded { data_dir } => {
            if config.role != Role::All {
                return Err(ServeError::Config(format!(
                    "the embedded backend lives in one process: use `serve all`, not `serve {}`",
                    config.role.as_str()
                )));
            }
            let journal =
                EmbeddedJournal::open(&data_dir.join("journal"), config.durability, config.backlog_bounds)?;
            let consumer: Box<dyn Consumer> = Box::new(journal.consumer());
            // Its flushes and compactions are background work.
            let store = Arc::new(background::call(|| Embedded::open(&data_dir.join("store")))?);
            let cache = Arc::new(InProcessCache::default());
            let recalled = recall(journal.consumer(), &*cache).await?;
            if recalled > 0 {
                tracing::info!(entries = recalled, "went on with what waits in the journal");
            }
            Ok(Parts {
                journal: Arc::new(journal),
                work: Some(Work::One(consumer)),
                presence: None,
                shared: None,
                cache,
                store: store.clone(),
                embedded: Some(store),
            })
        }
        Backend::Direct(database) => direct(config, database).await,
        Backend::RedisMongo { redis_url, cache_url, mongo_url, mongo_database, authorities } => {
            let link = Arc::new(RedisLink::open(redis_url, authorities.as_ref()).map_err(ServeError::Redis)?);
            let cache_link = match cache_url {
                Some(url) => Arc::new(RedisLink::open(url, authorities.as_ref()).map_err(ServeError::Redis)?),
                None => Arc::clone(&link),
            };
            cache_link.lease().await.map_err(ServeError::Redis)?;
            // Not the link of the appends: what reconnects drives the connection, and the worker has a low priority.
            let working =
                Arc::new(RedisLink::open(redis_url, authorities.as_ref()).map_err(ServeError::Redis)?);
            let journal =
                RedisJournal::connect(link, config.backlog_bounds, config.shards, config.durability).await?;
            let shards = Box::new(journal.shards(Arc::clone(&working), &config.worker_name));
            let mut presence = journal.presence();
            if config.role != Role::Worker {
                // Before it takes any write.
                presence.beat().await?;
            }
            let store = Arc::new(Mongo::open(mongo_url, mongo_database, authorities.as_ref()).await?);
            store.ping().await?;
            let cache = Arc::new(RedisCache::new(cache_link, Arc::clone(metrics)));
            Ok(Parts {
                journal: Arc::new(journal),
                work: Some(Work::Shards(shards)),
                presence: Some(presence),
                shared: Some((working, mongo_database.clone())),
                cache,
                store,
                embedded: None,
            })
        }
    }
}

async fn direct(config: &Config, database: &DirectStore) -> Result<Parts, ServeError> {
    if config.role == Role::Worker {
        return Err(ServeError::Config(
            "in direct mode the API itself writes to the database, and a worker has nothing to do: use `serve api`, or leave deploy.mode at write-behind".into(),
        ));
    }
    let (store, embedded): (Arc<dyn Store>, _) = match database {
        DirectStore::Embedded { data_dir } => {
            nothing_waits(config, &data_dir.join("journal")).await?;
            let store = Arc::new(background::call(|| Embedded::open(&data_dir.join("store")))?);
            (store.clone(), Some(store))
        }
        DirectStore::Mongo { url, database, authorities } => {
            let store = Mongo::open(url, database, authorities.as_ref()).await?;
            store.ping().await?;
            (Arc::new(store), None)
        }
    };
    let (journal, cache) = (Arc::new(NoJournal), Arc::new(NoCache));
    Ok(Parts { journal, work: None, presence: None, shared: None, cache, store, embedded })
}

/// What an earlier service accepted must not lie unseen beside a direct one.
async fn nothing_waits(config: &Config, journal: &Path) -> Result<(), ServeError> {
    if !journal.exists() {
        return Ok(());
    }
    let waiting = EmbeddedJournal::open(journal, config.durability, config.backlog_bounds)?.backlog().await?;
    if waiting.entries == 0 {
        return Ok(());
    }
    Err(ServeError::Config(format!(
        "{} accepted requests wait in {}, and in direct mode nobody would store them: run `serve all` in the mode write-behind until they are stored, or use another --data-dir",
        waiting.entries,
        journal.display()
    )))
}

async fn purge(store: Arc<Embedded>, throttle: Arc<dyn Throttle>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let purging = store.purge(std::time::SystemTime::now(), PURGE_DOCUMENTS, &*throttle);
        tokio::select! {
            purged = purging => if let Err(error) = purged {
                tracing::warn!(%error, "expired tombstones were not dropped");
            },
            () = stop.cancelled() => return,
        }
        let _ = tokio::time::timeout(PURGE_INTERVAL, stop.cancelled()).await;
    }
}

/// Opens the listening socket of a process.
///
/// # Errors
/// The address is taken, or not an address of this machine.
pub fn bind(config: &Config) -> Result<TcpListener, ServeError> {
    listener::bind(config.listen, config.backlog).map_err(|source| {
        let hint = if source.kind() == std::io::ErrorKind::AddrInUse {
            " (another process listens there; choose another --listen)"
        } else {
            ""
        };
        ServeError::Io { what: format!("cannot listen on {}{hint}", config.listen), source }
    })
}
