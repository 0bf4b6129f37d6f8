//! A report for tests: small, fixed, and with something of everything.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde_json::json;

use super::model::{
    Achieved, Audit, Cap, CapKind, Chosen, CounterDelta, CounterKind, CounterSeverity, Counters, ErrorClass,
    Evidence, Finding, Generator, Host, LatencyKnee, Load, Model, Report, Requested, Run, SCHEMA_VERSION,
    SampledProcess, Second, Server, Step, StepCheck, Tool, UnknownResource,
};
use crate::criteria::Spec;

/// A threshold as it would come from a profile.
pub(crate) fn spec(metric: &str, expression: &str) -> Spec {
    Spec {
        metric: metric.to_owned(),
        expression: expression.to_owned(),
        abort_on_fail: false,
        delay_abort_eval_ms: 0,
        location: String::new(),
    }
}

/// A histogram as the engine records them, from `(µs, samples)`.
pub(crate) fn histogram(samples: &[(u64, u64)]) -> Histogram<u64> {
    let mut histogram = super::empty_histogram();
    for (value, count) in samples {
        histogram.record_n(*value, *count).unwrap();
    }
    histogram
}

/// A report of a good run that nobody has measured anything in yet.
pub(crate) fn empty() -> Report {
    Report {
        schema_version: SCHEMA_VERSION,
        tool: Tool { name: "scalekit".to_owned(), version: "0.1.0".to_owned() },
        run: Run {
            id: "20261123T150301Z-k3f9x2ab".to_owned(),
            started_at: "2026-11-23T15:03:01Z".to_owned(),
            duration_s: 41.5,
            interrupted: false,
            aborted: None,
            profile: "local".to_owned(),
        },
        host: Host {
            os: "linux".to_owned(),
            kernel: "6.8.0".to_owned(),
            cpu_model: "Example CPU".to_owned(),
            cores: 8,
            memory_bytes: 16 << 30,
            hostname: None,
        },
        profile: json!({ "load": { "vus": 1200 } }),
        criteria: vec![
            spec("db_ops", "max<=100"),
            spec("http_req_failed", "rate<0.01"),
            spec("http_req_total_duration", "p(95)<500"),
            spec("http_req_total_duration", "p(97.5) < 500"),
            spec("lost_writes", "count==0"),
        ],
        load: Load {
            requested: Requested {
                url: "http://127.0.0.1:8080".to_owned(),
                scenario: "transactions".to_owned(),
                vus: 1200,
                think_time_ms: 800.0,
                warmup_s: 5.0,
                duration_s: 30.0,
                timeout_ms: 10_000.0,
                model: Model::Closed,
                rate_per_s: None,
                pacing_ms: None,
                stages: Vec::new(),
                iterations: None,
                seed: 1,
            },
            achieved: Achieved { vus: 1200, rate: 1219.3, measured_s: 30.0 },
        },
        metrics: BTreeMap::new(),
        series: Vec::new(),
        outcomes: Vec::new(),
        steps: Vec::new(),
        generator: Generator::default(),
        agents: Vec::new(),
        server: Server::default(),
        cap: Cap { kind: CapKind::None, limit_per_s: None, probed_per_s: None, device: None },
        audit: None,
        counters: None,
        findings: Vec::new(),
        validity: Vec::new(),
        verdict: None,
    }
}

/// Of a host that had a finding, and a kernel without connection tracking.
pub(crate) fn counters() -> Counters {
    let delta = |before, after| CounterDelta { kind: CounterKind::Counter, before, after };
    Counters {
        process: SampledProcess {
            pid: 4321,
            name: Some("scalekit".to_owned()),
            chosen: Chosen::Listening,
            why: "it listens on 127.0.0.1:8080".to_owned(),
        },
        started_at: "2026-11-23T15:03:02Z".to_owned(),
        measured_from_ms: 5020,
        at_ms: vec![0, 1000],
        deltas: BTreeMap::from([("tcp.listen_overflows".to_owned(), delta(Some(3.0), Some(15.0)))]),
        series: BTreeMap::from([("tcp.listen_overflows".to_owned(), vec![Some(3.0), Some(15.0)])]),
        cost_share: 0.0013,
        left_out: 0,
        knee: Some(LatencyKnee { at_s: 20, baseline_ms: 12.1, p99_ms: 640.0 }),
        unknown: vec![UnknownResource {
            id: "conntrack".to_owned(),
            resource: "connection tracking".to_owned(),
            counters: vec!["conntrack.entries".to_owned(), "conntrack.max".to_owned()],
        }],
        problems: Vec::new(),
    }
}

