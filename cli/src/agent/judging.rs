//! Judges the load of all agents while it lasts, by the union of their running figures.
//!
//! Agents tell figures of every two seconds, each at its own moment, and one may fall silent for a while. So figures
//! belong to rounds, and a round is judged when all have told theirs, or some time after the first of it came. Then
//! the union is partial: the silent one's last figures are in it, but no sum is known.

use std::time::{Duration, Instant};

use crate::load::{JUDGING_INTERVAL, Running, Watch};

/// How long the first figures of a round wait for the others': more than the second between two questions, less than
/// the time to the next round.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What the agents have told, and whom it is told to.
pub(super) struct Judging<'a> {
    /// `None`: no criterion may end the run.
    watch: Option<Watch<'a>>,
    rounds: Rounds,
}

impl<'a> Judging<'a> {
    /// `duration`: of the measured part.
    pub(super) fn new(watch: Option<Watch<'a>>, duration: Duration, agents: usize) -> Self {
        Self { watch, rounds: Rounds::new(duration, agents) }
    }

    /// Takes an agent's figures; those that make no sense leave it as silent as it was.
    pub(super) fn hear(&mut self, agent: usize, running: Running, now: Instant) {
        let Some(watch) = &self.watch else { return };
        let is_asked = |name: &str| running.trends.iter().any(|told| told.name == name);
        let has_trends =
            running.trends.len() == watch.trends.len() && watch.trends.iter().all(|name| is_asked(name));
        if !has_trends || !self.rounds.put(agent, running, now) {
            tracing::warn!(agent, "running figures that make no sense are left out of the judgement");
        }
    }

    /// The agent has ended, and tells no more; what it has told stays.
    pub(super) fn end(&mut self, agent: usize) {
        self.rounds.told[agent].has_ended = true;
    }

    /// `true` if the run is to end.
    pub(super) fn ends(&mut self, now: Instant) -> bool {
        let Some(watch) = &mut self.watch else { return false };
        self.rounds.due(now).is_some_and(|running| (watch.judge)(&running).is_break())
    }
}

/// One agent's latest figures.
#[derive(Clone, Debug, Default)]
struct Told {
    running: Option<Running>,
    has_ended: bool,
}

impl Told {
    /// The round of the figures, from 1 on.
    fn round(&self) -> u64 {
        self.running.as_ref().map_or(0, round)
    }
}

/// The nearest: threads that are late leave the figures of the second before.
fn round(running: &Running) -> u64 {
    let interval = JUDGING_INTERVAL.as_millis();
    u64::try_from((running.measured.as_millis() + interval / 2) / interval).unwrap_or(u64::MAX)
}

#[derive(Debug)]
struct Rounds {
    told: Vec<Told>,
    /// The last round that was judged.
    judged: u64,
    /// Since when there are figures of a later one.
    waiting_since: Option<Instant>,
    duration: Duration,
}

impl Rounds {
    fn new(duration: Duration, agents: usize) -> Self {
        Self { told: vec![Told::default(); agents], judged: 0, waiting_since: None, duration }
    }

    /// `false`: they are of no moment of the measured part.
    fn put(&mut self, agent: usize, running: Running, now: Instant) -> bool {
        if running.measured.is_zero() || running.measured > self.duration {
            return false;
        }
        if round(&running) > self.judged {
            self.waiting_since.get_or_insert(now);
        }
        self.told[agent].running = Some(running);
        true
    }

