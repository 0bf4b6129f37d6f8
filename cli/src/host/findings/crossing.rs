//! When a counter of a series was over its threshold.

use super::rule::{GIVEN_CAP, Test};
use crate::host::counters::{Column, Series};

/// A time over the threshold, from its beginning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Crossing {
    /// Of the samples between which it began, in ms since the series' first.
    pub(super) from_ms: u64,
    pub(super) at_ms: u64,
    /// The last sample of it.
    pub(super) until_ms: u64,
}

impl Crossing {
    /// Whether the two are at one time, or nearly: what fills last may be seen first.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let reach = |crossing: &Self| crossing.until_ms.saturating_add(NEARLY_MS);
        self.from_ms <= reach(other) && other.from_ms <= reach(self)
    }
}

/// (h) A queue is full within seconds of its cause.
const NEARLY_MS: u64 = 5000;

/// One counter over its threshold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Crossed {
    /// With its object in brackets.
    pub(super) counter: String,
    /// At first, and in the end; of a gauge its highest value.
    pub(super) before: f64,
    pub(super) after: f64,
    /// What it was held against.
    pub(super) limit: Option<f64>,
    /// In the order of time; at least one.
    pub(super) crossings: Vec<Crossing>,
}

/// A cap on a device's operations that is not the kernel's, such as a cloud disk's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DiskCap {
    /// `MAJOR:MINOR`.
    pub(crate) device: String,
    pub(crate) operations_per_s: f64,
}

/// Objects of one counter that are judged.
const MAX_OBJECTS: usize = 4;

/// A step between two samples that both know what is asked for.
struct Step {
    from_ms: u64,
    at_ms: u64,
    /// The counter at both ends, and its counterpart.
    values: (f64, f64),
    others: Option<(f64, f64)>,
}

impl Step {
    fn seconds(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a run stay below 2^53")]
        let milliseconds = self.at_ms.saturating_sub(self.from_ms) as f64;
        milliseconds / 1000.0
    }

    /// A counter that was set back, by a restart or by wrapping, did not grow.
    fn growth(&self) -> f64 {
        (self.values.1 - self.values.0).max(0.0)
    }

    fn is_over(&self, test: Test) -> bool {
        match test {
            Test::Rises => self.growth() > 0.0,
            Test::Ends => self.values.0 > 0.0 && self.values.1 <= 0.0,
            Test::Share { at, .. } => {
                self.others.is_some_and(|(_, limit)| limit > 0.0 && self.values.1 >= at * limit)
            }
            Test::Part { above, .. } => {
                self.others.is_some_and(|(from, to)| to > from && self.growth() > above * (to - from))
            }
            Test::Stall { above, .. } => self.growth() > above * self.seconds() * 1e6,
            Test::Cap { at, .. } => self.others.is_some_and(|(_, cap)| {
                cap > 0.0 && self.seconds() > 0.0 && self.growth() / self.seconds() >= at * cap
            }),
        }
    }
}

/// Every object of a counter that was over its threshold, a few at most.
pub(super) fn crossed(series: &Series, counter: &str, test: Test, cap: Option<&DiskCap>) -> Vec<Crossed> {
    let mut found: Vec<Crossed> = objects(series, counter)
        .filter_map(|(name, column)| {
            let object = name.strip_prefix(counter)?;
            let other = |of: &str| counterpart(series, of, object, cap);
            let (other, for_s) = match test {
                Test::Rises | Test::Ends => (None, 0.0),
                Test::Stall { for_s, .. } => (None, for_s),
                Test::Share { of, .. } => (Some(other(of)?), 0.0),
                Test::Part { of, for_s, .. } | Test::Cap { of, for_s, .. } => (Some(other(of)?), for_s),
            };
            let steps = steps(series, column, other.as_deref(), test);
            let crossings = crossings(&steps, test, for_s);
            let known = || column.values.iter().copied().flatten();
            let after = match test {
                Test::Share { .. } => known().fold(f64::NEG_INFINITY, f64::max),
                _ => known().last()?,
            };
            let limit = match test {
                Test::Share { .. } | Test::Cap { .. } => other?.into_iter().flatten().last(),
                _ => None,
            };
            let crossed =
                Crossed { counter: name.to_owned(), before: known().next()?, after, limit, crossings };
            (!crossed.crossings.is_empty()).then_some(crossed)
        })
        .collect();
    found.sort_by_key(|crossed| crossed.crossings.first().map_or(u64::MAX, |crossing| crossing.at_ms));
    found.truncate(MAX_OBJECTS);
    found
}

/// Columns of a counter: the one of its name, or those with an object in brackets behind it.
pub(super) fn objects<'a>(
    series: &'a Series,
    counter: &'a str,
) -> impl Iterator<Item = (&'a str, &'a Column)> + use<'a> {
    series.counters.iter().filter_map(move |(name, column)| {
        let rest = name.strip_prefix(counter)?;
        (rest.is_empty() || rest.starts_with('[')).then_some((name.as_str(), column))
    })
}

/// What a counter is held against: of the same object, of all, or a cap that was given.
fn counterpart(series: &Series, of: &str, object: &str, cap: Option<&DiskCap>) -> Option<Vec<Option<f64>>> {
    if of == GIVEN_CAP {
        let cap = cap.filter(|cap| format!("[{}]", cap.device) == object)?;
        return Some(vec![Some(cap.operations_per_s); series.at_ms.len()]);
    }
    let column = series.counters.get(&format!("{of}{object}")).or_else(|| series.counters.get(of))?;
    Some(column.values.clone())
}

/// Steps between samples that know both; of a gauge also the first sample, which is a state of its own.
fn steps(series: &Series, column: &Column, other: Option<&[Option<f64>]>, test: Test) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut last: Option<(u64, f64, Option<f64>)> = None;
    for (place, at_ms) in series.at_ms.iter().copied().enumerate() {
        let Some(value) = column.values.get(place).copied().flatten() else { continue };
        let counterpart = match other {
            Some(values) => match values.get(place).copied().flatten() {
                Some(value) => Some(value),
                None => continue,
            },
            None => None,
        };
        if last.is_none() && matches!(test, Test::Share { .. }) {
            last = Some((at_ms, value, counterpart));
        }
        if let Some((from_ms, from, other_from)) = last {
            steps.push(Step { from_ms, at_ms, values: (from, value), others: other_from.zip(counterpart) });
        }
        last = Some((at_ms, value, counterpart));
    }
    steps
}

/// The beginnings of the times over the threshold that lasted long enough.
fn crossings(steps: &[Step], test: Test, for_s: f64) -> Vec<Crossing> {
    let mut found = Vec::new();
    for run in steps.chunk_by(|one, other| one.is_over(test) == other.is_over(test)) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a run stay below 2^53")]
        let lasted_s = last.at_ms.saturating_sub(first.from_ms) as f64 / 1000.0;
        // Seconds are never exact to the millisecond.
        if first.is_over(test) && lasted_s >= for_s * 0.95 {
            found.push(Crossing { from_ms: first.from_ms, at_ms: first.at_ms, until_ms: last.at_ms });
        }
    }
    found
}
