//! `scalekit serve`: what keeps a process of the service from starting is said, with what to do.

use std::net::TcpListener;

use nix::sys::signal::Signal;
use scalekit_service::testing::RedisServer;

use crate::run::Servers;
use crate::sandbox::{Sandbox, free_port, wait_for};
use crate::web;

#[test]
fn a_taken_port_is_named() {
    let sandbox = Sandbox::new();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    sandbox.scalekit(&["serve", "all", "--listen", &address]).expect(1).says(&[
        &address,
        "another process listens there",
        "--listen",
    ]);
}

#[test]
fn an_embedded_service_is_one_process() {
    let sandbox = Sandbox::new();
    for role in ["api", "worker"] {
        let words = ["embedded", "serve all", &format!("serve {role}")];
        sandbox.scalekit(&["serve", role, "--listen", "127.0.0.1:0"]).expect(1).says(&words);
    }
}

#[test]
fn redis_mongo_needs_its_urls() {
    let sandbox = Sandbox::new();
    let serve = ["serve", "all", "--backend", "redis-mongo"];
    sandbox.scalekit(&serve).expect(104).says(&["--redis-url"]);
    let redis = ["--redis-url", "redis://127.0.0.1:1"];
    sandbox.scalekit(&[&serve[..], &redis].concat()).expect(104).says(&["--mongo-url"]);
}

#[test]
fn an_unreachable_server_is_named_without_its_password() {
    let (sandbox, servers) = (Sandbox::new(), Servers::start());
    let port = free_port();
    let (address, redis) = (format!("127.0.0.1:{port}"), format!("redis://user:s3cret@127.0.0.1:{port}"));
    let serve = ["serve", "all", "--backend", "redis-mongo", "--listen", "127.0.0.1:0"];
    let urls = ["--redis-url", &redis, "--mongo-url", "mongodb://127.0.0.1:1"];
    let output = sandbox.scalekit(&[&serve[..], &urls].concat()).expect(1).says(&["Redis", &address]);
    assert!(!output.stderr.contains("s3cret"), "{}", output.stderr);
    let mongo = format!("mongodb://user:s3cret@127.0.0.1:{port}/?serverSelectionTimeoutMS=500");
    let urls = ["--redis-url", &servers.redis.url(), "--mongo-url", &mongo];
    let output =
        sandbox.scalekit(&[&serve[..], &urls].concat()).expect(1).says(&["127.0.0.1", &port.to_string()]);
    assert!(!output.stderr.contains("s3cret"), "{}", output.stderr);
    let nonsense = ["--redis-url", "user:s3cret@host", "--mongo-url", "mongodb://127.0.0.1:1"];
    let output = sandbox.scalekit(&[&serve[..], &nonsense].concat()).expect(104).says(&["--redis-url"]);
    assert!(!output.stderr.contains("s3cret"), "{}", output.stderr);
}

#[test]
fn a_redis_that_promises_too_little_is_refused() {
    let (sandbox, servers) = (Sandbox::new(), Servers::start());
    let dir = tempfile::tempdir().unwrap();
    let serve = ["serve", "all", "--backend", "redis-mongo", "--listen", "127.0.0.1:0"];
    for (args, words) in [
        (&["--appendonly", "no"][..], ["`fsync`", "appendonly yes", "appendfsync always"]),
        (&["--appendonly", "yes", "--appendfsync", "everysec"], ["`fsync`", "`os`", "appendfsync always"]),
        (
            &["--appendonly", "yes", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"],
            ["maxmemory-policy", "allkeys-lru", "noeviction"],
        ),
    ] {
        let redis = RedisServer::start(dir.path(), args);
        let urls = ["--redis-url", &redis.url(), "--mongo-url", &servers.mongo.url()];
        sandbox.scalekit(&[&serve[..], &urls].concat()).expect(1).says(&words);
    }
}

#[test]
fn a_service_serves_until_it_is_asked_to_end() {
    let sandbox = Sandbox::new();
    let ready = sandbox.path("ready");
    let serve = ["serve", "all", "--listen", "127.0.0.1:0", "--data-dir", "data", "--ready-file", "ready"];
    let mut service = sandbox.start(sandbox.command(&serve));
    let address = wait_for("the ready file", || std::fs::read_to_string(&ready).ok());
    let url = format!("http://{address}");
    assert_eq!(web::request(&url, "GET", "/healthz", "").0, 200);
    assert_eq!(web::request(&url, "POST", "/v1/things", r#"{"a": 1}"#).0, 202);
    service.signal(Signal::SIGTERM);
    service.wait().expect(0).says(&["serving", "stopping"]);
    assert!(sandbox.path("data/journal").is_dir());
    sandbox.expect_clean();
}
