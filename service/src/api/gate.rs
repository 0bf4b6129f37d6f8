//! Whether new writes are accepted: watches the journal in the background, so that no request has to ask.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

pub(crate) use super::admission::Bounds;
use super::admission::{Admission, Refusal};
use crate::journal::{Backlog, Journal, JournalError, now_ms};
use crate::metrics::{Metrics, Rejected};

const INTERVAL: Duration = Duration::from_millis(250);
/// A journal that does not answer within this is away.
const PATIENCE: Duration = Duration::from_secs(2);

/// The state of the journal as of a moment ago.
pub struct Gate {
    admission: Mutex<Admission>,
    /// Why the journal takes nothing, or does not answer.
    unusable: RwLock<Option<String>>,
    rejected: Rejected,
    started: Instant,
}

impl Gate {
    #[must_use]
    pub(crate) fn new(bounds: Bounds, rejected: Rejected) -> Self {
        Self {
            admission: Mutex::new(Admission::new(bounds)),
            unusable: RwLock::default(),
            rejected,
            started: Instant::now(),
        }
    }

    fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets in a request with about so many bytes. A journal that is away is no reason not to: the append itself finds that out, and finds out
    /// first when it is back.
    pub(super) fn admit(&self, bytes: u64) -> Result<(), Refusal> {
        let asked = self.admission().ask(self.started.elapsed(), fastrand::f64(), bytes);
        asked.inspect_err(|refusal| self.rejected.count(refusal.reason.label()))
    }

    /// The journal found itself full.
    pub(super) fn full(&self, detail: String) -> Refusal {
        let refusal = self.admission().full(detail, self.started.elapsed(), fastrand::f64());
        self.rejected.count(refusal.reason.label());
        refusal
    }

    /// Entries a second that leave the backlog.
    pub(super) fn drain(&self) -> f64 {
        self.admission().drain()
    }

    /// Why the service is not ready; `None` if it is.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        let unusable = self.unusable.read().unwrap_or_else(PoisonError::into_inner).clone();
        unusable.or_else(|| self.admission().closed())
    }

    fn note(&self, asked: Result<Backlog, JournalError>, refuses: Option<String>, metrics: &Metrics) {
        let unusable = match asked {
            Ok(backlog) => {
                let mut admission = self.admission();
                admission.observe(backlog, age(&backlog), self.started.elapsed());
                metrics.backlog_entries.set(backlog.entries);
                metrics.backlog_bytes.set(backlog.bytes);
                metrics.dead_letters.set(backlog.dead_letters);
                metrics.backlog_age_seconds.set(admission.age().as_secs_f64());
                metrics.backlog_drain.set(admission.drain());
                refuses
            }
            Err(error) => Some(error.to_string()),
        };
        *self.unusable.write().unwrap_or_else(PoisonError::into_inner) = unusable;
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
            self.note(asked, journal.refuses(), &metrics);
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
    use crate::journal::embedded::BacklogBounds;

    #[test]
    fn it_is_ready_while_the_journal_takes_writes() {
        let bounds =
            Bounds { backlog: BacklogBounds { entries: 3, bytes: 100 }, age: Duration::from_secs(60) };
        let metrics = Metrics::default();
        for (entries, bytes, age_ms, expected) in [
            (2, 99, 0, None),
            (3, 9, 0, Some("3 entries wait")),
            (2, 100, 0, Some("100 bytes wait")),
            (2, 9, 70_000, Some("the oldest accepted write waits for the database since 70 s")),
        ] {
            let gate = Gate::new(bounds, metrics.rejected.clone());
            let oldest_ms = Some(now_ms() - age_ms);
            let note = |backlog| gate.note(Ok(backlog), None, &metrics);
            note(Backlog { entries, bytes, oldest_ms, ..Backlog::default() });
            match (gate.not_ready(), expected) {
                (None, None) => gate.admit(0).unwrap(),
                (Some(reason), Some(part)) => {
                    assert!(reason.starts_with(part), "{reason}");
                    gate.admit(0).unwrap_err();
                }
                (reason, _) => panic!("{entries} entries of {bytes} bytes: {reason:?}"),
            }
            note(Backlog::default());
            assert_eq!(gate.not_ready(), None);
            gate.note(Err(JournalError::Unavailable("gone".into())), None, &metrics);
            assert!(gate.not_ready().is_some_and(|reason| reason.contains("gone")));
            gate.note(Ok(Backlog::default()), Some("worth less".into()), &metrics);
            assert_eq!(gate.not_ready().as_deref(), Some("worth less"));
        }
        assert_eq!(metrics.rejected.total(), 3);
    }
}
