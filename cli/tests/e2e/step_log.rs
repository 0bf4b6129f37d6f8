//! The interval log of a run with several steps: a tag for each, which together are the whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

use crate::agents::two_agents;
use crate::sandbox::{Sandbox, read_json};
use crate::web::WebServer;

/// The histograms of each tag, a line a second.
fn seconds(log: &Path) -> BTreeMap<String, Vec<Histogram<u64>>> {
    let text = fs::read(log).unwrap();
    let mut found = BTreeMap::<String, Vec<_>>::new();
    for entry in IntervalLogIterator::new(&text) {
        let LogEntry::Interval(interval) = entry.unwrap() else { continue };
        let bytes = BASE64.decode(interval.encoded_histogram()).unwrap();
        let tag = interval.tag().unwrap().as_str().to_owned();
        let lines = found.entry(tag).or_default();
        assert_eq!(interval.start_timestamp().as_secs(), lines.len() as u64, "a line a second");
        lines.push(Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap());
    }
    found
}

fn write_profile(sandbox: &Sandbox, url: &str) {
    let text = format!(
        "extends: ci
load:
  scenario: steps
  url: {url}
  vus: 6
  warmup: 300ms
  duration: 1500ms
  think_time: 10ms
  steps:
    - {{name: 'log in, please', path: /in}}
    - {{name: http_req_duration, path: /order}}
    - {{path: /out}}
"
    );
    fs::write(sandbox.path("steps.yaml"), text).unwrap();
}

/// Each second of the whole is the sum of its steps, and each step's seconds are as many as the report has.
fn expect_steps(folder: &Path) {
    let report = read_json(&folder.join("report.json"));
    let found = seconds(&folder.join("latency.hlog"));
    let total = &found["http_req_total_duration"];
    let tags = ["log_in__please", "http_req_duration_2", "step_3"];
    assert_eq!(found.len(), 2 + tags.len(), "{:?}", found.keys());
    assert!(total.iter().any(|second| !second.is_empty()));
    for (index, whole) in total.iter().enumerate() {
        let mut sum = Histogram::<u64>::new_from(whole);
        tags.iter().for_each(|tag| sum.add(&found[*tag][index]).unwrap());
        assert_eq!(&sum, whole, "second {index}");
    }
    for (tag, step) in tags.iter().zip(report["steps"].as_array().unwrap()) {
        let lines = &found[*tag];
        assert_eq!(lines.len(), total.len());
        let requests: u64 = lines.iter().map(Histogram::len).sum();
        assert!(requests > 0 && step["requests"] == requests, "{tag}: {requests} of {step}");
    }
    let whole: u64 = total.iter().map(Histogram::len).sum();
    assert_eq!(report["metrics"]["http_reqs"]["values"]["count"], Value::from(whole as f64));
}

#[test]
fn each_step_has_its_own_tag() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    write_profile(&sandbox, &server.url);
    sandbox.scalekit(&["bench", "-p", "steps.yaml"]).expect(0);
    let folder = sandbox.folders().remove(0);
    expect_steps(&folder);
    // The percentile text is of the whole; no step counts twice in it.
    let text = sandbox.scalekit(&["report", folder.to_str().unwrap(), "--format", "hgrm"]).expect(0).stdout;
    assert_eq!(text, fs::read_to_string(folder.join("latency.hgrm")).unwrap());
}

#[test]
fn the_steps_of_two_agents_are_added_up() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let (_agents, flags) = two_agents(&sandbox);
    write_profile(&sandbox, &server.url);
    let words = ["bench", "-p", "steps.yaml"].map(str::to_owned).into_iter().chain(flags);
    sandbox.scalekit(&words.collect::<Vec<_>>()).expect(0);
    expect_steps(&sandbox.folders().remove(0));
}
