//! `scalekit validate`: the same report gives the same verdict, and a file that is no report gives none.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::sandbox::{Output, Sandbox, read_json};
use crate::web::WebServer;

/// A run of a second against `url`.
fn bench(sandbox: &Sandbox, url: &str, flags: &[&str]) -> (Output, PathBuf) {
    let profile = sandbox.profile("judged", "");
    let load = ["--url", url, "--vus", "5", "--duration", "1s", "--think", "50ms"];
    let output = sandbox.scalekit(&[&["bench", "-p", &profile], &load[..], flags].concat());
    (output, sandbox.folders().remove(0))
}

fn validate(sandbox: &Sandbox, report: &Path, flags: &[&str]) -> Output {
    sandbox.scalekit(&[&["validate", report.to_str().unwrap()], flags].concat())
}

fn thresholds(text: &str) -> Vec<String> {
    let after = text.split("THRESHOLDS").nth(1).unwrap();
    after.lines().filter(|line| line.contains(": ✓") || line.contains(": ✗")).map(str::to_owned).collect()
}

#[test]
fn a_passed_report_passes_again_and_fails_by_a_stricter_criterion() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let (run, folder) = bench(&sandbox, &server.url, &[]);
    let run = run.expect(0);
    for report in [folder.clone(), folder.join("report.json")] {
        let again = validate(&sandbox, &report, &[]).expect(0);
        assert!(thresholds(&run.stdout).len() >= 2, "{}", run.stdout);
        assert_eq!(thresholds(&again.stdout), thresholds(&run.stdout));
    }
    let strict = validate(&sandbox, &folder, &["--threshold", "http_reqs=count<1"]).expect(99);
    assert!(strict.stdout.contains('✗'), "{}", strict.stdout);
    let typo = validate(&sandbox, &folder, &["--threshold", "http_rqs=count<1"]).expect(104);
    typo.says(&["http_rqs", "http_reqs"]);
    let unmeasured = validate(&sandbox, &folder, &["--threshold", "lost_writes=count==0"]).expect(99);
    assert!(unmeasured.stdout.contains("not measured"), "{}", unmeasured.stdout);
    let json = validate(&sandbox, &folder, &["--json", "--threshold", "http_reqs=count<1"]).expect(99);
    let judged: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(judged["verdict"]["outcome"], "fail");
    assert_eq!(read_json(&folder.join("report.json"))["verdict"]["outcome"], "pass", "the file is as it was");
}

#[test]
fn a_failed_report_fails_again_and_passes_by_another_criterion() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("503 Service Unavailable"));
    let (run, folder) = bench(&sandbox, &server.url, &[]);
    let run = run.expect(99);
    let again = validate(&sandbox, &folder, &[]).expect(99);
    assert_eq!(thresholds(&again.stdout), thresholds(&run.stdout));
    validate(&sandbox, &folder, &["--threshold", "http_req_failed=rate<=1"]).expect(0);
}

#[test]
fn what_spoiled_the_measurement_spoils_it_again() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let (run, folder) = bench(&sandbox, &server.url, &[]);
    run.expect(0);
    let file = folder.join("report.json");
    let sound = read_json(&file);
    let with = |key: &str, value: Value| {
        let mut changed = sound.clone();
        changed[key] = value;
        fs::write(&file, changed.to_string()).unwrap();
    };
    with("validity", json!(["the clock was set by 7 s during the run"]));
    let again = validate(&sandbox, &folder, &[]).expect(120);
    assert!(again.stdout.contains("INVALID") && again.stdout.contains("7 s"), "{}", again.stdout);
    with("validity", json!([]));
    validate(&sandbox, &folder, &[]).expect(0);
    // The generator is checked again, from what the file says of it.
    let mut generator = sound["generator"].clone();
    generator["busiest_thread"] = json!(0.97);
    with("generator", generator);
    let again = validate(&sandbox, &folder, &[]).expect(120);
    assert!(again.stdout.contains("97%") && again.stdout.contains("load.threads"), "{}", again.stdout);
    // A lag that spoils nothing by the run's own bound of a minute is too much for a bound of 0.1 µs.
    with("generator", sound["generator"].clone());
    let strict = ["--threshold", "http_req_total_duration=p(95)<0.0001"];
    let again = validate(&sandbox, &folder, &strict).expect(120);
    assert!(again.stdout.contains("woke up late"), "{}", again.stdout);
    with("validity", json!(["the clock was set by 7 s during the run"]));
    let audit = json!({
        "acknowledged": 10, "stored": 9, "lost": 1, "duplicated": 0, "unknown": 0, "unknown_stored": 0,
        "refused_stored": 0, "examples": ["lost: x"],
    });
    with("audit", audit);
    validate(&sandbox, &folder, &[]).expect(121);
}

#[test]
fn what_is_no_report_is_refused() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let (run, folder) = bench(&sandbox, &server.url, &[]);
    run.expect(0);
    let text = fs::read_to_string(folder.join("report.json")).unwrap();
    let file = sandbox.path("other.json");
    let mut newer: Value = serde_json::from_str(&text).unwrap();
    newer["schema_version"] = json!(99);
    let mut partial: Value = serde_json::from_str(&text).unwrap();
    partial.as_object_mut().unwrap().remove("load");
    for (content, words) in [
        (text[..text.len() / 2].to_owned(), ["other.json", "ends early"]),
        (String::new(), ["other.json", "ends early"]),
        ("VERDICT: PASS".to_owned(), ["other.json", "not JSON"]),
        ("[]".to_owned(), ["other.json", "no version at all"]),
        ("{}".to_owned(), ["other.json", "schema_version"]),
        (newer.to_string(), ["other.json", "found 99"]),
        (partial.to_string(), ["other.json", "load"]),
    ] {
        fs::write(&file, content).unwrap();
        validate(&sandbox, &file, &[]).expect(104).says(&words);
    }
    fs::remove_file(&file).unwrap();
    validate(&sandbox, &file, &[]).expect(104).says(&["other.json", "no report"]);
    validate(&sandbox, &sandbox.path("home"), &[]).expect(104).says(&["report.json", "no report"]);
}
