//! One deployment of the service for one test: its processes, each in a runtime of its own so that it can be
//! killed, and the servers behind it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bson::Document;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Method, RequestBuilder};
use scalekit_service::access::Access;
use scalekit_service::api::RequestLimits;
use scalekit_service::config::{Backend, Config, Role};
use scalekit_service::contract::{AuditPage, AuditedDocument, Durability, Stats};
use scalekit_service::journal::embedded::BacklogBounds;
use scalekit_service::serve;
use scalekit_service::telemetry::TraceSettings;
use scalekit_service::testing::{MongoServer, RedisServer};
use scalekit_service::worker::BatchSettings;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// No test waits longer than this for something that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Runs test functions on both backends.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::harness::Kind::Embedded).await;
            })+
        }
        mod redis_mongo {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::harness::Kind::RedisMongo).await;
            })+
        }
    };
}
pub(crate) use on_both;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Embedded,
    RedisMongo,
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) database_ops_per_s: u32,
    pub(crate) database_iops_per_s: Option<u32>,
    pub(crate) database_device: Option<PathBuf>,
    /// Taken by Redis alone.
    pub(crate) shards: u16,
    pub(crate) batch: BatchSettings,
    pub(crate) backlog_entries: u64,
    pub(crate) backlog_bytes: u64,
    pub(crate) backlog_age: Duration,
    pub(crate) max_body_bytes: usize,
    pub(crate) max_connections: usize,
    pub(crate) request_timeout: Duration,
    /// A MongoDB server of its own, because the test kills it.
    pub(crate) own_mongo: bool,
    pub(crate) traces: Option<TraceSettings>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            database_ops_per_s: 10_000,
            database_iops_per_s: None,
            database_device: None,
            shards: 1,
            batch: BatchSettings { max_writes: 1000, max_bytes: 8 << 20, linger: Duration::from_millis(5) },
            backlog_entries: 100_000,
            backlog_bytes: 1 << 30,
            backlog_age: Duration::from_secs(300),
            max_body_bytes: 1 << 20,
            max_connections: 4096,
            request_timeout: Duration::from_secs(10),
            own_mongo: false,
            traces: None,
        }
    }
}

/// A server for all tests that run at the same time, gone with the last of them.
pub(crate) struct SharedMongo {
    server: Mutex<MongoServer>,
    url: String,
    _dir: tempfile::TempDir,
}

impl SharedMongo {
    fn start() -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        let server = MongoServer::start(dir.path());
        Arc::new(Self { url: server.url(), server: Mutex::new(server), _dir: dir })
    }

    fn shared() -> Arc<Self> {
        static SERVER: Mutex<Weak<SharedMongo>> = Mutex::new(Weak::new());
        let mut current = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        current.upgrade().unwrap_or_else(|| {
            let shared = Self::start();
            *current = Arc::downgrade(&shared);
            shared
        })
    }
}

struct Redis {
    server: Mutex<RedisServer>,
    url: String,
}

/// One process of the service.
pub(crate) struct Process {
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    abort: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn start(config: Config) -> Self {
        Self::try_start(config).unwrap_or_else(|error| panic!("the service does not start: {error}"))
    }

    /// After a kill: the directory is free once the killed worker's thread has ended.
    pub(crate) fn start_again(config: Config) -> Self {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            match Self::try_start(config.clone()) {
                Ok(process) => return process,
                Err(error) if error.contains("in use") && std::time::Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => panic!("the service does not start: {error}"),
            }
        }
    }

    pub(crate) fn try_start(config: Config) -> Result<Self, String> {
        let listener = serve::bind(&config).map_err(|error| error.to_string())?;
        let address = listener.local_addr().unwrap();
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let (started, starting) = mpsc::channel();
        let thread = {
            let (stop, abort) = (stop.clone(), abort.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()
                    .unwrap();
                let ready = {
                    let started = started.clone();
                    move || drop(started.send(Ok(())))
                };
                runtime.block_on(async {
                    tokio::select! {
                        ended = serve::run(config, listener, stop, ready) => {
                            // Tells only if it ended before it was ready.
                            let _ = started.send(ended.map_err(|error| error.to_string()));
                        }
                        () = abort.cancelled() => {}
                    }
                });
                runtime.shutdown_timeout(PATIENCE);
            })
        };
        starting.recv().unwrap_or_else(|_| Err("it panics".into()))?;
        Ok(Self { address, stop, abort, thread: Some(thread) })
    }

    /// Asks it to end and waits until it has.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    }

    pub(crate) fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    /// Drops all that it does, wherever it stands.
    pub(crate) async fn kill(mut self) {
        self.abort.cancel();
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.abort.cancel();
    }
}

pub(crate) struct Harness {
    pub(crate) kind: Kind,
    pub(crate) api: Process,
    /// Apart from the API only with Redis.
    pub(crate) worker: Option<Process>,
    redis: Option<Redis>,
    mongo: Option<Arc<SharedMongo>>,
    database: String,
    pub(crate) options: Options,
    pub(crate) client: reqwest::Client,
    dir: tempfile::TempDir,
}

