//! The wire contract: what clients send and get, and how ids are derived. The load generator shares these
//! types, so both sides cannot drift apart.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most reads in one transaction, and most writes (counted separately).
pub const MAX_OPERATIONS_PER_REQUEST: usize = 64;
/// Longest collection name, in bytes.
pub const MAX_COLLECTION_BYTES: usize = 120;
/// Longest document id and longest `Idempotency-Key`, in bytes.
pub const MAX_ID_BYTES: usize = 256;
/// The field that scalekit adds to each stored document: `{op, v}`.
pub const RESERVED_FIELD: &str = "_sk";

/// What a write does to its document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WriteOp {
    /// Create; a document that exists already under this id makes it a dead letter.
    Insert,
    /// Create or overwrite.
    Replace,
    /// Set the given top-level fields, remove those given as null; creates what is absent.
    Merge,
    /// Remove.
    Delete,
}

/// One document to read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadRequest {
    pub collection: String,
    pub id: String,
}

/// How durable an acknowledged write is, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// In the memory of the journal process; lost when that process dies.
    Memory,
    /// Handed to the operating system; survives the process, not a power cut (up to about a second).
    Os,
    /// On the device (fsync returned); survives a power cut.
    Fsync,
    /// In the database itself, which has flushed it: of a service in direct mode, that has no journal.
    Database,
}

impl Durability {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Os => "os",
            Self::Fsync => "fsync",
            Self::Database => "database",
        }
    }
}

/// Path segments under `/v1/` that are routes, and so no names of collections.
pub const RESERVED_COLLECTIONS: [&str; 5] = ["audit", "dead-letters", "stats", "transactions", "writes"];
/// The header that names an operation, so that a retry is recognised.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The answer to an accepted single write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    pub id: String,
    pub write_id: String,
    pub durability: Durability,
}

/// The answer of `GET /v1/writes/{write_id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WriteStatus {
    pub write_id: String,
    /// `accepted`, `stored` or `dead`; of replayed dead letters `superseded`, if the document was written since.
    #[schema(pattern = "^(accepted|stored|superseded|dead)$")]
    pub status: String,
    /// Why, if dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A write that was refused for good, or an entry that nobody can read, with what is known of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Letter {
    pub id: String,
    /// Of the request that it came with; `GET /v1/writes/{write_id}` tells where that stands.
    pub write_id: String,
    /// `_sk.op` of the write. Like the next three, absent for an entry that nobody can read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<WriteOp>,
    pub reason: String,
    /// When it was refused first and last, milliseconds since the Unix epoch.
    pub first_ms: u64,
    pub last_ms: u64,
    /// How often it was refused.
    pub times: u32,
    /// Size of the payload.
    pub bytes: u64,
    /// The document, in MongoDB's relaxed extended form; not in a list, and not of a delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub document: Option<serde_json::Value>,
    /// The payload of what nobody can read, hexadecimal; not in a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

/// A page of `GET /v1/dead-letters`, oldest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LetterPage {
    pub letters: Vec<Letter>,
    /// Ask again with this as `after`; absent on the last page. A page may have fewer letters than `limit`, or none,
    /// and still be followed by others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The answer to a replay: the letters are in the journal again, as this request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replayed {
    /// The letter, and others of its request to the same document: they were one change, and go back as one.
    pub letters: Vec<String>,
    /// Where they stand is told by `GET /v1/writes/{write_id}`.
    pub write_id: String,
    pub durability: Durability,
}

/// The answer to giving a letter up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dropped {
    pub id: String,
}

/// An RFC 9457 problem document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// What was wrong, where, and what was expected.
    pub detail: String,
}

/// A page of `GET /v1/audit/{collection}`: what the store itself holds, past every cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    pub documents: Vec<AuditedDocument>,
    /// Ask again with this as `after`; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One document of an [`AuditPage`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditedDocument {
    pub id: String,
    /// `_sk.op`
    pub op: String,
    pub deleted: bool,
}

