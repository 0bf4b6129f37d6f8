//! Dead letters on Redis: `…:dead` is a stream of them, oldest first, and `…:dead:index` finds one:
//!
//! ```text
//! <letter id>      stream id, how often it was buried, when last (ms since the epoch)
//! op <op id>       letter id
//! of <write id>    how many letters that request has
//! adopted          what builds from before the index had buried is in it
//! ```
//!
//! `…:dead:reasons` has a reason by write id, for status requests; builds from before the index also kept there which
//! writes were buried. `…:note:<write id>` is what became of letters that are gone (expires).

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::streams::{StreamId, StreamRangeReply};
use ::redis::{AsyncCommands as _, RedisError, Script};
use async_trait::async_trait;

use super::keys::{ShardKeys, parse_id};
use super::refusal::not_connected;
use super::{IDEMPOTENCY_TTL, RedisJournal, payload, unavailable};
use crate::journal::{
    Appended, Backlog, DeadLetter, DeadLetters, JournalError, KeptLetter, LetterId, Note, Request, WriteId,
    WriteIds, codec,
};
use crate::operation::Position;

/// How long it is remembered what became of letters that are gone.
const NOTE_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Letters of builds from before the index that are looked at in one step.
const ADOPT: usize = 500;

/// Buries each letter once; burying it again counts. What keeps letters must work when memory is full, or the worker
/// would stand still.
static BURY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=allow-oom
        local time = redis.call('TIME')
        local now = time[1] .. string.format('%03d', math.floor(time[2] / 1000))
        if redis.call('XLEN', KEYS[1]) == 0 then redis.call('HSET', KEYS[3], 'adopted', '1') end
        for i = 1, #ARGV, 6 do
            local letter, write, op = ARGV[i], ARGV[i + 1], ARGV[i + 2]
            local known = redis.call('HGET', KEYS[3], letter)
            if known then
                local id, times = string.match(known, '^(%S+) (%d+)')
                times = string.format('%d', math.max(tonumber(times), tonumber(ARGV[i + 5])) + 1)
                redis.call('HSET', KEYS[3], letter, id .. ' ' .. times .. ' ' .. now)
            elseif redis.call('HGET', KEYS[2], write .. ' ' .. op) == false then
                local id = redis.call('XADD', KEYS[1], '*', 'write_id', write, 'op_id', op,
                                      'reason', ARGV[i + 3], 'payload', ARGV[i + 4])
                local times = string.format('%d', tonumber(ARGV[i + 5]) + 1)
                redis.call('HSET', KEYS[3], letter, id .. ' ' .. times .. ' ' .. now)
                if op ~= '' then redis.call('HSET', KEYS[3], 'op ' .. op, letter) end
                redis.call('HINCRBY', KEYS[3], 'of ' .. write, 1)
                redis.call('HSETNX', KEYS[2], write, ARGV[i + 3])
            end
        end
        return 0",
    )
});

/// Brings letters of builds from before the index into it; the first argument says whether these are the last.
static ADOPT_LETTERS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=allow-oom
        for i = 2, #ARGV, 5 do
            local letter, write, op, id = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
            if redis.call('HSETNX', KEYS[1], letter, id .. ' 1 ' .. ARGV[i + 4]) == 1 then
                if op ~= '' then redis.call('HSET', KEYS[1], 'op ' .. op, letter) end
                redis.call('HINCRBY', KEYS[1], 'of ' .. write, 1)
            end
        end
        if ARGV[1] == '1' then redis.call('HSET', KEYS[1], 'adopted', '1') end
        return 0",
    )
});

/// Takes a letter out of stream and indexes. KEYS: 1 stream, 2 reasons, 3 index.
macro_rules! remove {
    () => {
        r"
        local function remove(letter, write, op)
            local known = redis.call('HGET', KEYS[3], letter)
            if not known then return 0 end
            redis.call('XDEL', KEYS[1], string.match(known, '^%S+'))
            redis.call('HDEL', KEYS[3], letter)
            if redis.call('HGET', KEYS[3], 'op ' .. op) == letter then redis.call('HDEL', KEYS[3], 'op ' .. op) end
            redis.call('HDEL', KEYS[2], write .. ' ' .. op)
            if redis.call('HINCRBY', KEYS[3], 'of ' .. write, -1) <= 0 then
                redis.call('HDEL', KEYS[3], 'of ' .. write)
                redis.call('HDEL', KEYS[2], write)
            end
            return 1
        end
        "
    };
}

