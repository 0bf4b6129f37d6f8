//! `scalekit bench`: any URL, or what was deployed.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::run::{Servers, expect_audited, expect_valid};
use crate::sandbox::{Sandbox, free_port, is_running, wait_for};
use crate::web::WebServer;

/// Ten users on a URL for a second.
const SHORT: [&str; 8] = ["--vus", "10", "--duration", "1s", "--warmup", "0s", "--think", "50ms"];

/// How many requests ended so, by the report.
fn count(report: &Value, name: &str) -> u64 {
    let outcomes = report["outcomes"].as_array().unwrap();
    outcomes.iter().filter(|class| class["name"] == name).map(|class| class["count"].as_u64().unwrap()).sum()
}

#[test]
fn a_target_that_is_down_never_passes() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("down", "");
    let url = format!("http://127.0.0.1:{}/", free_port());
    let output =
        sandbox.scalekit(&[&["bench", "-p", &profile, "--url", &url], &SHORT[..]].concat()).expect(99);
    let report = sandbox.report();
    expect_valid(&report);
    assert_eq!(report["verdict"]["outcome"], "fail");
    let refused = count(&report, "connection_refused");
    assert!(refused > 0, "{}", report["outcomes"]);
    assert_eq!(report["metrics"]["http_req_failed"]["values"]["rate"], 1.0);
    assert_eq!(report["metrics"]["http_reqs"]["values"]["count"], refused as f64);
    assert!(output.stdout.contains("1212 connection_refused"), "{}", output.stdout);
    sandbox.expect_clean();
}

#[test]
fn a_target_that_answers_500_never_passes() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("500 Internal Server Error"));
    let profile = sandbox.profile("broken", "");
    sandbox.scalekit(&[&["bench", "-p", &profile, "--url", &server.url], &SHORT[..]].concat()).expect(99);
    let report = sandbox.report();
    let class = report["outcomes"].as_array().unwrap().iter().find(|class| class["code"] == 1500).unwrap();
    assert_eq!(class["statuses"]["500"], class["count"]);
    assert_eq!(report["metrics"]["http_req_failed"]["values"]["rate"], 1.0);
    assert!(report["metrics"]["http_req_failed"]["values"]["passes"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_server_gets_the_request_that_was_asked_for() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("201 Created"));
    let profile = sandbox.profile("request", "");
    fs::write(sandbox.path("body.txt"), "from a file").unwrap();
    let url = format!("{}/some/path?q=1", server.url);
    for body in ["typed", "@body.txt"] {
        let request = ["--method", "PUT", "-H", "X-Test: one", "-H", "Authorization: s3cret", "--body", body];
        let bench = ["bench", "-p", &profile, "--url", &url];
        let output = sandbox.scalekit(&[&bench[..], &request, &SHORT].concat()).expect(0);
        assert!(!output.stdout.contains("s3cret"));
    }
    let bodies: BTreeSet<_> = server.received().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies, BTreeSet::from(["typed".to_owned(), "from a file".to_owned()]));
    for request in server.received() {
        assert_eq!(request.head[0], "PUT /some/path?q=1 HTTP/1.1");
        for header in ["X-Test: one", "Authorization: s3cret"] {
            let found = request.head.iter().any(|line| line.eq_ignore_ascii_case(header));
            assert!(found, "{header}: {:?}", request.head);
        }
    }
    for folder in sandbox.folders() {
        let report = fs::read_to_string(folder.join("report.json")).unwrap();
        assert!(!report.contains("s3cret"), "what proves who one is stays out of reports");
    }
}

#[test]
fn the_environment_sets_what_flags_set_and_flags_win() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let profile = sandbox.profile("environment", "");
    let mut command = sandbox.command(&["bench", "--vus", "3"]);
    command.env("SCALEKIT_PROFILE", &profile).env("SCALEKIT_URL", &server.url);
    command.env("SCALEKIT_DURATION", "1s").env("SCALEKIT_VUS", "7").env("SCALEKIT_OUT", "reports");
    sandbox.run(command).expect(0);
    let requested = &sandbox.report()["load"]["requested"];
    assert_eq!(requested["vus"], 3);
    assert_eq!(requested["duration_s"], 1.0);
}

