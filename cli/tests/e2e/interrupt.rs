//! Ctrl-C, twice, and worse: results are kept, and nothing is left running.

use nix::sys::signal::Signal;

use crate::run::expect_valid;
use crate::sandbox::{Sandbox, wait_for};

/// Longer than the tests' patience, so that only a signal ends it in time.
const LONG: &str = "load: {duration: 10m}";

#[test]
fn an_interrupted_run_reports_and_tears_down() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("run", LONG);
    let mut run = sandbox.start(sandbox.command(&["run", "-p", &profile]));
    run.wait_to_say("measuring");
    run.signal(Signal::SIGINT);
    let output = run.wait().expect(105).says(&["interrupted"]);
    assert!(output.stdout.contains("these results are partial"), "{}", output.stdout);
    let report = sandbox.report();
    expect_valid(&report);
    assert_eq!(report["run"]["interrupted"], true);
    assert_eq!(report["verdict"]["outcome"], "fail");
    assert_eq!(report["audit"]["lost"], 0);
    sandbox.scalekit(&["validate", sandbox.folders()[0].to_str().unwrap()]).expect(105);
    sandbox.expect_clean();
}

#[test]
fn an_interrupted_bench_reports_and_leaves_the_deployment() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("bench", LONG);
    sandbox.scalekit(&["deploy", "-p", &profile]).expect(0);
    let mut bench = sandbox.start(sandbox.command(&["bench", "-p", &profile]));
    bench.wait_to_say("measuring");
    bench.signal(Signal::SIGINT);
    bench.wait().expect(105);
    assert_eq!(sandbox.report()["run"]["interrupted"], true);
    sandbox.scalekit(&["deploy", "status", "-p", &profile]).expect(0);
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    sandbox.expect_clean();
}

/// One operation a second, and 64 writes in each: the journal takes minutes to empty.
const SLOW_STORE: &str = "
deploy:
  database_ops: 1/s
  worker: {batch_max_writes: 64}
  limits: {request_timeout: 1s}
load:
  duration: 10m
  transactions: {reads: 0, writes: 64}
criteria:
  lost_writes: []
  duplicated_writes: []
";

#[test]
fn a_second_interrupt_ends_the_wait_for_the_journal() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("twice", SLOW_STORE);
    let mut run = sandbox.start(sandbox.command(&["run", "-p", &profile]));
    run.wait_to_say("measuring");
    // So much is in the journal by the second line that no drain empties it in time.
    wait_for("a second line of progress", || (run.said().matches("measuring").count() > 1).then_some(()));
    run.signal(Signal::SIGINT);
    run.wait_to_say("until the journal is empty");
    run.signal(Signal::SIGTERM);
    run.wait().expect(105);
    let report = sandbox.report();
    expect_valid(&report);
    assert_eq!(report["run"]["interrupted"], true);
    assert_eq!(report["audit"], serde_json::Value::Null, "what is still in the journal is not lost");
    sandbox.expect_clean();
}

#[test]
fn an_interrupted_run_does_not_call_lost_what_had_no_time_to_be_stored() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("late", &SLOW_STORE.replace("limits:", "drain_timeout: 1s\n  limits:"));
    let mut run = sandbox.start(sandbox.command(&["run", "-p", &profile]));
    run.wait_to_say("measuring");
    wait_for("a second line of progress", || (run.said().matches("measuring").count() > 1).then_some(()));
    run.signal(Signal::SIGINT);
    run.wait().expect(105);
    assert_eq!(sandbox.report()["audit"], serde_json::Value::Null);
    sandbox.expect_clean();
}

#[test]
fn a_killed_run_takes_its_processes_with_it() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("killed", LONG);
    let mut run = sandbox.start(sandbox.command(&["run", "-p", &profile]));
    run.wait_to_say("measuring");
    assert_eq!(sandbox.processes().len(), 2, "the run and its service: {:?}", sandbox.processes());
    run.signal(Signal::SIGKILL);
    assert_eq!(run.wait().status, None);
    wait_for("the end of the service", || sandbox.processes().is_empty().then_some(()));
}

#[test]
fn what_a_killed_run_was_to_keep_is_found_again() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("found", LONG);
    let mut run = sandbox.start(sandbox.command(&["run", "-p", &profile, "--keep"]));
    run.wait_to_say("measuring");
    run.signal(Signal::SIGKILL);
    run.wait();
    sandbox.scalekit(&["deploy", "status", "-p", &profile]).expect(1).prints(&[
        "service        up",
        "supervisor     none",
        "starts one, which takes over",
    ]);
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    sandbox.expect_clean();
}
