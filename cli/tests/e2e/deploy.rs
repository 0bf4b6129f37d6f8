//! `scalekit deploy`: up, looked at, down, and up again with the data of before.

use std::fs;

use serde_json::Value;

use crate::sandbox::{Sandbox, wait_for};
use crate::web;

#[test]
fn a_deployment_is_shown_changed_by_nothing_and_taken_down() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("once", "");
    let up = sandbox.scalekit(&["deploy", "-p", &profile, "--json"]).expect(0);
    let facts: Value = serde_json::from_str(&up.stdout).unwrap();
    let url = facts["url"].as_str().unwrap().to_owned();
    assert_eq!(web::request(&url, "GET", "/readyz", "").0, 200);
    let status = sandbox.scalekit(&["deploy", "status", "-p", &profile]).expect(0).stdout;
    assert!(status.contains(&url) && status.contains("service") && status.contains("up"), "{status}");
    let status = sandbox.scalekit(&["deploy", "status", "-p", &profile, "--json"]).expect(0).stdout;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["url"], url.as_str());
    assert_eq!(status["processes"][0]["alive"], true);
    assert_eq!(status["stats"]["service"]["pid"], status["processes"][0]["pid"]);
    let logs = sandbox.scalekit(&["deploy", "logs", "-p", &profile]).expect(0).stdout;
    assert!(logs.contains("service.log") && logs.contains("serving"), "{logs}");
    assert!(!logs.contains('\u{1b}'), "no colours in a file");
    let again = sandbox.scalekit(&["deploy", "-p", &profile]).expect(0);
    again.prints(&[&url, "nothing to change"]);
    let down = sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0).stdout;
    assert!(down.contains("data stays in"), "{down}");
    sandbox.expect_clean();
    for action in ["down", "status", "logs"] {
        let nothing = sandbox.scalekit(&["deploy", action, "-p", &profile]).expect(1);
        nothing.says(&["nothing is deployed", "deployment.json", "scalekit deploy -p"]);
    }
}

#[test]
fn a_bound_of_the_device_reaches_the_service() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("device", "deploy: {database_ops: 400/s, database_iops: 800/s}");
    let up = sandbox.scalekit(&["deploy", "-p", &profile]);
    if up.stderr.contains("no block device") {
        eprintln!("SKIPPED: {}; the device's bound of a deployment is NOT tested", up.stderr.trim());
        return;
    }
    up.expect(0);
    let status = sandbox.scalekit(&["deploy", "status", "-p", &profile, "--json"]).expect(0).stdout;
    let status: Value = serde_json::from_str(&status).unwrap();
    let store = &status["stats"]["service"]["store"];
    assert_eq!((&store["operations_most"], &store["device"]["iops_bound"]), (&400.into(), &800.into()));
    assert!(store["device"]["place"].as_str().unwrap().starts_with("the disk"), "{store}");
    assert!(store["operations_limit"].as_u64().unwrap() <= 100 + 40, "it begins with an eighth: {store}");
    let logs = sandbox.scalekit(&["deploy", "logs", "-p", &profile]).expect(0).stdout;
    assert!(logs.contains("the journal is on the database's device"), "{logs}");
    sandbox.scalekit(&["deploy", "down", "--purge", "-p", &profile]).expect(0);
    sandbox.expect_clean();
}

#[test]
fn documents_survive_until_they_are_purged() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("lasting", "");
    let up = || {
        sandbox.scalekit(&["deploy", "-p", &profile]).expect(0);
        sandbox.deployment("lasting")["roles"][0]["url"].as_str().unwrap().to_owned()
    };
    let url = up();
    let (status, _) = web::request(&url, "PUT", "/v1/things/a", r#"{"n": 7}"#);
    assert_eq!(status, 202);
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    let url = up();
    let (status, body) = web::request(&url, "GET", "/v1/things/a", "");
    assert_eq!((status, body.contains("7")), (200, true), "{body}");
    let down = sandbox.scalekit(&["deploy", "down", "--purge", "-p", &profile]).expect(0).stdout;
    assert!(down.contains("removed"), "{down}");
    assert!(!sandbox.state().join("deployments/lasting").exists());
    let url = up();
    assert_eq!(web::request(&url, "GET", "/v1/things/a", "").0, 404);
    sandbox.scalekit(&["deploy", "down", "--purge", "-p", &profile]).expect(0);
    sandbox.expect_clean();
}

#[test]
fn a_service_that_cannot_start_is_told_with_its_log() {
    let sandbox = Sandbox::new();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let profile = sandbox.profile("taken", "");
    let deploy = ["deploy", "-p", &profile, "--listen", &address];
    sandbox.scalekit(&deploy).expect(1).says(&["service ended", &address, "another process listens there"]);
    sandbox.expect_clean();
    sandbox.scalekit(&["deploy", "status", "-p", &profile]).expect(1).says(&["nothing is deployed"]);
}

#[test]
fn a_record_that_cannot_be_read_is_named() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("broken", "");
    let record = sandbox.state().join("deployments/broken/deployment.json");
    fs::create_dir_all(record.parent().unwrap()).unwrap();
    fs::write(&record, "{").unwrap();
    for command in [["deploy", "down"], ["deploy", "status"]] {
        let named = record.to_str().unwrap();
        sandbox
            .scalekit(&[&command[..], &["-p", &profile]].concat())
            .expect(1)
            .says(&[named, "remove the file"]);
    }
    sandbox.scalekit(&["bench", "-p", &profile]).expect(1).says(&["deployment.json"]);
}

#[test]
fn an_interrupted_deploy_leaves_nothing() {
    let sandbox = Sandbox::new();
    // The worker waits for a Redis that takes connections and never answers.
    let mute = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("redis://{}", mute.local_addr().unwrap());
    let profile = sandbox.profile("waiting", "deploy: {backend: redis-mongo}");
    let deploy = ["deploy", "-p", &profile, "--redis-url", &url, "--mongo-url", "mongodb://127.0.0.1:1"];
    let mut deploy = sandbox.start(sandbox.command(&deploy));
    wait_for("the worker", || (sandbox.processes().len() > 1).then_some(()));
    deploy.signal(nix::sys::signal::Signal::SIGINT);
    let output = deploy.wait();
    // On a slow machine the worker may have given up by itself by then, which is told instead.
    let gave_up = output.status == Some(1) && output.stderr.contains("worker ended");
    assert!(gave_up || output.status == Some(105), "{output:?}");
    sandbox.expect_clean();
}
