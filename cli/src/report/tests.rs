//! The report as a whole: its schema, and that a verdict does not depend on the way through the file.

use std::fs;
use std::path::Path;

use super::judging::rejudge;
use super::model::schema;
use super::*;
use crate::criteria::{Judgement, Outcome, parse};

fn json(report: &Report) -> serde_json::Value {
    serde_json::to_value(report).unwrap()
}

/// `UPDATE_SCHEMAS=1 cargo test` writes the file anew.
#[test]
fn the_schema_file_is_the_derived_schema() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reports/report.schema.json");
    let derived = format!("{:#}\n", schema());
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        fs::write(&path, &derived).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), derived, "run with UPDATE_SCHEMAS=1");
}

#[test]
fn reports_fit_the_schema() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let mut judged = fixture::report();
    let criteria = parse(&judged.criteria).unwrap();
    judge(&mut judged, &criteria);
    for report in [fixture::empty(), fixture::report(), judged] {
        let value = json(&report);
        let errors: Vec<_> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(serde_json::from_value::<Report>(value).unwrap(), report);
    }
    let mut wrong = json(&fixture::report());
    wrong["verdict"] = "pass".into();
    assert!(!validator.is_valid(&wrong));
}

#[test]
fn metrics_have_the_form_of_k6() {
    let mut report = fixture::report();
    let criteria = parse(&report.criteria).unwrap();
    judge(&mut report, &criteria);
    let value = json(&report);
    let trend = &value["metrics"]["http_req_total_duration"];
    assert_eq!((&trend["type"], &trend["contains"]), (&"trend".into(), &"time".into()));
    assert_eq!(trend["values"].as_object().unwrap().len(), 8);
    assert_eq!(trend["thresholds"]["p(95)<500"]["ok"], true);
    assert_eq!(trend["thresholds"]["p(97.5) < 500"]["ok"], true);
    assert_eq!(value["metrics"]["http_req_failed"]["values"]["passes"], 79.0);
}

#[test]
fn fresh_and_from_its_file_the_verdict_is_the_same() {
    let mut expressions = fixture::report().criteria;
    for (metric, expression) in [
        ("http_req_total_duration", "p(97.5)<73"),
        ("http_req_total_duration", "p(99.83)<100"),
        ("http_req_total_duration", "avg<21.3"),
        ("http_req_total_duration", "p(100)<1"),
        ("http_req_tls_handshaking", "p(95)<1"),
        ("http_req_connecting", "p(95)<1"),
        ("db_ops", "rate<82.666"),
        ("http_reqs", "rate>=1219.3"),
    ] {
        expressions.push(fixture::spec(metric, expression));
    }
    let criteria = parse(&expressions).unwrap();
    let mut report = fixture::report();
    report.criteria = expressions;
    let fresh = judge(&mut report, &criteria);

    let out = tempfile::tempdir().unwrap();
    let folder = prepare(out.path(), &report.run.id).unwrap();
    let path = folder.write_report(&report, &text(&report, false)).unwrap();
    let again = read(&path).unwrap();
    assert_eq!(again, report);
    assert_eq!(rejudge(&again, &parse(&again.criteria).unwrap()), fresh);
    assert_eq!(again.verdict.as_ref(), Some(&fresh));

    let outcomes: Vec<_> = fresh.thresholds.iter().map(|threshold| threshold.outcome).collect();
    for outcome in [Judgement::Pass, Judgement::Fail, Judgement::Unevaluated] {
        assert!(outcomes.contains(&outcome), "the test must see {outcome:?}");
    }
}

/// Each way in which a run can have measured nothing, or nothing but failures.
#[test]
fn nothing_never_passes() {
    let judged = |report: &Report, metric: &str, expression: &str| {
        rejudge(report, &parse(&[fixture::spec(metric, expression)]).unwrap())
    };
    let mut report = fixture::empty();
    report.set_trend("http_req_duration", &fixture::histogram(&[]));
    report.set_rate("http_req_failed", 0, 0);
    report.set_rate("checks", 0, 0);
    report.set_counter("http_reqs", 0);
    report.set_audit(Audit::default());
    for (metric, expression) in [
        ("http_req_duration", "p(95)<500"),
        ("http_req_duration", "avg>=0"),
        ("http_req_failed", "rate<0.01"),
        ("checks", "rate>=0"),
        ("http_reqs", "count>=0"),
        ("lost_writes", "count==0"),
        ("duplicated_writes", "count==0"),
        ("db_ops", "max<=100"),
    ] {
        let verdict = judged(&report, metric, expression);
        assert_eq!(verdict.thresholds[0].outcome, Judgement::Unevaluated, "{metric} {expression}");
        assert_eq!(verdict.outcome, Outcome::Fail);
    }

    // Every request failed.
    report.set_rate("http_req_failed", 10, 10);
    assert_eq!(judged(&report, "http_req_failed", "rate<0.01").outcome, Outcome::Fail);

    // No time passed: a rate is not a number then.
    report.load.achieved.measured_s = 0.0;
    report.set_counter("http_reqs", 5);
    assert_eq!(judged(&report, "http_reqs", "rate>=0").thresholds[0].outcome, Judgement::Unevaluated);
    assert_eq!(judged(&report, "http_reqs", "count>=5").outcome, Outcome::Pass);
    report.set_counter("dropped_iterations", 0);
    assert_eq!(judged(&report, "dropped_iterations", "count==0").outcome, Outcome::Pass);
}

/// As versions before wrote it.
#[test]
fn a_report_without_counters_is_read_and_judged_alike() {
    let mut report = fixture::report();
    (report.counters, report.findings[0].evidence) = (None, None);
    let mut value = json(&report);
    value.as_object_mut().unwrap().remove("counters");
    for finding in value["findings"].as_array_mut().unwrap() {
        finding.as_object_mut().unwrap().remove("evidence");
    }
    let read: Report = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(read, report);
    assert!(jsonschema::validator_for(&schema()).unwrap().is_valid(&value));
    let criteria = parse(&report.criteria).unwrap();
    assert_eq!(rejudge(&read, &criteria), rejudge(&fixture::report(), &criteria));
}

#[test]
fn what_is_not_a_number_is_absent_from_the_file() {
    let mut report = fixture::report();
    if let Some(metric) = report.metrics.get_mut("db_ops") {
        metric.values.insert("rate".to_owned(), f64::NAN);
    }
    let fresh = rejudge(&report, &parse(&[fixture::spec("db_ops", "rate<1")]).unwrap());
    let text = serde_json::to_string(&report).unwrap();
    let again: Report = serde_json::from_str(&text).unwrap();
    assert!(!again.metrics["db_ops"].values.contains_key("rate"));
    assert_eq!(rejudge(&again, &parse(&[fixture::spec("db_ops", "rate<1")]).unwrap()), fresh);
    assert_eq!(fresh.thresholds[0].outcome, Judgement::Unevaluated);
}
