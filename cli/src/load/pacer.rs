//! When work is due: pure arithmetic, no clock. In the closed model a user sends, waits for the whole response,
//! pauses, and starts again; in the open model iterations arrive by themselves, whether or not the server keeps up.

use super::clock::{Nanos, SECOND, nanos};
use super::plan::{Arrivals, Plan};
use super::schedule::Schedule;

/// A target that refuses connections is not asked again by the same user before this much time has passed.
const CONNECT_BACKOFF: Nanos = SECOND / 10;

/// The model of the load, as data.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    kind: Kind,
    users: u32,
    /// Over how long the first starts are spread.
    spread: Nanos,
    /// Closed with stages: how many users there are at a moment.
    levels: Option<Schedule>,
}

#[derive(Clone, Debug)]
enum Kind {
    /// This pause after each iteration.
    Think(Nanos),
    /// An iteration each so often, as long as its predecessor is over.
    Every(Nanos),
    /// Iterations arrive at this rate.
    Open(Schedule),
}

impl Pacer {
    pub(super) fn new(plan: &Plan) -> Self {
        let staged = (!plan.stages.is_empty()).then(|| Schedule::of(&plan.stages));
        let (kind, natural, levels) = match plan.arrivals {
            Arrivals::Think => (Kind::Think(nanos(plan.think_time)), nanos(plan.think_time), staged),
            Arrivals::Every(every) => (Kind::Every(nanos(every)), nanos(every), staged),
            Arrivals::Rate(per_second) => {
                let rate = staged.unwrap_or_else(|| Schedule::constant(f64::from(per_second)));
                (Kind::Open(rate), 0, None)
            }
        };
        // Starts are spread so that the first requests do not come as one burst that no crowd makes: over the
        // pause, which is the users' natural spacing, but within the warm-up, or a second if there is none.
        let limit = if plan.warmup.is_zero() { SECOND } else { nanos(plan.warmup) };
        let natural = if natural == 0 { SECOND } else { natural };
        Self { kind, users: plan.users, spread: natural.min(limit), levels }
    }

    /// Whether iterations arrive by themselves.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.kind, Kind::Open(_))
    }

    /// In the open model, when the arrival of this number (from 0) is due; `None` after the last.
    pub(super) fn arrival(&self, number: u64) -> Option<Nanos> {
        match &self.kind {
            Kind::Open(rate) => rate.arrival(number),
            Kind::Think(_) | Kind::Every(_) => None,
        }
    }

    /// In the closed model, when the user's first iteration is due; the same for the same user in every run.
    pub(super) fn first_due(&self, user: u32) -> Option<Nanos> {
        match (&self.kind, &self.levels) {
            (Kind::Open(_), _) => None,
            (_, Some(levels)) => levels.next_above(user, 0),
            (_, None) => {
                let due = u128::from(self.spread) * u128::from(user) / u128::from(self.users.max(1));
                Some(u64::try_from(due).unwrap_or(Nanos::MAX))
            }
        }
    }

    /// When an iteration is over whose last response ended at `ended`: the user's pause is part of it, as in k6.
    pub(super) fn iteration_end(&self, ended: Nanos, connected: bool) -> Nanos {
        let pause = match self.kind {
            Kind::Think(pause) => pause,
            Kind::Every(_) | Kind::Open(_) => 0,
        };
        ended.saturating_add(if connected { pause } else { pause.max(CONNECT_BACKOFF) })
    }

    /// In the closed model, when the user's next iteration is due after one that was meant to start at `intended`
    /// and was over at `over` ([`Pacer::iteration_end`]); `None` if the user is not wanted any more.
    pub(super) fn next_due(&self, user: u32, intended: Nanos, over: Nanos, connected: bool) -> Option<Nanos> {
        let due = match self.kind {
            Kind::Think(_) => over,
            // Behind its schedule it starts at once, and its latency counts from when it should have.
            Kind::Every(every) if connected => intended.saturating_add(every),
            Kind::Every(every) => intended.saturating_add(whole_paces(over.saturating_sub(intended), every)),
            Kind::Open(_) => return None,
        };
        match &self.levels {
            None => Some(due),
            // A user that has been away comes back when it is wanted, not when it was due.
            Some(levels) => levels.next_above(user, due.max(over)).map(|at| if at > over { at } else { due }),
        }
    }

    /// In the closed model, how many iterations a user misses that starts none from `due`, when its next one was due, to
    /// `end`. With a pause each would have waited for its predecessor, so it is one; and with stages nobody knows which of
    /// the others would have been wanted.
    pub(super) fn missed(&self, due: Nanos, end: Nanos) -> u64 {
        match self.kind {
            _ if due >= end => 0,
            Kind::Every(every) if self.levels.is_none() => (end - 1 - due) / every.max(1) + 1,
            _ => 1,
        }
    }
}

