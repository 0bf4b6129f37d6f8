//! Load on what is in a cluster. The double has no pods that run: a service and agents of this host are behind them.

use std::fs;

use base64::Engine as _;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Bench, NAMESPACE, profile_text};
use crate::api_server::Conduct;
use crate::sandbox::{Running, Sandbox, free_port, wait_for};

const LOAD: &str =
    "load: {vus: 6, warmup: 0s, duration: 1s, think_time: 100ms, timeout: 30s, transactions: {items: 10}}
criteria:
  http_req_total_duration: ['p(95)<60000']
  http_req_failed: ['rate<0.01']
  lost_writes: ['count==0']
  db_ops: ['max<=5000']
";

/// A service of this host, which a deployment in the double passes for its own.
struct Behind {
    host: Sandbox,
    profile: String,
    port: u16,
}

impl Behind {
    fn start() -> Self {
        let host = Sandbox::new();
        let profile = host.profile("behind", "");
        let up = host.scalekit(&["deploy", "-p", &profile, "--json"]).expect(0);
        let up: Value = serde_json::from_str(&up.stdout).unwrap();
        let port = up["url"].as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
        Self { host, profile, port }
    }

    fn end(self) {
        self.host.scalekit(&["deploy", "down", "--purge", "-p", &self.profile]).expect(0);
    }
}

/// A profile whose API listens there on its node.
fn at(port: u16) -> String {
    profile_text().replace("cpu: {", &format!("port: {port}, cpu: {{")) + LOAD
}

#[test]
fn a_bench_finds_the_api_on_its_node_and_the_workers_counters_through_the_cluster() {
    let behind = Behind::start();
    let bench = Bench::new();
    bench.write(&at(behind.port));
    bench.server.world().forwards.insert("worker".to_owned(), behind.port);
    bench.run(&["deploy"]).expect(0).prints(&[&format!("is up at http://127.0.0.1:{}", behind.port)]);
    bench.run(&["bench"]).expect(0);
    let report = bench.sandbox.report();
    assert_eq!(report["audit"]["lost"], 0, "{}", report["audit"]);
    assert!(report["audit"]["acknowledged"].as_u64().unwrap() > 0, "{}", report["audit"]);
    let requests = bench.server.world().requests.clone();
    let forwarded: Vec<_> = requests.iter().filter(|request| request.contains("/portforward")).collect();
    assert!(
        !forwarded.is_empty() && forwarded.iter().all(|request| request.contains("shop-worker-")),
        "{forwarded:?}"
    );
    // Where nobody listens, nothing is measured.
    let nobody = free_port();
    bench.write(&at(nobody));
    bench.run(&["bench"]).expect(1).says(&[
        "node node-1 is not reached",
        &format!("127.0.0.1:{nobody}"),
        "--url",
    ]);
    behind.end();
}

/// An agent of this host with the token that the bench made.
fn agent(bench: &Bench, name: &str) -> (Running, u16) {
    let ready = format!("{name}.ready");
    let args = ["agent", "--listen", "127.0.0.1:0", "--token-file", "token", "--ready-file", &ready];
    let process = bench.sandbox.start(bench.sandbox.command(&args));
    let address = wait_for("an agent", || fs::read_to_string(bench.sandbox.path(&ready)).ok());
    (process, address.rsplit_once(':').unwrap().1.trim().parse().unwrap())
}

fn nothing_is_left(bench: &Bench) {
    for resource in ["jobs", "secrets", "pods"] {
        let names = bench.server.world().names(resource);
        assert!(!names.iter().any(|name| name.starts_with("shop-agents")), "{names:?}");
    }
}

#[test]
fn agents_in_the_cluster_make_the_load_and_are_gone_afterwards() {
    let behind = Behind::start();
    let bench = Bench::new();
    bench.write(&at(behind.port));
    for component in ["api", "worker"] {
        bench.server.world().forwards.insert(component.to_owned(), behind.port);
    }
    bench.run(&["deploy"]).expect(0);
    // Not ready before there is something behind them.
    bench.server.world().conduct.insert("agents".to_owned(), Conduct::NoMemory);
    let mut running = bench.start(&["bench", "--agents", "2"]);
    let secret = wait_for("the token", || bench.server.get("secrets", NAMESPACE, "shop-agents"));
    let token = secret["data"]["token"].as_str().unwrap();
    let token = base64::engine::general_purpose::STANDARD.decode(token).unwrap();
    fs::write(bench.sandbox.path("token"), token).unwrap();
    let agents = [agent(&bench, "one"), agent(&bench, "two")];
    {
        let mut world = bench.server.world();
        for (index, (_, port)) in agents.iter().enumerate() {
            world.forwards.insert(format!("shop-agents-1-{index}"), *port);
        }
        world.conduct.insert("agents".to_owned(), Conduct::Serving);
    }
    let job = wait_for("the job", || bench.server.get("jobs", NAMESPACE, "shop-agents"));
    assert_eq!((&job["spec"]["completionMode"], &job["spec"]["completions"]), (&"Indexed".into(), &2.into()));
    running.wait().expect(0);
    let report = bench.sandbox.report();
    let users = |row: &Value| row["vus"].as_u64().unwrap();
    let rows = report["agents"].as_array().unwrap();
    assert_eq!(rows.iter().map(users).collect::<Vec<_>>(), [3, 3]);
    assert!(rows.iter().all(|row| row["requests"].as_u64().unwrap() > 0), "{rows:?}");
    assert_eq!(report["audit"]["lost"], 0, "{}", report["audit"]);
    nothing_is_left(&bench);
    behind.end();
}

#[test]
fn agents_that_do_not_come_up_are_removed_with_the_reason_and_so_are_those_of_an_interrupted_bench() {
    let bench = Bench::new();
    bench.write(&at(8080).replace("ready_timeout: 20s", "ready_timeout: 3s"));
    bench.run(&["deploy"]).expect(0);
    for component in ["api", "worker"] {
        bench.server.world().forwards.insert(component.to_owned(), free_port());
    }
    bench.server.world().conduct.insert("agents".to_owned(), Conduct::NoMemory);
    bench.run(&["bench", "--agents", "3"]).expect(1).says(&[
        "0 of 3 agents are ready: not ready after 3 s (deploy.kubernetes.ready_timeout)",
        "Insufficient memory",
        "they are removed again",
    ]);
    nothing_is_left(&bench);
    bench.write(&at(8080));
    let mut waiting = bench.start(&["bench", "--agents", "3"]);
    wait_for("the pods", || (bench.server.world().names("pods").len() == 8).then_some(()));
    // What is not there yet is no part of the service.
    bench.run(&["deploy", "status"]).expect(0).prints(&["Job shop-agents"]);
    // One bench at a time: another would take its agents.
    bench.run(&["bench", "--agents", "1"]).expect(1).says(&["the Job shop-agents is there already"]);
    waiting.signal(Signal::SIGINT);
    waiting.wait().expect(105).says(&["interrupted before the load began"]);
    nothing_is_left(&bench);
}

#[test]
fn a_number_of_agents_needs_a_cluster() {
    let bench = Bench::new();
    for words in [
        &["bench", "--target", "local", "--agents", "2"][..],
        &["bench", "--url", "http://127.0.0.1:1", "--agents", "2"],
    ] {
        bench.run(words).expect(104).says(&["--agents", "deployed in a cluster", "--target k8s"]);
    }
    for count in ["0", "65", "99999"] {
        bench.run(&["bench", "--agents", count]).expect(104).says(&["expected 1 to 64 agents", count]);
    }
}