    /// The union of all, if it is time to judge it; each round once.
    fn due(&mut self, now: Instant) -> Option<Running> {
        let since = self.waiting_since?;
        let rounds = || self.told.iter().filter(|told| !told.has_ended).map(Told::round);
        let (first, last) = (rounds().min()?, rounds().max()?);
        let is_waiting = first <= self.judged && now.saturating_duration_since(since) < PATIENCE;
        if is_waiting || last <= self.judged {
            return None;
        }
        let is_partial = first != last;
        self.judged = last;
        self.waiting_since = None;
        let mut parts = self.told.iter().filter_map(|told| told.running.as_ref());
        let first = parts.next()?.clone();
        let mut union = parts.fold(first, |mut union, part| {
            union.unite(part);
            union
        });
        union.is_partial = is_partial;
        Some(union)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use hdrhistogram::Histogram;

    use super::*;
    use crate::load::RunningTrend;

    const TREND: &str = "http_req_duration";

    /// So many requests in so many seconds, each of so many milliseconds.
    fn running(seconds: f64, requests: u64, millis: u64) -> Running {
        let mut trend = Histogram::new_with_bounds(1, 60_000_000, 3).unwrap();
        trend.record_n(millis * 1000, requests).unwrap();
        Running {
            measured: Duration::from_secs_f64(seconds),
            users: 2,
            users_requested: 3,
            requests,
            failed: 1,
            iterations: requests,
            checks: [1, 2],
            dropped: 4,
            bytes_sent: 5,
            bytes_received: u64::MAX,
            trends: vec![RunningTrend { name: TREND.into(), trend }],
            is_partial: false,
        }
    }

    /// Carries out a script of `(tenths of a second, agent, seconds its figures are of)` and gives what was judged:
    /// `(tenths, requests, is_partial)`. Of `None` time only passes.
    fn judged(ended: &[usize], script: &[(u64, Option<(usize, f64)>)]) -> Vec<(u64, u64, bool)> {
        let start = Instant::now();
        let (mut at, mut seen) = (0, Vec::new());
        let told = std::cell::RefCell::new(Vec::new());
        let mut judge = |running: &Running| {
            told.borrow_mut().push((running.requests, running.is_partial));
            ControlFlow::Continue(())
        };
        let watch = Watch { trends: &[TREND], judge: &mut judge };
        let mut judging = Judging::new(Some(watch), Duration::from_secs(60), 2);
        ended.iter().for_each(|&agent| judging.end(agent));
        for (tenths, event) in script {
            // As the follower does: it looks every tenth of a second.
            for tenth in at..=*tenths {
                let now = start + Duration::from_millis(100 * tenth);
                if let Some((agent, seconds)) = event.filter(|_| tenth == *tenths) {
                    let requests = if agent == 0 { 10 } else { 100 };
                    judging.hear(agent, running(seconds, requests, 7), now);
                }
                assert!(!judging.ends(now));
                seen.extend(told.borrow_mut().drain(..).map(|(requests, part)| (tenth, requests, part)));
            }
            at = *tenths;
        }
        seen
    }

    #[test]
    fn a_round_is_judged_once_when_all_have_told() {
        let script = [(21, Some((0, 2.0))), (30, Some((1, 1.2))), (41, Some((1, 4.0))), (50, Some((0, 4.0)))];
        assert_eq!(judged(&[], &script), [(30, 110, false), (50, 110, false)]);
    }

    #[test]
    fn a_silent_agent_delays_a_round_and_takes_its_sums() {
        let silent = [(21, Some((0, 2.0))), (41, Some((0, 4.0))), (60, None)];
        assert_eq!(judged(&[], &silent), [(36, 10, true), (56, 10, true)]);
        // It is back: late for its round, in time for the next.
        let back = [
            (21, Some((0, 2.0))),
            (22, Some((1, 2.0))),
            (41, Some((0, 4.0))),
            (57, Some((1, 4.0))),
            (62, Some((0, 6.0))),
            (63, Some((1, 6.0))),
            (90, None),
        ];
        assert_eq!(judged(&[], &back), [(22, 110, false), (56, 110, true), (63, 110, false)]);
    }

    #[test]
    fn an_agent_that_has_ended_is_not_waited_for() {
        assert_eq!(
            judged(&[1], &[(21, Some((0, 2.0))), (41, Some((0, 4.0)))]),
            [(21, 10, false), (41, 10, false)]
        );
        assert_eq!(judged(&[0, 1], &[(21, Some((0, 2.0))), (60, None)]), []);
    }

    #[test]
    fn figures_that_make_no_sense_are_silence() {
        let script = [(21, Some((0, 0.0))), (22, Some((1, 61.0))), (60, None)];
        assert_eq!(judged(&[], &script), []);
        let mut judge = |_: &Running| -> ControlFlow<()> { panic!("nothing to judge") };
        let mut judging = Judging::new(
            Some(Watch { trends: &["iteration_duration"], judge: &mut judge }),
            Duration::MAX,
            1,
        );
        judging.hear(0, running(2.0, 1, 1), Instant::now());
        assert!(!judging.ends(Instant::now()), "another trend than was asked for");
        let mut unwatched = Judging::new(None, Duration::MAX, 1);
        unwatched.hear(0, running(2.0, 1, 1), Instant::now());
        assert!(!unwatched.ends(Instant::now()));
    }

    #[test]
    fn the_union_is_of_all_and_what_breaks_ends_the_run() {
        let mut judge = |union: &Running| {
            assert_eq!((union.requests, union.failed, union.iterations, union.dropped), (110, 2, 110, 8));
            assert_eq!((union.users, union.users_requested, union.checks), (4, 6, [2, 4]));
            // What comes from other machines does not overflow.
            assert_eq!((union.bytes_sent, union.bytes_received), (10, u64::MAX));
            assert_eq!(union.measured, Duration::from_secs_f64(2.5));
            let trend = &union.trends[0].trend;
            assert_eq!((trend.len(), trend.count_between(1, 8000), union.trends.len()), (110, 10, 1));
            ControlFlow::Break(())
        };
        let watch = Watch { trends: &[TREND], judge: &mut judge };
        let mut judging = Judging::new(Some(watch), Duration::from_secs(60), 2);
        let now = Instant::now();
        judging.hear(0, running(2.0, 10, 7), now);
        assert!(!judging.ends(now));
        judging.hear(1, running(2.5, 100, 9), now);
        assert!(judging.ends(now));
    }
}
