//! What a counter did between two samples.

use super::rule::{Guard, Test};
use crate::host::counters::{Column, Series};

/// A step between two samples that both know what is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) from_ms: u64,
    pub(super) at_ms: u64,
    /// Places of its two samples.
    places: (usize, usize),
    /// The counter at both ends, and its counterpart.
    values: (f64, f64),
    pub(super) others: Option<(f64, f64)>,
}

impl Step {
    pub(super) fn seconds(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a run stay below 2^53")]
        let milliseconds = self.at_ms.saturating_sub(self.from_ms) as f64;
        milliseconds / 1000.0
    }

    /// A counter that was set back, by a restart or by wrapping, did not grow.
    pub(super) fn growth(&self) -> f64 {
        (self.values.1 - self.values.0).max(0.0)
    }

    pub(super) fn is_over(&self, test: Test) -> bool {
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
            // It is judged over a longer time.
            Test::Cap { .. } => false,
        }
    }

    /// Whether nothing that is known speaks against it.
    pub(super) fn is_allowed(&self, guards: &[Guard], series: &Series, object: &str) -> bool {
        let column = |counter: &str| {
            series.counters.get(&format!("{counter}{object}")).or_else(|| series.counters.get(counter))
        };
        let value = |counter: &str, place: usize| column(counter)?.values.get(place).copied().flatten();
        let growth = |counter: &str| {
            let (from, to) = self.places;
            Some((value(counter, to)? - value(counter, from)?).max(0.0))
        };
        let holds = |guard: &Guard| match *guard {
            Guard::Rate { counter, above } => Some(growth(counter)? > above * self.seconds()),
            Guard::Part { counter, of, above } => Some(growth(counter)? > above * growth(of)?),
            Guard::Stall { counter, above } => Some(growth(counter)? > above * self.seconds() * 1e6),
            Guard::AtLeast { gauge, value: least } => Some(value(gauge, self.places.1)? >= least),
        };
        guards.iter().all(|guard| holds(guard) != Some(false))
    }
}

/// Steps between samples that know both; of a gauge also the first sample, which is a state of its own.
pub(super) fn steps(
    series: &Series,
    column: &Column,
    other: Option<&[Option<f64>]>,
    test: Test,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut last: Option<(usize, u64, f64, Option<f64>)> = None;
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
            last = Some((place, at_ms, value, counterpart));
        }
        if let Some((from_place, from_ms, from, other_from)) = last {
            steps.push(Step {
                from_ms,
                at_ms,
                places: (from_place, place),
                values: (from, value),
                others: other_from.zip(counterpart),
            });
        }
        last = Some((place, at_ms, value, counterpart));
    }
    steps
}
