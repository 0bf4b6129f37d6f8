//! Each check of the generator, on reports that differ from a sound one in the figure that it looks at.

use super::fixture;
use super::judging::{judge, rejudge};
use super::model::{Aborted, Check, CheckOutcome, ErrorClass, Report};
use crate::criteria::{Outcome, parse};

use CheckOutcome::{Failed, Ok, Unknown};

/// A report of a run in which all is well, and all is known: 100 users, 0.9 s of thinking after answers of 0.1 s,
/// for 30 s.
fn sound() -> Report {
    let mut report = fixture::empty();
    report.criteria = vec![
        fixture::spec("http_req_total_duration", "p(95)<500"),
        fixture::spec("http_req_duration", "min<1"),
    ];
    report.load.requested.vus = 100;
    report.load.achieved.vus = 100;
    report.set_trend("iteration_duration", &fixture::histogram(&[(1_000_000, 3000)]));
    report.set_trend("http_req_total_duration", &fixture::histogram(&[(100_000, 3000)]));
    report.set_trend("http_req_duration", &fixture::histogram(&[(100, 3000)]));
    report.set_trend("loadgen_lag", &fixture::histogram(&[(40, 3000)]));
    report.set_counter("iterations", 3000);
    report.generator.no_free_port = Some(0);
    report.generator.too_many_files = Some(0);
    report.generator.throttled_share = Some(0.0);
    report.generator.heartbeat_lag_ms = Some(1.5);
    report
}

/// The named check of a report that was judged, and the verdict's reasons.
fn judged(mut report: Report, name: &str) -> (Check, Outcome, Vec<String>) {
    let criteria = parse(&report.criteria).unwrap();
    let verdict = judge(&mut report, &criteria);
    assert_eq!(rejudge(&report, &criteria), verdict, "judged again it is the same");
    let check = report.generator.checks.iter().find(|check| check.name == name).unwrap();
    (check.clone(), verdict.outcome, verdict.reasons)
}

type Spoil = fn(&mut Report);

#[test]
fn a_sound_run_passes_every_check() {
    let mut report = sound();
    let criteria = parse(&report.criteria).unwrap();
    assert_eq!(judge(&mut report, &criteria).outcome, Outcome::Pass);
    assert_eq!(report.generator.checks.len(), 9);
    for check in &report.generator.checks {
        assert_eq!((check.outcome, check.remedy.as_ref()), (Ok, None), "{check:?}");
        assert!(check.value.is_some() && check.limit.is_some(), "{check:?}");
    }
}

#[test]
fn each_check_fails_on_its_own_figure_and_says_why_and_what_to_do() {
    let lag = |report: &mut Report, micros| {
        report.set_trend("loadgen_lag", &fixture::histogram(&[(40, 2900), (micros, 100)]));
    };
    assert_eq!(
        judged(
            {
                let mut report = sound();
                lag(&mut report, 49_000);
                report
            },
            "loadgen_lag"
        )
        .0
        .outcome,
        Ok
    );
    let cases: [(&str, Spoil, [&str; 2]); 11] = [
        (
            "loadgen_lag",
            |report| report.set_trend("loadgen_lag", &fixture::histogram(&[(40, 2900), (51_000, 100)])),
            ["51.0 ms", "more cores"],
        ),
        ("heartbeat", |report| report.generator.heartbeat_lag_ms = Some(50.5), ["above 50 ms", "more cores"]),
        (
            "heartbeat",
            |report| {
                report.generator.heartbeat_lag_ms = Some(20.5);
                report.criteria[0].expression = "p(95)<150".into();
            },
            ["above 20 ms", "more cores"],
        ),
        ("busiest_thread", |report| report.generator.busiest_thread = 0.81, ["81%", "load.threads"]),
        ("cpu_throttled", |report| report.generator.throttled_share = Some(0.011), ["1.1%", "cpu.max"]),
        (
            "local_ports",
            |report| report.generator.no_free_port = Some(3),
            ["3 connects", "ip_local_port_range"],
        ),
        ("open_files", |report| report.generator.too_many_files = Some(2), ["2 connects", "ulimit"]),
        ("users", |report| report.load.achieved.vus = 99, ["only 99 of 100", "warm up longer"]),
        ("littles_law", |report| report.set_counter("iterations", 2800), ["accounts for 93.", "more cores"]),
        ("littles_law", |report| report.set_counter("iterations", 3200), ["accounts for 106.", "more cores"]),
        ("clock", |report| report.generator.clock_jump_ms = -1001.0, ["-1.001 s", "clock"]),
    ];
    for (name, spoil, words) in cases {
        let mut report = sound();
        spoil(&mut report);
        let (check, outcome, reasons) = judged(report, name);
        assert_eq!((check.outcome, outcome), (Failed, Outcome::Invalid), "{check:?}");
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        for word in words {
            assert!(reasons[0].starts_with("invalid: ") && reasons[0].contains(word), "{word}: {reasons:?}");
        }
    }
}

