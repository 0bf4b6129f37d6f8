//! Says what happens again and again only now and then: a log that fills with one line hides all others, and ten
//! thousand lines a second cost more than the failure that they tell of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Between two lines of one kind.
const INTERVAL: Duration = Duration::from_secs(5);

/// One kind of event.
#[derive(Debug)]
pub(crate) struct Rarely {
    started: Instant,
    /// Milliseconds after the start; before it nothing is said.
    next: AtomicU64,
    unsaid: AtomicU64,
}

impl Default for Rarely {
    fn default() -> Self {
        Self { started: Instant::now(), next: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }
}

impl Rarely {
    /// Whether to say it now; if so, how many were not said since the last time.
    pub(crate) fn now(&self) -> Option<u64> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = millis(self.started.elapsed());
        let next = self.next.load(Ordering::Relaxed);
        let is_due = now >= next;
        // Of many at the same moment, one speaks.
        let speaks = is_due
            && self
                .next
                .compare_exchange(next, now + millis(INTERVAL), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if speaks {
            return Some(self.unsaid.swap(0, Ordering::Relaxed));
        }
        self.unsaid.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_storm_is_a_line_an_interval_and_the_lines_tell_of_all_of_it() {
        let rarely = Rarely::default();
        let mut lines = Vec::new();
        for _ in 0..60_000 {
            tokio::time::advance(Duration::from_millis(1)).await;
            lines.extend(rarely.now());
        }
        assert_eq!(lines.len(), 12, "a minute has twelve intervals: {lines:?}");
        assert_eq!(lines[0], 0);
        let rest = 60_000 - (lines.iter().sum::<u64>() + lines.len() as u64);
        assert_eq!(rest, rarely.unsaid.load(Ordering::Relaxed));
        tokio::time::advance(INTERVAL).await;
        assert_eq!(rarely.now(), Some(rest));
    }
}
