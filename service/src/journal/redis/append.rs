//! Appending: what concurrent requests want to have journaled goes to Redis together, in one command whose entries
//! hold several requests each, so that all of them share a round trip, and a flush where there is one.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ::redis::{RedisError, Script};
use ahash::RandomState;
use tokio::time::Instant;

use super::IDEMPOTENCY_TTL;
use super::keys::{Place, ShardKeys};
use super::refusal::{not_connected, unavailable};
use super::settings::Standing;
use crate::batches::{Batches, Waiting, Work};
use crate::journal::embedded::BacklogBounds;
use crate::journal::{Appended, Backlog, JournalError, WriteId, WriteIds, codec};
use crate::redis_link::{RedisLink, is_broken};

/// How long an append whose outcome is open is retried before the client is told so, and how long a request waits
/// for its turn.
const DEADLINE: Duration = Duration::from_secs(4);
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Commands under way at a time. With one, half of the clients would wait for a flush that they are not part of.
const COMMANDS: usize = 2;
/// Parts of requests in a command, and the bytes, after which no further one joins. Lua takes some thousand keys at once.
const COMMAND_PARTS: usize = 512;
const COMMAND_BYTES: usize = 1 << 20;
/// Requests in an entry, and the bytes after which no further one joins. An entry is never split over batches, and
/// who looks for one write in it makes Redis go through all of it.
const ENTRY_REQUESTS: usize = 16;
const ENTRY_BYTES: usize = 16 << 10;
/// Bytes that may wait for their turn; what comes then is turned away.
const WAITING_BYTES: usize = 256 << 20;

static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Remembers where each operation was appended and appends it, in one step, so that a retry finds what was done the
/// first time. What is remembered already is not added, and nothing is while the backlog is at a bound.
///
/// A request has a part for each shard that it writes to. Keys: stream and counter of bytes of each shard; then
/// where the operation of each part is remembered. Arguments: how long (ms); the bounds of the backlog (entries,
/// bytes), and of an entry (requests, bytes); the number of shards; a byte for each part, its shard; a byte for each
/// part, 1 if a request begins with it; the byte of the entries' version; then the parts, encoded. The answer has a text for each part: `n` or `r` (new,
/// repeated) and its [`Place`]; or `e` or `b`, and how
/// many entries or bytes wait, where a bound leaves no room.
static APPEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local ttl, most, largest, shards = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
        local places, begins, version = ARGV[7], ARGV[8], ARGV[9]
        local keys, count = 2 * shards, #KEYS - 2 * shards
        local prior = redis.call('MGET', unpack(KEYS, keys + 1))
        -- A user who may XADD and not SET would leave an entry behind a refusal.
        if not redis.acl_check_cmd('SET', KEYS[keys + 1], '', 'PX', ttl) then
            return redis.error_reply('NOPERM this user may not SET what is remembered of operations')
        end
        local parts, whose, size = {}, {}, {}
        local entries, bytes = 0, 0
        for shard = 1, shards do
            entries = entries + redis.call('XLEN', KEYS[2 * shard - 1])
            bytes = bytes + tonumber(redis.call('GET', KEYS[2 * shard]) or 0)
            parts[shard], whose[shard], size[shard] = {}, {}, 0
        end
        local full = entries >= tonumber(ARGV[2]) and string.format('e%.0f', entries)
            or entries > 0 and bytes >= tonumber(ARGV[3]) and string.format('b%.0f', bytes)
        local answers = {}
        local function flush(shard)
            local parts_here, whose_here = parts[shard], whose[shard]
            local held = #parts_here
            if held == 0 then return end
            local entry = version .. string.char(held % 256, math.floor(held / 256)) .. table.concat(parts_here)
            redis.call('INCRBY', KEYS[2 * shard], #entry)
            local id = redis.call('XADD', KEYS[2 * shard - 1], '*', 'e', entry)
            local at = 3
            for place = 1, held do
                local length, part = #parts_here[place], whose_here[place]
                local found = id .. '.' .. (place - 1) .. '.' .. at .. '.' .. length
                redis.call('SET', KEYS[keys + part], found, 'PX', ttl)
                answers[part] = 'n' .. found
                at = at + length
            end
            parts[shard], whose[shard], size[shard] = {}, {}, 0
        end
        local part = 1
        while part <= count do
            local last = part
            while last < count and string.byte(begins, last + 1) == 0 do last = last + 1 end
            for each = part, last do
                if prior[part] then
                    answers[each] = 'r' .. (prior[each] or '')
                elseif full then
                    answers[each] = full
                else
                    local shard = string.byte(places, each)
                    local held = #parts[shard] + 1
                    parts[shard][held], whose[shard][held] = ARGV[each + 9], each
                    size[shard] = size[shard] + #ARGV[each + 9]
                end
            end
            -- Only between requests: one that spans shards is in all of them or in none, whatever Redis refuses.
            for shard = 1, shards do
                if #parts[shard] >= most or size[shard] >= largest then flush(shard) end
            end
            part = last + 1
        end
        for shard = 1, shards do flush(shard) end
        return answers",
    )
});