#[test]
fn what_is_not_known_is_not_zero_and_spoils_nothing() {
    let cases: [(&str, Spoil, &str); 14] = [
        ("loadgen_lag", |report| report.criteria.remove(0).expression.clear(), "no criterion bounds"),
        (
            "loadgen_lag",
            |report| report.set_trend("loadgen_lag", &fixture::histogram(&[])),
            "no request was measured",
        ),
        ("heartbeat", |report| report.criteria.remove(0).expression.clear(), "no criterion bounds"),
        ("heartbeat", |report| report.generator.heartbeat_lag_ms = None, "does not say"),
        ("cpu_throttled", |report| report.generator.throttled_share = None, "does not say"),
        ("local_ports", |report| report.generator.no_free_port = None, "does not say"),
        ("open_files", |report| report.generator.too_many_files = None, "does not say"),
        (
            "users",
            |report| (report.run.interrupted, report.load.achieved.vus) = (true, 1),
            "ended before its time",
        ),
        ("littles_law", |report| report.run.aborted = Some(aborted()), "ended before its time"),
        ("littles_law", |report| report.set_counter("iterations", 999), "fewer than 1000"),
        ("littles_law", |report| report.load.achieved.measured_s = 19.0, "shorter than 20 times"),
        ("littles_law", |report| report.load.requested.warmup_s = 0.0, "shorter than 20 times"),
        ("littles_law", |report| report.generator.clamped = 1, "above 60 s"),
        (
            "littles_law",
            |report| report.set_trend("iteration_duration", &fixture::histogram(&[])),
            "no iteration",
        ),
    ];
    for (name, spoil, why) in cases {
        let mut report = sound();
        spoil(&mut report);
        let (check, outcome, reasons) = judged(report, name);
        assert_eq!((check.outcome, check.value), (Unknown, None), "{check:?}");
        assert!(check.reason.contains(why), "{why}: {check:?}");
        assert_ne!(outcome, Outcome::Invalid, "{reasons:?}");
    }
}

fn aborted() -> Aborted {
    Aborted { metric: "http_req_failed".into(), expression: "rate<0.1".into(), observed: 0.5, at_s: 4.0 }
}

/// The target's fault is a failure of the target, not of the measurement; the generator's own is not the target's.
#[test]
fn users_that_the_target_failed_do_not_spoil_the_measurement() {
    let class = |code, name: &str, count, status: Option<&str>| ErrorClass {
        code,
        name: name.into(),
        count,
        statuses: status.map(|status| (status.to_owned(), count)).into_iter().collect(),
    };
    for (outcomes, expected) in [
        (vec![class(1212, "connection_refused", 10, None)], Ok),
        (vec![class(1220, "connection_reset", 4, None), class(0, "eof", 6, None)], Ok),
        (vec![class(1212, "connection_refused", 9, None)], Failed),
        // Whoever got an answer was served.
        (vec![class(1500, "HTTP status", 500, Some("500"))], Failed),
        (vec![class(0, "no_free_port", 500, None)], Failed),
        (vec![class(0, "too_many_files", 500, None)], Failed),
        (vec![class(0, "ok", 3000, Some("200"))], Failed),
        (vec![class(0, "ok", 0, None)], Failed),
    ] {
        let mut report = sound();
        report.load.achieved.vus = 90;
        report.outcomes = outcomes;
        let (check, ..) = judged(report.clone(), "users");
        assert_eq!(check.outcome, expected, "{:?}", report.outcomes);
    }
}

/// Users who are refused pause longer than they think, and the law holds for them, too.
#[test]
fn littles_law_counts_the_pause_after_a_failed_connect() {
    let mut report = sound();
    // Half of the iterations took 0.1 s of back-off alone, so 100 users made 5454 of them.
    report.set_trend("iteration_duration", &fixture::histogram(&[(1_000_000, 2727), (100_000, 2727)]));
    report.set_counter("iterations", 5454);
    let (check, ..) = judged(report, "littles_law");
    assert_eq!(check.outcome, Ok);
    assert!(check.value.is_some_and(|gap| gap < 0.01), "{check:?}");
}

#[test]
fn a_run_that_a_criterion_ended_fails_with_its_reason() {
    let mut report = sound();
    report.run.aborted = Some(aborted());
    let (_, outcome, reasons) = judged(report, "users");
    assert_eq!(outcome, Outcome::Fail);
    assert_eq!(reasons, ["ended early: http_req_failed: rate<0.1 failed with 0.5 after 4.0 s (abortOnFail)"]);
}