#[test]
fn nothing_deployed_is_said_with_what_to_do() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("absent", "");
    let record = sandbox.state().join("deployments/absent/deployment.json");
    sandbox.scalekit(&["bench", "-p", &profile]).expect(1).says(&[
        record.to_str().unwrap(),
        "`absent`",
        "scalekit deploy",
        "--url",
    ]);
    assert!(sandbox.folders().is_empty());
}

#[test]
fn a_deployment_with_a_dead_process_says_which() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("dead", "");
    sandbox.scalekit(&["deploy", "-p", &profile]).expect(0);
    // Or it would be back at once.
    sandbox.end_supervisor("dead");
    let pid = sandbox.process("dead", "service");
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_for("the end of the service", || (!is_running(pid)).then_some(()));
    let (named, log) = (format!("service (process {pid})"), "service.log");
    sandbox.scalekit(&["bench", "-p", &profile]).expect(1).says(&["not up", &named, log]);
    let status = sandbox.scalekit(&["deploy", "status", "-p", &profile]).expect(1);
    assert!(status.stdout.contains("DOWN"), "{}", status.stdout);
    assert!(sandbox.folders().is_empty());
    // What is dead does not stand in the way.
    sandbox.scalekit(&["deploy", "-p", &profile]).expect(0);
    sandbox.scalekit(&["bench", "-p", &profile]).expect(0);
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    sandbox.expect_clean();
}

/// The operations of a worker that died are not known.
const CRASH: &str = "deploy: {backend: redis-mongo}\nload: {duration: 3s}\ncriteria: {db_ops: []}";

/// The worker dies without a word while the load runs, and another takes its place only once the load is over.
#[test]
fn a_killed_worker_and_its_successor_lose_nothing() {
    let (sandbox, servers) = (Sandbox::new(), Servers::start());
    let profile = sandbox.profile("crash", CRASH);
    let (redis, mongo) = (servers.redis.url(), servers.mongo.url());
    let urls = ["--redis-url", &redis, "--cache-url", &redis, "--mongo-url", &mongo];
    sandbox.scalekit(&[&["deploy", "-p", &profile], &urls[..]].concat()).expect(0);
    let deployment = sandbox.deployment("crash");
    let listen = deployment["roles"][1]["url"].as_str().unwrap().trim_start_matches("http://").to_owned();
    // Or it would be back at once.
    sandbox.end_supervisor("crash");
    let mut bench = sandbox.start(sandbox.command(&["bench", "-p", &profile]));
    bench.wait_to_say("measuring");
    let worker = sandbox.process("crash", "worker");
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    bench.wait_to_say("until the journal is empty");
    // What is killed is not gone at once, and its port with it.
    wait_for("the port", || TcpStream::connect(&listen).is_err().then_some(()));
    let serve = ["serve", "worker", "-p", &profile, "--backend", "redis-mongo", "--listen", &listen];
    let mut successor = sandbox.start(sandbox.command(&[&serve[..], &urls].concat()));
    bench.wait().expect(0);
    let report = sandbox.report();
    expect_audited(&report);
    successor.signal(Signal::SIGTERM);
    successor.wait().expect(0);
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    sandbox.expect_clean();
}

/// The supervisor starts it again while the load still runs, and it counts from 0.
#[test]
fn the_operations_of_a_worker_that_started_anew_are_not_told_too_low() {
    let (sandbox, servers) = (Sandbox::new(), Servers::start());
    // Longer than the tests' patience: it ends once the other one is there.
    let profile = sandbox.profile("anew", &CRASH.replace("3s", "10m"));
    let (redis, mongo) = (servers.redis.url(), servers.mongo.url());
    let urls = ["--redis-url", &redis, "--cache-url", &redis, "--mongo-url", &mongo];
    sandbox.scalekit(&[&["deploy", "-p", &profile], &urls[..]].concat()).expect(0);
    let mut bench = sandbox.start(sandbox.command(&["bench", "-p", &profile]));
    bench.wait_to_say("measuring");
    let worker = sandbox.process("anew", "worker");
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    wait_for("another worker", || {
        let deployment = sandbox.deployment("anew");
        let found =
            deployment["processes"].as_array().unwrap().iter().find(|process| process["name"] == "worker");
        let found = found.unwrap();
        (found["pid"] != worker && found["is_ready"] == true).then_some(())
    });
    bench.signal(Signal::SIGINT);
    let output = bench.wait().expect(105);
    assert!(output.stdout.contains("worker started anew under the load"), "{}", output.stdout);
    let report = sandbox.report();
    assert_eq!(report["audit"]["lost"], 0, "{report}");
    assert!(report["metrics"]["db_ops"].is_null(), "{report}");
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    sandbox.expect_clean();
}

