//! Thresholds while the load runs: where the generator's running figures meet the criteria that may end it.

use std::ops::ControlFlow;

use crate::criteria::{Criterion, Evaluated, Facts, Kind, Observed, Statistic, definition, first_to_abort};
use crate::load::Running;
use crate::report::{Aborted, trend_facts};

/// Judges a run by the criteria that say `abortOnFail`.
pub(super) struct LiveJudge {
    criteria: Vec<Criterion>,
    trends: Vec<&'static str>,
    aborted: Option<Aborted>,
}

impl LiveJudge {
    /// `None` if no criterion may end the run: then nothing is watched, and nothing paid for it.
    pub(super) fn new(criteria: &[Criterion]) -> Option<Self> {
        let criteria: Vec<_> = criteria.iter().filter(|criterion| criterion.abort_on_fail).cloned().collect();
        if criteria.is_empty() {
            return None;
        }
        let metrics = criteria.iter().map(|criterion| criterion.metric);
        let mut trends: Vec<_> =
            metrics.filter(|metric| metric.kind == Kind::Trend).map(|metric| metric.name).collect();
        trends.sort_unstable();
        trends.dedup();
        Some(Self { criteria, trends, aborted: None })
    }

    /// The trends that it needs to know.
    pub(super) fn trends(&self) -> Vec<&'static str> {
        self.trends.clone()
    }

    pub(super) fn judge(&mut self, running: &Running) -> ControlFlow<()> {
        match first_to_abort(&self.criteria, &facts(running), running.measured) {
            None => ControlFlow::Continue(()),
            Some(Evaluated { metric, expression, observed, .. }) => {
                let at_s = running.measured.as_secs_f64();
                // What failed was compared, so there is a figure.
                let observed = observed.unwrap_or_default();
                self.aborted = Some(Aborted { metric, expression, observed, at_s });
                ControlFlow::Break(())
            }
        }
    }

    /// What ended the run, if anything did.
    pub(super) fn finish(self) -> Option<Aborted> {
        self.aborted
    }
}

/// The running figures, as the report will have them at the end. Those of a part of the machines have no sums: too
/// small a sum could fail where the true one passes.
fn facts(running: &Running) -> Facts<'static> {
    let rate = |hits: u64, total: u64| {
        number(total, move |statistic| {
            matches!(statistic, Statistic::Rate).then(|| hits as f64 / total as f64)
        })
    };
    let mut facts = Facts::default();
    facts.metrics.extend([
        ("checks", rate(running.checks[0], running.checks[1])),
        ("http_req_failed", rate(running.failed, running.requests)),
    ]);
    let trends = running.trends.iter().filter_map(|told| Some((definition(&told.name)?.name, &told.trend)));
    facts.metrics.extend(trends.map(|(name, trend)| (name, trend_facts(trend))));
    if !running.is_partial {
        facts.metrics.extend(sums(running));
    }
    facts
}

fn sums(running: &Running) -> [(&'static str, Observed<'static>); 7] {
    let seconds = running.measured.as_secs_f64();
    // Zero of a sum that needs samples is no evidence, as after the run.
    let sum = |count: u64, samples: u64| {
        number(samples, move |statistic| match statistic {
            Statistic::Count => Some(count as f64),
            Statistic::Rate => Some(count as f64 / seconds),
            _ => None,
        })
    };
    let gauge = |value: u32| {
        number(1, move |statistic| matches!(statistic, Statistic::Value).then(|| f64::from(value)))
    };
    [
        ("http_reqs", sum(running.requests, running.requests)),
        ("iterations", sum(running.iterations, running.iterations)),
        ("dropped_iterations", sum(running.dropped, 1)),
        ("data_sent", sum(running.bytes_sent, running.bytes_sent)),
        ("data_received", sum(running.bytes_received, running.bytes_received)),
        ("vus", gauge(running.users)),
        ("vus_max", gauge(running.users_requested)),
    ]
}

