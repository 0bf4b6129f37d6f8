//! `scalekit doctor` on this host, on services of ours and of others, and on real servers.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use scalekit_service::testing::{MongoServer, RedisServer};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::sandbox::{Output, Running, SCALEKIT, Sandbox, free_port, read_json, wait_for};

const QUICK: [&str; 3] = ["doctor", "--seconds", "0"];

/// Runs it with `--json`, and checks the form of what it prints.
fn facts(sandbox: &Sandbox, flags: &[&str], status: i32) -> Value {
    facts_of(sandbox.scalekit(&[&QUICK[..], &["--json"], flags].concat()).expect(status))
}

fn facts_of(output: Output) -> Value {
    let facts: Value = serde_json::from_str(&output.stdout).unwrap();
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reports/doctor.schema.json");
    let validator = jsonschema::validator_for(&read_json(&schema)).unwrap();
    let errors: Vec<String> = validator.iter_errors(&facts).map(|error| error.to_string()).collect();
    assert_eq!(errors, Vec::<String>::new(), "{facts:#}");
    facts
}

/// The first row of a check; behind those of the service are those of what was full while watching.
#[track_caller]
fn row<'a>(facts: &'a Value, check: &str) -> &'a Value {
    let rows = facts["rows"].as_array().unwrap();
    rows.iter().find(|row| row["check"] == check).unwrap_or_else(|| panic!("no {check} in {facts:#}"))
}

fn sysctl(name: &str) -> u64 {
    fs::read_to_string(format!("/proc/sys/{name}")).unwrap().trim().parse().unwrap()
}

/// A listener of this process, which nobody accepts from.
fn listen(backlog: i32) -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(backlog).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Our service with a backlog of its own, and its address.
fn serve(sandbox: &Sandbox, backlog: u32) -> (Running, String) {
    let profile = sandbox.profile("served", &format!("deploy: {{limits: {{backlog: {backlog}}}}}"));
    let ready = sandbox.path("ready");
    let words = ["serve", "all", "--listen", "127.0.0.1:0", "-p", &profile, "--ready-file"];
    let mut command = sandbox.command(&words);
    command.arg(&ready).arg("--data-dir").arg(sandbox.path("data"));
    let running = sandbox.start(command);
    let address = wait_for("the service", || fs::read_to_string(&ready).ok());
    (running, address)
}

#[test]
fn our_service_is_shown_as_it_really_listens() {
    let sandbox = Sandbox::new();
    let (service, address) = serve(&sandbox, 300);
    let pid = service.pid().to_string();
    let port = address.rsplit(':').next().unwrap();
    let url = format!("http://{address}/v1/stats");
    for flags in [["--pid", &pid], ["--listen", port], ["--url", &url]] {
        let facts = facts(&sandbox, &[&flags[..], &["--vus", "400"]].concat(), 0);
        assert_eq!(facts["service"]["pid"], service.pid(), "{flags:?}");
        assert_eq!(facts["service"]["listens_on"], serde_json::json!([address]));
        let queue = row(&facts, "accept queue");
        let backlog = sysctl("net/core/somaxconn").min(300);
        assert_eq!(queue["limit"], serde_json::json!(backlog as f64), "{queue:#}");
        assert_eq!(queue["status"], "warn", "400 users at once are more: {queue:#}");
        let files = row(&facts, "open files of the service");
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as f64;
        assert!((files["value"].as_f64().unwrap() - open).abs() < 8.0, "{open} {files:#}");
        // The service has raised its soft limit.
        assert_eq!(files["limit"].as_f64().unwrap(), nofile(&pid), "{files:#}");
    }
    let few = facts(&sandbox, &["--pid", &pid, "--vus", "100"], 0);
    assert_eq!(row(&few, "accept queue")["status"], "ok");
}

