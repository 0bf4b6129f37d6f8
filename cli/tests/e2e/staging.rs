//! A real service in a place where something is scarce, a run against it, and what that run found.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use crate::run::expect_valid;
use crate::sandbox::{Output, Running, SCALEKIT, Sandbox, read_json, wait_for};

/// `scalekit serve all`, killed with the value.
pub(crate) struct Service {
    running: Running,
    pub(crate) url: String,
}

impl Service {
    /// `prefix`: the words that run it where it is to be.
    pub(crate) fn start(sandbox: &Sandbox, name: &str, prefix: &[String], profile: &str) -> Self {
        let (data, ready) = (sandbox.path(&format!("{name}-data")), sandbox.path(&format!("{name}-ready")));
        let (data, file) = (data.to_str().unwrap(), ready.to_str().unwrap());
        let serve = ["serve", "all", "-p", profile, "--listen", "127.0.0.1:0", "--data-dir", data];
        let serve = [&[SCALEKIT], &serve[..], &["--ready-file", file]].concat();
        let mut running = sandbox.start(program(sandbox, prefix, &serve));
        let url = wait_for("the service", || {
            assert!(!running.has_ended(), "{}", running.said());
            let address = std::fs::read_to_string(&ready).ok()?;
            Some(format!("http://{}/healthz", address.trim().trim_start_matches("http://")))
        });
        Self { running, url }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.url.trim_start_matches("http://").trim_end_matches("/healthz").parse().unwrap()
    }

    pub(crate) fn pid(&self) -> i64 {
        self.running.pid().into()
    }
}

/// A program with its arguments, run by the words before it.
pub(crate) fn program(sandbox: &Sandbox, prefix: &[String], words: &[&str]) -> Command {
    let all: Vec<&str> = prefix.iter().map(String::as_str).chain(words.iter().copied()).collect();
    sandbox.program(all[0], &all[1..])
}

/// What a run found.
pub(crate) struct Found {
    pub(crate) report: Value,
    pub(crate) output: Output,
}

impl Found {
    /// Of the newest report, which the run has just written.
    #[track_caller]
    pub(crate) fn of(sandbox: &Sandbox, output: Output) -> Self {
        let ends = [Some(0), Some(99), Some(120)];
        assert!(ends.contains(&output.status), "{:?}: {}", output.status, output.stderr);
        // The path is printed last.
        let path =
            output.stdout.lines().filter_map(|line| line.strip_prefix("report: ")).next_back().unwrap();
        let report = read_json(&sandbox.path(path));
        expect_valid(&report);
        println!("{}", report["findings"]);
        Self { report, output }
    }

    pub(crate) fn all(&self) -> Vec<&Value> {
        self.report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|found| !found["evidence"].is_null())
            .collect()
    }

    /// The findings of one resource.
    pub(crate) fn about(&self, id: &str) -> Vec<&Value> {
        self.all().into_iter().filter(|finding| finding["id"] == id).collect()
    }

    /// The one of this resource's that comes first, which must come before those of any other. What the whole machine's
    /// counters say may be a neighbour's doing and is passed over: the tests share it.
    #[track_caller]
    pub(crate) fn first(&self, id: &str) -> &Value {
        let own = self.all().into_iter().find(|finding| !is_of_machine(finding));
        let first = own.unwrap_or_else(|| panic!("nothing was found: {}", self.output.stdout));
        assert_eq!(first["id"], id, "{:#}", self.report["findings"]);
        let shown = first["message"].as_str().unwrap();
        assert!(self.output.stdout.contains(shown), "{shown}: {}", self.output.stdout);
        first
    }

    #[track_caller]
    pub(crate) fn none(&self, id: &str) {
        assert_eq!(self.about(id), Vec::<&Value>::new());
        assert!(self.report["counters"]["at_ms"].as_array().unwrap().len() >= 2, "it was looked for");
    }
}

/// Whether a finding is of a counter that the whole machine shares, or a control group around the tests.
pub(crate) fn is_of_machine(finding: &Value) -> bool {
    let counter = finding["evidence"]["counter"].as_str().unwrap();
    if counter.starts_with("cgroup.") {
        return !counter.contains("scalekit-e2e-");
    }
    ["cpu.", "pressure.", "disk.", "memory.", "files.", "softnet."]
        .iter()
        .any(|group| counter.starts_with(group))
}

/// Names what lifts it: a kernel setting, or one of the deployment.
#[track_caller]
pub(crate) fn names(finding: &Value, list: &str, key: &str) {
    let keys = finding["evidence"][list].as_array().unwrap();
    assert!(keys.iter().any(|found| found == key), "{key}: {finding:#}");
}

/// Loads a URL from within a namespace, or from here.
#[track_caller]
pub(crate) fn bench(
    sandbox: &Sandbox,
    prefix: &[String],
    profile: &str,
    service: &Service,
    flags: &[&str],
) -> Found {
    let bench = ["bench", "-p", profile, "--url", &service.url, "--warmup", "0s"];
    let bench = [&[SCALEKIT], &bench[..], flags].concat();
    let found = Found::of(sandbox, sandbox.run(program(sandbox, prefix, &bench)));
    // Whose counters these are is half of what they say.
    let process = &found.report["counters"]["process"];
    assert_eq!(
        (&process["chosen"], &process["pid"]),
        (&"listening".into(), &service.pid().into()),
        "{process}"
    );
    found
}
