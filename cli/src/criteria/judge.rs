//! Facts and criteria in, a verdict out.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::grammar::{Criterion, Statistic};

/// What is known about a run. The values are as reported: times in ms, rates from 0 to 1 or per second.
#[derive(Debug, Default)]
pub(crate) struct Facts<'a> {
    /// By metric name; a metric that was not measured is absent.
    pub(crate) metrics: BTreeMap<&'a str, Observed<'a>>,
    /// What spoils the measurement; any of it makes the verdict invalid.
    pub(crate) validity: &'a [String],
    /// `None`: there was no audit.
    pub(crate) audit: Option<AuditFacts>,
    /// The run was stopped before its time.
    pub(crate) interrupted: bool,
    /// The criterion that ended the run before its time, with the figures.
    pub(crate) aborted: Option<String>,
}

/// What is known about one metric.
pub(crate) struct Observed<'a> {
    /// How many samples there are; without any, there is nothing to judge.
    pub(crate) samples: u64,
    /// Looks a statistic up; `None` where the metric does not have it.
    pub(crate) statistic: Box<dyn Fn(Statistic) -> Option<f64> + 'a>,
}

impl std::fmt::Debug for Observed<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Observed").field("samples", &self.samples).finish_non_exhaustive()
    }
}

/// What the audit found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AuditFacts {
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    /// Refused, and stored all the same.
    pub(crate) refused_stored: u64,
}

/// The outcome of one threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Judgement {
    Pass,
    Fail,
    /// There was nothing to evaluate: counts as a failure.
    Unevaluated,
}

/// One threshold, judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Evaluated {
    pub(crate) metric: String,
    pub(crate) expression: String,
    pub(crate) outcome: Judgement,
    /// The figure that was compared; `None` if there was none.
    pub(crate) observed: Option<f64>,
}

/// The outcome of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Pass,
    Fail,
    /// The measurement cannot be trusted, whatever it says.
    Invalid,
}

/// The outcome of a run, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    /// Worst first; empty when the run passed.
    pub(crate) reasons: Vec<String>,
    pub(crate) thresholds: Vec<Evaluated>,
    /// An acknowledged write is lost or duplicated, or a refused one is stored.
    pub(crate) audit_mismatch: bool,
    /// The run was stopped before its time; it cannot pass.
    pub(crate) interrupted: bool,
    /// A criterion ended the run before its time; it failed, whatever the figures came to be since.
    #[serde(default)]
    pub(crate) aborted: bool,
}

impl Verdict {
    /// Whether a threshold did not pass. What an interruption kept from being measured is not held against the
    /// service.
    pub(crate) fn criteria_failed(&self) -> bool {
        self.aborted
            || self.thresholds.iter().any(|threshold| match threshold.outcome {
                Judgement::Pass => false,
                Judgement::Fail => true,
                Judgement::Unevaluated => !self.interrupted,
            })
    }
}

/// Judges one threshold.
pub(crate) fn evaluate(criterion: &Criterion, facts: &Facts<'_>) -> Evaluated {
    let observed = facts
        .metrics
        .get(criterion.metric.name)
        .filter(|metric| metric.samples > 0)
        .and_then(|metric| (metric.statistic)(criterion.statistic))
        .filter(|value| value.is_finite());
    let outcome = match observed {
        None => Judgement::Unevaluated,
        Some(value) if criterion.operator.holds(value, criterion.bound) => Judgement::Pass,
        Some(_) => Judgement::Fail,
    };
    Evaluated {
        metric: criterion.metric.name.to_owned(),
        expression: criterion.expression.clone(),
        outcome,
        observed,
    }
}

/// Judges a run.
pub(crate) fn judge(criteria: &[Criterion], facts: &Facts<'_>) -> Verdict {
    let thresholds: Vec<_> = criteria.iter().map(|criterion| evaluate(criterion, facts)).collect();
    let mut reasons = Vec::new();
    let audit = facts.audit.unwrap_or_default();
    for (count, what) in [
        (audit.lost, "acknowledged and not stored (lost)"),
        (audit.duplicated, "stored more than once"),
        (audit.refused_stored, "refused and stored all the same"),
    ] {
        if count > 0 {
            reasons.push(format!("audit: {count} writes {what}"));
        }
    }
    let audit_mismatch = !reasons.is_empty();
    reasons.extend(facts.validity.iter().map(|problem| format!("invalid: {problem}")));
    reasons.extend(facts.aborted.clone());
    for threshold in &thresholds {
        let name = format!("{}: {}", threshold.metric, threshold.expression);
        match (threshold.outcome, threshold.observed) {
            (Judgement::Pass, _) => {}
            (Judgement::Fail, Some(observed)) => reasons.push(format!("{name} failed with {observed}")),
            _ => reasons.push(format!("{name} could not be evaluated: nothing was measured")),
        }
    }
    if facts.interrupted {
        reasons.push("interrupted: the results are partial".to_owned());
    }
    let outcome = match () {
        () if !facts.validity.is_empty() => Outcome::Invalid,
        () if !reasons.is_empty() => Outcome::Fail,
        () => Outcome::Pass,
    };
    let (interrupted, aborted) = (facts.interrupted, facts.aborted.is_some());
    Verdict { outcome, reasons, thresholds, audit_mismatch, interrupted, aborted }
}

