//! The blocking part of the embedded store: comparison, commit, scans.

use std::sync::{Arc, Mutex, PoisonError};

use bson::raw::RawDocument;
use bson::{DateTime, Document};
use fjall::{Database, Keyspace, OwnedWriteBatch, PersistMode};

use crate::contract::WriteOp;
use crate::operation::{Change, DocumentKey, DocumentWrite};
use crate::store::encoding::{self, RawStamp};
use crate::store::rules::{self, Existing, Verdict};
use crate::store::{Applied, Stamp, StoreError, StoredDocument, TOMBSTONE_TTL};

/// The open directory.
pub(super) struct Engine {
    pub(super) database: Database,
    pub(super) documents: Keyspace,
    /// `deleted at (ms, big endian)`, document key -> nothing.
    pub(super) tombstones: Keyspace,
    /// Held from the comparison of versions to the commit.
    pub(super) writer: Mutex<()>,
}

/// A write made ready for the blocking part.
pub(super) struct Prepared {
    /// In the answer.
    place: usize,
    key: DocumentKey,
    op: WriteOp,
    op_id: Arc<str>,
    version: i64,
    payload: Payload,
}

enum Payload {
    Bytes(Vec<u8>),
    Merge(Document),
    Delete,
}

impl Prepared {
    pub(super) fn new(place: usize, write: &DocumentWrite) -> Result<Self, String> {
        if let Some(reason) = rules::refusal(write) {
            return Err(reason);
        }
        let payload = match &write.change {
            Change::Insert(document) | Change::Replace(document) => Payload::Bytes(
                encoding::live_raw(write.key.id(), &write.op_id, write.version, document)?.into_bytes(),
            ),
            Change::Merge(fields) => Payload::Merge(fields.clone()),
            Change::Delete => Payload::Delete,
        };
        Ok(Self {
            place,
            key: write.key.clone(),
            op: write.change.op(),
            op_id: write.op_id.clone(),
            version: write.version,
            payload,
        })
    }

    /// About how many bytes it adds to a commit.
    pub(super) fn size(&self) -> usize {
        self.key.as_bytes().len()
            + match &self.payload {
                Payload::Bytes(bytes) => bytes.len(),
                Payload::Merge(_) | Payload::Delete => 1024,
            }
    }
}

impl Engine {
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<StoredDocument>, StoreError> {
        let Some(value) = self.documents.get(key).map_err(failed)? else {
            return Ok(None);
        };
        encoding::decode(raw(key, &value)?).map_err(|error| corrupt(key, &error))
    }

    pub(super) fn apply(&self, chunk: Vec<Prepared>) -> Result<Vec<(usize, Applied)>, StoreError> {
        let now = DateTime::now();
        // The lock guards no data of its own and a commit is atomic: nothing is left half done by a panic.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = OwnedWriteBatch::with_capacity(self.database.clone(), chunk.len())
            .durability(Some(PersistMode::SyncAll));
        let mut answer = Vec::with_capacity(chunk.len());
        for write in chunk {
            let place = write.place;
            answer.push((place, self.apply_one(write, now, &mut batch)?));
        }
        batch.commit().map_err(failed)?;
        Ok(answer)
    }

    fn apply_one(
        &self,
        write: Prepared,
        now: DateTime,
        batch: &mut OwnedWriteBatch,
    ) -> Result<Applied, StoreError> {
        let Prepared { key, op, op_id, version, payload, .. } = write;
        let (id, key) = (key.id(), key.as_bytes());
        let stored = self.documents.get(key).map_err(failed)?;
        let stored = stored.as_ref().map(|value| raw(key, value)).transpose()?;
        let stamp = match stored {
            Some(document) => RawStamp::of(document).map_err(|error| corrupt(key, &error))?,
            None => None,
        };
        let existing = stored.map_or(Existing::Absent, |_| RawStamp::existing(stamp));
        match rules::decide(op, &op_id, version, existing) {
            Verdict::Superseded => return Ok(Applied::Superseded),
            Verdict::Exists => return Ok(Applied::Refused { reason: rules::EXISTS.to_owned() }),
            Verdict::Write => {}
        }
        let value = match payload {
            Payload::Bytes(bytes) => bytes,
            Payload::Delete => {
                batch.insert(&self.tombstones, tombstone_key(now, key), Vec::new());
                encoding::tombstone(id, &op_id, version, now).into_bytes()
            }
            Payload::Merge(fields) => {
                let document =
                    stored.map(encoding::decode).transpose().map_err(|error| corrupt(key, &error))?;
                let mut document = document.flatten().map(|stored| stored.document).unwrap_or_default();
                encoding::merge(&mut document, &fields);
                match encoding::live(id, &op_id, version, &document) {
                    Ok(bytes) => bytes.into_bytes(),
                    Err(reason) => return Ok(Applied::Refused { reason }),
                }
            }
        };
        if let Some(RawStamp { deleted: Some(deleted), .. }) = stamp {
            let old = tombstone_key(deleted, key);
            if op != WriteOp::Delete || deleted != now {
                batch.remove(&self.tombstones, old);
            }
        }
        batch.insert(&self.documents, key, value);
        Ok(Applied::Stored)
    }

