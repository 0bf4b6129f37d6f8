//! What the host's counters say about where the service was full: pure, on samples and the latency of a run.
//!
//! A resource is a candidate for the cause when its counter crossed its threshold at most five seconds before the
//! knee of the p99, or in that second (a heuristic: what is full shows in latency within seconds). Candidates come
//! first; among equals errors before saturation before utilisation (the USE method), then the earlier one. What fills
//! because something else is full comes behind that.

mod crossing;
mod knee;
mod remedy;
mod rule;
mod step;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(crate) use self::crossing::DiskCap;
use self::crossing::{Crossed, Crossing, Window, crossed, objects};
pub(crate) use self::knee::{Knee, Latency};
use self::remedy::{remedy, settings};
use self::rule::{Fills, Presence, Rule, Test};
pub(crate) use self::rule::{Resource, Severity};
use self::table::rules;
use super::counters::Series;

/// How long before the knee a crossing may lie to be its cause.
const BEFORE_KNEE_S: i64 = 5;
/// Samples are a second apart. Further apart, or of what is only counted as a whole, nobody can say when it happened.
const WIDE_S: f64 = 2.5;

/// What there is to judge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence<'a> {
    pub(crate) series: &'a Series,
    /// The run's seconds; empty where there was no run.
    pub(crate) latency: &'a [Latency],
    /// Where second 0 of the latency lies in the series, in ms since its first sample.
    pub(crate) measured_from_ms: i64,
    /// A cap on a device that the kernel knows nothing of.
    pub(crate) disk_cap: Option<&'a DiskCap>,
}

/// A resource that was full, or nearly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Finding {
    pub(crate) resource: Resource,
    pub(crate) severity: Severity,
    /// Name of the counter, with its object in brackets.
    pub(crate) counter: String,
    /// At first, and in the end; of a gauge its highest value.
    pub(crate) before: f64,
    pub(crate) after: f64,
    /// What it was held against, where there is such a thing.
    pub(crate) limit: Option<f64>,
    /// When it crossed its threshold, in seconds since measuring began: before the knee, else for the first time.
    pub(crate) at_s: f64,
    /// Whether that was at most five seconds before the knee; `null`: there is no knee.
    pub(crate) before_knee: Option<bool>,
    pub(crate) message: String,
    /// What to do.
    pub(crate) advice: String,
    /// Settings of the host that lift it.
    pub(crate) tune: Vec<String>,
    /// Settings of the deployment that lift it.
    pub(crate) deploy: Vec<String>,
}

/// Counters that could not be read, so that nobody knows whether the resource was full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unknown {
    pub(crate) resource: Resource,
    pub(crate) counters: Vec<String>,
}

/// All that can be said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attribution {
    pub(crate) knee: Option<Knee>,
    /// The likeliest cause first.
    pub(crate) findings: Vec<Finding>,
    pub(crate) unknown: Vec<Unknown>,
    /// Values of counters that were too many to be kept: what was full may be among them.
    pub(crate) left_out: u64,
}

/// Judges the samples of a run.
pub(crate) fn attribute(evidence: Evidence<'_>) -> Attribution {
    let knee = knee::knee(evidence.latency);
    let window = knee.map(|knee| window(knee, evidence.measured_from_ms));
    let mut found: Vec<Found> = Vec::new();
    for rule in rules() {
        for crossed in crossed(evidence.series, rule, evidence.disk_cap, window) {
            // A counter with two thresholds is told of once, by the higher one, which the table has first.
            let is_told = found.iter().any(|other| other.finding.counter == crossed.counter);
            let times = crossed.crossings.clone();
            if !is_told && let Some(finding) = finding(rule, crossed, knee, evidence) {
                found.push(Found { rule, finding, times });
            }
        }
    }
    found.sort_by(|one, other| {
        let rank = |found: &Found| (!found.is_candidate(), found.finding.severity);
        rank(one).cmp(&rank(other)).then(one.finding.at_s.total_cmp(&other.finding.at_s))
    });
    let findings = causes_first(found).into_iter().map(|found| found.finding).collect();
    Attribution { knee, findings, unknown: unknown(evidence.series), left_out: evidence.series.left_out }
}

/// From so long before the knee to the end of its second, in which it is somewhere.
fn window(knee: Knee, measured_from_ms: i64) -> Window {
    let at_ms = |at_s: i64| at_s.saturating_mul(1000).saturating_add(measured_from_ms);
    Window {
        from_ms: at_ms(knee.at_s.saturating_sub(BEFORE_KNEE_S)),
        to_ms: at_ms(knee.at_s.saturating_add(1)),
    }
}

/// A finding with its rule, and each time over the threshold.
struct Found {
    rule: &'static Rule,
    finding: Finding,
    times: Vec<Crossing>,
}

impl Found {
    fn is_candidate(&self) -> bool {
        self.finding.before_knee == Some(true)
    }

    /// What this fills at one time with it is its consequence, unless only the other is a candidate for the cause of the
    /// knee.
    fn is_cause_of(&self, other: &Self) -> bool {
        let name = other.finding.counter.split('[').next().unwrap_or_default();
        let is_at_its_time = || match self.rule.fills {
            Fills::AllBut(_) => true,
            _ => self.times.iter().any(|time| other.times.iter().any(|other| time.meets(other))),
        };
        self.rule.fills.has(name) && (self.is_candidate() || !other.is_candidate()) && is_at_its_time()
    }
}

