//! What an append is worth on this Redis server, read from the server itself.

use std::collections::HashMap;

use ::redis::InfoDict;
use ::redis::aio::MultiplexedConnection;

use super::unavailable;
use crate::contract::Durability;
use crate::journal::JournalError;

/// Reads persistence and eviction settings.
pub(super) async fn inspect(
    mut connection: MultiplexedConnection,
    address: &str,
) -> Result<Durability, JournalError> {
    let info: InfoDict = ::redis::cmd("INFO")
        .query_async(&mut connection)
        .await
        .map_err(|error| unavailable(address, &error))?;
    if info.get::<u8>("cluster_enabled") == Some(1) {
        return Err(JournalError::Failed(format!(
            "Redis at {address} is a node of a cluster (cluster_enabled:1), which scalekit does not follow; use a server of its own for the journal, with `cluster-enabled no`"
        )));
    }
    let policy: Option<String> = info.get("maxmemory_policy");
    let limit: u64 = info.get("maxmemory").unwrap_or(0);
    if let Some(policy) = policy
        && limit > 0
        && policy != "noeviction"
    {
        return Err(JournalError::Failed(format!(
            "Redis at {address} has maxmemory-policy {policy}, which evicts the journal, or what it remembers of retries; \
             set `maxmemory-policy noeviction`, and give the cache a server of its own (--cache-url)"
        )));
    }
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
    Ok(durability(aof_enabled, setting("appendfsync"), setting("no-appendfsync-on-rewrite")))
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
