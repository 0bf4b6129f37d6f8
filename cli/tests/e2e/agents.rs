//! Load from several agents: one report, exact, audited; and what is said when one of them is not what it should be.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::abort::failing_after;
use crate::run::{expect_audited, expect_valid};
use crate::sandbox::{Running, Sandbox, free_port, wait_for};
use crate::web::WebServer;

const TOKEN: &str = "a-token-for-tests-0123456789";
/// Longer than the tests' patience, so that only an end from outside ends it in time.
const LONG: &str = "load: {duration: 10m}";

pub(crate) struct Agent {
    process: Running,
    address: String,
}

/// Starts an agent of this name, and waits until it listens.
fn agent(sandbox: &Sandbox, name: &str) -> Agent {
    fs::write(sandbox.path("token"), format!("{TOKEN}\n")).unwrap();
    let ready = format!("{name}.ready");
    let args = ["agent", "--listen", "127.0.0.1:0", "--token-file", "token", "--ready-file", &ready];
    let process = sandbox.start(sandbox.command(&args));
    let address = wait_for("an agent", || fs::read_to_string(sandbox.path(&ready)).ok());
    Agent { process, address }
}

/// Two of them, and the flags that name them.
pub(crate) fn two_agents(sandbox: &Sandbox) -> ([Agent; 2], Vec<String>) {
    let agents = [agent(sandbox, "one"), agent(sandbox, "two")];
    let flags = flags(&agents[0].address, &agents[1].address);
    (agents, flags)
}

fn flags(one: &str, other: &str) -> Vec<String> {
    ["--agents", &format!("{one},{other}"), "--agents-token-file", "token"].map(str::to_owned).to_vec()
}

/// A bench of this profile, with further flags.
fn bench(profile: &str, flags: &[String], more: &[&str]) -> Vec<String> {
    let words = ["bench", "-p", profile].into_iter().chain(more.iter().copied()).map(str::to_owned);
    words.chain(flags.iter().cloned()).collect()
}

fn rows(report: &Value) -> &Vec<Value> {
    report["agents"].as_array().unwrap()
}

fn sum(report: &Value, field: &str) -> f64 {
    rows(report).iter().map(|row| row[field].as_f64().unwrap()).sum()
}

#[test]
fn what_two_agents_count_is_what_the_server_saw() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let (agents, flags) = two_agents(&sandbox);
    let profile = sandbox.profile("shared", "load: {warmup: 0s}");
    let output = sandbox.scalekit(&bench(&profile, &flags, &["--url", &server.url, "--vus", "11"])).expect(0);
    let report = sandbox.report();
    expect_valid(&report);
    let requests = server.received().len() as f64;
    assert_eq!(report["metrics"]["http_reqs"]["values"]["count"], requests);
    assert_eq!(sum(&report, "requests"), requests);
    let samples = &report["metrics"]["http_req_total_duration"]["distribution"];
    let samples: u64 = samples.as_array().unwrap().iter().map(|bucket| bucket[1].as_u64().unwrap()).sum();
    assert_eq!(samples as f64, requests, "no sample is lost between the machines");
    let series: u64 =
        report["series"].as_array().unwrap().iter().map(|second| second["requests"].as_u64().unwrap()).sum();
    assert_eq!(series as f64, requests);
    assert_eq!(rows(&report).iter().map(|row| row["vus"].as_u64().unwrap()).collect::<Vec<_>>(), [6, 5]);
    assert_eq!(report["load"]["requested"]["vus"], 11);
    for (row, agent) in rows(&report).iter().zip(&agents) {
        assert_eq!(row["address"], agent.address);
        assert!(row["requests"].as_u64().unwrap() > 0 && row["rate"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["memory_peak_bytes"].as_u64().unwrap() > 1 << 20, "{row}");
        assert!(row["lag_ms_p99"].is_number() && row["problem"].is_null(), "{row}");
        assert!(output.stdout.contains(&agent.address), "{}", output.stdout);
    }
    assert!(output.stdout.contains("█ AGENTS"), "{}", output.stdout);
}

