//! Criteria that end a run while it goes on: `abortOnFail` and `delayAbortEval`.

use crate::run::expect_valid;
use crate::sandbox::Sandbox;
use crate::web::WebServer;

/// Ten users on a URL, for longer than the tests' patience: only a criterion ends it in time.
const LONG: [&str; 6] = ["--vus", "10", "--duration", "10m", "--think", "50ms"];

/// One threshold on failures, in the long form.
fn failures(threshold: &str) -> String {
    format!("criteria:\n  http_req_failed: [{{{threshold}}}]\n")
}

/// Answers so many requests well, and no more.
pub(crate) fn failing_after(good: usize) -> WebServer {
    WebServer::answering(move |before| if before < good { "200 OK" } else { "503 Service Unavailable" })
}

#[test]
fn a_server_that_starts_to_fail_ends_the_run() {
    let (sandbox, server) = (Sandbox::new(), failing_after(250));
    let changes = failures("threshold: rate<0.3, abortOnFail: true");
    let profile = sandbox.profile("abort", &changes);
    let bench = ["bench", "-p", &profile, "--url", &server.url];
    let output = sandbox.scalekit(&[&bench[..], &LONG].concat()).expect(99);
    let output = output.says(&["ended early: http_req_failed: rate<0.3 failed with", "(abortOnFail)"]);
    assert!(output.stdout.contains("these results are partial"), "{}", output.stdout);
    let report = sandbox.report();
    expect_valid(&report);
    assert_eq!(report["verdict"]["outcome"], "fail");
    assert_eq!((&report["run"]["interrupted"], &report["verdict"]["aborted"]), (&false.into(), &true.into()));
    let aborted = &report["run"]["aborted"];
    assert_eq!((&aborted["metric"], &aborted["expression"]), (&"http_req_failed".into(), &"rate<0.3".into()));
    assert!(aborted["observed"].as_f64().unwrap() >= 0.3, "{aborted}");
    // Not before there was something to judge, and no later than a moment after it was judged.
    assert!(aborted["at_s"].as_f64().unwrap() >= 2.0, "{aborted}");
    assert!(report["load"]["achieved"]["measured_s"].as_f64() >= aborted["at_s"].as_f64(), "{report}");
    assert!(report["verdict"]["reasons"][0].as_str().unwrap().starts_with("ended early"), "{report}");
    assert!(report["metrics"]["http_reqs"]["values"]["count"].as_f64().unwrap() > 250.0);
    let folder = sandbox.folders().remove(0);
    sandbox.scalekit(&["validate", folder.to_str().unwrap()]).expect(99);
    sandbox.expect_clean();
}

#[test]
fn a_delay_postpones_the_end() {
    let (sandbox, server) = (Sandbox::new(), failing_after(0));
    let changes = failures("threshold: rate<0.3, abortOnFail: true, delayAbortEval: 5s");
    let profile = sandbox.profile("delay", &changes);
    let bench = ["bench", "-p", &profile, "--url", &server.url];
    sandbox.scalekit(&[&bench[..], &LONG].concat()).expect(99);
    let aborted = &sandbox.report()["run"]["aborted"];
    assert!(aborted["at_s"].as_f64().unwrap() >= 5.0, "{aborted}");
}

/// Figures are taken at the turn of a second, which with users that do not pause is mostly the end of a request.
#[test]
fn figures_are_taken_between_requests() {
    let (sandbox, server) = (Sandbox::new(), failing_after(0));
    let changes = failures("threshold: rate<0.3, abortOnFail: true, delayAbortEval: 1m");
    let profile = sandbox.profile("turn", &changes);
    let bench = ["bench", "-p", &profile, "--url", &server.url, "--vus", "3", "--think", "0s", "-d", "4s"];
    sandbox.scalekit(&bench).expect(99);
    assert_eq!(sandbox.report()["load"]["achieved"]["measured_s"], 4.0);
}

#[test]
fn a_criterion_that_does_not_ask_for_it_ends_nothing() {
    let (sandbox, server) = (Sandbox::new(), failing_after(0));
    let profile = sandbox.profile("patient", &failures("threshold: rate<0.3"));
    let bench = ["bench", "-p", &profile, "--url", &server.url, "--vus", "5", "--duration", "3s"];
    sandbox.scalekit(&bench).expect(99);
    let report = sandbox.report();
    assert_eq!(report["load"]["achieved"]["measured_s"], 3.0);
    assert_eq!(report["run"]["aborted"], serde_json::Value::Null);
}

/// What was acknowledged until then is still looked up, with all the time that it takes.
#[test]
fn a_run_that_a_trend_ended_is_drained_and_audited() {
    let sandbox = Sandbox::new();
    // No answer takes a minute, so the bound fails as soon as it is judged.
    let changes = "
load: {duration: 10m}
criteria:
  http_req_total_duration: [{threshold: 'p(95)>60000', abortOnFail: true}]
";
    let profile = sandbox.profile("audited", changes);
    sandbox.scalekit(&["run", "-p", &profile]).expect(99);
    let report = sandbox.report();
    expect_valid(&report);
    assert_eq!(report["run"]["aborted"]["metric"], "http_req_total_duration");
    let audit = &report["audit"];
    assert!(audit["acknowledged"].as_u64().unwrap() > 0, "{audit}");
    assert_eq!((&audit["acknowledged"], &audit["lost"]), (&audit["stored"], &0.into()), "{audit}");
    sandbox.expect_clean();
}

#[test]
fn what_is_known_only_after_the_run_cannot_end_it() {
    let sandbox = Sandbox::new();
    for (metric, threshold) in [("lost_writes", "count==0"), ("db_ops", "max<=100")] {
        let changes = format!("criteria:\n  {metric}: [{{threshold: '{threshold}', abortOnFail: true}}]\n");
        let profile = sandbox.profile("late", &changes);
        let output = sandbox.scalekit(&["run", "-p", &profile]).expect(104);
        output.says(&["late.yaml:3", metric, "abortOnFail", "http_req_failed"]);
        assert!(sandbox.folders().is_empty());
    }
}
