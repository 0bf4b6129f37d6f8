//! What is wrong with a profile or a criterion is found before anything starts, and said with its place.

use std::fs;

use crate::sandbox::{Output, Sandbox};

/// Runs with this as the whole profile file; nothing may come of it.
fn refused(text: &str, flags: &[&str]) -> Output {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("bad.yaml"), text).unwrap();
    let output = sandbox.scalekit(&[&["run", "-p", "bad.yaml"], flags].concat());
    assert!(sandbox.folders().is_empty(), "no report folder");
    assert!(!sandbox.state().exists(), "nothing deployed");
    sandbox.expect_clean();
    output.expect(104)
}

#[test]
fn a_broken_profile_is_refused_with_file_line_and_column() {
    for (text, words) in [
        ("load:\n  vuss: 10\n", ["bad.yaml:2:3", "vuss", "vus"]),
        ("load:\n  duration: 30\n", ["bad.yaml:2:13", "duration", "30s"]),
        ("load:\n  duration: 30 parsecs\n", ["bad.yaml:2:13", "parsecs", "30s"]),
        ("load:\n  vus: 0\n", ["bad.yaml:2:8", "vus", "0"]),
        ("load:\n  duration: 2s\n  think_time: 3s\n", ["bad.yaml:3:15", "think_time", "2s"]),
        ("deploy:\n  redis_url: redis://h\n", ["bad.yaml:2:14", "redis_url", "redis-mongo"]),
        ("load:\n  agents: [h:1, nonsense]\n", ["bad.yaml:2:17", "nonsense", "HOST:PORT"]),
        ("load:\n  agents: [h:1, h:1]\n", ["bad.yaml:2:17", "h:1", "named twice"]),
        ("load:\n  agents: []\n", ["bad.yaml:2:11", "load.agents", "null"]),
        ("load:\n  agents: [10.0.0.1:1]\n", ["bad.yaml:2:12", "127.0.0.1:0", "deploy.listen"]),
        ("load: {vus: 1\n", ["bad.yaml:", "help:", "YAML"]),
        (
            "criteria:\n  http_req_duratoin: ['p(95)<1']\n",
            ["bad.yaml:2", "http_req_duratoin", "http_req_duration"],
        ),
    ] {
        refused(text, &[]).says(&words);
    }
}

#[test]
fn a_broken_criterion_is_refused() {
    for (threshold, words) in [
        ("http_req_duratoin=p(95)<1", ["--threshold", "http_req_duratoin", "`http_req_duration`"]),
        ("http_req_duration=p95<1", ["--threshold", "p95", "p(95)"]),
        ("http_reqs=p(95)<1", ["--threshold", "http_reqs", "count"]),
        ("http_req_duration", ["--threshold", "METRIC=EXPR", "help:"]),
    ] {
        refused("{}", &["--threshold", threshold]).says(&words);
    }
}

#[test]
fn a_broken_flag_is_refused() {
    for (flags, words) in [
        (["--duration", "10"], ["--duration", "unit"]),
        (["--vus", "0"], ["vus", "0"]),
        (["--agents", "h:1,h"], ["--agents", "HOST:PORT"]),
        (["--agents", "10.0.0.1:1"], ["--agents", "deploy.listen"]),
        (["--backend", "oracle"], ["--backend", "redis-mongo"]),
    ] {
        refused("{}", &flags).says(&words);
    }
}

#[test]
fn a_profile_that_is_not_there_is_named() {
    let sandbox = Sandbox::new();
    sandbox.scalekit(&["run", "-p", "no-such-profile"]).expect(104).says(&["no-such-profile", "redis-mongo"]);
    sandbox.scalekit(&["run", "-p", "no/such.yaml"]).expect(104).says(&["no/such.yaml"]);
    fs::write(sandbox.path("child.yaml"), "extends: gone.yaml\n").unwrap();
    sandbox.scalekit(&["run", "-p", "child.yaml"]).expect(104).says(&["gone.yaml"]);
    assert!(!sandbox.state().exists());
}

#[test]
fn an_unusable_url_is_refused() {
    let sandbox = Sandbox::new();
    for url in ["ftp://127.0.0.1/", "127.0.0.1:80", "http://", "http://u:s3cret@127.0.0.1:1/"] {
        let output = sandbox.scalekit(&["bench", "-p", "ci", "--url", url]).expect(104);
        assert!(!output.stderr.contains("s3cret"), "{}", output.stderr);
        output.says(&["URL"]);
    }
    assert!(sandbox.folders().is_empty());
}

#[test]
fn unusable_ways_to_connect_are_refused() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("empty.pem"), "").unwrap();
    for (url, flags, part) in [
        ("http://127.0.0.1:1/", &["--http-version", "3"][..], "auto, 1.1 or 2"),
        ("http://127.0.0.1:1/", &["--local-ips", "127.0.0.2,here"], "IP address"),
        // RFC 5737: for documentation, so nobody's.
        ("http://127.0.0.1:1/", &["--local-ips", "192.0.2.1"], "the local address 192.0.2.1"),
        ("http://127.0.0.1:1/", &["--local-ips", "::1"], "an IPv4 address"),
        ("https://127.0.0.1:1/", &["--ca", "none.pem"], "none.pem"),
        ("https://127.0.0.1:1/", &["--ca", "empty.pem"], "there is no certificate in it"),
    ] {
        let words = [&["bench", "-p", "ci", "--url", url], flags].concat();
        sandbox.scalekit(&words).expect(104).says(&[part]);
    }
    assert!(sandbox.folders().is_empty());
}
