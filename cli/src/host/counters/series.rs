//! Counters over time, in a bounded number of samples.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::figures::{Figure, figures};
use super::snapshot::Snapshot;

/// Counters kept; beyond these new ones are left out, and counted.
pub(super) const MAX_COLUMNS: usize = 512;
/// Objects kept of one counter (listeners, destinations), so that those of one do not take all columns.
const MAX_OBJECTS: usize = 24;
/// Problems kept.
pub(super) const MAX_PROBLEMS: usize = 16;

/// How a number behaves over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Only grows; what matters is by how much.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Kind {
    /// Of two neighbours: the later counter, which holds the earlier one too, and the higher of gauges, so that no peak
    /// is lost.
    pub(super) fn merged(self, first: Option<f64>, last: Option<f64>) -> Option<f64> {
        match (self, first, last) {
            (Self::Gauge, Some(first), Some(last)) => Some(first.max(last)),
            (_, first, last) => last.or(first),
        }
    }
}

/// One counter, sample by sample; `None`: unknown then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Column {
    pub(crate) kind: Kind,
    pub(crate) values: Vec<Option<f64>>,
}

/// Samples of all counters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    /// Milliseconds since 1970 at the first sample.
    pub(crate) started_unix_ms: u64,
    /// When each sample was taken, since the first, by the monotonic clock.
    pub(crate) at_ms: Vec<u64>,
    /// By name; each as long as `at_ms`.
    pub(crate) counters: BTreeMap<String, Column>,
    /// Counters that were one too many.
    pub(crate) left_out: u64,
    /// Processor time that sampling took, and the time over which it did.
    pub(crate) cost_ms: f64,
    pub(crate) duration_ms: f64,
    /// What could not be read, why, and what to do.
    pub(crate) problems: Vec<String>,
}

/// A counter before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Delta {
    pub(crate) kind: Kind,
    pub(crate) before: Option<f64>,
    pub(crate) after: Option<f64>,
}

/// Each counter at the first and at the last sample that know it.
pub(crate) type Deltas = BTreeMap<String, Delta>;

impl Series {
    /// Adds a sample. When there are more than `max`, neighbours are merged in pairs.
    pub(super) fn push(&mut self, at_ms: u64, snapshot: &Snapshot, max: usize) {
        if self.at_ms.is_empty() {
            self.started_unix_ms = snapshot.at_unix_ms;
        }
        snapshot.problems.iter().cloned().for_each(|problem| self.problem(problem));
        self.add(at_ms, figures(snapshot));
        if self.at_ms.len() > max {
            self.thin();
        }
    }

    /// Adds a sample of other counters than the host's, taken `at` so long after the first was due.
    pub(crate) fn sample(&mut self, at: Duration, figures: Vec<Figure>, max: usize) {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if self.at_ms.is_empty() {
            self.started_unix_ms =
                milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        }
        self.add(milliseconds(at), figures);
        if self.at_ms.len() > max {
            self.thin();
        }
    }

