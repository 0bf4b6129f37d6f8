//! The journal on a Redis Stream; Redis 7.0 is the baseline.
//!
//! Keys (see [`keys`]), all of a shard in one hash slot: `scalekit:{0}:journal` the stream (field `e`: an entry, see
//! [`super::codec`]), `…:bytes` how many its entries have together, `…:op:<operation id>` where an operation was appended
//! (expires), `…:owner` which worker owns the shard, by the digits of its start and its name (expires); for
//! those of dead letters see [`dead`]. `scalekit:{shards}:count` how many shards there are, `…:workers` and
//! `…:apis` the processes that are there (expire).

mod append;
mod consumer;
mod dead;
mod keys;
mod presence;
mod refusal;
mod scripts;
mod settings;
mod shards;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{AsyncCommands as _, RedisError, Value, streams::StreamRangeReply};
use async_trait::async_trait;

use super::embedded::BacklogBounds;
use super::shard::{MAX_SHARDS, shard_of};
use super::{
    Appended, Backlog, DeadLetters, Held, Journal, JournalError, Note, PlacedName, Request, RequestWrite,
    WriteId, WriteState, codec,
};
use crate::contract::Durability;
use crate::operation::{DocumentKey, Position};
use crate::redis_link::RedisLink;
use append::{Appender, Part};
pub use consumer::RedisConsumer;
use keys::{Place, ShardKeys, parse_id};
pub use presence::Presence;
use refusal::unavailable;
use scripts::{BACKLOG, HELD};
use settings::Standing;
pub use shards::RedisShards;

/// How long an operation id is remembered for retries.
///
/// By it, too, an accepted document is found that the database has not yet, so it is well above the age that a backlog
/// may have ([`crate::cache::redis::MAX_BACKLOG_AGE`]).
const IDEMPOTENCY_TTL: Duration = Duration::from_secs(600);

/// The stream of one Redis server.
pub struct RedisJournal {
    link: Arc<RedisLink>,
    shards: Vec<ShardKeys>,
    standing: Arc<Standing>,
    appender: Appender,
    bounds: BacklogBounds,
    adopted: dead::Adopted,
}

impl RedisJournal {
    /// Connects, and reads what an append is worth on this server.
    ///
    /// # Errors
    /// The server cannot be reached, or it may evict keys, and with them accepted writes; it is a cluster; or its entries
    /// are dealt out to another number of shards. That it gives less than is demanded shows in [`Journal::durability`].
    pub async fn connect(
        link: Arc<RedisLink>,
        bounds: BacklogBounds,
        shards: u16,
        demanded: Durability,
    ) -> Result<Self, JournalError> {
        Self::standing(link, bounds, shards, Standing::demanding(demanded)).await
    }

    async fn standing(
        link: Arc<RedisLink>,
        bounds: BacklogBounds,
        shards: u16,
        standing: Standing,
    ) -> Result<Self, JournalError> {
        let standing = Arc::new(standing);
        let lease = link.lease().await.map_err(refusal::not_connected)?;
        standing.look(&link, &lease).await?;
        let shards = shards.clamp(1, MAX_SHARDS);
        presence::adopt(&link, shards).await?;
        let shards: Vec<ShardKeys> = (0..shards).map(ShardKeys::new).collect();
        let appender = Appender::new(Arc::clone(&link), Arc::clone(&standing), shards.clone(), bounds);
        let adopted = dead::Adopted::new(shards.len());
        Ok(Self { link, shards, standing, appender, bounds, adopted })
    }

    /// The worker's side: the shards, as a worker of this name sees them. `link` is to the same server.
    #[must_use]
    pub fn shards(&self, link: Arc<RedisLink>, worker: &str) -> RedisShards {
        RedisShards::new(link, self.shards.clone(), worker)
    }

    /// Of an API process, which relies on the number of shards.
    #[must_use]
    pub fn presence(&self) -> Presence {
        Presence::of_api(Arc::clone(&self.link), self.count())
    }

