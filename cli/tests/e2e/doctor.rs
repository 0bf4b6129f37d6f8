//! `scalekit doctor` on this host.

use serde_json::Value;

use crate::sandbox::Sandbox;

#[test]
fn facts_of_a_process_are_printed() {
    let sandbox = Sandbox::new();
    let pid = std::process::id().to_string();
    let output = sandbox.scalekit(&["doctor", "--pid", &pid, "--seconds", "1", "--json"]).expect(0).stdout;
    let facts: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(facts["snapshot"]["pid"], Value::from(std::process::id()));
    assert!(facts["snapshot"]["process"]["open_files"].as_u64() >= Some(3), "{output}");
    let samples = facts["series"]["at_ms"].as_array().unwrap().len();
    assert!(samples >= 2, "{output}");
    assert_eq!(facts["series"]["counters"]["cpu.total"]["values"].as_array().unwrap().len(), samples);
    assert!(facts["deltas"]["cpu.total"]["after"].as_f64() > Some(0.0), "{output}");
    assert!(!facts["summary"].as_str().unwrap().is_empty());
    assert_eq!(facts["attribution"]["knee"], Value::Null);
}

#[test]
fn a_process_that_is_not_there_is_named() {
    let sandbox = Sandbox::new();
    sandbox
        .scalekit(&["doctor", "--pid", "4294967295", "--seconds", "1"])
        .expect(1)
        .says(&["4294967295", "--pid"]);
}