#[test]
fn writes_of_two_agents_are_audited() {
    let sandbox = Sandbox::new();
    let (_agents, flags) = two_agents(&sandbox);
    let profile = sandbox.profile("audited", "");
    sandbox.scalekit(&["deploy", "-p", &profile]).expect(0);
    sandbox.scalekit(&bench(&profile, &flags, &[])).expect(0);
    let report = sandbox.report();
    expect_valid(&report);
    // Had two agents used one operation id, one of the two writes would be missing.
    expect_audited(&report);
    assert!(rows(&report).iter().all(|row| row["requests"].as_u64().unwrap() > 0), "{}", report["agents"]);
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
}

#[test]
fn a_run_whose_profile_names_agents_is_made_by_them() {
    let sandbox = Sandbox::new();
    let (agents, _) = two_agents(&sandbox);
    let changes = format!("load: {{agents: ['{}', '{}']}}", agents[0].address, agents[1].address);
    let profile = sandbox.profile("named", &changes);
    let with_token = |mut command: Command| {
        command.env("SCALEKIT_AGENTS_TOKEN_FILE", "token");
        sandbox.run(command)
    };
    let output = with_token(sandbox.command(&["run", "-p", &profile])).expect(0);
    let report = sandbox.report();
    expect_valid(&report);
    expect_audited(&report);
    let addresses: Vec<_> = agents.iter().map(|agent| agent.address.as_str()).collect();
    assert_eq!(rows(&report).iter().map(|row| &row["address"]).collect::<Vec<_>>(), addresses);
    assert_eq!(sum(&report, "requests"), report["metrics"]["http_reqs"]["values"]["count"].as_f64().unwrap());
    assert_eq!(report["profile"]["load"]["agents"], Value::from(addresses.clone()));
    assert!(!report.to_string().contains(TOKEN) && !output.stderr.contains(TOKEN));

    // Of the command line, one only; and `bench` takes them from the profile, too.
    let server = WebServer::start("200 OK");
    let url = ["bench", "-p", &profile, "--url", &server.url, "-d", "1s", "--json"];
    for (more, expected) in [(&[][..], &addresses[..]), (&["--agents", addresses[1]], &addresses[1..])] {
        let output = with_token(sandbox.command(&[&url[..], more].concat())).expect(0);
        let report: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(rows(&report).iter().map(|row| &row["address"]).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_run_is_refused_before_it_deploys_when_its_agents_are_of_no_use() {
    let sandbox = Sandbox::new();
    let absent = format!("127.0.0.1:{}", free_port());
    let profile = sandbox.profile("absent", &format!("load: {{agents: ['{absent}']}}"));
    let output = sandbox.scalekit(&["run", "-p", &profile]).expect(1);
    let output = output.says(&[&absent, "cannot be reached", "load.agents"]);
    assert!(!output.stderr.contains("starting the service"), "{}", output.stderr);
    assert!(!sandbox.state().exists() && sandbox.folders().is_empty());
    // A service that is up already is known to be out of reach, too.
    let local = sandbox.profile("local", "");
    sandbox.scalekit(&["deploy", "-p", &local]).expect(0);
    let bench = ["bench", "-p", &local, "--agents", "192.0.2.1:7420"];
    sandbox.scalekit(&bench).expect(104).says(&["--agents: load.agents: 192.0.2.1:7420", "deploy.listen"]);
    sandbox.scalekit(&["deploy", "down", "-p", &local]).expect(0);
    sandbox.expect_clean();
}

#[test]
fn agents_that_cannot_be_used_are_named_before_any_load() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let profile = sandbox.profile("refused", LONG);
    let one = agent(&sandbox, "one");
    let absent = format!("127.0.0.1:{}", free_port());
    let url = ["--url", &server.url];
    let refused = |flags: &[String], more: &[&str]| {
        sandbox.scalekit(&bench(&profile, flags, &[&url[..], more].concat()))
    };
    let both = flags(&one.address, &absent);
    refused(&both, &[]).expect(1).says(&[&absent, "cannot be reached", "scalekit agent"]);
    refused(&flags(&one.address, &one.address), &[]).expect(104).says(&["--agents", "named twice"]);
    let web = server.url.trim_start_matches("http://");
    refused(&flags(&one.address, web), &[]).expect(1).says(&[web, "no agent of scalekit"]);
    refused(&flags(&one.address, "nonsense"), &[]).expect(104).says(&["--agents", "HOST:PORT", "nonsense"]);
    fs::write(sandbox.path("other"), "another-token-0123456789").unwrap();
    let alone = ["--agents".to_owned(), one.address.clone()];
    for more in [&["--agents-token-file", "other"][..], &[]] {
        let output = refused(&alone, more).expect(1);
        let output = output.says(&[&one.address, "refuses the token", "--agents-token-file"]);
        assert!(!output.stderr.contains("another-token"), "{}", output.stderr);
    }
    refused(&alone, &["--agents-token-file", "absent"]).expect(104).says(&["absent", "--agents-token-file"]);
    let two = agent(&sandbox, "two");
    refused(&flags(&one.address, &two.address), &["--vus", "1"])
        .expect(104)
        .says(&["number of machines is 2"]);
    assert!(sandbox.folders().is_empty());
    let methods: Vec<_> = server.received().into_iter().map(|request| request.head[0].clone()).collect();
    // All it got is the question who it is.
    assert_eq!(methods, ["GET /v1/agent HTTP/1.1"]);
}

#[test]
fn an_agent_opens_to_others_only_with_a_token() {
    let sandbox = Sandbox::new();
    sandbox.scalekit(&["agent", "--listen", "0.0.0.0:0"]).expect(104).says(&["0.0.0.0:0", "--token-file"]);
    fs::write(sandbox.path("short"), "short").unwrap();
    let args = ["agent", "--listen", "0.0.0.0:0", "--token-file", "short"];
    sandbox.scalekit(&args).expect(104).says(&["short", "found 5"]);
}

#[test]
fn a_killed_agent_spoils_the_run_and_ends_it() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let ([one, mut two], flags) = two_agents(&sandbox);
    let profile = sandbox.profile("killed", LONG);
    let mut run = sandbox.start(sandbox.command(&bench(&profile, &flags, &["--url", &server.url])));
    run.wait_to_say("measuring");
    two.process.signal(Signal::SIGKILL);
    two.process.wait();
    let output = run.wait().expect(120);
    let report = sandbox.report();
    expect_valid(&report);
    assert_eq!(report["verdict"]["outcome"], "invalid");
    let reasons = report["verdict"]["reasons"].to_string();
    assert!(reasons.contains(&two.address) && reasons.contains("10 users"), "{reasons}");
    assert!(rows(&report)[1]["problem"].is_string() && rows(&report)[0]["problem"].is_null());
    assert!(report["metrics"]["http_reqs"]["values"]["count"].as_f64().unwrap() > 0.0);
    assert!(output.stdout.contains("failed: "), "{}", output.stdout);
    // The other one is free again.
    let alone = ["--agents".to_owned(), one.address.clone(), flags[2].clone(), flags[3].clone()];
    sandbox.scalekit(&bench(&profile, &alone, &["--url", &server.url, "--duration", "1s"])).expect(0);
}

#[test]
fn an_agent_that_is_stopped_hands_over_what_it_has() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let ([_one, mut two], flags) = two_agents(&sandbox);
    let profile = sandbox.profile("stopped", LONG);
    let mut run = sandbox.start(sandbox.command(&bench(&profile, &flags, &["--url", &server.url])));
    run.wait_to_say("measuring");
    two.process.signal(Signal::SIGTERM);
    run.wait().expect(120);
    two.process.wait().expect(0);
    let report = sandbox.report();
    expect_valid(&report);
    let reasons = report["verdict"]["reasons"].to_string();
    assert!(reasons.contains(&two.address) && reasons.contains("stopped"), "{reasons}");
    assert!(rows(&report)[1]["requests"].as_u64().unwrap() > 0, "{}", report["agents"]);
}