impl Harness {
    pub(crate) async fn start(kind: Kind) -> Self {
        Self::with(kind, Options::default()).await
    }

    pub(crate) async fn with(kind: Kind, options: Options) -> Self {
        let mut harness = Self::without_worker(kind, options).await;
        if kind == Kind::RedisMongo {
            harness.start_worker().await;
        }
        harness
    }

    /// With Redis, only the API; embedded, it has its worker within.
    pub(crate) async fn without_worker(kind: Kind, options: Options) -> Self {
        // Starting servers blocks.
        tokio::task::spawn_blocking(move || {
            let dir = tempfile::tempdir().unwrap();
            let (redis, mongo) = match kind {
                Kind::Embedded => (None, None),
                Kind::RedisMongo => {
                    let args = ["--appendonly", "yes", "--appendfsync", "always"];
                    let mongo = if options.own_mongo { SharedMongo::start() } else { SharedMongo::shared() };
                    let server = RedisServer::start(dir.path(), &args);
                    let redis = Redis { url: server.url(), server: Mutex::new(server) };
                    (Some(redis), Some(mongo))
                }
            };
            let database = format!("it{:x}", fastrand::u64(..));
            let role = if kind == Kind::Embedded { Role::All } else { Role::Api };
            let config =
                config(role, dir.path(), redis.as_ref(), mongo.as_deref(), &database, &options, "w1");
            let api = Process::start(config);
            let client = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
            Self { kind, api, worker: None, redis, mongo, database, options, client, dir }
        })
        .await
        .unwrap()
    }

    pub(crate) fn config(&self, role: Role, worker_name: &str) -> Config {
        let (redis, mongo) = (self.redis.as_ref(), self.mongo.as_deref());
        config(role, self.dir.path(), redis, mongo, &self.database, &self.options, worker_name)
    }

    fn api_role(&self) -> Role {
        if self.kind == Kind::Embedded { Role::All } else { Role::Api }
    }

    pub(crate) async fn start_worker(&mut self) {
        self.worker = Some(self.start_another_worker("w1").await);
    }

    pub(crate) async fn start_another_worker(&self, name: &str) -> Process {
        let config = self.config(Role::Worker, name);
        tokio::task::spawn_blocking(move || Process::start(config)).await.unwrap()
    }