/// Letter, write and operation, then the note and how long it holds.
static DROP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        "#!lua flags=allow-oom",
        remove!(),
        r"
        if remove(ARGV[1], ARGV[2], ARGV[3]) == 0 then return 0 end
        redis.call('SET', KEYS[4], ARGV[4], 'PX', ARGV[5])
        return 1"
    ))
});

/// Appends the entry and takes its letters out in one step, so that there is no moment with both or with neither. It
/// remembers what it did, for whoever did not get the answer.
static REPLAY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        remove!(),
        r"
        local prior = redis.call('GET', KEYS[6])
        if prior then return {prior, 1} end
        for i = 7, #ARGV, 3 do
            if not redis.call('HGET', KEYS[3], ARGV[i]) then return {'', 0} end
        end
        local waiting = redis.call('XLEN', KEYS[5])
        if waiting >= tonumber(ARGV[3]) then return {'full', waiting} end
        redis.call('INCRBY', KEYS[7], #ARGV[1])
        local id = redis.call('XADD', KEYS[5], '*', 'e', ARGV[1])
        redis.call('SET', KEYS[6], id, 'PX', ARGV[2])
        for i = 7, #ARGV, 3 do remove(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
        redis.call('SET', KEYS[4], ARGV[4] .. string.gsub(id, '-', '.') .. ARGV[5], 'PX', ARGV[6])
        return {id, 0}"
    ))
});

static NOTE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=allow-oom
        for _, key in ipairs(KEYS) do redis.call('SET', key, ARGV[1], 'PX', ARGV[2]) end
        return 0",
    )
});

/// The worker's side: keeps letters durably, each once.
pub(super) async fn bury(
    connection: &mut MultiplexedConnection,
    keys: &ShardKeys,
    letters: &[DeadLetter],
) -> Result<(), RedisError> {
    if letters.is_empty() {
        return Ok(());
    }
    let mut call = BURY.prepare_invoke();
    call.key(&keys.dead).key(&keys.dead_reasons).key(&keys.dead_index);
    for letter in letters {
        call.arg(letter.id().to_string())
            .arg(letter.write_id.to_string())
            .arg(&letter.op_id)
            .arg(&letter.reason)
            .arg(&letter.payload[..])
            .arg(letter.returned.map_or(0, |returned| returned.times));
    }
    call.invoke_async::<i64>(connection).await?;
    for letter in letters {
        if let Some(returned) = letter.returned {
            note(connection, keys, &[returned.entry], &Note::Dead(letter.reason.clone())).await?;
        }
    }
    Ok(())
}

/// Remembers what became of requests.
pub(super) async fn note(
    connection: &mut MultiplexedConnection,
    keys: &ShardKeys,
    of: &[WriteId],
    note: &Note,
) -> Result<(), RedisError> {
    if of.is_empty() {
        return Ok(());
    }
    let mut call = NOTE.prepare_invoke();
    for write in of {
        call.key(keys.note(*write));
    }
    call.arg(note.encode()).arg(NOTE_TTL.as_millis() as u64);
    call.invoke_async::<i64>(connection).await.map(drop)
}

/// Of each shard, whether letters of builds from before the index are in it.
pub(super) struct Adopted(Vec<AtomicBool>);

impl Adopted {
    pub(super) fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| AtomicBool::new(false)).collect())
    }
}

/// A letter as the stream has it; `None` for an entry that we did not write.
fn letter_of(entry: &StreamId) -> Option<DeadLetter> {
    Some(DeadLetter {
        write_id: entry.get::<String>("write_id")?.parse().ok()?,
        reason: entry.get("reason").unwrap_or_default(),
        op_id: entry.get("op_id").unwrap_or_default(),
        payload: payload(entry.map.get("payload")).unwrap_or_default().into(),
        returned: None,
    })
}

/// With what the index says: stream id, count and time. What it lacks was buried once.
fn kept(entry: &StreamId, letter: DeadLetter, known: Option<&str>) -> Option<KeptLetter> {
    let at = parse_id(&entry.id)?;
    let mut words = known.unwrap_or_default().split(' ').skip(1);
    let times = words.next().and_then(|word| word.parse().ok()).unwrap_or(1);
    let last_ms = words.next().and_then(|word| word.parse().ok()).unwrap_or(at.ms);
    Some(KeptLetter { at, last_ms, times, letter })
}

impl RedisJournal {
    async fn connection(&self) -> Result<MultiplexedConnection, JournalError> {
        let lease = self.link.lease().await.map_err(not_connected)?;
        Ok(lease.connection)
    }

    fn failed(&self, error: &RedisError) -> JournalError {
        unavailable(self.link.address(), error)
    }