#[test]
fn an_interrupted_coordinator_leaves_its_agents_idle() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let (_agents, flags) = two_agents(&sandbox);
    let profile = sandbox.profile("interrupted", LONG);
    let url = ["--url", &server.url];
    let mut run = sandbox.start(sandbox.command(&bench(&profile, &flags, &url)));
    run.wait_to_say("measuring");
    let busy = sandbox.scalekit(&bench(&profile, &flags, &url)).expect(1);
    busy.says(&["busy with another run"]);
    run.signal(Signal::SIGINT);
    run.wait().expect(105).says(&["interrupted"]);
    let report = sandbox.report();
    expect_valid(&report);
    assert_eq!(report["run"]["interrupted"], true);
    assert!(rows(&report).iter().all(|row| row["problem"].is_null()), "{}", report["agents"]);
    let total = report["metrics"]["http_reqs"]["values"]["count"].as_f64().unwrap();
    assert!(total > 0.0 && sum(&report, "requests") == total);
    sandbox.scalekit(&bench(&profile, &flags, &["--url", &server.url, "--duration", "1s"])).expect(0);
}

#[test]
fn an_agent_gives_up_a_coordinator_that_died() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let (mut agents, flags) = two_agents(&sandbox);
    let profile = sandbox.profile("orphaned", LONG);
    let mut run = sandbox.start(sandbox.command(&bench(&profile, &flags, &["--url", &server.url])));
    run.wait_to_say("measuring");
    run.signal(Signal::SIGKILL);
    run.wait();
    agents.iter_mut().for_each(|agent| agent.process.wait_to_say("idle again"));
    sandbox.scalekit(&bench(&profile, &flags, &["--url", &server.url, "--duration", "1s"])).expect(0);
}