    /// How many shards there are.
    fn count(&self) -> u16 {
        u16::try_from(self.shards.len()).unwrap_or(MAX_SHARDS)
    }

    fn shard(&self, shard: u16) -> Option<&ShardKeys> {
        self.shards.get(usize::from(shard))
    }

    /// The worker's side of the first shard. `name` is stable over restarts, so that what a killed worker held comes
    /// back at once.
    #[must_use]
    pub fn consumer(&self, name: &str) -> RedisConsumer {
        RedisConsumer::new(Arc::clone(&self.link), self.keys().clone(), name)
    }

    /// What an entry of this shard is to hold of a request.
    fn part(&self, shard: u16, request: &Request, salt: Option<u64>) -> Result<Part, String> {
        let mut encoded = Vec::with_capacity(256 * request.writes.len() + 64);
        codec::encode_request(request, salt, codec::MARKED_VERSION, &mut encoded)?;
        let key = salt.is_none().then(|| self.shards[usize::from(shard)].operation(&request.op_id));
        let checksum = if key.is_some() { codec::checksum(&encoded) } else { 0 };
        Ok(Part { shard, key, salt, encoded, checksum })
    }

    fn keys(&self) -> &ShardKeys {
        // There is always a first one.
        &self.shards[0]
    }
}

#[async_trait]
impl Journal for RedisJournal {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn durability(&self) -> Durability {
        self.standing.durability()
    }

    fn refuses(&self) -> Option<String> {
        self.standing.refuses()
    }

    async fn append(&self, request: Request) -> Result<Appended, JournalError> {
        let requests = match self.count() {
            1 => vec![(0, request)],
            shards => split(request, shards),
        };
        let salt = requests[0].1.op_id.is_empty().then(rand::random);
        let parts = requests.into_iter().map(|(shard, request)| self.part(shard, &request, salt));
        let parts = parts.collect::<Result<_, _>>().map_err(JournalError::Invalid)?;
        self.appender.append(parts).await
    }

    fn names_requests(&self) -> bool {
        true
    }

    fn shard_of(&self, key: &DocumentKey) -> u16 {
        shard_of(key, self.count())
    }

    fn finds_held(&self) -> bool {
        true
    }

    async fn held(&self, operations: &[(u16, &str)]) -> Result<Vec<Option<Held>>, JournalError> {
        if operations.is_empty() {
            return Ok(Vec::new());
        }
        let lease = self.link.lease().await.map_err(refusal::not_connected)?;
        let mut connection = lease.connection.clone();
        let mut call = HELD.prepare_invoke();
        let mut names = Vec::with_capacity(operations.len());
        for (shard, op_id) in operations {
            let keys = self
                .shard(*shard)
                .ok_or_else(|| JournalError::Invalid(format!("there is no shard {shard}")))?;
            let name: Option<PlacedName> =
                op_id.parse().ok().filter(|name: &PlacedName| name.id.shard == *shard);
            call.key(&keys.stream).key(keys.operation(op_id));
            call.arg(name.map_or_else(String::new, |name| name.id.position.to_string()));
            names.push(name);
        }
        let result = call.invoke_async::<Vec<Vec<u8>>>(&mut connection).await;
        self.link.check(&lease, &result);
        let found = result.map_err(|error| unavailable(self.link.address(), &error))?;
        found
            .chunks(2)
            .zip(operations.iter().zip(names))
            .map(|(found, (of, name))| held(found, of, name))
            .collect()
    }

    async fn status(&self, id: WriteId) -> Result<WriteState, JournalError> {
        let Some(keys) = self.shard(id.shard) else { return Ok(WriteState::Unknown) };
        let lease = self.link.lease().await.map_err(refusal::not_connected)?;
        let mut connection = lease.connection.clone();
        let position = id.position.to_string();
        let mut pipe = ::redis::pipe();
        pipe.xrange_count(&keys.stream, &position, &position, 1)
            .hget(&keys.dead_reasons, id.to_string())
            .get(keys.note(id));
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
        let last = last_position(&mut connection, &keys.stream)
            .await
            .map_err(|error| unavailable(self.link.address(), &error))?;
        Ok(if id.position <= last && id.position != Position::default() {
            WriteState::Stored
        } else {
            WriteState::Unknown
        })
    }

