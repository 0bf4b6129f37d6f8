//! `.hgrm`: a percentile distribution as text, the form that HdrHistogram's plotter reads
//! (<https://hdrhistogram.github.io/HdrHistogram/plotFiles.html>).

use std::fmt::Write as _;

use hdrhistogram::Histogram;

/// As many rows for each halving of the distance to 100 % as HdrHistogram's own tools write.
const TICKS_PER_HALF_DISTANCE: f64 = 5.0;
const MICROS_PER_MILLI: f64 = 1000.0;

/// The text of a histogram of µs, its values in ms. Rows and footer are those of Java's
/// `AbstractHistogram.outputPercentileDistribution`.
pub(crate) fn hgrm(histogram: &Histogram<u64>) -> String {
    let mut text = "       Value     Percentile TotalCount 1/(1-Percentile)\n\n".to_owned();
    for (value, percent, total) in rows(histogram) {
        let (value, percentile, inverse) = (ms(value), percent / 100.0, 100.0 / (100.0 - percent));
        let _ = writeln!(text, "{value:12.3} {percentile:.12} {total:10} {inverse:14.2}");
    }
    let (max, count) = (ms(histogram.max()), histogram.len());
    if count > 0 {
        let _ = writeln!(text, "{max:12.3} {:.12} {count:10}", 1.0);
    }
    let (mean, deviation) = (histogram.mean() / MICROS_PER_MILLI, histogram.stdev() / MICROS_PER_MILLI);
    let _ = writeln!(text, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
    let _ = writeln!(text, "#[Max     = {max:12.3}, Total count    = {count:12}]");
    let buckets = usize::from(histogram.buckets());
    // Each bucket but the first has the upper half of its sub-buckets alone.
    let sub_buckets = 2 * histogram.distinct_values() / (buckets + 1);
    let _ = writeln!(text, "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]");
    text
}

/// Value in µs, percent and count up to there, for all rows but the last, which is at 100 %. The steps are those of
/// Java's `PercentileIterator`. The crate's own iterator adds up fractions instead of percents, so that of ten
/// samples the tenth, not the ninth, came out at 90 %; and it may come to 100 % twice.
fn rows(histogram: &Histogram<u64>) -> Vec<(u64, f64, u64)> {
    let (mut rows, mut percent, mut total) = (Vec::new(), 0.0, 0);
    for bucket in histogram.iter_recorded() {
        total += bucket.count_at_value();
        let is_last = total >= histogram.len();
        #[expect(clippy::cast_precision_loss, reason = "exact below 2^53 samples")]
        let reached = 100.0 * total as f64 / histogram.len() as f64;
        while reached >= percent && percent < 100.0 {
            rows.push((bucket.value_iterated_to(), percent, total));
            let halvings = (100.0_f64 / (100.0 - percent)).log2().floor();
            percent += 100.0 / (TICKS_PER_HALF_DISTANCE * (halvings + 1.0).exp2());
            if is_last {
                break;
            }
        }
    }
    rows
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53 µs, which is 285 years")]
fn ms(micros: u64) -> f64 {
    micros as f64 / MICROS_PER_MILLI
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixture::histogram;
    use super::*;

    #[test]
    fn the_text_is_as_java_writes_it() {
        let text = hgrm(&histogram(&[(1_000, 1), (2_000, 8), (50_000, 1)]));
        let expected = "       Value     Percentile TotalCount 1/(1-Percentile)

       1.000 0.000000000000          1           1.00
       1.000 0.100000000000          1           1.11
       2.000 0.200000000000          9           1.25
       2.000 0.300000000000          9           1.43
";
        assert!(text.starts_with(expected), "{text}");
        let end = "
       2.000 0.900000000000          9          10.00
      50.015 0.912500000000         10          11.43
      50.015 1.000000000000         10
#[Mean    =        6.700, StdDeviation   =       14.436]
#[Max     =       50.015, Total count    =           10]
#[Buckets =           16, SubBuckets     =         2048]
";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn without_samples_there_are_no_rows() {
        let text = hgrm(&histogram(&[]));
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.contains("Total count    =            0]"), "{text}");
    }

    proptest! {
        #[test]
        fn rows_ascend_to_one_last_row(samples in prop::collection::vec((0u64..60_000_000, 1u64..100), 1..40)) {
            let histogram = histogram(&samples);
            let text = hgrm(&histogram);
            let rows: Vec<Vec<f64>> = text
                .lines()
                .skip(2)
                .filter(|line| !line.starts_with('#'))
                .map(|line| line.split_whitespace().map(|figure| figure.parse().unwrap()).collect())
                .collect();
            let last = rows.len() - 1;
            for (place, row) in rows.iter().enumerate() {
                prop_assert_eq!(row[1] == 1.0, place == last);
                prop_assert_eq!(row.len(), if place == last { 3 } else { 4 });
                if place > 0 {
                    prop_assert!((0..3).all(|column| rows[place - 1][column] <= row[column]), "{}", text);
                    prop_assert!(rows[place - 1][1] < row[1], "{}", text);
                }
            }
            prop_assert_eq!(rows[last][2], histogram.len() as f64);
        }
    }
}
