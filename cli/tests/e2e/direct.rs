//! Direct mode: the same experiment without write-behind, and a report that says so.

use std::fs;

use scalekit_service::testing::MongoServer;

use crate::run::{expect_audited, expect_valid};
use crate::sandbox::{Output, Sandbox};

const OPERATIONS: &str = "database_ops: 100000/s";

fn expect_direct(sandbox: &Sandbox, output: &Output) {
    assert!(output.stdout.contains("DIRECT mode"), "{}", output.stdout);
    let report = sandbox.report();
    expect_valid(&report);
    expect_audited(&report);
    assert_eq!(report["server"]["mode"], "direct");
    assert_eq!(report["profile"]["deploy"]["mode"], "direct");
    assert!(report["metrics"]["journal_backlog"].is_null(), "there is no journal");
    // Ten operations a request, and the audit finds what they left.
    let requests = report["metrics"]["http_reqs"]["values"]["count"].as_f64().unwrap();
    let operations = report["metrics"]["db_ops"]["values"]["count"].as_f64().unwrap();
    assert!(operations >= 10.0 * requests, "{operations} for {requests}");
    sandbox.expect_clean();
}

#[test]
fn mongodb_alone_is_enough() {
    let (sandbox, dir) = (Sandbox::new(), tempfile::tempdir().unwrap());
    let mongo = MongoServer::start(dir.path());
    let profile = sandbox.path("small.yaml");
    let small = "load: {vus: 10, think_time: 50ms, warmup: 1s, duration: 2s, transactions: {items: 20}}";
    let criteria = "criteria: {db_ops: [], http_req_total_duration: []}";
    let text = format!("extends: direct\n{small}\ndeploy: {{{OPERATIONS}}}\n{criteria}\n");
    fs::write(&profile, text).unwrap();
    let profile = profile.to_str().unwrap();
    let mut command = sandbox.command(&["run", "-p", profile, "--mongo-url", &mongo.url()]);
    // No redis-server can be found.
    command.env("PATH", "/nonexistent");
    let output = sandbox.run(command).expect(0);
    expect_direct(&sandbox, &output);
}

#[test]
fn the_embedded_store_alone() {
    let sandbox = Sandbox::new();
    let profile =
        sandbox.profile("direct-embedded", &format!("deploy: {{{OPERATIONS}}}\ncriteria: {{db_ops: []}}"));
    let output = sandbox.scalekit(&["run", "-p", &profile, "--mode", "direct"]).expect(0);
    expect_direct(&sandbox, &output);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let sandbox = Sandbox::new();
    let serve = ["serve", "worker", "--mode", "direct", "--listen", "127.0.0.1:0"];
    sandbox.scalekit(&serve).expect(104).says(&["serve worker", "direct", "serve api"]);
    sandbox.scalekit(&["run", "--mode", "sideways"]).expect(104).says(&["--mode", "write-behind", "direct"]);
    let serve = ["serve", "api", "-p", "direct", "--listen", "127.0.0.1:0"];
    sandbox.scalekit(&serve).expect(104).says(&["--mongo-url"]);
    let deploy = "deploy:\n  backend: redis-mongo\n  mode: direct\n  redis_url: redis://h\n";
    fs::write(sandbox.path("bad.yaml"), deploy).unwrap();
    sandbox.scalekit(&["run", "-p", "bad.yaml"]).expect(104).says(&["bad.yaml:4:14", "redis_url", "direct"]);
    let below = "deploy: {backend: redis-mongo, redis_url: 'redis://h'}\n";
    fs::write(sandbox.path("below.yaml"), below).unwrap();
    fs::write(sandbox.path("above.yaml"), "extends: below.yaml\ndeploy: {mode: direct}\n").unwrap();
    let serve = ["serve", "api", "-p", "above.yaml", "--listen", "127.0.0.1:0"];
    // Only MongoDB's URL is missed.
    sandbox.scalekit(&serve).expect(104).says(&["--mongo-url"]);
    sandbox.expect_clean();
}
