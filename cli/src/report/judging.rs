//! From a report to its verdict. The one path for a fresh report and for one from its file.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::checks::{checks, failures};
use super::model::{Metric, Report, ThresholdResult};
use crate::criteria::{
    self, AuditFacts, Criterion, Facts, Judgement, Kind, Observed, Statistic, Verdict, definition,
};

/// Judges a report and writes the verdict, the checks of the generator and each threshold's result into it.
pub(crate) fn judge(report: &mut Report, criteria: &[Criterion]) -> Verdict {
    report.generator.checks = checks(report, criteria);
    let verdict = rejudge(report, criteria);
    for metric in report.metrics.values_mut() {
        metric.thresholds.clear();
    }
    for threshold in &verdict.thresholds {
        if let Some(metric) = report.metrics.get_mut(&threshold.metric) {
            let ok = threshold.outcome == Judgement::Pass;
            metric.thresholds.insert(threshold.expression.clone(), ThresholdResult { ok });
        }
    }
    report.verdict = Some(verdict.clone());
    verdict
}

/// Judges a report as it stands. Same report, same criteria: same verdict.
pub(crate) fn rejudge(report: &Report, criteria: &[Criterion]) -> Verdict {
    let audit = report.audit.as_ref();
    let failed = failures(&checks(report, criteria)).collect::<Vec<_>>();
    let validity: Vec<_> = failed.into_iter().chain(report.validity.iter().cloned()).collect();
    let facts = Facts {
        metrics: metric_facts(&report.metrics, audit.map_or(0, |audit| audit.acknowledged)),
        validity: &validity,
        audit: audit.map(|audit| AuditFacts {
            lost: audit.lost,
            duplicated: audit.duplicated,
            refused_stored: audit.refused_stored,
        }),
        interrupted: report.run.interrupted,
        aborted: report.run.aborted.as_ref().map(ToString::to_string),
    };
    criteria::judge(criteria, &facts)
}

/// What the metrics say, for judging. `audited_writes`: how many acknowledged writes were looked up; that none
/// of none was lost proves nothing.
pub(crate) fn metric_facts(
    metrics: &BTreeMap<String, Metric>,
    audited_writes: u64,
) -> BTreeMap<&str, Observed<'_>> {
    metrics
        .iter()
        .map(|(name, metric)| {
            let samples = match name.as_str() {
                "lost_writes" | "duplicated_writes" => audited_writes,
                name => samples(name, metric),
            };
            let statistic = Box::new(|statistic| lookup(metric, statistic));
            (name.as_str(), Observed { samples, statistic })
        })
        .collect()
}

/// What a histogram of µs says as a trend, for judging: the same figures as in a report.
pub(crate) fn trend_facts(histogram: &Histogram<u64>) -> Observed<'static> {
    let metric = Metric::trend(histogram);
    Observed { samples: histogram.len(), statistic: Box::new(move |statistic| lookup(&metric, statistic)) }
}

fn samples(name: &str, metric: &Metric) -> u64 {
    let value = |statistic: &str| metric.values.get(statistic).copied().unwrap_or(0.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates; only 0 matters"
    )]
    match metric.kind {
        Kind::Trend => metric.distribution.as_ref().map_or(0, super::Distribution::samples),
        Kind::Rate => (value("passes") + value("fails")) as u64,
        Kind::Counter if definition(name).is_some_and(|metric| metric.needs_samples) => value("count") as u64,
        // That it was reported is the evidence; zero is a value like any other.
        Kind::Counter | Kind::Gauge => 1,
    }
}

fn lookup(metric: &Metric, statistic: Statistic) -> Option<f64> {
    let percentile = |percent| metric.distribution.as_ref().and_then(|all| all.percentile_ms(percent));
    match statistic {
        Statistic::Percentile(percent) => percentile(percent),
        Statistic::Med => percentile(50.0),
        other => metric.values.get(&other.to_string()).copied(),
    }
}
