//! What an append is worth on this Redis server, read from the server itself: at the start, on each new connection, since
//! that may lead to another server, and again and again, since settings can be changed while it runs.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use ::redis::{InfoDict, RedisError};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::refusal::unavailable;
use crate::contract::Durability;
use crate::journal::JournalError;
use crate::redis_link::{Lease, RedisLink};

/// What was read is believed for this long. The watch of the backlog comes by more often than that.
const BELIEVED: Duration = Duration::from_secs(10);

/// What is known of the server.
#[derive(Debug)]
struct Known {
    /// Of which connection.
    generation: u64,
    at: Instant,
    durability: Durability,
    /// Why nothing may be appended, whatever is demanded.
    unfit: Option<String>,
}

/// What the server gives, and what it must give.
#[derive(Debug)]
pub(super) struct Standing {
    demanded: Durability,
    believed: Duration,
    known: RwLock<Option<Known>>,
    /// One looks, the others wait for what it sees. Whether writes were refused then.
    looking: Mutex<bool>,
}

impl Standing {
    /// Nothing must be appended while the server gives less than this.
    pub(super) fn demanding(demanded: Durability) -> Self {
        Self { demanded, believed: BELIEVED, known: RwLock::default(), looking: Mutex::default() }
    }

    #[cfg(test)]
    pub(super) fn believed_for(mut self, believed: Duration) -> Self {
        self.believed = believed;
        self
    }

    fn read<T>(&self, of: impl FnOnce(&Known) -> T) -> Option<T> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(of)
    }

    /// What an append is worth, as seen last.
    pub(super) fn durability(&self) -> Durability {
        self.read(|known| known.durability).unwrap_or(Durability::Memory)
    }

    /// Why nothing may be appended.
    pub(super) fn refuses(&self) -> Option<String> {
        self.read(|known| {
            let less = || {
                (known.durability < self.demanded).then(|| {
                    format!(
                        "the profile demands durability `{}`, and Redis now gives `{}` only (set `appendonly yes`, `appendfsync {}` and `no-appendfsync-on-rewrite no`, or lower deploy.durability)",
                        self.demanded.as_str(),
                        known.durability.as_str(),
                        if self.demanded == Durability::Fsync { "always" } else { "everysec" },
                    )
                })
            };
            known.unfit.clone().or_else(less)
        })
        .flatten()
    }

    fn is_fresh(&self, lease: &Lease) -> bool {
        self.read(|known| known.generation == lease.generation() && known.at.elapsed() < self.believed)
            .unwrap_or(false)
    }

    /// Looks if that is due.
    ///
    /// # Errors
    /// The server could not be asked, or it does not give what is demanded. Nothing must be appended then.
    pub(super) async fn hold(&self, link: &RedisLink, lease: &Lease) -> Result<(), JournalError> {
        let is_known = self.read(|known| known.generation == lease.generation()).unwrap_or(false);
        // What is merely old is good enough while somebody else looks.
        let will_do = self.is_fresh(lease) || (is_known && self.looking.try_lock().is_err());
        if !will_do {
            self.look(link, lease).await?;
        }
        self.refuses().map_or(Ok(()), |reason| Err(JournalError::Unavailable(reason)))
    }

    /// Reads persistence and eviction settings.
    ///
    /// # Errors
    /// The server could not be asked, or it may evict what is accepted.
    pub(super) async fn look(&self, link: &RedisLink, lease: &Lease) -> Result<(), JournalError> {
        let mut refused = self.looking.lock().await;
        if self.is_fresh(lease) {
            return Ok(());
        }
        let seen = inspect(lease, link.address()).await;
        link.check(lease, &seen);
        let (durability, unfit) = seen.map_err(|error| unavailable(link.address(), &error))?;
        let known =
            Known { generation: lease.generation(), at: Instant::now(), durability, unfit: unfit.clone() };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
        let refuses = self.refuses();
        match (&refuses, *refused) {
            (Some(reason), false) => tracing::error!(reason, "writes are refused"),
            (None, true) => tracing::info!(durability = durability.as_str(), "writes are accepted again"),
            _ => {}
        }
        *refused = refuses.is_some();
        unfit.map_or(Ok(()), |reason| Err(JournalError::Failed(reason)))
    }
}

/// The durability, and why the server is of no use for a journal.
async fn inspect(lease: &Lease, address: &str) -> Result<(Durability, Option<String>), RedisError> {
    let mut connection = lease.connection.clone();
    let info: InfoDict = ::redis::cmd("INFO").query_async(&mut connection).await?;
    let policy: Option<String> = info.get("maxmemory_policy");
    let limit: u64 = info.get("maxmemory").unwrap_or(0);
    let is_cluster = info.get::<u8>("cluster_enabled") == Some(1);
    let cluster = is_cluster.then(|| {
        format!(
            "Redis at {address} is a node of a cluster (cluster_enabled:1), which scalekit does not follow; use a server of its own for the journal, with `cluster-enabled no`"
        )
    });
    let evicts = policy.filter(|policy| limit > 0 && policy != "noeviction").map(|policy| {
        format!(
            "Redis at {address} has maxmemory-policy {policy}, which evicts the journal, or what it remembers of retries; \
             set `maxmemory-policy noeviction`, and give the cache a server of its own (--cache-url)"
        )
    });
    let aof_enabled = info.get::<u8>("aof_enabled") == Some(1);
    // CONFIG may be forbidden; then only the weaker claim is safe.
    let settings: HashMap<String, String> = ::redis::cmd("CONFIG")
        .arg("GET")
        .arg("appendfsync")
        .arg("no-appendfsync-on-rewrite")
        .query_async(&mut connection)
        .await
        .unwrap_or_default();
    let setting = |name: &str| settings.get(name).map(String::as_str);
    let unfit = cluster.or(evicts);
    Ok((durability(aof_enabled, setting("appendfsync"), setting("no-appendfsync-on-rewrite")), unfit))
}

/// `appendfsync always` flushes before it answers; `everysec` and `no` hand over to the operating system;
/// without an append-only file there is only memory. With `no-appendfsync-on-rewrite yes` not even `always`
/// flushes while the file is rewritten.
fn durability(aof_enabled: bool, appendfsync: Option<&str>, not_on_rewrite: Option<&str>) -> Durability {
    match (aof_enabled, appendfsync, not_on_rewrite) {
        (false, ..) => Durability::Memory,
        (true, Some("always"), Some("no")) => Durability::Fsync,
        (true, ..) => Durability::Os,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_no_more_than_the_server_does() {
        for (aof, fsync, not_on_rewrite, expected) in [
            (false, Some("always"), Some("no"), Durability::Memory),
            (true, Some("always"), Some("no"), Durability::Fsync),
            (true, Some("always"), Some("yes"), Durability::Os),
            (true, Some("always"), None, Durability::Os),
            (true, Some("everysec"), Some("no"), Durability::Os),
            (true, Some("no"), Some("no"), Durability::Os),
            (true, None, None, Durability::Os),
        ] {
            assert_eq!(durability(aof, fsync, not_on_rewrite), expected, "{fsync:?} {not_on_rewrite:?}");
        }
    }
}
