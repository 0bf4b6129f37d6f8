//! A generator that was kept from its work says so: its figures are no measurement of the server.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::quota::Quota;
use crate::run::expect_valid;
use crate::sandbox::Sandbox;
use crate::web::WebServer;

/// A bound of which a tenth is less than the generator is held up for.
const BOUND: &str = "http_req_total_duration=p(95)<500";

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["generator"]["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap()
}

/// Stopped for nine tenths of the time, as by a neighbour that takes the processor: works on any machine.
fn starved(think: &str) -> (Value, String) {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let profile = sandbox.profile("stopped", "");
    let load = ["--vus", "20", "--think", think, "--duration", "3s", "--threshold", BOUND];
    let bench = ["bench", "-p", &profile, "--url", &server.url];
    let mut bench = sandbox.start(sandbox.command(&[&bench[..], &load].concat()));
    bench.wait_to_say("measuring");
    while !bench.has_ended() {
        bench.signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(90));
        bench.signal(Signal::SIGCONT);
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = bench.wait().expect(120);
    assert!(output.stdout.contains("VERDICT: INVALID"), "{}", output.stdout);
    let report = sandbox.report();
    expect_valid(&report);
    let folder = sandbox.folders().remove(0);
    sandbox.scalekit(&["validate", folder.to_str().unwrap()]).expect(120);
    (report, output.stdout)
}

#[track_caller]
fn expect_too_late(report: &Value, name: &str) {
    let check = check(report, name);
    assert_eq!((&check["outcome"], &check["limit"]), (&"failed".into(), &50.0.into()), "{check}");
    assert!(check["value"].as_f64().unwrap() > 50.0 && check["remedy"].is_string(), "{check}");
}

#[test]
fn a_generator_that_is_stopped_again_and_again_calls_itself_invalid() {
    let (report, shown) = starved("50ms");
    expect_too_late(&report, "loadgen_lag");
    assert!(shown.contains("woke up late") && shown.contains("more cores"), "{shown}");
}

/// Without a pause there is no moment at which a request was due, and so no lag.
#[test]
fn a_generator_that_is_stopped_calls_itself_invalid_even_if_its_users_do_not_pause() {
    let (report, shown) = starved("0s");
    expect_too_late(&report, "heartbeat");
    assert!(shown.contains("its own standstill") && shown.contains("more cores"), "{shown}");
}

#[test]
fn a_generator_that_a_cgroup_throttles_calls_itself_invalid() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let Some(quota) = Quota::new("generator") else {
        // The test above starves the generator where this one cannot.
        eprintln!("not checked: this user may not make a cgroup with a CPU quota");
        return;
    };
    let profile = sandbox.profile("throttled", "");
    let load = ["--vus", "50", "--think", "0s", "--duration", "3s"];
    let bench = ["bench", "-p", &profile, "--url", &server.url];
    let command = quota.command(&[&bench[..], &load].concat());
    let output = sandbox.run(sandbox.program("sh", &command)).expect(120);
    assert!(output.stdout.contains("the CPU quota of a cgroup"), "{}", output.stdout);
    assert!(output.stdout.contains("cpu.max"), "{}", output.stdout);
    let report = sandbox.report();
    expect_valid(&report);
    let throttled = check(&report, "cpu_throttled");
    assert_eq!(throttled["outcome"], "failed", "{throttled}");
    assert!(report["generator"]["throttled_share"].as_f64().unwrap() > 0.01, "{throttled}");
    assert!(report["generator"]["throttled_periods"].as_u64().unwrap() > 0, "{throttled}");
}

/// What the kernel of any machine tells is in the report; the rest is null, not zero.
#[test]
fn a_sound_run_shows_its_checks() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let profile = sandbox.profile("sound", "");
    let load = ["--vus", "10", "--think", "50ms", "--duration", "1s"];
    sandbox.scalekit(&[&["bench", "-p", &profile, "--url", &server.url], &load[..]].concat()).expect(0);
    let report = sandbox.report();
    let checks = report["generator"]["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 9, "{checks:?}");
    assert!(checks.iter().all(|check| check["outcome"] != "failed"), "{checks:?}");
    assert_eq!(check(&report, "littles_law")["outcome"], "unknown", "a second is too short for it");
    let generator = &report["generator"];
    assert!(generator["steal_share"].is_number(), "every Linux counts it: {generator}");
    let tells = Path::new("/proc/thread-self/schedstat").exists();
    assert_eq!(generator["run_delay_share"].is_number(), tells, "{generator}");
}

/// A server that takes connections and never answers, and a run too short to see a time-out: there is nothing.
#[test]
fn no_sample_a_typo_and_nothing_but_errors_never_pass() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("nothing", "");
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let silent = (format!("http://{}", silent.local_addr().unwrap()), silent);
    let broken = WebServer::start("500 Internal Server Error");
    let silence = ["--warmup", "500ms", "--timeout", "3s"];
    let cases: [(&str, &[&str], i32); 4] = [
        // No request was due within the measured part: nobody was served, and nothing failed.
        (&silent.0, &silence, 120),
        (&broken.url, &[], 99),
        (&broken.url, &["--threshold", "http_req_duraton=p(95)<500"], 104),
        (&broken.url, &["--threshold", "checks=rate>0"], 99),
    ];
    for (url, flags, status) in cases {
        let load = ["--vus", "3", "--think", "50ms", "--duration", "1s"];
        let bench = ["bench", "-p", &profile, "--url", url];
        let output = sandbox.scalekit(&[&bench[..], &load, flags].concat());
        assert_eq!(output.status, Some(status), "{url} {flags:?}: {}{}", output.stdout, output.stderr);
        assert!(!output.stdout.contains("VERDICT: PASS"), "{}", output.stdout);
    }
}
