//! `scalekit run`: one profile in, one verdict out, and nothing left behind.

use std::fs;
use std::path::{Path, PathBuf};

use scalekit_service::testing::{MongoServer, RedisServer};
use serde_json::Value;

use crate::sandbox::{Sandbox, read_json};

/// A Redis fit for a journal and a MongoDB, outside of the sandbox whose processes are counted.
pub(crate) struct Servers {
    pub(crate) redis: RedisServer,
    pub(crate) mongo: MongoServer,
    _dir: tempfile::TempDir,
}

impl Servers {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let subdirectory = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let redis = start_journal_redis(&subdirectory("redis"));
        let mongo = MongoServer::start(&subdirectory("mongo"));
        Self { redis, mongo, _dir: dir }
    }
}

pub(crate) fn start_journal_redis(dir: &Path) -> RedisServer {
    RedisServer::start(
        dir,
        &["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"],
    )
}

pub(crate) fn documents(mongo: &MongoServer) -> mongodb::Collection<mongodb::bson::Document> {
    let options = mongodb::options::ClientOptions::builder();
    let address =
        mongodb::options::ServerAddress::parse(mongo.url().trim_start_matches("mongodb://")).unwrap();
    let client = mongodb::Client::with_options(options.hosts(vec![address]).build()).unwrap();
    client.database("scalekit").collection("orders")
}

/// A runtime for the driver.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

pub(crate) fn schema() -> Value {
    let file: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "reports", "report.schema.json"].iter().collect();
    read_json(&file)
}

#[track_caller]
pub(crate) fn expect_valid(report: &Value) {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let errors: Vec<_> = validator.iter_errors(report).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

/// All that was acknowledged is stored, once, and there was something.
#[track_caller]
pub(crate) fn expect_audited(report: &Value) {
    let audit = &report["audit"];
    assert!(audit["acknowledged"].as_u64().unwrap() > 0, "{audit}");
    assert_eq!(audit["acknowledged"], audit["stored"], "{audit}");
    for nothing in ["lost", "duplicated", "unknown", "refused_stored"] {
        assert_eq!(audit[nothing], 0, "{nothing}: {audit}");
    }
}

#[test]
fn embedded_from_nothing_to_a_verdict_to_nothing() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("embedded", "");
    let output = sandbox.scalekit(&["run", "-p", &profile]).expect(0);
    assert!(output.stdout.contains("VERDICT: PASS"), "{}", output.stdout);
    let report = sandbox.report();
    expect_valid(&report);
    expect_audited(&report);
    assert_eq!(report["verdict"]["outcome"], "pass");
    assert_eq!(report["run"]["interrupted"], false);
    assert_eq!(report["load"]["achieved"]["vus"], 20);
    let summary = fs::read_to_string(sandbox.folders()[0].join("summary.txt")).unwrap();
    assert!(output.stdout.starts_with(summary.trim_end()), "the summary on disk is the one on screen");
    sandbox.expect_clean();
    assert!(!sandbox.state().join("deployments").exists());
}

#[test]
fn kept_it_stays_up_until_it_is_taken_down() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("kept", "");
    let output = sandbox.scalekit(&["run", "-p", &profile, "--keep", "--json"]).expect(0);
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(report, sandbox.report(), "--json prints the report and nothing else");
    assert_eq!(sandbox.processes().len(), 2, "the service and its supervisor: {:?}", sandbox.processes());
    sandbox.scalekit(&["deploy", "status", "-p", &profile]).expect(0).prints(&["supervisor     up"]);
    sandbox.scalekit(&["run", "-p", &profile, "--keep"]).expect(1).says(&["deployed already", "deploy down"]);
    assert_eq!(sandbox.folders().len(), 1, "a run that never started leaves no folder");
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    sandbox.expect_clean();
}

#[test]
fn redis_and_mongo_by_their_urls() {
    let (sandbox, servers) = (Sandbox::new(), Servers::start());
    let profile = sandbox.profile("servers", "deploy: {backend: redis-mongo}");
    let (redis, mongo) = (servers.redis.url(), servers.mongo.url());
    let urls = ["--redis-url", &redis, "--cache-url", &redis, "--mongo-url", &mongo];
    sandbox.scalekit(&[&["run", "-p", &profile], &urls[..]].concat()).expect(0);
    let report = sandbox.report();
    expect_valid(&report);
    expect_audited(&report);
    let stored = runtime().block_on(async {
        documents(&servers.mongo).count_documents(mongodb::bson::doc! { "_sk.op": { "$exists": true } }).await
    });
    assert_eq!(report["audit"]["stored"], stored.unwrap());
    // Their own counters are watched beside the host's.
    let counters = &report["counters"];
    for name in ["redis.connected_clients", "redis.rejected_connections", "mongo.connections_current"] {
        assert!(counters["deltas"][name]["after"].is_number(), "{name}: {}", counters["problems"]);
    }
    assert!(counters["deltas"]["redis.connected_clients"]["after"].as_f64().unwrap() >= 2.0);
    sandbox.expect_clean();
}

#[test]
fn the_redis_server_on_the_path_is_started_and_ended() {
    let (sandbox, servers) = (Sandbox::new(), Servers::start());
    let profile = sandbox.profile("own-redis", "deploy: {backend: redis-mongo}");
    sandbox.scalekit(&["run", "-p", &profile, "--mongo-url", &servers.mongo.url()]).expect(0);
    expect_audited(&sandbox.report());
    sandbox.expect_clean();
}

#[test]
fn without_mongod_nothing_is_started() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("no-mongod", "deploy: {backend: redis-mongo}");
    let bin = sandbox.path("bin");
    fs::create_dir(&bin).unwrap();
    let redis = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|dir| dir.join("redis-server"))
        .find(|file| file.is_file())
        .unwrap();
    std::os::unix::fs::symlink(redis, bin.join("redis-server")).unwrap();
    let mut command = sandbox.command(&["run", "-p", &profile]);
    command.env("PATH", &bin);
    sandbox.run(command).expect(1).says(&["`mongod`", "--mongo-url"]);
    assert!(sandbox.folders().is_empty());
    sandbox.expect_clean();
}

#[test]
fn where_the_report_cannot_go_nothing_is_deployed() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("nowhere", "");
    fs::write(sandbox.path("file"), "").unwrap();
    for out in ["file", "file/reports"] {
        sandbox.scalekit(&["run", "-p", &profile, "--out", out]).expect(1).says(&["--out", "file"]);
        let url = ["--url", "http://127.0.0.1:1/"];
        sandbox
            .scalekit(&[&["bench", "-p", &profile, "--out", out], &url[..]].concat())
            .expect(1)
            .says(&["--out"]);
    }
    assert!(!sandbox.state().exists(), "nothing was deployed");
    sandbox.expect_clean();
}

#[test]
fn a_criterion_that_fails_is_shown_with_what_was_observed() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("strict", "");
    let output = sandbox.scalekit(&["run", "-p", &profile, "--threshold", "http_reqs=count<1"]).expect(99);
    let line = output.stdout.lines().find(|line| line.contains('✗')).unwrap();
    let report = sandbox.report();
    let count = report["metrics"]["http_reqs"]["values"]["count"].as_f64().unwrap();
    assert!(line.contains("'count<1'") && line.contains(&format!("count={count}")), "{line}");
    assert_eq!(report["verdict"]["outcome"], "fail");
    assert_eq!(report["metrics"]["http_reqs"]["thresholds"]["count<1"]["ok"], false);
    sandbox.expect_clean();
}