    /// Indexes what builds from before the index have buried, once.
    async fn adopt(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &ShardKeys,
    ) -> Result<(), RedisError> {
        let adopted = &self.adopted.0[usize::from(keys.shard)];
        if adopted.load(Ordering::Relaxed) {
            return Ok(());
        }
        if connection.hget::<_, _, Option<String>>(&keys.dead_index, "adopted").await?.is_none() {
            let mut after = Position::default();
            loop {
                let entries = entries(connection, keys, after, ADOPT).await?;
                let Some(last) = entries.last().and_then(|entry| parse_id(&entry.id)) else { break };
                after = last;
                let mut call = ADOPT_LETTERS.prepare_invoke();
                call.key(&keys.dead_index).arg(u8::from(entries.len() < ADOPT));
                for entry in &entries {
                    let (Some(letter), Some(at)) = (letter_of(entry), parse_id(&entry.id)) else { continue };
                    call.arg(letter.id().to_string())
                        .arg(letter.write_id.to_string())
                        .arg(letter.op_id)
                        .arg(&entry.id)
                        .arg(at.ms);
                }
                call.invoke_async::<i64>(connection).await?;
            }
        }
        adopted.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// A page of one shard.
    async fn page_of(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &ShardKeys,
        after: Position,
        limit: usize,
    ) -> Result<Vec<KeptLetter>, RedisError> {
        self.adopt(connection, keys).await?;
        let (mut page, mut after) = (Vec::new(), after);
        // What is no letter takes no place in the page.
        while page.len() < limit {
            let wanted = limit - page.len();
            let entries = entries(connection, keys, after, wanted).await?;
            after = entries.last().and_then(|entry| parse_id(&entry.id)).unwrap_or(after);
            page.extend(known(connection, keys, &entries).await?);
            if entries.len() < wanted {
                break;
            }
        }
        Ok(page)
    }
}

async fn entries(
    connection: &mut MultiplexedConnection,
    keys: &ShardKeys,
    after: Position,
    limit: usize,
) -> Result<Vec<StreamId>, RedisError> {
    let reply: StreamRangeReply =
        connection.xrange_count(&keys.dead, format!("({after}"), "+", limit).await?;
    Ok(reply.ids)
}

/// The letters among these entries, with what the index says of them.
async fn known(
    connection: &mut MultiplexedConnection,
    keys: &ShardKeys,
    entries: &[StreamId],
) -> Result<Vec<KeptLetter>, RedisError> {
    let letters: Vec<(&StreamId, DeadLetter)> =
        entries.iter().filter_map(|entry| Some((entry, letter_of(entry)?))).collect();
    if letters.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<String> = letters.iter().map(|(_, letter)| letter.id().to_string()).collect();
    let known: Vec<Option<String>> =
        ::redis::cmd("HMGET").arg(&keys.dead_index).arg(ids).query_async(connection).await?;
    let letters = letters.into_iter().zip(known);
    Ok(letters.filter_map(|((entry, letter), known)| kept(entry, letter, known.as_deref())).collect())
}

async fn find(
    connection: &mut MultiplexedConnection,
    keys: &ShardKeys,
    ids: &[String],
) -> Result<Vec<KeptLetter>, RedisError> {
    let known: Vec<Option<String>> =
        ::redis::cmd("HMGET").arg(&keys.dead_index).arg(ids).query_async(connection).await?;
    let mut found = Vec::new();
    for known in known.into_iter().flatten() {
        let id = known.split(' ').next().unwrap_or_default();
        let reply: StreamRangeReply = connection.xrange_count(&keys.dead, id, id, 1).await?;
        let entry = reply.ids.first();
        found.extend(
            entry.and_then(|entry| letter_of(entry).and_then(|letter| kept(entry, letter, Some(&known)))),
        );
    }
    Ok(found)
}

#[async_trait]
impl DeadLetters for RedisJournal {
    /// Of all shards, by the time of their burial. Letters of one moment come together, however many there are.
    async fn page(&self, after: Position, limit: usize) -> Result<Vec<KeptLetter>, JournalError> {
        let mut connection = self.connection().await?;
        let mut page = Vec::new();
        for keys in &self.shards {
            let of_shard = self.page_of(&mut connection, keys, after, limit).await;
            page.extend(of_shard.map_err(|error| self.failed(&error))?);
        }
        page.sort_by_key(|kept| kept.at);
        if let Some(last) = limit.checked_sub(1).and_then(|last| page.get(last)).map(|kept| kept.at) {
            page.retain(|kept| kept.at <= last);
        }
        Ok(page)
    }

