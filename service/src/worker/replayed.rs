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
        AcceptedWrite { key: write.key, version: write.version, change, is_new: false }
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
