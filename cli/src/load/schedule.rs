//! A level over time: how many users, or how many arrivals a second, a plan wants at a moment. Straight lines
//! between the ends of its stages. Pure.

use super::clock::{Nanos, nanos};
use super::plan::Stage;

/// Nanoseconds in a second, for rates.
const SECOND: f64 = 1e9;

#[derive(Clone, Debug)]
pub(super) struct Schedule {
    lines: Vec<Line>,
}

/// From one level to the next.
#[derive(Clone, Copy, Debug)]
struct Line {
    start: Nanos,
    end: Nanos,
    from: f64,
    to: f64,
    /// Arrivals before its start, if the level is a rate.
    before: f64,
}

impl Line {
    fn slope(&self) -> f64 {
        (self.to - self.from) / self.length()
    }

    fn length(&self) -> f64 {
        (self.end - self.start) as f64
    }

    fn level(&self, at: Nanos) -> f64 {
        if self.from == self.to { self.from } else { self.from + self.slope() * (at - self.start) as f64 }
    }

    /// Arrivals within it: the area below it.
    fn arrivals(&self) -> f64 {
        (self.from + self.to) / 2.0 * self.length() / SECOND
    }
}

impl Schedule {
    /// The same level for ever.
    pub(super) fn constant(level: f64) -> Self {
        Self { lines: vec![Line { start: 0, end: Nanos::MAX, from: level, to: level, before: 0.0 }] }
    }

    /// From 0 to the target of each stage in turn.
    pub(super) fn of(stages: &[Stage]) -> Self {
        let (mut start, mut from, mut before) = (0, 0.0, 0.0);
        let mut lines = Vec::with_capacity(stages.len());
        for stage in stages {
            let end = nanos(stage.duration).saturating_add(start);
            let line = Line { start, end, from, to: f64::from(stage.target), before };
            before += line.arrivals();
            (start, from) = (end, line.to);
            lines.push(line);
        }
        Self { lines }
    }

    /// The first moment from `at` on at which the level is above `index`: when the user of that number is wanted.
    pub(super) fn next_above(&self, index: u32, at: Nanos) -> Option<Nanos> {
        let index = f64::from(index);
        self.lines.iter().find_map(|line| {
            let from = at.max(line.start);
            if from >= line.end {
                return None;
            }
            if line.level(from) > index {
                return Some(from);
            }
            // It does not fall below where it starts and rise again, so it crosses the index once or never.
            (line.to > index).then(|| {
                let crossing = (index - line.from) / line.slope();
                line.start.saturating_add(crossing.max(0.0) as Nanos).clamp(from, line.end)
            })
        })
    }

    /// When the arrival of this number (from 0) is due; `None` if there are not so many. The inverse of the area
    /// below the level.
    pub(super) fn arrival(&self, number: u64) -> Option<Nanos> {
        let number = number as f64;
        let line = self.lines.iter().rfind(|line| line.before <= number)?;
        let rest = number - line.before;
        // An arrival at the very end of the last line is not within it.
        if rest >= line.arrivals() {
            return None;
        }
        // from·x + slope·x²/2 = rest, in the form that does not cancel.
        let (from, slope) = (line.from / SECOND, line.slope() / SECOND);
        let root = from.mul_add(from, 2.0 * slope * rest).max(0.0).sqrt();
        let after = if from + root > 0.0 { 2.0 * rest / (from + root) } else { 0.0 };
        Some(line.start.saturating_add(after as Nanos))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::clock::SECOND;
    use super::*;

    fn stages(list: &[(u64, u32)]) -> Schedule {
        let stage = |&(seconds, target)| Stage { duration: Duration::from_secs(seconds), target };
        Schedule::of(&list.iter().map(stage).collect::<Vec<_>>())
    }

    #[test]
    fn users_come_and_go_with_the_level() {
        // Up to 100 in 10 s, 10 s there, down to 50 in 10 s, there for 10 s, up again.
        let schedule = stages(&[(10, 100), (10, 100), (10, 50), (10, 50), (10, 100)]);
        for (user, at, expected) in [
            (0, 0, Some(0.0)),
            (50, 0, Some(5.0)),
            (99, 0, Some(9.9)),
            (100, 0, None),
            (99, 12, Some(12.0)),
            // Above 75 until second 25.
            (75, 24, Some(24.0)),
            (75, 25, Some(45.0)),
            (49, 35, Some(35.0)),
            (50, 35, Some(40.0)),
            (0, 50, None),
        ] {
            let next = schedule.next_above(user, at * SECOND).map(|at| at as f64 / 1e9);
            assert_eq!(next.map(|at| (at * 1000.0).round() / 1000.0), expected, "user {user} at {at} s");
        }
        assert_eq!(Schedule::constant(3.0).next_above(2, 7), Some(7));
        assert_eq!(Schedule::constant(3.0).next_above(3, 7), None);
    }

    #[test]
    fn arrivals_follow_the_rate() {
        let constant = Schedule::constant(100.0);
        assert_eq!([0, 1, 250].map(|n| constant.arrival(n).unwrap()), [0, 10_000_000, 2_500_000_000]);
        // 0 to 100/s in 10 s are 500 arrivals; then 100/s for a second; then down to 0 in 2 s.
        let schedule = stages(&[(10, 100), (1, 100), (2, 0)]);
        for (number, expected) in [
            (0, Some(0.0)),
            (125, Some(5.0)),
            (500, Some(10.0)),
            (550, Some(10.5)),
            (675, Some(12.0)),
            (700, None),
        ] {
            let at = schedule.arrival(number).map(|at| (at as f64 / 1e7).round() / 100.0);
            assert_eq!(at, expected, "arrival {number}");
        }
        assert_eq!(stages(&[(10, 0)]).arrival(0), None, "a rate of 0");
    }

    proptest! {
        #[test]
        fn arrivals_never_go_back_and_are_as_many_as_the_area(
            list in prop::collection::vec((1u64..20, 0u32..200), 1..6),
        ) {
            let schedule = stages(&list);
            let mut area = 0.0;
            let mut from = 0;
            for &(seconds, target) in &list {
                area += f64::from(from + target) / 2.0 * seconds as f64;
                from = target;
            }
            let all: Vec<_> = (0..).map_while(|n| schedule.arrival(n)).collect();
            prop_assert!((all.len() as f64 - area).abs() <= 1.0, "{} of {}", all.len(), area);
            prop_assert!(all.windows(2).all(|pair| pair[0] <= pair[1]));
            let end: u64 = list.iter().map(|stage| stage.0).sum();
            prop_assert!(all.last().is_none_or(|&last| last <= end * SECOND));
        }
    }
}
