//! The start after a stop or a crash: what the journal holds and the database does not yet is readable again at once,
//! as it was promised to those who wrote it. Only for a cache that lives and dies with its process.

use std::time::Duration;

use crate::cache::{AcceptedWrite, Cache, CacheChange};
use crate::journal::{Consumer, Delivery, JournalError, Request, RequestWrite};

/// Entries and bytes that are held at once, beside what the cache keeps of them.
const ENTRIES: usize = 1000;
const BYTES: usize = 8 * 1024 * 1024;

/// Shows the cache all that waits in the journal; returns how many entries. The consumer must be of no further use,
/// since it acknowledges nothing.
///
/// # Errors
/// The journal cannot be read.
pub(crate) async fn recall(mut consumer: impl Consumer, cache: &dyn Cache) -> Result<u64, JournalError> {
    let mut recalled = 0;
    loop {
        let deliveries = consumer.read(ENTRIES, BYTES, Duration::ZERO).await?;
        if deliveries.is_empty() {
            return Ok(recalled);
        }
        for delivery in deliveries {
            recalled += 1;
            // What nobody can read becomes a dead letter, which is the worker's business.
            let Delivery::Entry(entry) = delivery else { continue };
            let version = entry.position.version();
            for request in entry.requests {
                // Dead letters under their old version show once they are stored: until then nobody knows whether they
                // are anything.
                if request.replay.as_ref().is_some_and(|replay| !replay.as_new) {
                    continue;
                }
                if let Err(error) = cache.accepted(visible(request, version)).await {
                    tracing::warn!(%error, "what waits in the journal cannot be read until it is stored");
                }
            }
        }
    }
}

/// The writes of a journaled request as the cache shows them.
pub(crate) fn visible(request: Request, version: i64) -> Vec<AcceptedWrite> {
    let shown = |RequestWrite { key, change }| {
        let json = change.json();
        AcceptedWrite { key, version, change: CacheChange::new(&change, json) }
    };
    request.writes.into_iter().map(shown).collect()
}
