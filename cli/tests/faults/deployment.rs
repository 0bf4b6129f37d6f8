//! One deployment for one test: processes of the built program, and the servers behind them.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use scalekit_service::contract::Stats;
use scalekit_service::testing::{MongoServer, RedisServer};
use tokio::task::JoinHandle;

use crate::evidence;
use crate::load::{Hands, Load};
use crate::sandbox::{Running, Sandbox, free_port, wait_for};

/// Nothing that must come takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// An append is on the device before it is answered.
pub(crate) const ALWAYS: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) database_ops: u32,
    /// Writes in a batch.
    pub(crate) batch: u32,
    pub(crate) backlog_entries: u64,
    pub(crate) durability: &'static str,
    /// Redis is the test's own business, on this port.
    pub(crate) redis_port: Option<u16>,
    /// A MongoDB server that the test may kill.
    pub(crate) own_mongo: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            database_ops: 1000,
            batch: 1000,
            backlog_entries: 100_000,
            durability: "fsync",
            redis_port: None,
            own_mongo: false,
        }
    }
}

/// So slow that there is always a backlog.
pub(crate) const SLOW: Options = Options {
    database_ops: 15,
    batch: 10,
    backlog_entries: 100_000,
    durability: "fsync",
    redis_port: None,
    own_mongo: false,
};

/// The servers that a process is told of, by their ports: real ones, or a proxy before them.
#[derive(Clone, Copy)]
pub(crate) struct Wiring {
    /// The journal's Redis.
    pub(crate) redis: u16,
    pub(crate) cache: u16,
    pub(crate) mongo: u16,
}

/// A process of the service.
pub(crate) struct Service {
    pub(crate) running: Running,
    pub(crate) url: String,
}

impl Service {
    pub(crate) async fn stats(&self) -> Stats {
        reqwest::get(format!("{}/v1/stats", self.url)).await.unwrap().json().await.unwrap()
    }

    /// A counter of `/metrics`.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text = reqwest::get(format!("{}/metrics", self.url)).await.unwrap().text().await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(mut self) {
        self.running.signal(Signal::SIGTERM);
        self.running.wait().expect(0);
    }
}

/// A MongoDB server for all tests that run at the same time, gone with the last of them.
struct Mongo {
    server: Mutex<MongoServer>,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Mongo {
    fn start() -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        let server = MongoServer::start(dir.path());
        Arc::new(Self { port: server.port(), server: Mutex::new(server), _dir: dir })
    }

    fn shared() -> Arc<Self> {
        static SERVER: Mutex<Weak<Mongo>> = Mutex::new(Weak::new());
        let mut current = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        current.upgrade().unwrap_or_else(|| {
            let shared = Self::start();
            *current = Arc::downgrade(&shared);
            shared
        })
    }
}

pub(crate) struct Deployment {
    pub(crate) api: Option<Service>,
    pub(crate) worker: Option<Service>,
    pub(crate) hands: Hands,
    /// The journal's.
    pub(crate) redis: Option<RedisServer>,
    /// Apart, so that what befalls the journal leaves readers their own writes.
    _cache: RedisServer,
    mongo: Arc<Mongo>,
    pub(crate) direct: Wiring,
    options: Options,
    database: String,
    api_port: u16,
    sampler: JoinHandle<()>,
    starts: u32,
    /// Of the next process.
    profile: &'static str,
    /// Last, since its end takes with it all that was started from it.
    pub(crate) sandbox: Sandbox,
}

impl Deployment {
    /// Servers, an API and a worker.
    pub(crate) fn start(options: Options) -> Self {
        let mut deployment = Self::bare(Sandbox::new(), options);
        deployment.start_api(deployment.direct);
        deployment.start_worker(deployment.direct);
        deployment
    }

    /// The servers only.
    pub(crate) fn bare(sandbox: Sandbox, options: Options) -> Self {
        let directory = |name: &str| {
            let dir = sandbox.path(name);
            std::fs::create_dir(&dir).unwrap();
            dir
        };
        let redis = options.redis_port.is_none().then(|| RedisServer::start(&directory("redis"), &ALWAYS));
        let cache = RedisServer::start(&directory("cache"), &[]);
        let mongo = if options.own_mongo { Mongo::start() } else { Mongo::shared() };
        let redis_port = options.redis_port.or(redis.as_ref().map(|redis| redis.port())).unwrap();
        let direct = Wiring { redis: redis_port, cache: cache.port(), mongo: mongo.port };
        let database = format!("faults{:x}", fastrand::u64(..));
        let Options { database_ops, batch, backlog_entries, durability, .. } = options;
        let profile = format!(
            "extends: default\ndescription: For tests of faults.\ndeploy:\n  backend: redis-mongo\n  \
             mongo_database: {database}\n  durability: {durability}\n  database_ops: {database_ops}/s\n  \
             worker: {{linger: 5ms, batch_max_writes: {batch}}}\n  \
             limits: {{request_timeout: 6s, max_body_bytes: 16MiB, max_backlog_entries: {backlog_entries}}}\n"
        );
        std::fs::write(sandbox.path("faults.yaml"), profile).unwrap();
        let fast = "extends: faults.yaml\ndeploy: {database_ops: 2000/s, worker: {batch_max_writes: 1000}}\n";
        std::fs::write(sandbox.path("fast.yaml"), fast).unwrap();
        let api_port = free_port();
        let hands = Hands::new(&format!("http://127.0.0.1:{api_port}"));
        let client = client(mongo.port);
        let sampler = tokio::spawn(evidence::sample(client.database(&database), hands.clone()));
        Self {
            api: None,
            worker: None,
            hands,
            redis,
            _cache: cache,
            mongo,
            direct,
            options,
            database,
            api_port,
            sampler,
            starts: 0,
            profile: "faults.yaml",
            sandbox,
        }
    }