    pub(super) fn stamps(
        &self,
        first: Vec<u8>,
        end: Vec<u8>,
        op_prefix: &str,
        limit: usize,
    ) -> Result<Vec<Stamp>, StoreError> {
        let mut found = Vec::new();
        if limit == 0 || first >= end {
            return Ok(found);
        }
        for entry in self.documents.range(first..end) {
            let (key, value) = entry.into_inner().map_err(failed)?;
            let stamp = encoding::audit_stamp(raw(&key, &value)?, op_prefix)
                .map_err(|error| corrupt(&key, &error))?;
            found.extend(stamp);
            if found.len() == limit {
                break;
            }
        }
        Ok(found)
    }

    /// Fails once a write has failed: the engine takes no more writes then.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.database.persist(PersistMode::Buffer).map_err(failed)
    }

    pub(super) fn purge(&self, now: DateTime, limit: usize) -> Result<usize, StoreError> {
        let ttl = i64::try_from(TOMBSTONE_TTL.as_millis()).unwrap_or(i64::MAX);
        let cutoff = DateTime::from_millis(now.timestamp_millis().saturating_sub(ttl));
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch =
            OwnedWriteBatch::with_capacity(self.database.clone(), 0).durability(Some(PersistMode::SyncAll));
        let mut found = 0;
        for entry in self.tombstones.range(..tombstone_key(cutoff, &[])).take(limit) {
            let by_age = entry.key().map_err(failed)?;
            let key = by_age.get(8..).unwrap_or_default();
            found += 1;
            if let Some(value) = self.documents.get(key).map_err(failed)? {
                let stamp = RawStamp::of(raw(key, &value)?).map_err(|error| corrupt(key, &error))?;
                let expired = stamp.and_then(|stamp| stamp.deleted).is_some_and(|deleted| deleted < cutoff);
                if expired {
                    batch.remove(&self.documents, key);
                }
            }
            batch.remove(&self.tombstones, by_age);
        }
        batch.commit().map_err(failed)?;
        Ok(found)
    }
}

fn tombstone_key(deleted: DateTime, key: &[u8]) -> Vec<u8> {
    let ms = u64::try_from(deleted.timestamp_millis()).unwrap_or(0);
    [&ms.to_be_bytes(), key].concat()
}

fn raw<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a RawDocument, StoreError> {
    RawDocument::from_bytes(value).map_err(|error| corrupt(key, &error))
}

fn corrupt(key: &[u8], error: &bson::error::Error) -> StoreError {
    let key = String::from_utf8_lossy(key).replace('\0', "/");
    StoreError::Failed(format!("the stored document {key} is corrupt: {error}"))
}

/// The disk is the matter and not the writes: they wait until it is mended, and are no dead letters.
fn failed(error: fjall::Error) -> StoreError {
    StoreError::Unavailable(match error {
        fjall::Error::Poisoned => {
            "an earlier write to the data directory failed; check the disk and restart the service".to_owned()
        }
        error => format!("the data directory cannot be used: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_disk_is_no_fault_of_the_writes() {
        for error in [fjall::Error::Poisoned, fjall::Error::Io(std::io::ErrorKind::StorageFull.into())] {
            assert!(matches!(failed(error), StoreError::Unavailable(_)));
        }
    }
}