#[test]
fn steps_of_a_profile_are_sent_checked_and_reported() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("201 Created"));
    fs::write(sandbox.path("people.csv"), "name,city\nann,berlin\nbob,paris\n").unwrap();
    let steps = r#"
load:
  scenario: steps
  url: URL
  data: people.csv
  steps:
    - name: find
      path: /find/${data.city}
      checks: { status: [200-299] }
    - name: greet
      method: POST
      path: /greet
      headers: { X-Name: '${data.name}' }
      body: '{"user": ${vu}}'
      checks: { status: [404] }
criteria:
  checks: ['rate>=0.5']
"#;
    let profile = sandbox.profile("steps", &steps.replace("URL", &server.url));
    let flags = ["bench", "-p", &profile, "--vus", "2", "--iterations", "6", "--think", "1ms"];
    let output = sandbox.scalekit(&flags).expect(0);
    for part in ["STEPS", "find", "6 requests", "✓ status is 200-299: 6 of 6", "✗ status is 404: 0 of 6"]
    {
        assert!(output.stdout.contains(part), "{part}: {}", output.stdout);
    }
    let report = sandbox.report();
    expect_valid(&report);
    assert_eq!(report["metrics"]["checks"]["values"]["rate"], 0.5);
    assert_eq!(report["metrics"]["iterations"]["values"]["count"], 6.0);
    assert_eq!(report["steps"][1]["checks"][0]["fails"], 6);
    let received = server.received();
    assert_eq!(received.len(), 12);
    let greeted: BTreeSet<_> = received
        .iter()
        .filter(|request| request.head[0] == "POST /greet HTTP/1.1")
        .flat_map(|request| request.head.iter().filter(|line| line.starts_with("X-Name")))
        .collect();
    assert_eq!(greeted.into_iter().collect::<Vec<_>>(), ["X-Name: ann", "X-Name: bob"]);
}

#[test]
fn a_rate_is_held_and_said() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let profile = sandbox.profile("open", "");
    let flags = ["--rate", "100/s", "--vus", "10", "--duration", "1s", "--warmup", "0s"];
    let output = sandbox.scalekit(&[&["bench", "-p", &profile, "--url", &server.url], &flags[..]].concat());
    let report = sandbox.report();
    expect_valid(&report);
    assert_eq!(report["load"]["requested"]["model"], "open");
    let count = |name: &str| report["metrics"][name]["values"]["count"].as_f64().unwrap();
    assert_eq!(count("http_reqs") + count("dropped_iterations"), 100.0);
    assert!(output.stdout.contains("100 iterations/s by at most 10 users"), "{}", output.stdout);
}

#[test]
fn what_cannot_be_sent_is_refused_before_anything_is() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let profile = sandbox.profile("plain", "");
    for (flags, words) in [
        (["--body", "${nope}"], ["`${nope}` is no variable", "${seq}"]),
        (["--body", "${data.x}"], ["no data file is given", "load.data"]),
        (["--data", "gone.csv"], ["gone.csv", "cannot be opened"]),
        (["--body", "@gone.txt"], ["gone.txt", "--body"]),
        (["--stage", "0s:5"], ["load.stages", "no length"]),
        (["--stage", "5"], ["--stage", "30s:100"]),
        (["--rate", "5"], ["--rate", "/s"]),
        (["--vus", "900000"], ["900000 users need", "ulimit"]),
        (["--url", "http://no-such-host.invalid/"], ["no-such-host.invalid", "cannot be resolved"]),
    ] {
        let url = if flags[0] == "--url" { vec![] } else { vec!["--url", &server.url] };
        sandbox.scalekit(&[&["bench", "-p", &profile][..], &url, &flags].concat()).expect(104).says(&words);
    }
    assert!(server.received().is_empty());
    assert!(sandbox.folders().is_empty());
}
