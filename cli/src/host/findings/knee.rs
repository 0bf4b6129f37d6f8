//! The knee of a run's latency: the second from which on it was out of proportion.

use serde::{Deserialize, Serialize};

/// One second of the run's latency, as the report has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Latency {
    /// Seconds since measuring began.
    pub(crate) at_s: i64,
    /// `None` when no request ended.
    pub(crate) p99_ms: Option<f64>,
}

/// Where latency bent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Knee {
    /// Seconds since measuring began.
    pub(crate) at_s: i64,
    /// Median p99 of the run's beginning.
    pub(crate) baseline_ms: f64,
    /// p99 of the first second beyond the bound; if no request ended in it, of the next one in which any did.
    pub(crate) p99_ms: f64,
}

/// Seconds that make the baseline: the first quarter, within these.
const BASELINE_S: (usize, usize) = (5, 30);
/// A p99 is out of proportion at so many times the baseline, and so much above it, which a jitter of little
/// figures does not reach.
const FACTOR: f64 = 2.0;
const MARGIN_MS: f64 = 10.0;
/// Seconds in a row that must be, so that one pause is no knee.
const LASTING: usize = 3;

/// The first of three seconds in a row whose p99 is above twice the baseline and 10 ms above it. The baseline is the
/// median p99 of the first quarter, of 5 to 30 seconds in which requests ended.
///
/// A second in which no request ended, though some did later, is one in which all were held up: it is beyond the bound.
/// In a run with so few requests that the baseline has such seconds itself they say nothing, and are passed over.
///
/// `None` when there is no such second, when the run is too short to tell (under 8 seconds), and when it was slow from
/// its beginning: then there was no bend.
pub(crate) fn knee(seconds: &[Latency]) -> Option<Knee> {
    let p99 = |second: &Latency| second.p99_ms.filter(|p99| p99.is_finite());
    let first = seconds.iter().position(|second| p99(second).is_some())?;
    let last = seconds.iter().rposition(|second| p99(second).is_some())?;
    let run = seconds.get(first..=last)?;
    let known = run.iter().filter(|second| p99(second).is_some()).count();
    let length = (known / 4).clamp(BASELINE_S.0, BASELINE_S.1);
    // The end of the second that completes the baseline.
    let places = run.iter().enumerate().filter(|(_, second)| p99(second).is_some()).map(|(place, _)| place);
    let (start, rest) = run.split_at_checked(places.take(length).last()? + 1)?;
    let mut sorted: Vec<f64> = start.iter().filter_map(p99).collect();
    let is_dense = sorted.len() == start.len();
    if sorted.len() < length {
        return None;
    }
    sorted.sort_by(f64::total_cmp);
    let baseline_ms = *sorted.get(sorted.len() / 2)?;
    let bound = (baseline_ms * FACTOR).max(baseline_ms + MARGIN_MS);
    let judged: Vec<(i64, Option<f64>)> = rest
        .iter()
        .map(|second| (second.at_s, p99(second)))
        .filter(|(_, p99)| is_dense || p99.is_some())
        .collect();
    let is_beyond = |(_, p99): &(i64, Option<f64>)| p99.is_none_or(|p99| p99 > bound);
    let place = judged.windows(LASTING).position(|window| window.iter().all(is_beyond))?;
    let beyond = judged.get(place..)?;
    let at_s = beyond.first()?.0;
    Some(Knee { at_s, baseline_ms, p99_ms: beyond.iter().find_map(|(_, p99)| *p99)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(parts: &[(usize, f64)]) -> Vec<Latency> {
        let values = parts.iter().flat_map(|(seconds, p99)| std::iter::repeat_n(*p99, *seconds));
        let latency =
            |(at, p99): (usize, f64)| Latency { at_s: at as i64, p99_ms: p99.is_finite().then_some(p99) };
        values.enumerate().map(latency).collect()
    }

    #[test]
    fn a_lasting_rise_is_a_knee() {
        const NONE: f64 = f64::NAN;
        for (parts, expected) in [
            (&[(20, 10.0), (10, 50.0)][..], Some(20)),
            (&[(20, 10.0), (2, 50.0), (10, 11.0)], None),
            (&[(20, 10.0), (2, 50.0), (1, 11.0), (5, 60.0)], Some(23)),
            // Twice as much, but of little.
            (&[(20, 1.0), (10, 5.0)], None),
            (&[(20, 1.0), (10, 11.5)], Some(20)),
            // More by far than 10 ms, but not twice as much.
            (&[(20, 100.0), (10, 150.0)], None),
            // Slow from its beginning.
            (&[(30, 500.0)], None),
            (&[(4, 10.0), (3, 50.0)], None),
            (&[(5, 10.0), (3, 50.0)], Some(5)),
            // All were held up: nothing ended.
            (&[(20, 10.0), (3, NONE), (1, 50.0), (2, NONE), (2, 50.0)], Some(20)),
            (&[(20, 10.0), (2, NONE), (1, 3000.0), (9, 10.0)], Some(20)),
            (&[(20, 10.0), (2, NONE), (10, 10.0)], None),
            // The run has ended, or has not begun.
            (&[(20, 10.0), (9, NONE)], None),
            (&[(3, NONE), (20, 10.0), (10, 50.0)], Some(23)),
            // Few requests: seconds without one are nothing special, neither as a beginning nor as an end.
            (&[(2, 10.0), (1, NONE), (18, 10.0), (5, NONE), (9, 10.0)], None),
            (&[(2, 10.0), (1, NONE), (18, 10.0), (3, NONE), (1, 50.0), (2, NONE), (2, 50.0)], Some(24)),
            (&[], None),
        ] {
            assert_eq!(knee(&run(parts)).map(|knee| knee.at_s), expected, "{parts:?}");
        }
    }

    proptest! {
        #[test]
        fn any_series_is_judged(values in proptest::collection::vec(any::<f64>(), 0..80)) {
            let seconds: Vec<Latency> =
                values.iter().enumerate().map(|(at, p99)| Latency { at_s: at as i64, p99_ms: Some(*p99) }).collect();
            if let Some(found) = knee(&seconds) {
                prop_assert!(found.p99_ms > found.baseline_ms);
                prop_assert!(found.at_s >= BASELINE_S.0 as i64);
            }
        }
    }
}