/// The soft limit as the kernel has it.
fn nofile(pid: &str) -> f64 {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_service_with_few_files_fails_at_as_many_users() {
    let sandbox = Sandbox::new();
    let (service, address) = serve(&sandbox, 4096);
    let pid = service.pid().to_string();
    let status = Command::new("prlimit").args(["--nofile=256:256", "--pid", &pid]).status();
    assert!(status.expect("util-linux is on every Debian").success());
    let flags = ["--url", &format!("http://{address}"), "--vus", "1000"];
    let facts = facts(&sandbox, &flags, 99);
    let files = row(&facts, "open files of the service");
    assert_eq!(files["status"], "will-fail");
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    let fails_at = files["fails_at_users"].as_u64().unwrap();
    assert!(fails_at.abs_diff(256 - open + 1) <= 8, "{open} {files:#}");
    assert_eq!(files["tune"], serde_json::json!(["nofile"]));
    assert_eq!(facts["verdict"]["first"], "open files of the service");
    assert_eq!(facts["verdict"]["fails_at_users"], fails_at);
    // Those who fit are told so.
    let text = sandbox.scalekit(&[&QUICK[..], &flags[..2], &["-u", "20"]].concat()).expect(0);
    text.prints(&["verdict: nothing here stops 20 users"]);
    let text = sandbox.scalekit(&[&QUICK[..], &flags].concat()).expect(99);
    let text = text.prints(&["will fail at", "lifted by: nofile"]);
    let last = text.stdout.lines().last().unwrap();
    assert!(last.starts_with("verdict: open files of the service will fail at"), "{last}");
    let rows = || text.stdout.lines().filter(|line| !line.starts_with("verdict:"));
    assert!(rows().all(|line| line.chars().count() <= 100), "{}", text.stdout);
    assert!(!text.stdout.contains('\u{1b}'), "no colours in a file");
}

#[test]
fn any_listener_is_judged_and_not_only_ours() {
    let sandbox = Sandbox::new();
    let (_socket, address) = listen(16);
    let facts = facts(&sandbox, &["--listen", &address.to_string(), "--vus", "100"], 0);
    assert_eq!(facts["service"]["pid"], std::process::id());
    let queue = row(&facts, "accept queue");
    assert_eq!((&queue["status"], &queue["limit"]), (&"warn".into(), &16.0.into()));
    assert_eq!(queue["deploy"], serde_json::json!(["deploy.limits.backlog"]));
    assert_eq!(queue["tune"], serde_json::json!([]), "somaxconn is not what cuts it");
    assert_eq!(queue["counter"], format!("listener.waiting[{address}]"));
    // One that waits is seen to wait.
    let waiting: Vec<_> = (0..14).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    wait_for("waiting connections", || {
        let facts = self::facts(&sandbox, &["--listen", &address.port().to_string(), "-u", "9"], 0);
        (row_of(&facts, &address)["value"] == 14.0).then_some(())
    });
    drop(waiting);
}

fn row_of<'a>(facts: &'a Value, address: &SocketAddr) -> &'a Value {
    let counter = format!("listener.waiting[{address}]");
    let rows = facts["rows"].as_array().unwrap();
    rows.iter().find(|row| row["counter"] == counter.as_str()).unwrap()
}

#[test]
fn what_is_deployed_is_found_with_its_servers() {
    let sandbox = Sandbox::new();
    let dir = tempfile::tempdir().unwrap();
    let redis = crate::run::start_journal_redis(dir.path());
    let mongo_dir = tempfile::tempdir().unwrap();
    let mongo = MongoServer::start(mongo_dir.path());
    let profile = sandbox.profile("there", "deploy: {backend: redis-mongo, limits: {max_connections: 30}}");
    let urls = ["--redis-url", &redis.url(), "--mongo-url", &mongo.url()];
    sandbox.scalekit(&[&["deploy", "-p", &profile][..], &urls].concat()).expect(0);
    let facts = facts(&sandbox, &["-p", &profile, "--vus", "40"], 99);
    assert_eq!(facts["service"]["pid"], sandbox.process("there", "api"));
    assert_eq!(facts["service"]["name"], "scalekit");
    let connections = row(&facts, "connections of the service");
    assert_eq!(connections["fails_at_users"], 31, "{connections:#}");
    let persistence = row(&facts, "Redis persistence");
    assert_eq!((&persistence["status"], &persistence["setting"]), (&"ok".into(), &"always".into()));
    for check in ["Redis clients", "Redis memory", "Redis eviction"] {
        assert_eq!(row(&facts, check)["status"], "ok", "{facts:#}");
    }
    let known = ["ok", "warn", "unknown"].map(Value::from);
    for check in ["MongoDB connections", "MongoDB cache"] {
        assert!(known.contains(&row(&facts, check)["status"]), "{facts:#}");
    }
    assert!(row(&facts, "MongoDB connections")["value"].as_f64() >= Some(1.0), "{facts:#}");
    assert!(facts["counters"]["redis.used_memory"]["after"].as_f64() > Some(0.0), "{facts:#}");
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    let gone = sandbox.scalekit(&[&QUICK[..], &["-p", &profile, "-u", "9"]].concat()).expect(0);
    gone.prints(&["the host alone"]);
}

#[test]
fn a_redis_that_evicts_or_forgets_is_told() {
    let (sandbox, dir) = (Sandbox::new(), tempfile::tempdir().unwrap());
    let redis = RedisServer::start(
        dir.path(),
        &["--maxclients", "50", "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"],
    );
    // As many users as any host has room for.
    let facts = facts(&sandbox, &["--redis-url", &redis.url(), "-u", "9"], 0);
    let clients = row(&facts, "Redis clients");
    assert_eq!((&clients["status"], &clients["limit"]), (&"ok".into(), &50.0.into()));
    let policy = row(&facts, "Redis eviction");
    assert_eq!((&policy["status"], &policy["setting"]), (&"warn".into(), &"allkeys-lru".into()));
    assert_eq!(policy["deploy"], serde_json::json!(["redis maxmemory-policy"]));
    assert_eq!(row(&facts, "Redis memory")["limit"], f64::from(64 << 20));
    let persistence = row(&facts, "Redis persistence");
    assert_eq!(persistence["status"], "warn");
    assert!(persistence["message"].as_str().unwrap().contains("`memory`"), "{persistence:#}");
    // A cache is to evict.
    let cache = self::facts(&sandbox, &["--cache-url", &redis.url(), "-u", "9"], 0);
    assert_eq!(row(&cache, "Redis cache eviction")["status"], "ok");
}

