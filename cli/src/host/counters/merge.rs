//! Counters from another source, such as a database's own, beside those of the host.

use super::series::{Column, MAX_COLUMNS, MAX_PROBLEMS, Series};

impl Series {
    /// Takes another series' columns over, each of its samples to the one of ours that is nearest in time. Where several
    /// fall on one, the later counter and the higher gauge stand; where none does, the value is unknown. A column of a
    /// name that is here already fills what is unknown in it. Both clocks begin at `started_unix_ms`.
    ///
    /// Without a sample of its own a series becomes the other one.
    pub(crate) fn merge(&mut self, other: Self) {
        for problem in other.problems {
            if !self.problems.contains(&problem) && self.problems.len() < MAX_PROBLEMS {
                self.problems.push(problem);
            }
        }
        self.cost_ms += other.cost_ms;
        self.left_out = self.left_out.saturating_add(other.left_out);
        if self.at_ms.is_empty() {
            (self.started_unix_ms, self.at_ms) = (other.started_unix_ms, other.at_ms);
            (self.duration_ms, self.counters) = (other.duration_ms, other.counters);
            return;
        }
        let places: Vec<usize> = other
            .at_ms
            .iter()
            .map(|at_ms| self.nearest(i128::from(other.started_unix_ms) + i128::from(*at_ms)))
            .collect();
        for (name, column) in other.counters {
            if self.counters.len() >= MAX_COLUMNS && !self.counters.contains_key(&name) {
                self.left_out = self.left_out.saturating_add(1);
                continue;
            }
            let kind = column.kind;
            let mut values = vec![None; self.at_ms.len()];
            for (place, value) in places.iter().zip(column.values) {
                if let Some(merged) = values.get_mut(*place) {
                    *merged = kind.merged(*merged, value);
                }
            }
            match self.counters.get_mut(&name) {
                None => drop(self.counters.insert(name, Column { kind, values })),
                Some(own) => {
                    for (own, value) in own.values.iter_mut().zip(values) {
                        *own = own.or(value);
                    }
                }
            }
        }
    }

    /// The place of the sample that is nearest to a moment, in ms since 1970; there must be one.
    fn nearest(&self, unix_ms: i128) -> usize {
        let at_ms = unix_ms - i128::from(self.started_unix_ms);
        let after = self.at_ms.partition_point(|own| i128::from(*own) < at_ms);
        let distance =
            |place: usize| self.at_ms.get(place).map_or(i128::MAX, |own| (i128::from(*own) - at_ms).abs());
        match after.checked_sub(1) {
            Some(before) if distance(before) <= distance(after) => before,
            _ => after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::series::Kind::{Counter, Gauge};
    use super::*;
    use proptest::prelude::*;

    fn series(started_unix_ms: u64, at_ms: &[u64], columns: &[(&str, super::super::Kind, &[f64])]) -> Series {
        let column = |kind, values: &[f64]| Column {
            kind,
            values: values.iter().map(|value| value.is_finite().then_some(*value)).collect(),
        };
        let counters =
            columns.iter().map(|(name, kind, values)| ((*name).to_owned(), column(*kind, values))).collect();
        Series { started_unix_ms, at_ms: at_ms.to_vec(), counters, ..Series::default() }
    }

    const NONE: f64 = f64::NAN;

    #[test]
    fn samples_go_to_the_nearest_in_time() {
        let mut host = series(10_000, &[0, 1000, 2000, 3000], &[("cpu", Counter, &[1.0, 2.0, 3.0, 4.0])]);
        // From 400 ms before to beyond the end; two of them nearest to 1000, none to 2000.
        let redis = series(
            9600,
            &[0, 1200, 1600, 3100, 9000],
            &[
                ("redis.keys", Counter, &[5.0, 6.0, 7.0, 8.0, 9.0]),
                ("redis.clients", Gauge, &[1.0, 9.0, 2.0, NONE, 3.0]),
            ],
        );
        host.merge(redis);
        let values = |name: &str| host.counters[name].values.clone();
        assert_eq!(values("cpu"), [Some(1.0), Some(2.0), Some(3.0), Some(4.0)]);
        assert_eq!(values("redis.keys"), [Some(5.0), Some(7.0), None, Some(9.0)]);
        assert_eq!(values("redis.clients"), [Some(1.0), Some(9.0), None, Some(3.0)]);
        assert_eq!(host.at_ms, [0, 1000, 2000, 3000]);
    }

    #[test]
    fn own_values_stay_and_an_empty_series_becomes_the_other() {
        let mut host = series(0, &[0, 1000], &[("a", Gauge, &[1.0, NONE])]);
        host.merge(series(0, &[0, 1000], &[("a", Gauge, &[7.0, 8.0])]));
        assert_eq!(host.counters["a"].values, [Some(1.0), Some(8.0)]);
        let mut empty = Series { cost_ms: 1.0, problems: vec!["p".to_owned()], ..Series::default() };
        let mut other = series(5, &[0, 9], &[("a", Gauge, &[7.0, 8.0])]);
        (other.cost_ms, other.problems) = (2.0, vec!["p".to_owned(), "q".to_owned()]);
        empty.merge(other.clone());
        assert_eq!((empty.started_unix_ms, &empty.at_ms), (5, &other.at_ms));
        assert_eq!(
            (empty.cost_ms, &empty.problems, &empty.counters),
            (3.0, &other.problems, &other.counters)
        );
    }

    #[test]
    fn columns_stay_bounded() {
        let names: Vec<String> = (0..MAX_COLUMNS).map(|at| format!("c{at}")).collect();
        let columns: Vec<_> = names.iter().map(|name| (name.as_str(), Gauge, &[1.0][..])).collect();
        let mut full = series(0, &[0], &columns);
        full.merge(series(0, &[0], &[("c0", Gauge, &[2.0]), ("new", Gauge, &[2.0])]));
        assert_eq!((full.counters.len(), full.left_out), (MAX_COLUMNS, 1));
    }

    proptest! {
        #[test]
        fn any_two_series_merge(
            own in proptest::collection::btree_set(0_u64..u64::MAX, 0..20),
            other in proptest::collection::btree_set(0_u64..u64::MAX, 0..20),
            starts in any::<(u64, u64)>(),
        ) {
            let of = |name, start, at: std::collections::BTreeSet<u64>| {
                let (at, values): (Vec<u64>, Vec<f64>) = at.into_iter().map(|at| (at, 1.0)).unzip();
                series(start, &at, &[(name, Counter, &values)])
            };
            let has_other = !other.is_empty();
            let mut merged = of("a", starts.0, own);
            merged.merge(of("b", starts.1, other));
            prop_assert!(merged.counters.values().all(|column| column.values.len() == merged.at_ms.len()));
            // Nothing that was known is lost altogether.
            prop_assert_eq!(merged.counters["b"].values.iter().any(Option::is_some), has_other);
        }
    }
}