/// What goes into one shard.
pub(super) struct Part {
    pub(super) shard: u16,
    /// Where Redis remembers its operation.
    pub(super) key: String,
    /// As it stands in an entry.
    pub(super) encoded: Vec<u8>,
}

/// Appends to the shards of one server.
pub(super) struct Appender {
    batches: Arc<Batches<Appends>>,
}

impl Appender {
    pub(super) fn new(
        link: Arc<RedisLink>,
        standing: Arc<Standing>,
        shards: Vec<ShardKeys>,
        bounds: BacklogBounds,
    ) -> Self {
        let waiting_bytes = AtomicUsize::new(0);
        Self { batches: Batches::new(Appends { link, standing, shards, bounds, waiting_bytes }, COMMANDS) }
    }

    /// Appends the parts of one request, which are not empty and each of another shard: all or none.
    pub(super) async fn append(&self, parts: Vec<Part>) -> Result<Appended, JournalError> {
        let Appends { waiting_bytes, link, .. } = self.batches.work();
        let bytes = bytes(&parts);
        let waiting = waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting > WAITING_BYTES {
            waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            let reason = format!("{waiting} bytes wait to be sent to Redis at {}", link.address());
            return Err(JournalError::Unavailable(reason));
        }
        let answer = self.batches.perform(parts).await;
        answer.unwrap_or_else(|| Err(JournalError::Unknown("the append was given up".into())))
    }
}

fn bytes(parts: &[Part]) -> usize {
    parts.iter().map(|part| part.encoded.len()).sum()
}

/// How to append several requests with one command.
struct Appends {
    link: Arc<RedisLink>,
    standing: Arc<Standing>,
    shards: Vec<ShardKeys>,
    bounds: BacklogBounds,
    waiting_bytes: AtomicUsize,
}

/// What a command has so far.
#[derive(Default)]
struct Command {
    parts: usize,
    bytes: usize,
    /// Hashes of the operations' keys.
    operations: HashSet<u64, RandomState>,
}

impl Work for Appends {
    type Item = Vec<Part>;
    type Answer = Result<Appended, JournalError>;
    type Batch = Command;

    fn joins(command: &mut Command, parts: &Vec<Part>) -> bool {
        let is_full = command.parts >= COMMAND_PARTS || command.bytes >= COMMAND_BYTES;
        command.parts += parts.len();
        command.bytes += bytes(parts);
        // A repetition of an operation waits for the next command, in which it shows that it is one.
        let is_new = command.operations.insert(HASHER.hash_one(&parts[0].key));
        is_new && !is_full
    }

    async fn perform(&self, batch: Vec<Waiting<Self>>) {
        let all: usize = batch.iter().map(|waiting| bytes(&waiting.item)).sum();
        self.waiting_bytes.fetch_sub(all, Ordering::Relaxed);
        // Those that waited so long were never sent.
        let (late, sent): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|one| one.since.elapsed() >= DEADLINE);
        for waiting in late {
            let reason = format!("Redis at {} did not answer those before in time", self.link.address());
            waiting.answer(Err(JournalError::Unavailable(reason)));
        }
        if !sent.is_empty() {
            self.settle(sent).await;
        }
    }
}

type Requests<'a> = &'a [Waiting<Appends>];

