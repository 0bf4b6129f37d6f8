//! When each user's next request is due: pure arithmetic, no clock. The closed model: a user sends, waits for
//! the whole response, thinks, sends again.

use std::time::Duration;

use super::clock::{Nanos, SECOND, nanos};

/// A target that refuses connections is not asked again by the same user before this much time has passed.
const CONNECT_BACKOFF: Nanos = SECOND / 10;

/// The arrivals of the closed model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pacer {
    users: u32,
    think_time: Nanos,
    spread: Nanos,
}

impl Pacer {
    pub(super) fn new(users: u32, think_time: Duration, warmup: Duration) -> Self {
        let think_time = nanos(think_time);
        // Starts are spread so that the first requests do not come as one burst that no crowd makes: over the
        // think time, which is the users' natural spacing, but within the warm-up, or a second if there is none.
        let limit = if warmup.is_zero() { SECOND } else { nanos(warmup) };
        let natural = if think_time == 0 { SECOND } else { think_time };
        Self { users, think_time, spread: natural.min(limit) }
    }

    /// When the user's first request is due; the same for the same user in every run.
    pub(super) fn first_due(&self, user: u32) -> Nanos {
        let due = u128::from(self.spread) * u128::from(user) / u128::from(self.users.max(1));
        u64::try_from(due).unwrap_or(Nanos::MAX)
    }

    /// When the next request is due after one that ended at `ended`.
    pub(super) fn next_due(&self, ended: Nanos, connected: bool) -> Nanos {
        let pause = if connected { self.think_time } else { self.think_time.max(CONNECT_BACKOFF) };
        ended.saturating_add(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    #[test]
    fn starts_are_spread() {
        let ms = Duration::from_millis;
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
            let pacer = Pacer::new(users, think, warmup);
            let due = [0, 1, users - 1].map(|user| pacer.first_due(user) / MS);
            assert_eq!(due, expected, "{users} users, think {think:?}, warm-up {warmup:?}");
        }
    }

    #[test]
    fn starts_stay_within_the_spread_for_any_number_of_users() {
        let pacer = Pacer::new(u32::MAX, Duration::from_secs(60), Duration::from_secs(60));
        assert!(pacer.first_due(u32::MAX - 1) < 60 * SECOND);
    }

    #[test]
    fn the_next_is_due_after_the_think_time() {
        for (think, connected, expected) in
            [(800, true, 800), (0, true, 0), (0, false, 100), (50, false, 100), (800, false, 800)]
        {
            let pacer = Pacer::new(1, Duration::from_millis(think), Duration::ZERO);
            assert_eq!(pacer.next_due(7 * SECOND, connected), 7 * SECOND + expected * MS);
        }
    }
}
