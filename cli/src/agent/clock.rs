//! The clocks of two machines: how far apart they are, as round trips tell (the on-wire protocol of NTP, RFC 5905
//! section 8).

use std::time::{Duration, Instant, SystemTime};

use super::protocol::Reading;

/// This process's clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    origin: Instant,
}

impl Clocks {
    pub(super) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    pub(super) fn read(self) -> Reading {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Reading { monotonic_nanos: nanos(self.origin.elapsed()), wall_nanos: nanos(wall) }
    }

    /// The moment that the monotonic clock reads so; `None` if that is past.
    pub(super) fn moment(self, monotonic_nanos: i64) -> Option<Instant> {
        let since = Duration::from_nanos(u64::try_from(monotonic_nanos).ok()?);
        self.origin.checked_add(since).filter(|moment| *moment > Instant::now())
    }
}

/// One round trip: our clocks when the question left and when the answer came, and the other side's in between.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrip {
    pub(super) sent: Reading,
    pub(super) theirs: Reading,
    pub(super) received: Reading,
}

/// What to add to our clocks to get theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offset {
    pub(super) monotonic_nanos: i64,
    pub(super) wall_nanos: i64,
    /// The truth is at most this far away, either way: the answer may have been made at any time between.
    pub(super) uncertainty: Duration,
}

/// The offset by the quickest of these round trips, which leaves least to doubt. `None` of none.
pub(super) fn offset(trips: &[RoundTrip]) -> Option<Offset> {
    let took =
        |trip: &RoundTrip| trip.received.monotonic_nanos.saturating_sub(trip.sent.monotonic_nanos).max(0);
    let best = trips.iter().min_by_key(|trip| took(trip))?;
    let half = took(best) / 2;
    let apart = |theirs: i64, sent: i64| theirs.saturating_sub(sent.saturating_add(half));
    Some(Offset {
        monotonic_nanos: apart(best.theirs.monotonic_nanos, best.sent.monotonic_nanos),
        wall_nanos: apart(best.theirs.wall_nanos, best.sent.wall_nanos),
        uncertainty: Duration::from_nanos(u64::try_from(half).unwrap_or(0)),
    })
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trip(sent: i64, theirs: i64, received: i64, wall_apart: i64) -> RoundTrip {
        let reading = |nanos: i64| Reading { monotonic_nanos: nanos, wall_nanos: nanos + 1000 };
        let theirs = Reading { monotonic_nanos: theirs, wall_nanos: theirs + 1000 + wall_apart };
        RoundTrip { sent: reading(sent), theirs, received: reading(received) }
    }

    #[test]
    fn the_quickest_round_trip_counts() {
        let trips = [trip(0, 5_000, 9_000, 0), trip(10_000, 510_100, 10_200, 7), trip(20_000, 1, 29_000, 0)];
        let expected =
            Offset { monotonic_nanos: 500_000, wall_nanos: 500_007, uncertainty: Duration::from_nanos(100) };
        assert_eq!(offset(&trips), Some(expected));
        assert_eq!(offset(&[]), None);
    }

    #[test]
    fn clocks_that_cannot_be_do_not_overflow() {
        let extreme = |nanos| Reading { monotonic_nanos: nanos, wall_nanos: nanos };
        for (sent, theirs, received) in [(i64::MIN, i64::MAX, i64::MAX), (i64::MAX, i64::MIN, i64::MIN)] {
            let trip =
                RoundTrip { sent: extreme(sent), theirs: extreme(theirs), received: extreme(received) };
            assert!(offset(&[trip]).is_some());
        }
    }

    #[test]
    fn a_moment_that_has_passed_is_none() {
        let clocks = Clocks::start();
        let now = clocks.read().monotonic_nanos;
        assert!(clocks.moment(now + 3_600_000_000_000).is_some());
        assert_eq!((clocks.moment(now), clocks.moment(-1)), (None, None));
    }

    proptest! {
        #[test]
        fn the_truth_is_within_the_uncertainty(
            apart in -1_000_000_000i64..1_000_000_000,
            legs in prop::collection::vec((0i64..10_000_000, 0i64..10_000_000), 1..10),
        ) {
            let trips: Vec<_> = (0..)
                .step_by(50_000_000)
                .zip(&legs)
                .map(|(sent, (there, back))| trip(sent, sent + there + apart, sent + there + back, 0))
                .collect();
            let offset = offset(&trips).unwrap();
            let error = offset.monotonic_nanos.abs_diff(apart);
            // Halving rounds.
            prop_assert!(u128::from(error) <= offset.uncertainty.as_nanos() + 1);
        }
    }
}