/// What the agents have measured together is judged, and all of them stop.
#[test]
fn a_criterion_that_fails_ends_the_load_of_all_agents() {
    let (sandbox, server) = (Sandbox::new(), failing_after(150));
    let (_agents, flags) = two_agents(&sandbox);
    let changes = format!(
        "{LONG}
criteria:
  http_req_total_duration: [{{threshold: 'p(95)<60000', abortOnFail: true}}]
  http_req_failed: [{{threshold: rate<0.3, abortOnFail: true, delayAbortEval: 3s}}]
"
    );
    let profile = sandbox.profile("judged", &changes);
    let output = sandbox.scalekit(&bench(&profile, &flags, &["--url", &server.url])).expect(99);
    output.says(&["ended early: http_req_failed: rate<0.3 failed with", "(abortOnFail)"]);
    let report = sandbox.report();
    expect_valid(&report);
    assert_eq!((&report["run"]["interrupted"], &report["verdict"]["aborted"]), (&false.into(), &true.into()));
    let aborted = &report["run"]["aborted"];
    assert_eq!((&aborted["metric"], &aborted["expression"]), (&"http_req_failed".into(), &"rate<0.3".into()));
    assert!(aborted["observed"].as_f64().unwrap() >= 0.3 && aborted["at_s"].as_f64().unwrap() >= 3.0);
    assert!(report["load"]["achieved"]["measured_s"].as_f64() >= aborted["at_s"].as_f64(), "{report}");
    assert!(rows(&report).iter().all(|row| row["problem"].is_null()), "{}", report["agents"]);
    // All are free again.
    let sound = WebServer::start("200 OK");
    let again = bench(&profile, &flags, &["--url", &sound.url, "--duration", "1s", "-o", "again"]);
    sandbox.scalekit(&again).expect(0);
}

#[test]
fn what_does_not_fail_or_does_not_ask_for_it_cuts_no_agent_short() {
    let (sandbox, server) = (Sandbox::new(), failing_after(0));
    let (_agents, flags) = two_agents(&sandbox);
    // Judged twice while it lasts.
    let changes = "load: {duration: 5s}
criteria:
  http_req_total_duration: [{threshold: 'p(95)<60000', abortOnFail: true}]
  http_req_failed: [{threshold: rate<0.3}, {threshold: rate<0.2, abortOnFail: true, delayAbortEval: 1m}]
";
    let profile = sandbox.profile("patient", changes);
    sandbox.scalekit(&bench(&profile, &flags, &["--url", &server.url])).expect(99);
    let report = sandbox.report();
    expect_valid(&report);
    assert_eq!(report["load"]["achieved"]["measured_s"], 5.0);
    assert_eq!((&report["run"]["aborted"], &report["verdict"]["aborted"]), (&Value::Null, &false.into()));
}
