//! Whether new writes are accepted: watches the journal in the background, so that no request has to ask.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::journal::embedded::BacklogBounds;
use crate::journal::{Backlog, Journal, JournalError, now_ms};
use crate::metrics::Metrics;

const INTERVAL: Duration = Duration::from_millis(250);
/// A journal that does not answer within this is away.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was seen last.
#[derive(Clone, Debug, Default)]
struct Seen {
    backlog: Backlog,
    unreachable: Option<String>,
}

/// The state of the journal as of a moment ago.
pub struct Gate {
    seen: RwLock<Seen>,
    bounds: BacklogBounds,
    max_age: Duration,
}

impl Gate {
    #[must_use]
    pub fn new(bounds: BacklogBounds, max_age: Duration) -> Self {
        Self { seen: RwLock::default(), bounds, max_age }
    }

    fn seen(&self) -> Seen {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why no write is accepted now; `None` if they are. A journal that is away is not a reason: the append
    /// itself finds that out, and finds out first when it is back.
    #[must_use]
    pub fn closed(&self) -> Option<String> {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        let age = age(&seen.backlog);
        if age > self.max_age {
            return Some(format!(
                "the oldest accepted write waits for the database since {} s, the bound is {} s",
                age.as_secs(),
                self.max_age.as_secs()
            ));
        }
        None
    }

    /// Why the service is not ready; `None` if it is.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        let seen = self.seen();
        if let Some(reason) = seen.unreachable {
            return Some(reason);
        }
        seen.backlog.full(self.bounds).or_else(|| self.closed())
    }

    fn note(&self, asked: Result<Backlog, JournalError>, metrics: &Metrics) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        match asked {
            Ok(backlog) => {
                metrics.backlog_entries.set(backlog.entries);
                metrics.backlog_bytes.set(backlog.bytes);
                metrics.dead_letters.set(backlog.dead_letters);
                metrics.backlog_age_seconds.set(age(&backlog).as_secs_f64());
                *seen = Seen { backlog, unreachable: None };
            }
            Err(error) => seen.unreachable = Some(error.to_string()),
        }
    }

    pub async fn watch(
        self: Arc<Self>,
        journal: Arc<dyn Journal>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) {
        while !stop.is_cancelled() {
            let asked = tokio::time::timeout(PATIENCE, journal.backlog()).await;
            let asked = asked.unwrap_or_else(|_| Err(JournalError::Unavailable("it does not answer".into())));
            self.note(asked, &metrics);
            let _ = tokio::time::timeout(INTERVAL, stop.cancelled()).await;
        }
    }
}

/// How long the oldest entry waits; clocks of two machines may differ, so never negative.
pub(super) fn age(backlog: &Backlog) -> Duration {
    Duration::from_millis(backlog.oldest_ms.map_or(0, |oldest| now_ms().saturating_sub(oldest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_below_each_bound_only() {
        let bounds = BacklogBounds { entries: 3, bytes: 100 };
        let gate = Gate::new(bounds, Duration::from_secs(60));
        for (entries, bytes, expected) in
            [(2, 99, None), (3, 9, Some("3 entries wait")), (2, 100, Some("100 bytes wait"))]
        {
            gate.note(Ok(Backlog { entries, bytes, ..Backlog::default() }), &Metrics::default());
            match (gate.not_ready(), expected) {
                (None, None) => {}
                (Some(reason), Some(part)) => assert!(reason.starts_with(part), "{reason}"),
                (reason, _) => panic!("{entries} entries of {bytes} bytes: {reason:?}"),
            }
        }
        gate.note(Err(JournalError::Unavailable("gone".into())), &Metrics::default());
        assert!(gate.not_ready().is_some_and(|reason| reason.contains("gone")));
    }
}
