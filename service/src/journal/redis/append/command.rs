//! One command that appends several requests: how they are dealt out to entries, what Redis does in one step, and what
//! its answer says of each of them.

use std::sync::LazyLock;

use ::redis::{Cmd, Script};

use super::super::IDEMPOTENCY_TTL;
use super::super::keys::{Place, ShardKeys, parse_id};
use super::{DEADLINE, Part};
use crate::journal::embedded::BacklogBounds;
use crate::journal::{Appended, Backlog, JournalError, WriteId, WriteIds, codec};
use crate::operation::Position;

/// Requests in an entry, and the bytes after which no further one joins. An entry is never split over batches, and
/// who looks for one write in it makes Redis go through all of it.
const ENTRY_REQUESTS: usize = 16;
const ENTRY_BYTES: usize = 16 << 10;
/// Of requests without an operation id Redis remembers the command, for as long as this process may send it again.
const COMMAND_TTL_MS: u64 = 10 * DEADLINE.as_millis() as u64;

/// Appends entries and remembers where each operation is, in one step, so that a retry finds what was done the first
/// time. It does nothing if any of these operations is remembered already, or while the backlog is at a bound.
///
/// Keys: stream and counter of bytes of each shard; then what is remembered. Arguments: how long (ms), and how long the
/// command itself; the bounds of the backlog (entries, bytes); the number of shards; of each entry its shard, a
/// byte; of each of what is remembered its entry, two bytes, 0 for the command itself; the entries; and of each of what
/// is remembered the rest of its [`Place`]. The answer begins with `n` and has the ids of the entries; or with `r`,
/// and has what is remembered, empty where nothing is; or with `e` or `b`, and says how many entries or bytes wait.
pub(super) static APPEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local ttl, shards, owners, whose = ARGV[1], tonumber(ARGV[5]), ARGV[6], ARGV[7]
        local keys, count = 2 * shards, #owners
        local prior = redis.call('MGET', unpack(KEYS, keys + 1))
        for _, found in ipairs(prior) do
            if found then
                local answer = {'r'}
                for key = 1, #prior do answer[key + 1] = prior[key] or '' end
                return answer
            end
        end
        -- A user who may XADD and not SET would leave an entry behind a refusal.
        if not redis.acl_check_cmd('SET', KEYS[keys + 1], '', 'PX', ttl) then
            return redis.error_reply('NOPERM this user may not SET what is remembered of operations')
        end
        local entries, bytes = 0, 0
        for shard = 1, shards do
            entries = entries + redis.call('XLEN', KEYS[2 * shard - 1])
            bytes = bytes + tonumber(redis.call('GET', KEYS[2 * shard]) or 0)
        end
        if entries >= tonumber(ARGV[3]) then return {'e', string.format('%.0f', entries)} end
        if entries > 0 and bytes >= tonumber(ARGV[4]) then return {'b', string.format('%.0f', bytes)} end
        local answer = {'n'}
        for entry = 1, count do
            local shard, payload = string.byte(owners, entry), ARGV[7 + entry]
            redis.call('INCRBY', KEYS[2 * shard], #payload)
            answer[entry + 1] = redis.call('XADD', KEYS[2 * shard - 1], '*', 'e', payload)
        end
        for key = 1, #prior do
            local low, high = string.byte(whose, 2 * key - 1, 2 * key)
            local entry = low + 256 * high
            if entry == 0 then
                redis.call('SET', KEYS[keys + key], table.concat(answer, ' ', 2), 'PX', ARGV[2])
            else
                redis.call('SET', KEYS[keys + key], answer[entry + 1] .. ARGV[7 + count + key], 'PX', ttl)
            end
        end
        return answer",
    )
});

/// Several requests as entries.
pub(super) struct Command<'a> {
    requests: Vec<&'a [Part]>,
    entries: Vec<Entry>,
    /// Of each part, in order.
    spots: Vec<Spot>,
    /// Where Redis remembers the command, if a request has no operation id.
    key: Option<String>,
}

struct Entry {
    shard: u16,
    requests: u16,
    bytes: Vec<u8>,
}

/// Where a part stands: its entry among those of the command, its place and bytes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    entry: usize,
    place: u16,
    offset: usize,
    bytes: usize,
}

