//! The summary as it reads, word for word.

use super::fixture;
use super::judging::judge;
use super::model::Report;
use super::model::{Agent, Audit, CapKind, Chosen, DeviceCap};
use super::text;
use crate::criteria::parse;

fn judged(mut report: Report) -> Report {
    let criteria = parse(&report.criteria).unwrap();
    judge(&mut report, &criteria);
    report
}

#[test]
fn a_good_run() {
    let shown = text(&judged(fixture::report()), false);
    let expected = "  scalekit 0.1.0  run 20261123T150301Z-k3f9x2ab
  profile local: 1200 users, 800ms apart, 30s after 5s of warm-up, http://127.0.0.1:8080
  achieved: 1200 users, 1219.3 requests/s over 30s
  host: 8 x Example CPU, 16 GiB, linux 6.8.0

  █ THRESHOLDS

    db_ops..........................: ✓ 'max<=100' max=100
    http_req_failed.................: ✓ 'rate<0.01' rate=0.22%
    http_req_total_duration.........: ✓ 'p(95)<500' p(95)=73.41ms
    http_req_total_duration.........: ✓ 'p(97.5) < 500' p(97.5)=73.41ms
    lost_writes.....................: ✓ 'count==0' count=0

  █ TOTAL RESULTS

    http_req_total_duration.........: avg=21.97ms   min=9.2ms     med=9.21ms    max=640.51ms  p(90)=73.41ms   p(95)=73.41ms   p(99)=73.41ms   p(99.9)=640.51ms
    http_req_duration...............: avg=21.79ms   min=9.1ms     med=9.1ms     max=630.27ms  p(90)=73.02ms   p(95)=73.02ms   p(99)=73.02ms   p(99.9)=630.27ms
    http_req_waiting................: avg=850µs     min=850µs     med=850µs     max=850µs     p(90)=850µs     p(95)=850µs     p(99)=850µs     p(99.9)=850µs
    loadgen_lag.....................: avg=56.78µs   min=40µs      med=40µs      max=1.1ms     p(90)=40µs      p(95)=40µs      p(99)=1.1ms     p(99.9)=1.1ms
    data_sent.......................: 41.2 MB  1.37 MB/s
    http_req_failed.................: 0.22%  79 out of 36579
    http_reqs.......................: 36579  1219.3/s
    vus.............................: 1200  min=0 max=1200

  █ STEPS

    transaction.....................: 36579 requests, 79 failed, med=12.1ms p(95)=73.4ms p(99)=120.5ms max=388ms
      ✗ status is 202: 36500 of 36579

  █ FAILURES

    1050 time-out...................: 4
    1503 http 5xx...................: 75  (503: 75)

  █ DATABASE

    cap.............................: simulated (the governor allows 100 operations/s, nothing caps the disk)
    db_ops..........................: 2480  82.67/s  at most 100 in one second
    journal_backlog.................: 0  min=0 max=18204
    audit...........................: 182500 acknowledged, 182500 stored, 0 lost, 0 duplicated
      without an answer.............: 20, of which 5 stored

  █ FINDINGS

    p(99) rose at 20 s, from 12.1ms to 640ms
    likely cause: accept queue: tcp.listen_overflows rose by 12, from 17.0 s on
      → raise the backlog [tune: net.core.somaxconn; deployment: deploy.limits.backlog]
    process-restarted: worker started anew
      → its log says why it ended
    unknown: connection tracking (conntrack.entries, conntrack.max)
    sampled: process 4321 (scalekit), it listens on 127.0.0.1:8080; it took 0.13% of a core

  VERDICT: PASS
";
    assert_eq!(shown, expected);
}

#[test]
fn a_bad_run_says_why() {
    let mut report = fixture::empty();
    report.run.interrupted = true;
    report.validity = vec!["the generator used 97 % of its CPU".to_owned()];
    report.set_rate("http_req_failed", 5, 5);
    report.set_audit(Audit {
        acknowledged: 9,
        stored: 8,
        lost: 1,
        refused_stored: 2,
        examples: vec!["k3f9x2ab-0000004d-000004af-04 lost".to_owned()],
        ..Audit::default()
    });
    let expected = "  scalekit 0.1.0  run 20261123T150301Z-k3f9x2ab
  profile local: 1200 users, 800ms apart, 30s after 5s of warm-up, http://127.0.0.1:8080
  achieved: 1200 users, 1219.3 requests/s over 30s
  host: 8 x Example CPU, 16 GiB, linux 6.8.0
  interrupted: these results are partial

  █ THRESHOLDS

    db_ops..........................: ? 'max<=100' not measured
    http_req_failed.................: ✗ 'rate<0.01' rate=100.00%
    http_req_total_duration.........: ? 'p(95)<500' not measured
    http_req_total_duration.........: ? 'p(97.5) < 500' not measured
    lost_writes.....................: ✗ 'count==0' count=1

  █ TOTAL RESULTS

    http_req_failed.................: 100.00%  5 out of 5

  █ DATABASE

    audit...........................: 9 acknowledged, 8 stored, 1 lost, 0 duplicated
      refused, yet stored...........: 2
      example.......................: k3f9x2ab-0000004d-000004af-04 lost

  VERDICT: INVALID
    audit: 1 writes acknowledged and not stored (lost)
    audit: 2 writes refused and stored all the same
    invalid: the generator used 97 % of its CPU
    db_ops: max<=100 could not be evaluated: nothing was measured
    http_req_failed: rate<0.01 failed with 1
    http_req_total_duration: p(95)<500 could not be evaluated: nothing was measured
    http_req_total_duration: p(97.5) < 500 could not be evaluated: nothing was measured
    lost_writes: count==0 failed with 1
    interrupted: the results are partial
";
    assert_eq!(text(&judged(report), false), expected);
}