    /// Keeps what could not be read: each once, and a few at most.
    pub(crate) fn problem(&mut self, problem: String) {
        if !self.problems.contains(&problem) && self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    fn add(&mut self, at_ms: u64, figures: Vec<Figure>) {
        let place = self.at_ms.len();
        self.at_ms.push(at_ms);
        for Figure { name, kind, value } in figures {
            if !self.counters.contains_key(&name) && !self.has_place_for(&name) {
                self.left_out += 1;
                continue;
            }
            let column = self.counters.entry(name).or_insert(Column { kind, values: Vec::new() });
            // A name has one value a sample: a second one would push the first out.
            if column.values.len() > place {
                continue;
            }
            column.values.resize(place, None);
            column.values.push(value);
        }
        for column in self.counters.values_mut() {
            column.values.resize(place + 1, None);
        }
    }

    fn has_place_for(&self, name: &str) -> bool {
        let is_of_this = |counter: &str, known: &str| {
            known.strip_prefix(counter).is_some_and(|rest| rest.starts_with('['))
        };
        let objects = name.split_once('[').map_or(0, |(counter, _)| {
            let known = self.counters.range(counter.to_owned()..).map(|(known, _)| known);
            known
                .take_while(|known| known.starts_with(counter))
                .filter(|known| is_of_this(counter, known))
                .count()
        });
        self.counters.len() < MAX_COLUMNS && objects < MAX_OBJECTS
    }

    /// Half as many samples.
    fn thin(&mut self) {
        self.at_ms = self.at_ms.chunks(2).filter_map(|pair| pair.last().copied()).collect();
        for column in self.counters.values_mut() {
            let kind = column.kind;
            let merged = column.values.chunks(2).map(|pair| {
                let (first, last) = (pair.first().copied().flatten(), pair.last().copied().flatten());
                kind.merged(first, last)
            });
            column.values = merged.collect();
        }
    }

    /// How far the counters came.
    pub(crate) fn deltas(&self) -> Deltas {
        let ends = |column: &Column| Delta {
            kind: column.kind,
            before: column.values.iter().copied().flatten().next(),
            after: column.values.iter().rev().copied().flatten().next(),
        };
        self.counters.iter().map(|(name, column)| (name.clone(), ends(column))).collect()
    }

    /// Share of one processor that sampling took, 0 to 1.
    pub(crate) fn cost_share(&self) -> f64 {
        if self.duration_ms > 0.0 { self.cost_ms / self.duration_ms } else { 0.0 }
    }

    /// A series from plain columns, for the tests of what reads one. A sample each second.
    #[cfg(test)]
    pub(crate) fn of(seconds: u64, columns: &[(&str, Kind, Vec<Option<f64>>)]) -> Self {
        let column = |kind, values: &Vec<Option<f64>>| Column { kind, values: values.clone() };
        Self {
            at_ms: (0..seconds).map(|second| second * 1000).collect(),
            counters: columns
                .iter()
                .map(|(name, kind, values)| ((*name).to_owned(), column(*kind, values)))
                .collect(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn figure(name: &str, kind: Kind, value: f64) -> Figure {
        Figure { name: name.to_owned(), kind, value: Some(value) }
    }

    #[test]
    fn a_counter_that_comes_late_or_goes_is_unknown_meanwhile() {
        let mut series = Series::default();
        series.add(0, vec![figure("a", Kind::Counter, 1.0)]);
        series.add(1000, vec![figure("b", Kind::Gauge, 2.0)]);
        series.add(2000, vec![figure("a", Kind::Counter, 5.0)]);
        assert_eq!(series.counters["a"].values, [Some(1.0), None, Some(5.0)]);
        assert_eq!(series.counters["b"].values, [None, Some(2.0), None]);
        let deltas = series.deltas();
        assert_eq!((deltas["a"].before, deltas["a"].after), (Some(1.0), Some(5.0)));
    }

    #[test]
    fn columns_are_bounded_and_the_rest_is_counted() {
        let mut series = Series::default();
        let many = (0..MAX_COLUMNS + 3).map(|at| figure(&format!("c{at}"), Kind::Gauge, 1.0)).collect();
        series.add(0, many);
        assert_eq!((series.counters.len(), series.left_out), (MAX_COLUMNS, 3));
    }

    #[test]
    fn many_objects_of_one_counter_leave_place_for_others() {
        let mut series = Series::default();
        let many = (0..MAX_OBJECTS + 3).map(|at| figure(&format!("c[{at}]"), Kind::Gauge, 1.0));
        series
            .add(0, many.chain([figure("c", Kind::Gauge, 1.0), figure("ca[1]", Kind::Gauge, 1.0)]).collect());
        assert_eq!((series.counters.len(), series.left_out), (MAX_OBJECTS + 2, 3));
    }

    #[test]
    fn a_name_that_comes_twice_keeps_what_came_before() {
        let mut series = Series::default();
        for at in 0..3_u32 {
            let first = figure("a", Kind::Gauge, f64::from(at));
            series.add(u64::from(at) * 1000, vec![first, figure("a", Kind::Gauge, 9.0)]);
        }
        assert_eq!(series.counters["a"].values, [Some(0.0), Some(1.0), Some(2.0)]);
    }

    #[test]
    fn a_series_reads_back_as_it_was_written() {
        let series = Series::of(2, &[("a", Kind::Gauge, vec![None, Some(1.5)])]);
        let text = serde_json::to_string(&series).unwrap();
        assert_eq!(serde_json::from_str::<Series>(&text).unwrap(), series);
    }

    proptest! {
        #[test]
        fn thinning_keeps_peaks_and_the_last_count(peak in 0_usize..200, samples in 1_usize..200, max in 2_usize..20) {
            let mut series = Series::default();
            for at in 0..samples {
                let value = if at == peak { 9.0 } else { 1.0 };
                let count = f64::from(u32::try_from(at).unwrap());
                series.add(at as u64, vec![figure("g", Kind::Gauge, value), figure("c", Kind::Counter, count)]);
                if series.at_ms.len() > max {
                    series.thin();
                }
            }
            prop_assert!(series.at_ms.len() <= max);
            prop_assert!(series.at_ms.is_sorted());
            prop_assert_eq!(*series.at_ms.last().unwrap(), samples as u64 - 1);
            prop_assert!(series.counters.values().all(|column| column.values.len() == series.at_ms.len()));
            let highest = series.counters["g"].values.iter().flatten().fold(0.0_f64, |a, b| a.max(*b));
            prop_assert!((highest > 8.0) == (peak < samples));
            let last = f64::from(u32::try_from(samples - 1).unwrap());
            prop_assert_eq!(series.counters["c"].values.last().unwrap(), &Some(last));
        }
    }
}