/// What came of a command.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// An answer for each request.
    Settled(Vec<Result<Appended, JournalError>>),
    /// Nothing was done, since some requests are in the journal already: an answer for each of those.
    Found(Vec<Option<Result<Appended, JournalError>>>),
}

impl<'a> Command<'a> {
    /// `name` stays the same when the same requests are sent again.
    pub(super) fn new(requests: Vec<&'a [Part]>, name: u128, shards: &[ShardKeys]) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        let mut spots = Vec::new();
        // Of each shard the entry that takes more.
        let mut open: Vec<Option<usize>> = vec![None; shards.len()];
        for parts in &requests {
            for part in *parts {
                let open = &mut open[usize::from(part.shard)];
                let has_room = |entry: &usize| {
                    let Entry { requests, bytes, .. } = &entries[*entry];
                    usize::from(*requests) < ENTRY_REQUESTS && bytes.len() < ENTRY_BYTES
                };
                let entry = open.filter(has_room).unwrap_or_else(|| {
                    entries.push(Entry::new(part.shard));
                    entries.len() - 1
                });
                *open = Some(entry);
                let Entry { requests, bytes, .. } = &mut entries[entry];
                spots.push(Spot { entry, place: *requests, offset: bytes.len(), bytes: part.encoded.len() });
                bytes.extend_from_slice(&part.encoded);
                *requests += 1;
            }
        }
        for entry in &mut entries {
            entry.bytes[1..codec::HEAD_BYTES].copy_from_slice(&entry.requests.to_le_bytes());
        }
        let unnamed = requests.iter().copied().flatten().find(|part| part.key.is_none());
        let key = unnamed.map(|part| shards[usize::from(part.shard)].command(name));
        Self { requests, entries, spots, key }
    }

