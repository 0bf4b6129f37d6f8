//! A trend's distribution, kept whole: any percentile can be asked for later, and gives the same figure from
//! the file as during the run.

use hdrhistogram::Histogram;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The non-empty buckets of an HDR histogram: `[highest value of the bucket in µs, samples]`, values ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
#[schemars(with = "Vec<(u64, u64)>", inline)]
pub(crate) struct Distribution {
    buckets: Vec<(u64, u64)>,
    samples: u64,
}

impl Distribution {
    /// The buckets of a histogram of microseconds.
    pub(crate) fn from_histogram(histogram: &Histogram<u64>) -> Self {
        let buckets: Vec<_> = histogram
            .iter_recorded()
            .map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value()))
            .collect();
        // The last bucket ends at the largest sample as the histogram gives it.
        Self { samples: histogram.len(), buckets }
    }

    /// The histogram again, as the load generator's: three digits from 1 µs to 60 s.
    pub(super) fn histogram(&self) -> Histogram<u64> {
        let mut histogram = empty_histogram();
        for &(value, count) in &self.buckets {
            histogram.saturating_record_n(value, count);
        }
        histogram
    }

    pub(crate) fn samples(&self) -> u64 {
        self.samples
    }

    /// The smallest bucket value, in µs, that at least `percent` of the samples do not exceed (nearest rank, as
    /// HDR histograms define it; k6 interpolates between samples instead). `None` without samples.
    pub(crate) fn percentile_us(&self, percent: f64) -> Option<u64> {
        // Multiplied before divided, so that 7 % of 100 samples is the seventh: 0.07 x 100 is a hair above 7.
        #[expect(clippy::cast_precision_loss, reason = "exact below 2^53 samples")]
        let rank = (percent * self.samples as f64 / 100.0).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped; `as` saturates"
        )]
        let rank = (rank as u64).clamp(1, self.samples.max(1));
        let mut seen = 0;
        self.buckets
            .iter()
            .find(|(_, count)| {
                seen += count;
                seen >= rank
            })
            .map(|(value, _)| *value)
    }

    /// The same in ms, as reported.
    pub(crate) fn percentile_ms(&self, percent: f64) -> Option<f64> {
        self.percentile_us(percent).map(ms)
    }
}

/// A histogram of µs with the bounds of the load generator's.
pub(crate) fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds that the crate allows")
}

/// Microseconds as the milliseconds of a report.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53 µs, which is 285 years")]
pub(super) fn ms(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

impl From<Distribution> for Vec<(u64, u64)> {
    fn from(distribution: Distribution) -> Self {
        distribution.buckets
    }
}

impl TryFrom<Vec<(u64, u64)>> for Distribution {
    type Error = &'static str;

    fn try_from(buckets: Vec<(u64, u64)>) -> Result<Self, Self::Error> {
        let ascending = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !ascending || buckets.iter().any(|(_, count)| *count == 0) {
            return Err("expected a distribution of ascending values with samples each");
        }
        let samples = buckets.iter().try_fold(0_u64, |sum, (_, count)| sum.checked_add(*count));
        Ok(Self { samples: samples.ok_or("more samples than can be counted")?, buckets })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let hundred: Vec<_> = (1..=100).map(|value| (value, 1)).collect();
        let distribution = Distribution::try_from(hundred).unwrap();
        for (percent, value) in [
            (0.0, 1),
            (1.0, 1),
            (7.0, 7),
            (50.0, 50),
            (95.0, 95),
            (97.5, 98),
            (99.0, 99),
            (99.9, 100),
            (100.0, 100),
        ] {
            assert_eq!(distribution.percentile_us(percent), Some(value), "p({percent})");
        }
        assert_eq!(Distribution::default().percentile_us(95.0), None);
    }

    #[test]
    fn a_distribution_that_cannot_be_is_refused() {
        for buckets in [vec![(2, 1), (1, 1)], vec![(1, 1), (1, 1)], vec![(1, 0)], vec![(1, u64::MAX), (2, 1)]]
        {
            assert!(Distribution::try_from(buckets).is_err());
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_histogram(values in prop::collection::vec(1_u64..60_000_000, 1..300)) {
            let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).unwrap();
            for value in &values {
                histogram.record(*value).unwrap();
            }
            let distribution = Distribution::from_histogram(&histogram);
            prop_assert_eq!(distribution.samples(), values.len() as u64);
            for percent in [25.0, 50.0, 75.0, 95.0, 99.0, 100.0] {
                prop_assert_eq!(
                    distribution.percentile_us(percent),
                    Some(histogram.value_at_quantile(percent / 100.0)),
                    "p({})", percent
                );
            }
            let json = serde_json::to_string(&distribution).unwrap();
            prop_assert_eq!(serde_json::from_str::<Distribution>(&json).unwrap(), distribution);
        }
    }
}