/// A report of a good run, not judged yet.
pub(crate) fn report() -> Report {
    let mut report = empty();
    report
        .set_trend("http_req_total_duration", &histogram(&[(9_200, 30_000), (73_400, 6_500), (640_000, 79)]));
    report.set_trend("http_req_duration", &histogram(&[(9_100, 30_000), (73_000, 6_500), (630_000, 79)]));
    report.set_trend("http_req_waiting", &histogram(&[(850, 36_579)]));
    report.set_trend("http_req_tls_handshaking", &histogram(&[]));
    report.set_trend("loadgen_lag", &histogram(&[(40, 36_000), (1_100, 579)]));
    report.set_counter("http_reqs", 36_579);
    report.set_counter("data_sent", 41_200_000);
    report.set_rate("http_req_failed", 79, 36_579);
    report.set_gauge("vus", 1200, 0, 1200);
    report.set("db_ops", [("count", 2_480.0), ("rate", 82.66666666666667), ("max", 100.0)]);
    report.set_gauge("journal_backlog", 0, 0, 18_204);
    report.set_audit(Audit {
        acknowledged: 182_500,
        stored: 182_500,
        unknown: 20,
        unknown_stored: 5,
        ..Audit::default()
    });
    report.series = vec![
        Second { at_s: -1, vus: 1200, requests: 1100, ..Second::default() },
        Second {
            at_s: 0,
            vus: 1200,
            requests: 1219,
            failed: 2,
            total_ms_p95: Some(73.4),
            db_ops: Some(100),
            journal_backlog: Some(18_204),
            ..Second::default()
        },
    ];
    report.outcomes = vec![
        ErrorClass {
            code: 0,
            name: "ok".to_owned(),
            count: 36_500,
            statuses: BTreeMap::from([("202".to_owned(), 36_500)]),
        },
        ErrorClass { code: 1050, name: "time-out".to_owned(), count: 4, statuses: BTreeMap::new() },
        ErrorClass {
            code: 1503,
            name: "http 5xx".to_owned(),
            count: 75,
            statuses: BTreeMap::from([("503".to_owned(), 75)]),
        },
    ];
    report.steps = vec![Step {
        name: "transaction".to_owned(),
        requests: 36_579,
        failed: 79,
        total_ms_med: Some(12.1),
        total_ms_p95: Some(73.4),
        total_ms_p99: Some(120.5),
        total_ms_max: Some(388.0),
        duration_ms_p95: Some(71.2),
        checks: vec![StepCheck { name: "status is 202".to_owned(), passes: 36_500, fails: 79 }],
    }];
    report.server.before.insert("api-0".to_owned(), json!({ "requests": 0 }));
    report.server.after.insert("api-0".to_owned(), json!({ "requests": 36_579 }));
    report.cap =
        Cap { kind: CapKind::Simulated, limit_per_s: Some(100), probed_per_s: Some(99.8), device: None };
    report.findings = vec![
        Finding {
            id: "accept-queue".to_owned(),
            message: "accept queue: tcp.listen_overflows rose by 12, from 17.0 s on".to_owned(),
            advice: "raise the backlog".to_owned(),
            evidence: Some(Evidence {
                severity: CounterSeverity::Error,
                counter: "tcp.listen_overflows".to_owned(),
                before: 3.0,
                after: 15.0,
                limit: None,
                at_s: 17.0,
                before_knee: Some(true),
                tune: vec!["net.core.somaxconn".to_owned()],
                deploy: vec!["deploy.limits.backlog".to_owned()],
            }),
        },
        Finding {
            id: "process-restarted".to_owned(),
            message: "worker started anew".to_owned(),
            advice: "its log says why it ended".to_owned(),
            evidence: None,
        },
    ];
    report.counters = Some(counters());
    report
}