    fn parts(&self) -> impl Iterator<Item = &'a Part> {
        self.requests.iter().copied().flatten()
    }

    /// What is to be remembered, and where it is.
    fn remembered(&self) -> impl Iterator<Item = (&str, Option<(Spot, u32)>)> {
        let parts = self.parts().zip(&self.spots);
        let named =
            parts.filter_map(|(part, spot)| Some((part.key.as_deref()?, Some((*spot, part.checksum)))));
        self.key.iter().map(|key| (key.as_str(), None)).chain(named)
    }

    pub(super) fn evaluate(&self, shards: &[ShardKeys], bounds: BacklogBounds) -> Cmd {
        let count = self.remembered().count();
        let keys_bytes: usize = self.remembered().map(|(key, _)| key.len() + 48).sum();
        let entries_bytes: usize = self.entries.iter().map(|entry| entry.bytes.len()).sum();
        let arguments = 2 * shards.len() + 2 * count + self.entries.len() + 10;
        let mut command = Cmd::with_capacity(arguments, keys_bytes + entries_bytes + 64 * shards.len() + 256);
        command.arg("EVALSHA").arg(APPEND.get_hash()).arg(count + 2 * shards.len());
        for keys in shards {
            command.arg(&keys.stream).arg(&keys.bytes);
        }
        self.remembered().for_each(|(key, _)| {
            command.arg(key);
        });
        command.arg(IDEMPOTENCY_TTL.as_millis() as u64).arg(COMMAND_TTL_MS);
        command.arg(bounds.entries).arg(bounds.bytes).arg(shards.len());
        // Lua counts from 1; there are fewer shards than a byte has values, and fewer entries than two have.
        let owners: Vec<u8> = self.entries.iter().map(|entry| entry.shard as u8 + 1).collect();
        let whose: Vec<u8> = self
            .remembered()
            .flat_map(|(_, spot)| spot.map_or(0, |(spot, _)| spot.entry as u16 + 1).to_le_bytes())
            .collect();
        command.arg(owners).arg(whose);
        for entry in &self.entries {
            command.arg(&entry.bytes);
        }
        self.remembered().for_each(|(_, spot)| {
            command.arg(spot.map_or_else(String::new, |(spot, checksum)| {
                format!(".{}.{}.{}.{checksum:08x}", spot.place, spot.offset, spot.bytes)
            }));
        });
        command
    }

    /// What the script's answer means.
    pub(super) fn outcome(&self, answer: &[Vec<u8>], bounds: BacklogBounds) -> Result<Outcome, JournalError> {
        let (tag, rest) = answer.split_first().ok_or_else(|| strange("nothing"))?;
        match tag.as_slice() {
            b"n" => self.appended(rest).map(Outcome::Settled),
            b"r" if rest.len() == self.remembered().count() => self.found(rest),
            b"e" | b"b" => Err(JournalError::Full(full(tag, rest, bounds))),
            _ => Err(strange(&String::from_utf8_lossy(tag))),
        }
    }

    fn appended(&self, ids: &[Vec<u8>]) -> Result<Vec<Result<Appended, JournalError>>, JournalError> {
        let positions: Vec<Position> = ids
            .iter()
            .map(|id| std::str::from_utf8(id).ok().and_then(parse_id))
            .collect::<Option<_>>()
            .filter(|positions: &Vec<_>| positions.len() == self.entries.len())
            .ok_or_else(|| strange(&format!("{} ids for {} entries", ids.len(), self.entries.len())))?;
        let mut spots = self.spots.iter();
        let answers = self.requests.iter().map(|parts| {
            let ids: Vec<WriteId> = parts
                .iter()
                .zip(spots.by_ref())
                .map(|(part, spot)| WriteId {
                    shard: part.shard,
                    position: positions[spot.entry],
                    place: spot.place,
                })
                .collect();
            let ids = WriteIds::new(&ids).expect("a request has a part at least");
            Ok(Appended { ids, repeated: false, salt: parts[0].salt })
        });
        Ok(answers.collect())
    }

    /// What is remembered of each request.
    fn found(&self, remembered: &[Vec<u8>]) -> Result<Outcome, JournalError> {
        let mut remembered = remembered.iter();
        if self.key.is_some()
            && let Some(ids) = remembered.next().filter(|ids| !ids.is_empty())
        {
            // This very command was carried out, so all of it was.
            let ids: Vec<Vec<u8>> = ids.split(|byte| *byte == b' ').map(<[u8]>::to_vec).collect();
            return self.appended(&ids).map(Outcome::Settled);
        }
        let answers = self.requests.iter().map(|parts| {
            let named = parts.iter().filter(|part| part.key.is_some());
            let places: Vec<&[u8]> =
                named.zip(remembered.by_ref()).map(|(_, place)| place.as_slice()).collect();
            places.iter().any(|place| !place.is_empty()).then(|| repeated(parts, &places))
        });
        Ok(Outcome::Found(answers.collect()))
    }
}

/// The answer for a request whose operation is in the journal.
fn repeated(parts: &[Part], places: &[&[u8]]) -> Result<Appended, JournalError> {
    let mut ids = Vec::with_capacity(parts.len());
    for (part, text) in parts.iter().zip(places) {
        if text.is_empty() {
            return Err(JournalError::Reused);
        }
        let place = Place::parse(text).ok_or_else(|| strange(&String::from_utf8_lossy(text)))?;
        if place.checksum.is_some_and(|checksum| checksum != part.checksum) {
            return Err(JournalError::Reused);
        }
        ids.push(WriteId { shard: part.shard, position: place.position, place: place.place });
    }
    let ids = WriteIds::new(&ids).expect("a request has a part at least");
    Ok(Appended { ids, repeated: true, salt: None })
}

fn strange(answer: &str) -> JournalError {
    JournalError::Unknown(format!("Redis answered an append with {answer:?}"))
}

fn full(tag: &[u8], waiting: &[Vec<u8>], bounds: BacklogBounds) -> String {
    let waiting = waiting.first().and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    let waiting = waiting.unwrap_or(u64::MAX);
    let reached = if tag == b"e" {
        Backlog { entries: waiting, ..Backlog::default() }
    } else {
        Backlog { bytes: waiting, ..Backlog::default() }
    };
    reached.full(bounds).unwrap_or_default()
}

impl Entry {
    fn new(shard: u16) -> Self {
        let mut bytes = Vec::with_capacity(4096);
        bytes.extend_from_slice(&[codec::MARKED_VERSION, 0, 0]);
        Self { shard, requests: 0, bytes }
    }
}