#[cfg(test)]
mod tests {
    use super::super::grammar::{Spec, parse};
    use super::*;

    fn criteria(metric: &str, expression: &str) -> Vec<Criterion> {
        let spec = Spec {
            metric: metric.to_owned(),
            expression: expression.to_owned(),
            abort_on_fail: false,
            delay_abort_eval_ms: 0,
            location: String::new(),
        };
        parse(&[spec]).unwrap()
    }

    fn outcome(expression: &str, samples: u64, value: Option<f64>) -> Judgement {
        let statistic = move |_| value;
        let mut facts = Facts::default();
        facts.metrics.insert("http_req_duration", Observed { samples, statistic: Box::new(statistic) });
        evaluate(&criteria("http_req_duration", expression)[0], &facts).outcome
    }

    #[test]
    fn three_outcomes() {
        use Judgement::{Fail, Pass, Unevaluated};
        for (expression, samples, value, expected) in [
            ("p(95)<500", 10, Some(499.9), Pass),
            ("p(95)<500", 10, Some(500.0), Fail),
            ("p(95)<=500", 10, Some(500.0), Pass),
            ("p(95)>500", 10, Some(500.0), Fail),
            ("p(95)>=500", 10, Some(500.0), Pass),
            ("p(95)==500", 10, Some(500.0), Pass),
            ("p(95)===500", 10, Some(500.1), Fail),
            ("p(95)!=500", 10, Some(500.1), Pass),
            ("p(95)<500", 0, Some(0.0), Unevaluated),
            ("p(95)>=0", 0, Some(0.0), Unevaluated),
            ("p(95)<500", 10, Some(f64::NAN), Unevaluated),
            ("p(95)!=500", 10, Some(f64::NAN), Unevaluated),
            ("p(95)>500", 10, Some(f64::INFINITY), Unevaluated),
            ("p(95)<500", 10, None, Unevaluated),
        ] {
            assert_eq!(outcome(expression, samples, value), expected, "{expression} {samples} {value:?}");
        }
    }

    #[test]
    fn a_metric_that_was_not_measured_fails_the_run() {
        let verdict = judge(&criteria("lost_writes", "count==0"), &Facts::default());
        assert_eq!(verdict.outcome, Outcome::Fail);
        assert_eq!(verdict.thresholds[0].outcome, Judgement::Unevaluated);
        assert!(verdict.reasons[0].contains("could not be evaluated"), "{:?}", verdict.reasons);
        assert!(verdict.criteria_failed());
    }

    #[test]
    fn a_run_that_a_criterion_ended_has_failed_even_if_the_last_figures_pass() {
        let aborted = || Some("ended early: http_reqs: count>0 failed with 0".to_owned());
        let verdict = judge(&[], &Facts { aborted: aborted(), ..Facts::default() });
        assert_eq!((verdict.outcome, verdict.criteria_failed()), (Outcome::Fail, true));
        assert_eq!(verdict.reasons, [aborted().unwrap()]);
        let validity = &["spoiled".to_owned()][..];
        let verdict = judge(&[], &Facts { aborted: aborted(), validity, ..Facts::default() });
        assert_eq!(verdict.outcome, Outcome::Invalid);
    }

    #[test]
    fn the_whole_counts() {
        let spoiled = ["cpu 97 %".to_owned()];
        let lost = Some(AuditFacts { lost: 3, ..AuditFacts::default() });
        let refused = Some(AuditFacts { refused_stored: 1, ..AuditFacts::default() });
        for (validity, audit, interrupted, outcome, mismatch) in [
            (&[][..], None, false, Outcome::Pass, false),
            (&[], Some(AuditFacts::default()), false, Outcome::Pass, false),
            (&spoiled, None, false, Outcome::Invalid, false),
            (&[], lost, false, Outcome::Fail, true),
            (&[], refused, false, Outcome::Fail, true),
            (&spoiled, lost, true, Outcome::Invalid, true),
            (&[], None, true, Outcome::Fail, false),
        ] {
            let facts = Facts { validity, audit, interrupted, ..Facts::default() };
            let verdict = judge(&[], &facts);
            assert_eq!((verdict.outcome, verdict.audit_mismatch), (outcome, mismatch), "{facts:?}");
            assert_eq!(verdict.reasons.is_empty(), outcome == Outcome::Pass);
        }
    }
}