fn number(samples: u64, statistic: impl Fn(Statistic) -> Option<f64> + 'static) -> Observed<'static> {
    Observed { samples, statistic: Box::new(statistic) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hdrhistogram::Histogram;

    use super::*;
    use crate::criteria::{METRICS, Spec, parse};
    use crate::load::RunningTrend;

    fn spec(metric: &str, expression: &str, delay_abort_eval_ms: u64) -> Spec {
        Spec {
            metric: metric.to_owned(),
            expression: expression.to_owned(),
            abort_on_fail: true,
            delay_abort_eval_ms,
            location: String::new(),
        }
    }

    /// Four seconds: 100 requests of 1 to 100 ms, of which ten failed.
    fn running(trends: &[&'static str]) -> Running {
        let mut trend = Histogram::new_with_bounds(1, 60_000_000, 3).unwrap();
        (1..=100u64).for_each(|millis| trend.record(millis * 1000).unwrap());
        Running {
            measured: Duration::from_secs(4),
            users: 7,
            users_requested: 8,
            requests: 100,
            failed: 10,
            iterations: 100,
            checks: [90, 100],
            dropped: 0,
            bytes_sent: 4000,
            bytes_received: 0,
            trends: trends
                .iter()
                .map(|name| RunningTrend { name: (*name).into(), trend: trend.clone() })
                .collect(),
            is_partial: false,
        }
    }

    fn judged(metric: &str, expression: &str) -> Option<Aborted> {
        let mut judge = LiveJudge::new(&parse(&[spec(metric, expression, 0)]).unwrap()).unwrap();
        let running = running(&judge.trends());
        let broke = judge.judge(&running).is_break();
        let aborted = judge.finish();
        assert_eq!(broke, aborted.is_some());
        aborted
    }

    #[test]
    fn running_figures_mean_what_the_final_ones_mean() {
        for (metric, expression, observed) in [
            ("http_reqs", "count<100", Some(100.0)),
            ("http_reqs", "count<=100", None),
            ("iterations", "rate>25", Some(25.0)),
            ("http_req_failed", "rate<0.1", Some(0.1)),
            ("http_req_failed", "rate<=0.1", None),
            ("dropped_iterations", "count>0", Some(0.0)),
            ("data_sent", "rate>1000", Some(1000.0)),
            ("data_received", "count>0", None), // nothing yet: not evaluated
            ("vus", "value>=8", Some(7.0)),
            ("vus_max", "value<8", Some(8.0)),
            ("http_req_duration", "avg<1", Some(50.5)),
            ("iteration_duration", "p(100)<500", None),
        ] {
            let found = judged(metric, expression).map(|aborted| aborted.observed);
            let near = match (found, observed) {
                (Some(found), Some(observed)) => (found - observed).abs() <= observed * 0.001,
                (found, observed) => found == observed,
            };
            assert!(near, "{metric} {expression}: {found:?}");
        }
        let aborted = judged("loadgen_lag", "p(95)<90").unwrap();
        assert!((95.0..95.1).contains(&aborted.observed), "{aborted:?}");
        assert_eq!((aborted.metric.as_str(), aborted.expression.as_str()), ("loadgen_lag", "p(95)<90"));
        assert_eq!(aborted.at_s, 4.0);
    }

    #[test]
    fn every_metric_that_may_end_a_run_is_known_while_it_runs() {
        for metric in METRICS.iter().filter(|metric| metric.live) {
            let trends: &[_] = if metric.kind == Kind::Trend { &[metric.name] } else { &[] };
            assert!(facts(&running(trends)).metrics.contains_key(metric.name), "{}", metric.name);
        }
    }

    #[test]
    fn a_part_of_the_machines_tells_shares_and_trends_and_no_sums() {
        let running = Running { is_partial: true, ..running(&["http_req_duration"]) };
        let facts = facts(&running);
        let known: Vec<_> = facts.metrics.keys().copied().collect();
        assert_eq!(known, ["checks", "http_req_duration", "http_req_failed"]);
    }

    #[test]
    fn nothing_is_watched_without_a_criterion_that_asks_for_it() {
        let quiet = Spec { abort_on_fail: false, ..spec("http_reqs", "count>1", 0) };
        assert!(LiveJudge::new(&parse(&[quiet]).unwrap()).is_none());
        let late = LiveJudge::new(&parse(&[spec("http_reqs", "count<1", 4001)]).unwrap());
        assert!(late.unwrap().judge(&running(&[])).is_continue(), "its delay is not over");
    }
}