#[test]
fn a_foreign_report_cannot_steer_the_terminal() {
    let mut report = judged(fixture::report());
    report.run.id = "\u{1b}[2Jx".to_owned();
    report.findings[0].message = "\u{7}\u{1b}]0;t\n".to_owned();
    if let Some(verdict) = &mut report.verdict {
        verdict.thresholds[0].metric = "\u{1b}[31m\u{1}".to_owned();
        verdict.reasons = vec!["\u{1b}c".to_owned()];
    }
    let shown = text(&report, false);
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    let colored = text(&judged(fixture::report()), true);
    assert!(colored.contains("VERDICT: \u{1b}[32mPASS\u{1b}[0m"), "{colored}");
}

#[test]
fn a_run_without_a_full_resource_says_so_and_one_without_counters_says_nothing() {
    let mut report = fixture::report();
    report.findings.remove(0);
    if let Some(counters) = &mut report.counters {
        (counters.knee, counters.unknown) = (None, Vec::new());
        counters.process.chosen = Chosen::Generator;
        counters.problems = vec!["sock_diag: not here".to_owned()];
    }
    let expected = "  █ FINDINGS

    No saturated resource found
    process-restarted: worker started anew
      → its log says why it ended
    note: sock_diag: not here
    note: sampled: process 4321 (scalekit), it listens on 127.0.0.1:8080; it took 0.13% of a core
";
    let shown = text(&judged(report.clone()), false);
    assert!(shown.contains(expected), "{shown}");
    (report.counters, report.findings) = (None, Vec::new());
    assert!(!text(&judged(report), false).contains("FINDINGS"));
}

#[test]
fn many_findings_are_bounded() {
    let mut report = fixture::report();
    report.findings = vec![report.findings[0].clone(); 13];
    let shown = text(&judged(report), false);
    assert_eq!(shown.matches("likely cause").count(), 10);
    assert!(shown.contains("    3 more are in report.json\n"), "{shown}");
}

#[test]
fn agents_have_a_row_each() {
    let mut report = fixture::report();
    report.agents = vec![
        Agent {
            name: "node-1".to_owned(),
            address: "10.0.0.11:7420".to_owned(),
            vus: 600,
            requests: 18_300,
            rate: 610.0,
            busiest_thread: 0.314,
            lag_ms_p99: Some(0.12),
            clock_offset_ms: -1.5,
            clock_uncertainty_ms: 0.21,
            memory_peak_bytes: 4_200_000,
            ..Agent::default()
        },
        Agent {
            name: "node-2".to_owned(),
            address: "10.0.0.12:7420".to_owned(),
            vus: 600,
            problem: Some("no answer in time".to_owned()),
            ..Agent::default()
        },
    ];
    let shown = text(&judged(report), false);
    let expected = "  █ AGENTS

    node-1 (10.0.0.11:7420).........: 600 users, 18300 requests, 610/s, busiest thread 31.40%, lag p(99)=120µs, clock -1.5ms ±210µs, 4.2 MB
    node-2 (10.0.0.12:7420).........: 600 users, failed: no answer in time
";
    assert!(shown.contains(expected), "{shown}");
}

#[test]
fn direct_mode_is_said_at_the_top() {
    let mut report = fixture::report();
    assert!(!text(&report, false).contains("DIRECT"));
    report.server.mode = Some("direct".into());
    let shown = text(&report, false);
    let line = shown.lines().nth(2).unwrap();
    assert!(line.contains("DIRECT mode: each read and each write was a database operation"), "{line}");
}

#[test]
fn what_held_the_database_back_is_told_with_its_proof() {
    let mut report = fixture::report();
    let line = |report: &Report| {
        let shown = text(&judged(report.clone()), false);
        let line = shown.lines().find_map(|line| line.trim().strip_prefix("cap.")).map(str::to_owned);
        line.map(|line| line.trim_start_matches(['.', ':', ' ']).to_owned())
    };
    report.cap.kind = CapKind::None;
    assert_eq!(line(&report), None);
    report.cap.kind = CapKind::Simulated;
    report.cap.limit_per_s = Some(1_200);
    assert_eq!(
        line(&report).unwrap(),
        "simulated (the governor allows 1200 operations/s, nothing caps the disk)"
    );
    report.cap.kind = CapKind::Verified;
    report.cap.device = Some(DeviceCap {
        iops: 100,
        required: true,
        group: "/sys/fs/cgroup/x".into(),
        devices: vec!["8:0".into()],
        capped_per_s: 98.2,
        uncapped_per_s: 2_134.0,
        problem: None,
    });
    assert_eq!(
        line(&report).unwrap(),
        "verified 98/s (asked 100/s, without it 2134/s); the governor allows 1200 operations/s"
    );
    report.cap.limit_per_s = None;
    report.cap.device.as_mut().unwrap().problem = Some("I/O escapes it".into());
    assert_eq!(line(&report).unwrap(), "not enforced (asked 100/s): I/O escapes it");
}
