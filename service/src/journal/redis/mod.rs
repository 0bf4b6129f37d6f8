//! The journal on a Redis Stream; Redis 7.0 is the baseline.
//!
//! Keys (see [`keys`]), all of a shard in one hash slot: `scalekit:{0}:journal` the stream (field `e`: an entry, see
//! [`super::codec`]), `…:op:<operation id>` where an operation was appended (expires), `…:owner` which worker
//! owns the shard, by the digits of its start and its name (expires); for those of dead letters see [`dead`].

mod consumer;
mod dead;
mod keys;
mod scripts;
mod settings;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ::redis::{AsyncCommands as _, RedisError, Script, Value, streams::StreamRangeReply};
use async_trait::async_trait;
use tokio::time::Instant;

use super::embedded::BacklogBounds;
use super::{
    Appended, Backlog, DeadLetters, Journal, JournalError, Note, Request, WriteId, WriteState, codec,
};
use crate::contract::Durability;
use crate::operation::Position;
use crate::redis_link::{RedisLink, is_broken};
pub use consumer::RedisConsumer;
use keys::{ShardKeys, parse_id};
use scripts::BACKLOG;

/// How long an operation id is remembered for retries.
const IDEMPOTENCY_TTL: Duration = Duration::from_secs(300);
/// How long an append whose outcome is open is retried before the client is told so.
const APPEND_DEADLINE: Duration = Duration::from_secs(4);
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Remembers the operation and appends in one step, so that a retry finds what it did the first time.
static APPEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local prior = redis.call('GET', KEYS[2])
        if prior then return {prior, 1} end
        if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[3]) then return redis.error_reply('FULL') end
        local id = redis.call('XADD', KEYS[1], '*', 'e', ARGV[1])
        redis.call('SET', KEYS[2], id, 'PX', ARGV[2])
        return {id, 0}",
    )
});

/// The stream of one Redis server.
pub struct RedisJournal {
    link: Arc<RedisLink>,
    keys: ShardKeys,
    durability: Durability,
    bounds: BacklogBounds,
    adopted: dead::Adopted,
}

impl RedisJournal {
    /// Connects, and reads what an append is worth on this server.
    ///
    /// # Errors
    /// The server cannot be reached, or it may evict keys, and with them accepted writes.
    pub async fn connect(link: Arc<RedisLink>, bounds: BacklogBounds) -> Result<Self, JournalError> {
        let lease = link.lease().await.map_err(JournalError::Unavailable)?;
        let durability = settings::inspect(lease.connection, link.address()).await?;
        Ok(Self { link, keys: ShardKeys::new(0), durability, bounds, adopted: dead::Adopted::default() })
    }

    /// The worker's side. `name` is stable over restarts, so that what a killed worker held comes back at once.
    #[must_use]
    pub fn consumer(&self, name: &str) -> RedisConsumer {
        RedisConsumer::new(Arc::clone(&self.link), self.keys.clone(), name)
    }

    /// One attempt; the outer result says whether the outcome is known.
    async fn try_append(&self, payload: &[u8], key: &str) -> Result<Result<Appended, JournalError>, String> {
        let lease = match self.link.lease().await {
            Ok(lease) => lease,
            Err(reason) => return Ok(Err(JournalError::Unavailable(reason))),
        };
        let mut connection = lease.connection.clone();
        let mut call = APPEND.prepare_invoke();
        call.key(&self.keys.stream).key(key);
        call.arg(payload).arg(IDEMPOTENCY_TTL.as_millis() as u64).arg(self.bounds.entries);
        let result: Result<(String, u8), RedisError> = call.invoke_async(&mut connection).await;
        self.link.check(&lease, &result);
        match result {
            Ok((id, repeated)) => Ok(parse_id(&id)
                .map(|position| Appended { position, repeated: repeated == 1 })
                .ok_or_else(|| JournalError::Failed(format!("Redis gave the stream id {id:?}")))),
            Err(error) if is_broken(&error) => Err(error.to_string()),
            Err(error) => Ok(Err(self.refusal(&error))),
        }
    }

    /// The server answered that it did not take it.
    fn refusal(&self, error: &RedisError) -> JournalError {
        if error.to_string().contains("FULL") {
            let backlog = Backlog { entries: self.bounds.entries, ..Backlog::default() };
            return JournalError::Full(backlog.full(self.bounds).unwrap_or_default());
        }
        match error.code() {
            // The key holds something else: no retry will mend that.
            Some("WRONGTYPE") => JournalError::Failed(error.to_string()),
            _ => JournalError::Unavailable(format!("Redis at {}: {error}", self.link.address())),
        }
    }
}