    /// A process of the service that serves by now; port 0 takes any.
    pub(crate) fn serve(&mut self, role: &str, name: &str, port: u16, wiring: Wiring) -> Service {
        self.starts += 1;
        let ready = format!("ready-{}", self.starts);
        let listen = format!("127.0.0.1:{port}");
        let redis = |port: u16| format!("redis://127.0.0.1:{port}");
        let (journal, cache) = (redis(wiring.redis), redis(wiring.cache));
        let mongo = format!(
            "mongodb://127.0.0.1:{}/?serverSelectionTimeoutMS=1000&directConnection=true",
            wiring.mongo
        );
        let command = self.sandbox.command(&[
            "serve",
            role,
            "-p",
            self.profile,
            "--listen",
            &listen,
            "--redis-url",
            &journal,
            "--cache-url",
            &cache,
            "--mongo-url",
            &mongo,
            "--worker-name",
            name,
            "--ready-file",
            &ready,
            "--threads",
            "2",
        ]);
        let mut running = self.sandbox.start(command);
        let file = self.sandbox.path(&ready);
        let address = wait_for("a process that serves", || {
            assert!(!running.has_ended(), "it ended: {}", running.said());
            std::fs::read_to_string(&file).ok()
        });
        Service { running, url: format!("http://{address}") }
    }

    /// Always on the same port; one that runs is killed first.
    pub(crate) fn start_api(&mut self, wiring: Wiring) {
        self.kill_api();
        self.api = Some(self.serve("api", "", self.api_port, wiring));
    }

    /// Always of the same name; one that runs is killed first.
    pub(crate) fn start_worker(&mut self, wiring: Wiring) {
        self.kill_worker();
        self.worker = Some(self.serve("worker", "w1", 0, wiring));
    }

    /// One that works off a backlog at once.
    pub(crate) fn start_fast_worker(&mut self) {
        self.profile = "fast.yaml";
        self.start_worker(self.direct);
    }

    /// SIGKILL.
    pub(crate) fn kill_api(&mut self) {
        self.api = None;
    }

    /// SIGKILL.
    pub(crate) fn kill_worker(&mut self) {
        self.worker = None;
    }

    pub(crate) fn kill_redis(&mut self) {
        self.redis.as_mut().unwrap().kill();
    }

    pub(crate) fn restart_redis(&mut self) {
        self.redis.as_mut().unwrap().restart();
    }

    pub(crate) fn kill_mongo(&self) {
        assert!(self.options.own_mongo, "others use this server");
        self.mongo.server.lock().unwrap().kill();
    }

    pub(crate) fn restart_mongo(&self) {
        self.mongo.server.lock().unwrap().restart();
    }

    pub(crate) fn mongo_pid(&self) -> i32 {
        assert!(self.options.own_mongo, "others use this server");
        self.mongo.server.lock().unwrap().pid().try_into().unwrap()
    }

    /// Eight clients, on and on.
    pub(crate) fn load(&self, name: &str) -> Load {
        Load::start(&self.hands, name, 8, Duration::from_millis(5))
    }

    pub(crate) fn api(&self) -> &Service {
        self.api.as_ref().unwrap()
    }

    pub(crate) fn worker(&self) -> &Service {
        self.worker.as_ref().unwrap()
    }

    pub(crate) fn database(&self) -> mongodb::Database {
        client(self.direct.mongo).database(&self.database)
    }

    /// Of the journal's Redis.
    pub(crate) async fn try_redis<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        ask(self.direct.redis, words).await
    }

    pub(crate) async fn cache<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        ask(self.direct.cache, words).await.unwrap()
    }

    pub(crate) async fn redis<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_redis(words).await.unwrap()
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.sampler.abort();
        if std::thread::panicking() {
            for service in self.api.iter().chain(&self.worker) {
                eprintln!("--- {}\n{}", service.url, service.running.said());
            }
        }
    }
}

async fn ask<T: redis::FromRedisValue>(port: u16, words: &[&str]) -> redis::RedisResult<T> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
}

fn client(port: u16) -> mongodb::Client {
    let host = mongodb::options::ServerAddress::Tcp { host: "127.0.0.1".into(), port: Some(port) };
    let options = mongodb::options::ClientOptions::builder().hosts(vec![host]);
    let options = options.server_selection_timeout(Duration::from_secs(5)).build();
    mongodb::Client::with_options(options).unwrap()
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
