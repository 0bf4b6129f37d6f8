//! The names of the journal's keys. All of a shard are in one hash slot, by the tag in braces, so that a script may
//! touch them together on Redis Cluster too.

use crate::journal::WriteId;
use crate::operation::Position;

/// The consumer group of every shard's stream.
pub(super) const GROUP: &str = "workers";
/// The field of a stream entry that holds it.
pub(super) const FIELD: &str = "e";

/// The keys of one shard.
#[derive(Clone, Debug)]
pub(super) struct ShardKeys {
    pub(super) shard: u16,
    /// The stream of entries.
    pub(super) stream: String,
    /// Which worker owns the shard.
    pub(super) owner: String,
    /// The stream of dead letters.
    pub(super) dead: String,
    /// Their reasons by write id.
    pub(super) dead_reasons: String,
    /// Finds one.
    pub(super) dead_index: String,
}

impl ShardKeys {
    pub(super) fn new(shard: u16) -> Self {
        let name = |what: &str| format!("scalekit:{{{shard}}}:{what}");
        Self {
            shard,
            stream: name("journal"),
            owner: name("owner"),
            dead: name("dead"),
            dead_reasons: name("dead:reasons"),
            dead_index: name("dead:index"),
        }
    }

    /// Where an operation was appended.
    pub(super) fn operation(&self, op_id: &str) -> String {
        format!("scalekit:{{{}}}:op:{op_id}", self.shard)
    }

    /// As which entry dead letters were put back.
    pub(super) fn replayed(&self, key: &str) -> String {
        format!("scalekit:{{{}}}:replayed:{key}", self.shard)
    }

    /// What became of a request whose letters are gone.
    pub(super) fn note(&self, write: WriteId) -> String {
        format!("scalekit:{{{}}}:note:{write}", self.shard)
    }
}

/// A stream id, `ms-seq`.
pub(super) fn parse_id(id: &str) -> Option<Position> {
    let (ms, seq) = id.split_once('-')?;
    Some(Position { ms: ms.parse().ok()?, seq: seq.parse().ok()? })
}