    /// Kills or stops all processes and starts them again on the same data.
    pub(crate) async fn restart(self, gracefully: bool) -> Self {
        let Self { kind, api, worker, redis, mongo, database, options, client, dir } = self;
        for process in worker.into_iter().chain([api]) {
            if gracefully { process.stop().await } else { process.kill().await }
        }
        let role = if kind == Kind::Embedded { Role::All } else { Role::Api };
        let config = config(role, dir.path(), redis.as_ref(), mongo.as_deref(), &database, &options, "w1");
        let api = tokio::task::spawn_blocking(move || Process::start_again(config)).await.unwrap();
        let mut harness = Self { kind, api, worker: None, redis, mongo, database, options, client, dir };
        if harness.kind == Kind::RedisMongo {
            harness.start_worker().await;
        }
        assert_eq!(harness.stats().await.role, harness.api_role().as_str());
        harness
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.api.url(path))
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        answer(self.request(method, path).body(body.to_owned())).await
    }

    pub(crate) async fn send_as(&self, key: &str, method: &str, path: &str, body: &str) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        answer(self.request(method, path).header("Idempotency-Key", key).body(body.to_owned())).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "").await
    }

    /// A write that must be accepted; the answer's body.
    pub(crate) async fn write(&self, method: &str, path: &str, body: &str) -> Value {
        self.send(method, path, body).await.expect(202).json()
    }

    pub(crate) async fn stats(&self) -> Stats {
        self.stats_of(&self.api).await
    }

    pub(crate) async fn stats_of(&self, process: &Process) -> Stats {
        self.client.get(process.url("/v1/stats")).send().await.unwrap().json().await.unwrap()
    }

    /// Waits until all that was accepted has left the journal.
    pub(crate) async fn drained(&self) {
        eventually("the journal is empty", async || {
            let journal = self.stats().await.journal;
            (journal.reachable && journal.backlog_entries == 0).then_some(())
        })
        .await;
    }

    pub(crate) async fn write_status(&self, write_id: &str) -> Value {
        self.get(&format!("/v1/writes/{write_id}")).await.expect(200).json()
    }

    /// What the store holds, past every cache.
    pub(crate) async fn audit(&self, collection: &str) -> Vec<AuditedDocument> {
        let mut documents = Vec::new();
        let mut after = String::new();
        loop {
            let page: AuditPage = serde_json::from_value(
                self.get(&format!("/v1/audit/{collection}?after={after}")).await.expect(200).json(),
            )
            .unwrap();
            documents.extend(page.documents);
            match page.next {
                Some(next) => after = next,
                None => return documents,
            }
        }
    }

    /// The store's documents that are not tombstones: id and operation.
    pub(crate) async fn stored(&self, collection: &str) -> Vec<(String, String)> {
        let live = self.audit(collection).await.into_iter().filter(|document| !document.deleted);
        live.map(|document| (document.id, document.op)).collect()
    }

    pub(crate) fn kill_redis(&self) {
        let redis = self.redis.as_ref().unwrap();
        tokio::task::block_in_place(|| redis.server.lock().unwrap().kill());
    }

    pub(crate) fn signal_redis(&self, signal: Signal) {
        let pid = self.redis.as_ref().unwrap().server.lock().unwrap().pid();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    pub(crate) fn restart_redis(&self) {
        let redis = self.redis.as_ref().unwrap();
        tokio::task::block_in_place(|| redis.server.lock().unwrap().restart());
    }

    /// Only with [`Options::own_mongo`].
    pub(crate) fn mongo_pid(&self) -> u32 {
        assert!(self.options.own_mongo, "others use this server");
        self.mongo.as_ref().unwrap().server.lock().unwrap().pid()
    }

    /// Only with [`Options::own_mongo`].
    pub(crate) fn signal_mongo(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.mongo_pid()).unwrap()), signal).unwrap();
    }

    /// Only with [`Options::own_mongo`].
    pub(crate) fn kill_mongo(&self) {
        assert!(self.options.own_mongo, "others use this server");
        let mongo = self.mongo.as_ref().unwrap();
        tokio::task::block_in_place(|| mongo.server.lock().unwrap().kill());
    }

    pub(crate) fn restart_mongo(&self) {
        let mongo = self.mongo.as_ref().unwrap();
        tokio::task::block_in_place(|| mongo.server.lock().unwrap().restart());
    }

    pub(crate) async fn mongo_database(&self) -> mongodb::Database {
        let url = &self.mongo.as_ref().unwrap().url;
        mongodb::Client::with_uri_str(url).await.unwrap().database(&self.database)
    }

    /// A document as MongoDB has it.
    pub(crate) async fn raw(&self, collection: &str, id: &str) -> Option<Document> {
        let collection = self.mongo_database().await.collection::<Document>(collection);
        collection.find_one(bson::doc! { "_id": id }).await.unwrap()
    }

    pub(crate) async fn redis_command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_redis_command(words).await.unwrap()
    }

    pub(crate) async fn try_redis_command<T: redis::FromRedisValue>(
        &self,
        words: &[&str],
    ) -> redis::RedisResult<T> {
        let client = redis::Client::open(self.redis.as_ref().unwrap().url.as_str()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
    }
}

fn config(
    role: Role,
    dir: &std::path::Path,
    redis: Option<&Redis>,
    mongo: Option<&SharedMongo>,
    database: &str,
    options: &Options,
    worker_name: &str,
) -> Config {
    let backend = match (redis, mongo) {
        (Some(redis), Some(mongo)) => Backend::RedisMongo {
            redis_url: redis.url.as_str().into(),
            cache_url: None,
            mongo_url: mongo.url.as_str().into(),
            mongo_database: database.to_owned(),
            authorities: None,
        },
        _ => Backend::Embedded { data_dir: dir.join("data") },
    };
    config_of(role, backend, options, worker_name)
}

pub(crate) fn config_of(role: Role, backend: Backend, options: &Options, worker_name: &str) -> Config {
    Config {
        role,
        backend,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        access: Access::default(),
        backlog: 1024,
        max_connections: options.max_connections,
        durability: Durability::Fsync,
        database_ops_per_s: options.database_ops_per_s,
        database_iops_per_s: options.database_iops_per_s,
        database_device: options.database_device.clone(),
        shards: options.shards,
        batch: options.batch,
        requests: RequestLimits {
            max_body_bytes: options.max_body_bytes,
            request_timeout: options.request_timeout,
        },
        backlog_bounds: BacklogBounds { entries: options.backlog_entries, bytes: options.backlog_bytes },
        max_backlog_age: options.backlog_age,
        shutdown_grace: Duration::from_secs(20),
        worker_name: worker_name.to_owned(),
        traces: options.traces.clone(),
    }
}

/// An HTTP answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// An RFC 9457 problem document of this status, with all its members.
    #[track_caller]
    pub(crate) fn expect_problem(self, status: u16, what: &str) -> Self {
        assert_eq!(self.status, status, "{what}: {}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json", "{what}: {}", self.text);
        let problem = self.json();
        assert_eq!(problem["status"], status, "{what}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{what}: {problem}");
        }
        self
    }
}

pub(crate) async fn answer(request: RequestBuilder) -> Answer {
    try_answer(request).await.unwrap()
}

/// `Err` if there is no answer.
pub(crate) async fn try_answer(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Answer { status, headers, text: response.text().await? })
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
