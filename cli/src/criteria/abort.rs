//! Which criterion ends a run before its time: k6's `abortOnFail` and `delayAbortEval`.

use std::time::Duration;

use super::grammar::Criterion;
use super::judge::{Evaluated, Facts, Judgement, evaluate};

/// The first criterion that asks for the end and has failed by the facts so far. `measured` is how long measuring
/// has been going on, which `delayAbortEval` is compared with (k6 counts from the start of the run, which has no
/// warm-up there). What cannot be evaluated yet does not end a run: there is still time for it.
pub(crate) fn first_to_abort(
    criteria: &[Criterion],
    facts: &Facts<'_>,
    measured: Duration,
) -> Option<Evaluated> {
    criteria
        .iter()
        .filter(|criterion| criterion.abort_on_fail && measured >= criterion.delay_abort_eval)
        .map(|criterion| evaluate(criterion, facts))
        .find(|threshold| threshold.outcome == Judgement::Fail)
}

#[cfg(test)]
mod tests {
    use super::super::grammar::{Spec, parse};
    use super::super::judge::Observed;
    use super::*;

    fn spec(metric: &str, expression: &str, abort_on_fail: bool, delay_s: u64) -> Spec {
        Spec {
            metric: metric.to_owned(),
            expression: expression.to_owned(),
            abort_on_fail,
            delay_abort_eval_ms: delay_s * 1000,
            location: String::new(),
        }
    }

    #[test]
    fn only_what_asks_for_it_is_due_and_failed_ends_the_run() {
        let (failing, passing) = (("http_req_failed", "rate<0.1"), ("http_req_failed", "rate<0.9"));
        let unmeasured = ("http_req_duration", "p(95)<1");
        for (name, specs, measured, expected) in [
            ("failed", vec![(failing, true, 0)], 2, Some("rate<0.1")),
            ("not asked for", vec![(failing, false, 0)], 2, None),
            ("passes", vec![(passing, true, 0)], 2, None),
            ("nothing measured yet", vec![(unmeasured, true, 0)], 2, None),
            ("too early", vec![(failing, true, 10)], 8, None),
            ("due by now", vec![(failing, true, 10)], 10, Some("rate<0.1")),
            (
                "another one",
                vec![(failing, false, 0), (passing, true, 0), (failing, true, 4)],
                4,
                Some("rate<0.1"),
            ),
            ("none", vec![], 2, None),
        ] {
            let specs: Vec<_> = specs
                .into_iter()
                .map(|((metric, expression), abort, delay)| spec(metric, expression, abort, delay))
                .collect();
            let mut facts = Facts::default();
            facts
                .metrics
                .insert("http_req_failed", Observed { samples: 10, statistic: Box::new(|_| Some(0.5)) });
            let criteria = parse(&specs).unwrap();
            let found = first_to_abort(&criteria, &facts, Duration::from_secs(measured));
            assert_eq!(found.as_ref().map(|threshold| threshold.expression.as_str()), expected, "{name}");
            assert!(found.is_none_or(|threshold| threshold.observed == Some(0.5)), "{name}");
        }
    }
}