#[test]
fn servers_that_are_away_are_unknown_without_their_passwords() {
    let sandbox = Sandbox::new();
    let (redis, mongo) = (free_port(), free_port());
    let redis = format!("redis://me:s3cret@127.0.0.1:{redis}");
    let mongo = format!("mongodb://me:s3cret@127.0.0.1:{mongo}");
    let flags = ["--redis-url", &redis, "--mongo-url", &mongo, "-u", "9"];
    let facts = facts(&sandbox, &flags, 0);
    for check in ["Redis", "MongoDB connections", "MongoDB cache"] {
        assert_eq!(row(&facts, check)["status"], "unknown", "{facts:#}");
        assert!(facts["verdict"]["unknown"].as_array().unwrap().contains(&check.into()));
    }
    assert!(!facts.to_string().contains("s3cret"), "{facts:#}");
    let text = sandbox.scalekit(&[&QUICK[..], &flags].concat()).expect(0);
    assert!(!text.stdout.contains("s3cret") && !text.stderr.contains("s3cret"), "{text:?}");
}

#[test]
fn without_root_what_cannot_be_read_is_unknown() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: not root, so that no process of another user can be looked at without being one");
        return;
    }
    let sandbox = Sandbox::new();
    let (_socket, address) = listen(16);
    // The program where anybody may reach it.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("scalekit");
    fs::copy(SCALEKIT, &program).unwrap();
    let nobody = |flags: &[&str], json: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command
            .arg(&program)
            .args(QUICK)
            .args(["-u", "9"])
            .args(json)
            .args(flags)
            .current_dir("/")
            .env("HOME", "/");
        command.env("XDG_STATE_HOME", dir.path().join("none"));
        sandbox.run(command).expect(0)
    };
    let pid = std::process::id().to_string();
    let by_pid = facts_of(nobody(&["--pid", &pid], &["--json"]));
    for check in ["accept queue", "open files of the service"] {
        let row = row(&by_pid, check);
        assert_eq!(row["status"], "unknown", "{by_pid:#}");
        assert!(row["message"].as_str().unwrap().contains("root"), "{row:#}");
    }
    // A listener shows to anybody; who holds it does not.
    let by_port = facts_of(nobody(&["--listen", &address.to_string()], &["--json"]));
    assert_eq!(by_port["service"]["pid"], Value::Null);
    assert_eq!(row_of(&by_port, &address)["limit"], 16.0);
    for check in ["open files of the service", "CPU quota", "memory limit", "disk cap"] {
        assert_eq!(row(&by_port, check)["status"], "unknown", "{by_port:#}");
    }
    let text = nobody(&["--listen", &address.to_string()], &[]);
    let last = text.stdout.lines().last().unwrap();
    assert!(last.contains("; unknown: open files of the service"), "{last}");
    nobody(&[], &[]).prints(&["the host alone", "verdict: "]);
}

#[test]
fn counters_are_watched_for_as_long_as_was_asked() {
    let sandbox = Sandbox::new();
    let pid = std::process::id().to_string();
    let output = sandbox.scalekit(&["doctor", "--pid", &pid, "--seconds", "1", "--json"]);
    let facts: Value = serde_json::from_str(&output.stdout).unwrap();
    assert!(facts["watched_s"].as_f64() >= Some(1.0), "{facts:#}");
    let total = &facts["counters"]["cpu.total"];
    assert!(total["after"].as_f64() > total["before"].as_f64(), "{total:#}");
    assert!(!facts["watched"].as_str().unwrap().is_empty());
}

#[test]
fn what_cannot_be_is_named() {
    let sandbox = Sandbox::new();
    let nobody = free_port().to_string();
    let url = format!("http://127.0.0.1:{nobody}");
    for (flags, status, words) in [
        (&["--pid", "4294967295"][..], 1, &["4294967295", "--pid"][..]),
        (&["--listen", &nobody], 1, &["nobody listens", &nobody]),
        (&["--url", &url], 1, &["nobody listens", &nobody]),
        (&["--listen", "here"], 104, &["--listen", "here"]),
        (&["--url", "nowhere"], 104, &["--url", "http://"]),
        (&["--vus", "0"], 104, &["--vus", "0"]),
        (&["--redis-url", "http://u:s3cret@h"], 104, &["--redis-url", "redis://"]),
        (&["--mongo-url", "http://u:s3cret@h"], 104, &["--mongo-url", "mongodb://"]),
        (&["-p", "no-such-profile"], 104, &["no-such-profile"]),
        (&["--pid", "1", "--listen", "80"], 2, &["--listen"]),
        (&["--vus", "many"], 2, &["many"]),
    ] {
        let output = sandbox.scalekit(&[&QUICK[..], flags].concat()).expect(status).says(words);
        assert!(output.stdout.is_empty() && !output.stderr.contains("s3cret"), "{output:?}");
    }
}