    /// Of all shards together.
    async fn backlog(&self) -> Result<Backlog, JournalError> {
        let lease = self.link.lease().await.map_err(refusal::not_connected)?;
        // Whoever watches the backlog is told by `refuses` what came of it.
        let _ = self.standing.hold(&self.link, &lease).await;
        let mut connection = lease.connection.clone();
        let mut call = BACKLOG.prepare_invoke();
        for keys in &self.shards {
            call.key(&keys.stream).key(&keys.bytes).key(&keys.dead);
        }
        let result = call.invoke_async::<Vec<(u64, String, u64, u64, u64)>>(&mut connection).await;
        self.link.check(&lease, &result);
        let mut all = Backlog::default();
        for (entries, oldest, added, bytes, dead_letters) in
            result.map_err(|error| unavailable(self.link.address(), &error))?
        {
            all.entries += entries;
            all.bytes += bytes;
            all.dead_letters += dead_letters;
            all.removed += added.saturating_sub(entries);
            let oldest = parse_id(&oldest).map(|position| position.ms);
            all.oldest_ms = [all.oldest_ms, oldest].into_iter().flatten().min();
        }
        Ok(all)
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }
}

/// The part of a request for each shard that it writes to, by shard; of one without writes, which nobody sends, one.
fn split(request: Request, shards: u16) -> Vec<(u16, Request)> {
    let Request { op_id, at_ms, writes, places, replay } = request;
    let mut parts: BTreeMap<u16, (Vec<RequestWrite>, Vec<u16>)> = BTreeMap::new();
    let of = |write: &RequestWrite| (!write.key.id().is_empty()).then(|| shard_of(&write.key, shards));
    // Where what has no id yet goes: into the first part.
    let lowest = writes.iter().filter_map(of).min().unwrap_or_else(|| fastrand::u16(..shards));
    for (place, write) in writes.into_iter().enumerate() {
        let (writes, original) = parts.entry(of(&write).unwrap_or(lowest)).or_default();
        let given = places.as_ref().and_then(|places| places.get(place)).copied();
        original.push(given.unwrap_or(u16::try_from(place).unwrap_or(u16::MAX)));
        writes.push(write);
    }
    if parts.is_empty() {
        parts.insert(0, Default::default());
    }
    let part = |(shard, (writes, places)): (u16, (Vec<RequestWrite>, Vec<u16>))| {
        let (op_id, replay) = (op_id.clone(), replay.clone());
        (shard, Request { op_id, at_ms, writes, places: Some(places.into()), replay })
    };
    parts.into_iter().map(part).collect()
}

/// What [`HELD`] found of one operation, by what Redis remembers of it or else by its name.
fn held(
    found: &[Vec<u8>],
    (shard, op_id): &(u16, &str),
    name: Option<PlacedName>,
) -> Result<Option<Held>, JournalError> {
    let [place, bytes] = found else { return Ok(None) };
    if bytes.is_empty() {
        return Ok(None);
    }
    let damaged =
        |reason: &str| JournalError::Failed(format!("an entry of the journal cannot be read: {reason}"));
    let request = match (name, place.as_slice()) {
        (Some(PlacedName { id, .. }), []) => {
            let entry = codec::decode(bytes, id.shard, id.position).map_err(|reason| damaged(&reason))?;
            let request =
                entry.into_iter().nth(usize::from(id.place)).filter(|request| *request.op_id == **op_id);
            return Ok(request.map(|request| Held { version: id.position.version(), request }));
        }
        (_, place) => {
            let place = Place::parse(place).ok_or_else(|| damaged("its place is unknown"))?;
            let id = WriteId { shard: *shard, position: place.position, place: place.place };
            Held {
                version: place.position.version(),
                request: codec::decode_request(bytes, id).map_err(|reason| damaged(&reason))?,
            }
        }
    };
    Ok(Some(request))
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