    async fn letter(&self, id: LetterId) -> Result<Option<KeptLetter>, JournalError> {
        let Some(keys) = self.shard(id.write.shard) else { return Ok(None) };
        let mut connection = self.connection().await?;
        let finding = async {
            self.adopt(&mut connection, keys).await?;
            find(&mut connection, keys, &[id.to_string()]).await
        };
        Ok(finding.await.map_err(|error| self.failed(&error))?.pop())
    }

    async fn by_operation(&self, op_id: &str) -> Result<Option<KeptLetter>, JournalError> {
        let mut connection = self.connection().await?;
        let field = format!("op {op_id}");
        let finding = async {
            for keys in &self.shards {
                self.adopt(&mut connection, keys).await?;
                if let Some(id) = connection.hget::<_, _, Option<String>>(&keys.dead_index, &field).await? {
                    return Ok(find(&mut connection, keys, &[id]).await?.pop());
                }
            }
            Ok(None)
        };
        finding.await.map_err(|error: RedisError| self.failed(&error))
    }

    async fn of_request(&self, write: WriteId) -> Result<Vec<KeptLetter>, JournalError> {
        let Some(keys) = self.shard(write.shard) else { return Ok(Vec::new()) };
        let mut connection = self.connection().await?;
        let ids: Vec<String> = LetterId::all_of(write).map(|id| id.to_string()).collect();
        let finding = async {
            self.adopt(&mut connection, keys).await?;
            find(&mut connection, keys, &ids).await
        };
        finding.await.map_err(|error| self.failed(&error))
    }

    async fn replay(&self, letters: &[LetterId], request: Request) -> Result<Option<Appended>, JournalError> {
        let Some(replay) = &request.replay else {
            return Err(JournalError::Invalid("it holds no dead letters".into()));
        };
        let mut payload = Vec::new();
        codec::encode(&[&request], &mut payload).map_err(JournalError::Invalid)?;
        let origin = replay.origin;
        let Some(keys) = self.shard(origin.shard) else { return Ok(None) };
        let mut call = REPLAY.prepare_invoke();
        call.key(&keys.dead).key(&keys.dead_reasons).key(&keys.dead_index);
        call.key(keys.note(origin)).key(&keys.stream).key(keys.replayed(&request.key())).key(&keys.bytes);
        call.arg(payload).arg(IDEMPOTENCY_TTL.as_millis() as u64).arg(self.bounds.entries);
        // Around the position of the entry: the note that it is replayed as that.
        call.arg(format!("replayed {}.", keys.shard)).arg(".0").arg(NOTE_TTL.as_millis() as u64);
        for (place, letter) in letters.iter().enumerate() {
            call.arg(letter.to_string()).arg(origin.to_string()).arg(request.write_op_id(place));
        }
        let lease = self.link.lease().await.map_err(not_connected)?;
        self.standing.hold(&self.link, &lease).await?;
        let mut connection = lease.connection.clone();
        let result: Result<(String, u64), RedisError> = call.invoke_async(&mut connection).await;
        self.link.check(&lease, &result);
        match result {
            Ok((id, _)) if id.is_empty() => Ok(None),
            Ok((word, entries)) if word == "full" => {
                let backlog = Backlog { entries, ..Backlog::default() };
                Err(JournalError::Full(backlog.full(self.bounds).unwrap_or_default()))
            }
            Ok((id, repeated)) => match parse_id(&id) {
                Some(position) => {
                    let ids = WriteIds::one(WriteId { shard: keys.shard, position, place: 0 });
                    Ok(Some(Appended { ids, repeated: repeated == 1, salt: None }))
                }
                None => Err(JournalError::Failed(format!("Redis gave the stream id {id:?}"))),
            },
            Err(error) if crate::redis_link::is_broken(&error) => {
                Err(JournalError::Unknown(error.to_string()))
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn drop_letter(&self, id: LetterId) -> Result<bool, JournalError> {
        let write = id.write;
        let Some(keys) = self.shard(write.shard) else { return Ok(false) };
        let Some(kept) = self.letter(id).await? else { return Ok(false) };
        let mut connection = self.connection().await?;
        let dropped: Result<bool, RedisError> = DROP
            .key(&keys.dead)
            .key(&keys.dead_reasons)
            .key(&keys.dead_index)
            .key(keys.note(write))
            .arg(id.to_string())
            .arg(write.to_string())
            .arg(kept.letter.op_id)
            .arg(Note::Dropped(kept.letter.reason).encode())
            .arg(NOTE_TTL.as_millis() as u64)
            .invoke_async(&mut connection)
            .await;
        dropped.map_err(|error| self.failed(&error))
    }
}