pub(super) fn unavailable(address: &str, error: &RedisError) -> JournalError {
    JournalError::Unavailable(format!("Redis at {address}: {error}"))
}

#[async_trait]
impl Journal for RedisJournal {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    async fn append(&self, request: Request) -> Result<Appended, JournalError> {
        let mut payload = Vec::with_capacity(256 * request.writes.len() + 64);
        codec::encode(&[&request], &mut payload).map_err(JournalError::Invalid)?;
        let key = self.keys.operation(&request.op_id);
        let deadline = Instant::now() + APPEND_DEADLINE;
        let mut open = None;
        loop {
            match self.try_append(&payload, &key).await {
                Ok(Ok(appended)) => return Ok(appended),
                // Nothing was ever sent, or the server refused it: certain.
                Ok(Err(error)) if open.is_none() => return Err(error),
                // An earlier attempt may have been applied.
                Ok(Err(_)) => {}
                Err(reason) => open = Some(reason),
            }
            if Instant::now() >= deadline {
                return Err(JournalError::Unknown(open.unwrap_or_default()));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn status(&self, id: WriteId) -> Result<WriteState, JournalError> {
        if id.shard != self.keys.shard || id.place != 0 {
            return Ok(WriteState::Unknown);
        }
        let lease = self.link.lease().await.map_err(JournalError::Unavailable)?;
        let mut connection = lease.connection.clone();
        let position = id.position.to_string();
        let mut pipe = ::redis::pipe();
        pipe.xrange_count(&self.keys.stream, &position, &position, 1)
            .hget(&self.keys.dead_reasons, id.to_string())
            .get(self.keys.note(id));
        let result =
            pipe.query_async::<(StreamRangeReply, Option<String>, Option<String>)>(&mut connection).await;
        self.link.check(&lease, &result);
        let (waiting, reason, note) = result.map_err(|error| unavailable(self.link.address(), &error))?;
        if let Some(reason) = reason {
            return Ok(WriteState::Dead { reason });
        }
        match note.as_deref().and_then(Note::decode) {
            // A replay is of another request's letters, so this ends.
            Some(Note::Replayed(entry)) if entry.position > id.position => return self.status(entry).await,
            Some(note) => return Ok(note.state()),
            None => {}
        }
        if !waiting.ids.is_empty() {
            return Ok(WriteState::Accepted);
        }
        let last = last_position(&mut connection, &self.keys.stream)
            .await
            .map_err(|error| unavailable(self.link.address(), &error))?;
        Ok(if id.position <= last && id.position != Position::default() {
            WriteState::Stored
        } else {
            WriteState::Unknown
        })
    }

    async fn backlog(&self) -> Result<Backlog, JournalError> {
        let lease = self.link.lease().await.map_err(JournalError::Unavailable)?;
        let mut connection = lease.connection.clone();
        let result: Result<(u64, String, u64, u64), RedisError> =
            BACKLOG.key(&self.keys.stream).key(&self.keys.dead).invoke_async(&mut connection).await;
        self.link.check(&lease, &result);
        let (entries, oldest, added, dead_letters) =
            result.map_err(|error| unavailable(self.link.address(), &error))?;
        let oldest_ms = parse_id(&oldest).map(|position| position.ms);
        let removed = added.saturating_sub(entries);
        Ok(Backlog { entries, bytes: 0, oldest_ms, removed, dead_letters })
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }
}

/// The newest position that the stream gave out; zero for a stream that does not exist.
async fn last_position(
    connection: &mut ::redis::aio::MultiplexedConnection,
    stream: &str,
) -> Result<Position, RedisError> {
    let exists: bool = connection.exists(stream).await?;
    if !exists {
        return Ok(Position::default());
    }
    let info: ::redis::streams::StreamInfoStreamReply = connection.xinfo_stream(stream).await?;
    Ok(parse_id(&info.last_generated_id).unwrap_or_default())
}

/// The entry's bytes; `None` if the stream holds something that we did not write.
pub(super) fn payload(value: Option<&Value>) -> Option<Vec<u8>> {
    match value {
        Some(Value::BulkString(bytes)) => Some(bytes.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