/// The answer of `/v1/stats`. Counts are since the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// `api`, `worker` or `all`.
    pub role: String,
    /// `write-behind` or `direct`; empty from a service of before there were two.
    #[serde(default)]
    pub mode: String,
    pub version: String,
    pub pid: u32,
    /// Of this start of the process: another one means that all counts began anew.
    pub instance: String,
    pub uptime_ms: u64,
    /// Resident memory of the process, bytes, now and at its highest; 0 where the system does not tell.
    pub memory_bytes: u64,
    pub memory_peak_bytes: u64,
    pub journal: JournalStats,
    pub store: StoreStats,
    pub cache: CacheStats,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerStats>,
    pub requests: u64,
    /// Requests by status, as far as there were any.
    #[schema(value_type = std::collections::BTreeMap<String, u64>)]
    pub requests_by_status: std::collections::BTreeMap<u16, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JournalStats {
    pub kind: String,
    /// What a 202 means right now: `fsync`, `os` or `memory`; `database` without a journal.
    pub durability: String,
    /// Whether the journal answered just now; the backlog is unknown if not.
    pub reachable: bool,
    /// Entries that are not stored yet.
    pub backlog_entries: u64,
    /// Their size.
    #[serde(default)]
    pub backlog_bytes: u64,
    pub backlog_age_ms: u64,
    pub appended: u64,
    pub repeated: u64,
    pub accepted_writes: u64,
    /// Appends that failed, or whose outcome is unknown.
    #[serde(default)]
    pub append_failures: u64,
    /// Why nothing is appended now although the journal answers.
    #[serde(default)]
    pub refuses: Option<String>,
    /// Entries that leave the backlog in a second, over the last seconds.
    #[serde(default)]
    pub drain_per_s: f64,
    /// Writes that were not accepted, by reason.
    #[serde(default)]
    pub rejected: std::collections::BTreeMap<String, u64>,
    /// Dead letters that the journal keeps now.
    #[serde(default)]
    pub dead_letters: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoreStats {
    pub kind: String,
    /// Database operations of this process, reads and writes.
    pub operations: u64,
    /// The limit in force, operations a second.
    pub operations_limit: u32,
    /// The one that `database_ops` of the profile sets, which that in force is never above; 0 from a service of before there
    /// were two.
    #[serde(default)]
    pub operations_most: u32,
    /// Where it comes from: `database_ops` or `database_iops` of the profile, or `database_iops_unread` while there is one
    /// for the device's operations and nobody can read them.
    #[serde(default)]
    pub operations_limit_by: String,
    /// Whether all processes on this database are under that limit together; else it is of this process alone.
    #[serde(default)]
    pub operations_shared: bool,
    /// Most operations that were started within any one second, by all who share the limit.
    pub operations_peak: u32,
    /// Operations that had to wait for the limit, and for how long all together.
    #[serde(default)]
    pub operations_delayed: u64,
    #[serde(default)]
    pub operations_delayed_ms: u64,
    /// The database's device, if the profile names or bounds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceStats>,
}

/// The device of the database, as this process sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceStats {
    /// What this process reads; nothing if it leaves that to others.
    #[serde(default)]
    pub place: Option<String>,
    /// I/O operations in the last second, by whomever; nothing while they cannot be read.
    #[serde(default)]
    pub iops: Option<f64>,
    /// I/O operations since the device, or its control group, is there; nothing while they cannot be read.
    #[serde(default)]
    pub operations: Option<u64>,
    /// The bound that the profile sets.
    #[serde(default)]
    pub iops_bound: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CacheStats {
    pub kind: String,
    /// Documents that the cache answered, on whichever level.
    pub hits: u64,
    /// Of these, in the process itself.
    #[serde(default)]
    pub l1_hits: u64,
    /// Of these, in Redis.
    #[serde(default)]
    pub l2_hits: u64,
    pub misses: u64,
    pub errors: u64,
    /// Of the misses, those that another request was reading already.
    #[serde(default)]
    pub shared_reads: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerStats {
    pub batches: u64,
    pub stored: u64,
    pub superseded: u64,
    pub coalesced: u64,
    pub dead: u64,
    pub retries: u64,
    /// Shards that it owns now.
    #[serde(default)]
    pub shards: u32,
    /// Writes that a batch may have now.
    #[serde(default)]
    pub batch_limit: u64,
}

/// The operation id that the load generator gives a request: fixed width, and ordered by time first, since
/// ids of inserts derive from it and a B-tree fills best in order.
///
/// `run` names the run (lower-case letters and digits), `sequence` is the user's own request count, `user`
/// the virtual user.
#[must_use]
pub fn operation_id(run: &str, sequence: u32, user: u32) -> String {
    let mut id = String::with_capacity(run.len() + 18);
    // Writing to a String cannot fail.
    let _ = write!(id, "{run}-{sequence:08x}-{user:08x}");
    id
}

/// The id of one write: its request's operation id and its place among the request's writes, from 0. It is
/// kept as `_sk.op`, and it is the document id of an insert that came without one.
#[must_use]
pub fn write_operation_id(operation_id: &str, place: usize) -> String {
    // In one allocation: this is done for each write.
    let mut id = String::with_capacity(operation_id.len() + 4);
    // A string takes whatever is written.
    let _ = write!(id, "{operation_id}-{place:02}");
    id
}

/// The operation id of an id that [`write_operation_id`] may have made.
#[must_use]
pub fn operation_of(id: &str) -> Option<&str> {
    let (operation, place) = id.rsplit_once('-')?;
    let is_place = place.len() == 2 && place.bytes().all(|byte| byte.is_ascii_digit());
    (is_place && !operation.is_empty()).then_some(operation)
}

/// Takes an id made by [`operation_id`] and [`write_operation_id`] apart: `(sequence, user, place)`.
/// `None` if it is not of this run or not of this form.
#[must_use]
pub fn parse_write_operation_id(run: &str, id: &str) -> Option<(u32, u32, usize)> {
    let rest = id.strip_prefix(run)?.strip_prefix('-')?;
    let (sequence, rest) = rest.split_once('-')?;
    let (user, place) = rest.split_once('-')?;
    if sequence.len() != 8 || user.len() != 8 || place.len() != 2 {
        return None;
    }
    Some((
        u32::from_str_radix(sequence, 16).ok()?,
        u32::from_str_radix(user, 16).ok()?,
        place.parse().ok().filter(|place| *place < MAX_OPERATIONS_PER_REQUEST)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_ids_round_trip() {
        let id = write_operation_id(&operation_id("k3f9x2ab", 77, 1199), 4);
        assert_eq!(id, "k3f9x2ab-0000004d-000004af-04");
        assert_eq!(parse_write_operation_id("k3f9x2ab", &id), Some((77, 1199, 4)));
        for other in [
            "",
            "k3f9x2ab",
            "k3f9x2ab-1-2-3",
            "zzzzzzzz-0000004d-000004af-04",
            "k3f9x2ab-0000004d-000004af-64",
        ] {
            assert_eq!(parse_write_operation_id("k3f9x2ab", other), None, "{other}");
        }
    }

    #[test]
    fn durability_orders_from_weak_to_strong() {
        assert!(Durability::Memory < Durability::Os && Durability::Os < Durability::Fsync);
        assert!(Durability::Fsync < Durability::Database);
    }
}
