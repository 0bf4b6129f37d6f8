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
    let policy: Option<String> = info.get("maxmemory_policy");
    let limit: u64 = info.get("maxmemory").unwrap_or(0);
    if let Some(policy) = policy
        && limit > 0
        && policy.starts_with("allkeys")
    {
        return Err(JournalError::Failed(format!(
            "Redis at {address} has maxmemory-policy {policy}, which evicts the journal and with it accepted writes; \
             set `maxmemory-policy noeviction`, and give the cache a server of its own (--cache-url)"
        )));
    }
    let aof_enabled = info.get::<u8>("aof_enabled") == Some(1);
    // CONFIG may be forbidden; then only the weaker claim is safe.
    let settings: HashMap<String, String> = ::redis::cmd("CONFIG")
        .arg("GET")
        .arg("appendfsync")
        .query_async(&mut connection)
        .await
        .unwrap_or_default();
    Ok(durability(aof_enabled, settings.get("appendfsync").map(String::as_str)))
}

/// `appendfsync always` flushes before it answers; `everysec` and `no` hand over to the operating system;
/// without an append-only file there is only memory.
fn durability(aof_enabled: bool, appendfsync: Option<&str>) -> Durability {
    match (aof_enabled, appendfsync) {
        (false, _) => Durability::Memory,
        (true, Some("always")) => Durability::Fsync,
        (true, _) => Durability::Os,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_no_more_than_the_server_does() {
        assert_eq!(durability(false, Some("always")), Durability::Memory);
        assert_eq!(durability(true, Some("always")), Durability::Fsync);
        assert_eq!(durability(true, Some("everysec")), Durability::Os);
        assert_eq!(durability(true, Some("no")), Durability::Os);
        assert_eq!(durability(true, None), Durability::Os);
    }
}
