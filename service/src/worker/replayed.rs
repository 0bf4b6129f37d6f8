//! Dead letters that were put back under their old version: what readers and those who ask for their status have to
//! know of them once the store has seen them.

use std::collections::HashMap;

use super::batch::PlannedWrite;
use super::isolate::Attempt;
use crate::cache::{AcceptedWrite, CacheChange};
use crate::journal::WriteId;
use crate::operation::{Change, DocumentKey};
use crate::store::StoreError;

/// Documents that are looked at in one operation.
const LOOK_AT: usize = 1000;

/// For the cache. It has not been told of them before: whether they are anything was for the store to say. Under their
/// version they come below whatever was accepted since.
pub(super) fn visible(replayed: Vec<PlannedWrite>) -> Vec<AcceptedWrite> {
    let visible = |planned: PlannedWrite| {
        let write = planned.write;
        let json = write.change.json();
        let change = CacheChange::new(&write.change, json);
        AcceptedWrite { key: write.key, version: write.version, change }
    };
    replayed.into_iter().map(visible).collect()
}

impl Attempt<'_> {
    /// Of writes that changed nothing: those that the store has, since they were delivered before, and the entries of
    /// those that came too late.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub(super) async fn look_at(
        &self,
        passed_over: Vec<PlannedWrite>,
    ) -> Result<(Vec<PlannedWrite>, Vec<WriteId>), StoreError> {
        let (mut stored, mut superseded) = (Vec::new(), Vec::new());
        let mut left = passed_over;
        while !left.is_empty() {
            let part = left.split_off(left.len().saturating_sub(LOOK_AT));
            let keys: Vec<DocumentKey> = part.iter().map(|planned| planned.write.key.clone()).collect();
            self.throttle.acquire().await;
            let found = self.store.get_many(&keys).await?;
            let versions: HashMap<&DocumentKey, i64> =
                keys.iter().zip(found).filter_map(|(key, found)| Some((key, found?.version))).collect();
            for planned in part {
                let is_stored = match versions.get(&planned.write.key) {
                    Some(version) => *version == planned.write.version,
                    // There is no document, as it should be.
                    None => matches!(planned.write.change, Change::Delete),
                };
                match planned.entry_of_old() {
                    Some(entry) if !is_stored => superseded.push(entry),
                    _ => stored.push(planned),
                }
            }
        }
        Ok((stored, superseded))
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::journal::{Delivery, Entry, Replay, Request, RequestWrite};
    use crate::metrics::Metrics;
    use crate::operation::Position;
    use crate::store::{Embedded, Unlimited};
    use crate::worker::batch::Batch;
    use crate::worker::isolate::Outcome;
    use crate::worker::sizing::Sizes;

    /// An entry with writes of one document; of letters under the version of `origin`, if that is given.
    fn entry(ms: u64, id: &str, change: Change, origin: Option<u64>) -> Delivery {
        let write = RequestWrite { key: DocumentKey::new("c", id), change };
        let replay = origin.map(|ms| {
            let origin = WriteId { shard: 0, position: Position { ms, seq: 0 }, place: 0 };
            Box::new(Replay { origin, as_new: false, times: 1 })
        });
        let request =
            Request { op_id: "k".into(), at_ms: ms, writes: vec![write], places: Some([0].into()), replay };
        Delivery::Entry(Entry { position: Position { ms, seq: 0 }, requests: vec![request], bytes: 0 })
    }

    /// A worker that dies between storing and acknowledging gets its entries again.
    #[tokio::test]
    async fn what_was_delivered_twice_is_stored_and_what_came_too_late_is_superseded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        let (metrics, stop) = (Metrics::default(), CancellationToken::new());
        let sizes = Sizes::new(100, metrics.worker_batch_limit.clone());
        let attempt = Attempt {
            store: &store,
            throttle: &Unlimited,
            metrics: &metrics,
            sizes: &sizes,
            limit: 100,
            stop: &stop,
            deadline: None,
        };
        let deliveries = [
            entry(10, "newer", Change::replace(doc! {"n": 1}), None),
            entry(20, "letter", Change::replace(doc! {"n": 2}), Some(5)),
            entry(30, "gone", Change::Delete, Some(5)),
            entry(40, "newer", Change::replace(doc! {"n": 3}), Some(5)),
        ];
        for (delivered, [at_once, before]) in [("once", [2, 0]), ("again", [0, 2])] {
            let batch = Batch::new(0, deliveries.to_vec());
            let applied = attempt.apply(batch.writes, batch.later).await;
            let Ok(Outcome { replayed, passed_over, .. }) = applied else { panic!("nobody stops it") };
            let (stored, superseded) = attempt.look_at(passed_over).await.unwrap();
            assert_eq!((replayed.len(), stored.len()), (at_once, before), "{delivered}");
            let late = WriteId { shard: 0, position: Position { ms: 40, seq: 0 }, place: 0 };
            assert_eq!(superseded, [late], "{delivered}");
            let seen = visible(replayed.into_iter().chain(stored).collect());
            let version = Position { ms: 5, seq: 0 }.version();
            assert!(seen.iter().all(|write| write.version == version), "{seen:?}");
        }
    }
}
