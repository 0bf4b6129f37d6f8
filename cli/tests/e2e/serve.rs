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
fn a_device_that_is_none_is_named_with_what_was_expected() {
    let sandbox = Sandbox::new();
    let serve = ["serve", "all", "--listen", "127.0.0.1:0", "--database-device"];
    for path in ["/no/such/device", "/dev/null"] {
        let says =
            ["deploy.database_device", path, "expected a block device", "control group", "leave it out"];
        sandbox.scalekit(&[&serve[..], &[path]].concat()).expect(1).says(&says);
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
    // A third of its memory under load would be the unused rest of huge pages.
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    assert!(status.contains("THP_enabled:\t0\n"), "{status}");
    service.signal(Signal::SIGTERM);
    service.wait().expect(0).says(&["serving", "stopping"]);
    assert!(sandbox.path("data/journal").is_dir());
    sandbox.expect_clean();
}

/// What a service writes to its log, on a terminal of nobody.
fn log_of(format: &str) -> String {
    let sandbox = Sandbox::new();
    let ready = sandbox.path("ready");
    let serve =
        ["-v", "serve", "all", "--listen", "127.0.0.1:0", "--ready-file", "ready", "--log-format", format];
    let mut service = sandbox.start(sandbox.command(&serve));
    let address = wait_for("the ready file", || std::fs::read_to_string(&ready).ok());
    assert_eq!(web::request(&format!("http://{address}"), "PUT", "/v1/things/1", "{}").0, 202);
    service.signal(Signal::SIGTERM);
    service.wait().expect(0).stderr
}

#[test]
fn a_log_in_json_is_an_object_a_line() {
    let log = log_of("json");
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for line in &lines {
        for field in ["timestamp", "level", "target"] {
            assert!(line[field].is_string(), "{field}: {line}");
        }
    }
    let serving = lines.iter().find(|line| line["message"] == "serving").unwrap();
    assert_eq!((serving["role"].as_str(), serving["level"].as_str()), (Some("all"), Some("INFO")));
    let access = lines.iter().find(|line| line["target"] == "scalekit_service::access").unwrap();
    assert_eq!((access["method"].as_str(), access["status"].as_u64()), (Some("PUT"), Some(202)), "{access}");
    assert_eq!(
        (access["route"].as_str(), access["level"].as_str()),
        (Some("/v1/{collection}/{id}"), Some("DEBUG"))
    );
    let text = log_of("text");
    assert!(
        text.contains("serving") && text.contains("role=\"all\"") && !text.contains("{\"timestamp"),
        "{text}"
    );
}

#[test]
fn a_storm_of_failures_is_a_handful_of_lines() {
    const REQUESTS: usize = 2000;
    let (sandbox, servers) = (Sandbox::new(), Servers::start());
    let dir = tempfile::tempdir().unwrap();
    let mut cache = RedisServer::start(dir.path(), &["--save", ""]);
    let ready = sandbox.path("ready");
    let serve = [
        "serve",
        "all",
        "--backend",
        "redis-mongo",
        "--listen",
        "127.0.0.1:0",
        "--ready-file",
        "ready",
        "--redis-url",
        &servers.redis.url(),
        "--cache-url",
        &cache.url(),
        "--mongo-url",
        &servers.mongo.url(),
    ];
    let mut service = sandbox.start(sandbox.command(&serve));
    let address = wait_for("the ready file", || std::fs::read_to_string(&ready).ok());
    let url = format!("http://{address}");
    cache.kill();
    // Each of them is accepted, and each fails to become visible in the cache.
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let url = &url;
            scope.spawn(move || {
                for n in 0..REQUESTS / 8 {
                    assert_eq!(web::request(url, "PUT", &format!("/v1/things/{thread}-{n}"), "{}").0, 202);
                }
            });
        }
    });
    let metrics = web::request(&url, "GET", "/metrics", "").1;
    let errors = metrics.lines().find_map(|line| line.strip_prefix("scalekit_cache_errors_total ")).unwrap();
    assert!(errors.parse::<usize>().unwrap() >= REQUESTS, "{errors} failures");
    service.signal(Signal::SIGTERM);
    let log = service.wait().expect(0).stderr;
    let told = log.lines().filter(|line| line.contains("is not in the cache")).count();
    assert!(told >= 1, "it is said: {log}");
    assert!(log.lines().count() < REQUESTS / 10, "{} lines", log.lines().count());
}

#[test]
fn bad_telemetry_is_refused_before_anything_starts() {
    let sandbox = Sandbox::new();
    let serve = ["serve", "all", "--listen", "127.0.0.1:0"];
    let endpoint = ["--otlp-endpoint", "127.0.0.1:4318"];
    sandbox
        .scalekit(&[&serve[..], &endpoint].concat())
        .expect(104)
        .says(&["--otlp-endpoint", "http://127.0.0.1:4318"]);
    sandbox
        .scalekit(&[&serve[..], &["--trace-ratio", "2"]].concat())
        .expect(2)
        .says(&["--trace-ratio", "0.01"]);
    std::fs::write(sandbox.path("bad.yaml"), "deploy:\n  telemetry: {otlp_endpoint: nowhere}\n").unwrap();
    sandbox
        .scalekit(&["serve", "all", "-p", "bad.yaml"])
        .expect(104)
        .says(&["bad.yaml:2", "http://host:port"]);
}