/// Brings the causes of each finding before it; otherwise the order stays.
fn causes_first(mut found: Vec<Found>) -> Vec<Found> {
    let mut ordered = Vec::with_capacity(found.len());
    while !found.is_empty() {
        let mut next = 0;
        // Bounded, were two ever the cause of each other.
        for _ in 0..found.len() {
            let cause = found.get(next).and_then(|one| found.iter().position(|other| other.is_cause_of(one)));
            let Some(cause) = cause else { break };
            next = cause;
        }
        ordered.push(found.remove(next));
    }
    ordered
}

impl Attribution {
    /// One sentence: the likeliest cause, or that there is none. What is unknown is said either way.
    pub(crate) fn summary(&self) -> String {
        let mut text = match (self.findings.first(), self.knee) {
            (None, _) => "No saturated resource found".to_owned(),
            (Some(first), Some(knee)) if first.before_knee == Some(true) => {
                format!("Likely cause of the knee at {} s: {}", knee.at_s, first.message)
            }
            (Some(first), Some(knee)) => {
                format!(
                    "Nothing was found full in the {BEFORE_KNEE_S} s before the knee at {} s; at another time: {}",
                    knee.at_s, first.message
                )
            }
            (Some(first), None) => first.message.clone(),
        };
        if !self.unknown.is_empty() {
            let named = self
                .unknown
                .iter()
                .map(|unknown| format!("{} ({})", unknown.resource.name(), unknown.counters.join(", ")));
            text = format!("{text}; unknown: {}", named.collect::<Vec<_>>().join(", "));
        }
        if self.left_out > 0 {
            text = format!(
                "{text}; not all was looked at: values of counters left out, being too many: {}",
                self.left_out
            );
        }
        text
    }
}

/// What a counter did: those since the machine's start are long numbers of which only the growth says something.
fn change(test: Test, crossed: &Crossed) -> String {
    let Crossed { before, after, limit, .. } = *crossed;
    let shown = |value: f64| (value * 100.0).round() / 100.0;
    let of = limit.map(|limit| format!(" of {}", shown(limit))).unwrap_or_default();
    match test {
        Test::Share { .. } => format!("reached {}{of}", shown(after)),
        Test::Ends => format!("went from {before} to {after}"),
        Test::Cap { .. } => format!("rose by {}, near the cap{of} a second", shown(after - before)),
        Test::Rises | Test::Part { .. } | Test::Stall { .. } => format!("rose by {}", shown(after - before)),
    }
}

fn finding(
    rule: &Rule,
    crossed: Crossed,
    knee: Option<Knee>,
    Evidence { series, measured_from_ms, .. }: Evidence<'_>,
) -> Option<Finding> {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a run stay below 2^53")]
    let seconds =
        |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX).saturating_sub(measured_from_ms) as f64 / 1000.0;
    // So that a moment before the beginning is not -0.0.
    let shown = |seconds: f64| (seconds * 10.0).round() / 10.0 + 0.0;
    let at_knee = crossed.crossings.iter().find(|crossing| crossing.is_before_knee);
    let crossing = at_knee.or(crossed.crossings.first())?;
    let (from_s, at_s) = (seconds(crossing.from_ms), seconds(crossing.at_ms));
    let message = format!(
        "{}: {}: {} {}, {}",
        rule.resource.name(),
        rule.meaning,
        crossed.counter,
        change(rule.test, &crossed),
        // Counted as a whole only.
        if at_s - from_s > WIDE_S {
            format!("between {:.1} s and {:.1} s", shown(from_s), shown(at_s))
        } else {
            format!("from {:.1} s on", shown(at_s))
        },
    );
    let (tune, deploy, advice) = remedy(rule, series, &crossed.counter);
    Some(Finding {
        resource: rule.resource,
        severity: rule.severity,
        before: crossed.before,
        after: crossed.after,
        limit: crossed.limit,
        at_s,
        before_knee: knee.map(|_| at_knee.is_some()),
        message,
        advice: advice.to_owned(),
        tune: settings(tune, series, &crossed.counter),
        deploy: settings(deploy, series, &crossed.counter),
        counter: crossed.counter,
    })
}

/// Counters of rules that no sample knows. A cap that is not there is none; anything else that is missing is unknown.
fn unknown(series: &Series) -> Vec<Unknown> {
    let is_known =
        |counter: &str| objects(series, counter).any(|(_, column)| column.values.iter().any(Option::is_some));
    let is_zero = |gauge: &str| {
        let mut values =
            objects(series, gauge).flat_map(|(_, column)| column.values.iter().flatten()).peekable();
        values.peek().is_some() && values.all(|value| *value == 0.0)
    };
    let mut missing: BTreeMap<Resource, Vec<String>> = BTreeMap::new();
    for rule in rules() {
        let counterpart = match rule.test {
            Test::Part { of, .. } | Test::Share { of, .. } => Some(of),
            _ => None,
        };
        let (counter, counterpart) = match rule.presence {
            Presence::Always => (Some(rule.counter), counterpart),
            Presence::Unless(gauge) if is_zero(gauge) => (None, None),
            Presence::Unless(_) => (Some(rule.counter), counterpart),
            Presence::With(other) => (Some(other), None),
            Presence::Optional => (objects(series, rule.counter).next().map(|_| rule.counter), None),
        };
        for counter in [counter, counterpart].into_iter().flatten() {
            let counters = missing.entry(rule.resource).or_default();
            if !is_known(counter) && !counters.iter().any(|known| known == counter) {
                counters.push(counter.to_owned());
            }
        }
    }
    let missing = missing.into_iter().filter(|(_, counters)| !counters.is_empty());
    missing.map(|(resource, counters)| Unknown { resource, counters }).collect()
}