/// The first multiple of the pace, but for 0, that is not below `time`.
fn whole_paces(time: Nanos, pace: Nanos) -> Nanos {
    let pace = pace.max(1);
    time.div_ceil(pace).max(1).saturating_mul(pace)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::plan::Stage;
    use super::super::tests::any_plan;
    use super::*;

    const MS: Nanos = 1_000_000;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn pacer(users: u32, think: Duration, warmup: Duration) -> Pacer {
        Pacer::new(&Plan { users, think_time: think, warmup, ..any_plan() })
    }

    #[test]
    fn starts_are_spread() {
        // users, think time, warm-up → due of user 0, 1 and the last, in ms
        for (users, think, warmup, expected) in [
            (4, ms(800), ms(0), [0, 200, 600]),
            (4, ms(800), ms(400), [0, 100, 300]),
            (4, ms(800), ms(5000), [0, 200, 600]),
            (4, ms(8000), ms(0), [0, 250, 750]),
            (4, ms(8000), ms(5000), [0, 1250, 3750]),
            (4, ms(0), ms(0), [0, 250, 750]),
            (4, ms(0), ms(100), [0, 25, 75]),
            (10_000, ms(1000), ms(0), [0, 0, 999]),
        ] {
            let pacer = pacer(users, think, warmup);
            let due = [0, 1, users - 1].map(|user| pacer.first_due(user).unwrap() / MS);
            assert_eq!(due, expected, "{users} users, think {think:?}, warm-up {warmup:?}");
        }
    }

    #[test]
    fn what_a_user_missed_depends_on_its_schedule() {
        let every = Pacer::new(&Plan { arrivals: Arrivals::Every(ms(50)), ..any_plan() });
        for (due, end, paced, thinking) in [
            (100, 100, 0, 0),
            (99, 100, 1, 1),
            (50, 100, 1, 1),
            (49, 100, 2, 1),
            (0, 1000, 20, 1),
            (1200, 1000, 0, 0),
        ] {
            assert_eq!(every.missed(due * MS, end * MS), paced, "{due} {end}");
            assert_eq!(pacer(1, ms(50), Duration::ZERO).missed(due * MS, end * MS), thinking, "{due} {end}");
        }
        let stages = vec![Stage { duration: ms(1000), target: 1 }];
        let staged = Pacer::new(&Plan { arrivals: Arrivals::Every(ms(50)), stages, ..any_plan() });
        assert_eq!(staged.missed(0, 1000 * MS), 1);
    }

    #[test]
    fn starts_stay_within_the_spread_for_any_number_of_users() {
        let pacer = pacer(u32::MAX, Duration::from_secs(60), Duration::from_secs(60));
        assert!(pacer.first_due(u32::MAX - 1).unwrap() < 60 * SECOND);
    }

    #[test]
    fn the_next_is_due_after_the_think_time() {
        for (think, connected, expected) in
            [(800, true, 800), (0, true, 0), (0, false, 100), (50, false, 100), (800, false, 800)]
        {
            let pacer = pacer(1, ms(think), Duration::ZERO);
            let over = pacer.iteration_end(7 * SECOND, connected);
            assert_eq!(pacer.next_due(0, 6 * SECOND, over, connected), Some(7 * SECOND + expected * MS));
        }
    }

    #[test]
    fn a_paced_user_keeps_to_its_schedule() {
        let pacer = Pacer::new(&Plan { arrivals: Arrivals::Every(ms(100)), ..any_plan() });
        // intended, ended, connected → next due, in ms
        for (intended, ended, connected, expected) in [
            (0, 20, true, 100),
            (0, 350, true, 100),
            (100, 360, true, 200),
            // Those that came while nobody listened are left out, and it stays in step.
            (0, 350, false, 500),
            (100, 400, false, 500),
            (0, 5, false, 200),
            (0, 0, false, 100),
        ] {
            let over = pacer.iteration_end(ended * MS, connected);
            let due = pacer.next_due(0, intended * MS, over, connected);
            assert_eq!(due, Some(expected * MS), "{intended} {ended} {connected}");
        }
    }

    #[test]
    fn stages_park_users_and_wake_them() {
        let stage = |seconds, target| Stage { duration: Duration::from_secs(seconds), target };
        let stages = vec![stage(10, 10), stage(10, 0), stage(10, 10)];
        let pacer = Pacer::new(&Plan { users: 10, think_time: ms(1000), stages, ..any_plan() });
        assert_eq!(pacer.first_due(5), Some(5 * SECOND));
        let next = |ended: u64| {
            let over = pacer.iteration_end(ended * SECOND, true);
            pacer.next_due(5, 0, over, true).map(|due| due / SECOND)
        };
        assert_eq!(
            [next(6), next(13), next(14), next(20), next(30)],
            [Some(7), Some(14), Some(25), Some(25), None]
        );
    }

    #[test]
    fn the_open_model_has_arrivals_and_no_users_of_its_own() {
        let pacer = Pacer::new(&Plan { arrivals: Arrivals::Rate(1000), ..any_plan() });
        assert!(pacer.is_open());
        assert_eq!((pacer.arrival(0), pacer.arrival(2500)), (Some(0), Some(2_500 * MS)));
        assert_eq!(pacer.first_due(0), None);
        assert_eq!(pacer.next_due(0, 0, SECOND, true), None);
    }
}