impl Appends {
    /// Sends one command, again if its outcome is open, and answers its requests.
    async fn settle(&self, requests: Vec<Waiting<Self>>) {
        let deadline = Instant::now() + DEADLINE;
        let mut open = None;
        let failed = loop {
            match self.command(&requests).await {
                Ok(Ok(answers)) => return self.answer(requests, &answers),
                // Nothing was ever sent, or the server refused it: certain.
                Ok(Err(error)) if open.is_none() => break error,
                // An earlier attempt may have been applied.
                Ok(Err(_)) => {}
                Err(reason) => open = Some(reason),
            }
            if Instant::now() >= deadline {
                break JournalError::Unknown(open.unwrap_or_default());
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        };
        for waiting in requests {
            waiting.answer(Err(failed.clone()));
        }
    }

    /// One attempt; the outer result says whether the outcome is known.
    async fn command(&self, requests: Requests<'_>) -> Result<Result<Vec<Vec<u8>>, JournalError>, String> {
        let lease = match self.link.lease().await {
            Ok(lease) => lease,
            Err(reason) => return Ok(Err(not_connected(reason))),
        };
        if let Err(error) = self.standing.hold(&self.link, &lease).await {
            return Ok(Err(error));
        }
        let mut connection = lease.connection.clone();
        let command = self.evaluate(requests);
        let mut result = command.query_async(&mut connection).await;
        if result.as_ref().is_err_and(|error: &RedisError| error.code() == Some("NOSCRIPT")) {
            result = match APPEND.prepare_invoke().load_async(&mut connection).await {
                Ok(_) => command.query_async(&mut connection).await,
                Err(error) => Err(error),
            };
        }
        self.link.check(&lease, &result);
        match result {
            Ok(answers) => Ok(Ok(answers)),
            Err(error) if is_broken(&error) => Err(error.to_string()),
            Err(error) => Ok(Err(unavailable(self.link.address(), &error))),
        }
    }

    fn evaluate(&self, requests: Requests<'_>) -> ::redis::Cmd {
        let parts = || requests.iter().flat_map(|request| &request.item);
        let count = parts().count();
        let bytes: usize = parts().map(|part| part.key.len() + part.encoded.len() + 32).sum();
        let mut command = ::redis::Cmd::with_capacity(2 * count + 2 * self.shards.len() + 12, bytes + 512);
        command.arg("EVALSHA").arg(APPEND.get_hash()).arg(count + 2 * self.shards.len());
        for keys in &self.shards {
            command.arg(&keys.stream).arg(&keys.bytes);
        }
        parts().for_each(|part| {
            command.arg(&part.key);
        });
        command.arg(IDEMPOTENCY_TTL.as_millis() as u64).arg(self.bounds.entries).arg(self.bounds.bytes);
        command.arg(ENTRY_REQUESTS).arg(ENTRY_BYTES).arg(self.shards.len());
        // Lua counts from 1; there are fewer shards than a byte has values.
        let shards: Vec<u8> = parts().map(|part| part.shard as u8 + 1).collect();
        let begins: Vec<u8> = requests
            .iter()
            .flat_map(|request| (0..request.item.len()).map(|place| u8::from(place == 0)))
            .collect();
        let version = if self.shards.len() == 1 { codec::VERSION } else { codec::MARKED_VERSION };
        command.arg(shards).arg(begins).arg(&[version][..]);
        parts().for_each(|part| {
            command.arg(&part.encoded);
        });
        command
    }

    fn answer(&self, requests: Vec<Waiting<Self>>, answers: &[Vec<u8>]) {
        let mut rest = answers;
        for waiting in requests {
            let parts = waiting.item.len();
            let (own, others) = rest.split_at(parts.min(rest.len()));
            rest = others;
            let answer = if own.len() == parts {
                self.appended(&waiting.item, own)
            } else {
                Err(JournalError::Unknown("Redis answered for fewer requests than it was sent".into()))
            };
            waiting.answer(answer);
        }
    }

    /// What the answers for its parts say of one request.
    fn appended(&self, parts: &[Part], answers: &[Vec<u8>]) -> Result<Appended, JournalError> {
        let mut ids = Vec::with_capacity(parts.len());
        let mut repeated = false;
        for (part, answer) in parts.iter().zip(answers) {
            let (&tag, place) = answer.split_first().unwrap_or((&b'?', &[]));
            if matches!(tag, b'e' | b'b') {
                return Err(JournalError::Full(self.full(tag, place)));
            }
            let place = Place::parse(place).ok_or_else(|| {
                let found = String::from_utf8_lossy(answer);
                JournalError::Unknown(format!("Redis remembers {found:?} of an operation"))
            })?;
            repeated |= tag == b'r';
            ids.push(WriteId { shard: part.shard, position: place.position, place: place.place });
        }
        let ids = WriteIds::new(&ids).expect("a request has a part at least");
        Ok(Appended { ids, repeated })
    }

    fn full(&self, bound: u8, waiting: &[u8]) -> String {
        let waiting =
            std::str::from_utf8(waiting).ok().and_then(|number| number.parse().ok()).unwrap_or(u64::MAX);
        let reached = if bound == b'e' {
            Backlog { entries: waiting, ..Backlog::default() }
        } else {
            Backlog { bytes: waiting, ..Backlog::default() }
        };
        reached.full(self.bounds).unwrap_or_default()
    }
}
