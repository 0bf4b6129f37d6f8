//! The names of the journal's keys. All of a shard are in one hash slot, by the tag in braces, so that a script may
//! touch them together on Redis Cluster too.

use crate::journal::WriteId;
use crate::operation::Position;

/// The consumer group of every shard's stream.
pub(super) const GROUP: &str = "workers";
/// The field of a stream entry that holds it.
pub(super) const FIELD: &str = "e";

/// How many shards there are. With the processes that rely on it in a slot of their own.
pub(super) const COUNT: &str = "scalekit:{shards}:count";
/// Workers that are there, scored by when they count as gone (milliseconds of Redis's clock).
pub(super) const WORKERS: &str = "scalekit:{shards}:workers";
/// API processes, the same way.
pub(super) const APIS: &str = "scalekit:{shards}:apis";

/// The keys of one shard.
#[derive(Clone, Debug)]
pub(super) struct ShardKeys {
    pub(super) shard: u16,
    /// The stream of entries.
    pub(super) stream: String,
    /// How many bytes the stream's entries have together.
    pub(super) bytes: String,
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
            bytes: name("bytes"),
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

    /// As which entries a command was carried out.
    pub(super) fn command(&self, name: u128) -> String {
        format!("scalekit:{{{}}}:command:{name:032x}", self.shard)
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

/// Where in the journal an operation is: the entry, the request's place in it, and where it stands in the entry's bytes.
/// Its text, `ms-seq.place.offset.bytes.checksum`, is what Redis remembers of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) position: Position,
    pub(super) place: u16,
    pub(super) offset: usize,
    pub(super) bytes: usize,
    /// Of what was written; builds from before did not keep it.
    pub(super) checksum: Option<u32>,
}

impl Place {
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.split('.');
        let place = Self {
            position: parse_id(words.next()?)?,
            place: words.next()?.parse().ok()?,
            offset: words.next()?.parse().ok()?,
            bytes: words.next()?.parse().ok()?,
            checksum: match words.next() {
                Some(digits) => Some(u32::from_str_radix(digits, 16).ok()?),
                None => None,
            },
        };
        words.next().is_none().then_some(place)
    }
}
