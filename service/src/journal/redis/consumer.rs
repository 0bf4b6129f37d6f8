//! The worker's side of the stream: ownership of the shard, reclaiming what a dead worker left, reading,
//! acknowledging and burying.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::streams::{StreamAutoClaimReply, StreamId, StreamReadReply};
use ::redis::{RedisError, Value};
use async_trait::async_trait;
use bytes::Bytes;

use super::keys::{FIELD, GROUP, ShardKeys, parse_id};
use super::refusal::unavailable;
use super::scripts::{ACK, CREATE_GROUP, OWN, OWNED_BY_ANOTHER, READ, RECLAIM, RELEASE, TAKEN};
use super::{dead, payload};
use crate::journal::{Consumer, DeadLetter, Delivery, Entry, JournalError, Note, WriteId, codec};
use crate::operation::Position;
use crate::redis_link::{RedisLink, is_broken};

/// An owner that does not renew within this time has died.
pub(super) const LEASE: Duration = Duration::from_secs(10);
/// While another worker owns the shard, look again after this.
const STANDBY_PAUSE: Duration = Duration::from_millis(500);
/// Longest server-side wait; the response timeout of the connection is well above it.
const MAX_BLOCK: Duration = Duration::from_secs(2);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the shard while it owns it.
pub struct RedisConsumer {
    link: Arc<RedisLink>,
    keys: ShardKeys,
    name: String,
    /// 16 digits that no other consumer has, and the name. Two of one name must not both own the shard.
    owner: String,
    /// Whose shard it may take over while the lease runs: that of its own name, which it succeeds after a restart.
    /// Empty once it has owned the shard: if that one lives after all, the two would take it from each other for ever.
    succeeds: String,
    connection: Option<MultiplexedConnection>,
    owned_since: Option<Instant>,
    /// The newest entry that it knows of; what comes after that is worth a look.
    newest: Position,
    /// Where reclaiming stands; `None` once all that was delivered before is delivered again.
    reclaim_from: Option<String>,
    /// Average entry size, bytes; bounds how many are asked for.
    entry_bytes: usize,
    lease: Duration,
    /// Another owns the shard, as of the last look.
    is_anothers: bool,
}

/// Whose the shard is.
enum Ownership {
    Held,
    /// This consumer's again, but the lease had run out: another one may have owned the shard meanwhile, and have
    /// been given entries that come before all that is still to be read.
    Lapsed,
    Another,
}

impl RedisConsumer {
    pub(super) fn new(link: Arc<RedisLink>, keys: ShardKeys, name: &str) -> Self {
        Self {
            link,
            keys,
            name: name.to_owned(),
            owner: format!("{:016x} {name}", fastrand::u64(..)),
            succeeds: name.to_owned(),
            connection: None,
            owned_since: None,
            newest: Position::default(),
            reclaim_from: Some("0-0".into()),
            entry_bytes: 4096,
            lease: LEASE,
            is_anothers: false,
        }
    }

    /// Takes a shard that is free and no other.
    pub(super) fn succeeding_nobody(mut self) -> Self {
        self.succeeds.clear();
        self
    }

    /// Tries to become the owner; whether it is.
    ///
    /// # Errors
    /// Redis does not answer.
    pub(super) async fn claim(&mut self) -> Result<bool, JournalError> {
        let mut connection = self.connect().await?;
        let owned = self.own(&mut connection).await.map_err(|error| self.failed(&error))?;
        Ok(matches!(owned, Ownership::Held))
    }

    #[cfg(test)]
    pub(super) fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    async fn connect(&mut self) -> Result<MultiplexedConnection, JournalError> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let connection = self.link.dedicated(RESPONSE_TIMEOUT).await.map_err(JournalError::Unavailable)?;
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    /// An error of a command: forget the connection if it is broken, and start again from what is pending.
    fn failed(&mut self, error: &RedisError) -> JournalError {
        if is_broken(error) {
            self.connection = None;
        }
        self.rewind();
        unavailable(self.link.address(), error)
    }

    async fn own(&mut self, connection: &mut MultiplexedConnection) -> Result<Ownership, RedisError> {
        if self.owned_since.is_some_and(|since| since.elapsed() < self.lease / 4) {
            return Ok(Ownership::Held);
        }
        let asked = Instant::now();
        let answer: u8 = OWN
            .key(&self.keys.owner)
            .arg(&self.owner)
            .arg(self.lease.as_millis() as u64)
            .arg(&self.succeeds)
            .invoke_async(connection)
            .await?;
        self.is_anothers = answer == OWNED_BY_ANOTHER;
        if self.is_anothers {
            self.owned_since = None;
            return Ok(Ownership::Another);
        }
        self.succeeds.clear();
        let before = self.owned_since;
        if before.is_none() {
            create_group(connection, &self.keys).await?;
            // A former owner may have held entries: they come first, and in order.
            self.rewind();
        }
        self.owned_since = Some(asked);
        if before.is_some() && answer == TAKEN {
            self.rewind();
            return Ok(Ownership::Lapsed);
        }
        Ok(Ownership::Held)
    }

    /// `None`: the shard is another's by now.
    async fn fetch(
        &mut self,
        connection: &mut MultiplexedConnection,
        count: usize,
        wait: Duration,
    ) -> Result<Option<Vec<StreamId>>, RedisError> {
        while let Some(from) = self.reclaim_from.clone() {
            let mut call = RECLAIM.prepare_invoke();
            call.key(&self.keys.stream)
                .key(&self.keys.owner)
                .arg(&self.owner)
                .arg(GROUP)
                .arg(&self.name)
                .arg(&from)
                .arg(count);
            let reply: StreamAutoClaimReply = match call.invoke_async::<Value>(connection).await? {
                Value::Int(_) => return Ok(None),
                reply => ::redis::from_redis_value(reply)?,
            };
            self.reclaim_from = (reply.next_stream_id != "0-0").then(|| reply.next_stream_id.clone());
            if !reply.deleted_ids.is_empty() {
                // Only our own acknowledgement deletes; anything else is somebody's hand on the stream.
                tracing::error!(
                    count = reply.deleted_ids.len(),
                    "entries were deleted from the journal before they were stored"
                );
            }
            if !reply.claimed.is_empty() {
                return Ok(Some(reply.claimed));
            }
        }
        match self.take(connection, count).await? {
            Some(none) if none.is_empty() => {}
            taken => return Ok(taken),
        }
        self.wait_for_entries(connection, wait).await?;
        self.take(connection, count).await
    }

    /// New entries, without waiting; `None` as for [`Self::fetch`].
    async fn take(
        &self,
        connection: &mut MultiplexedConnection,
        count: usize,
    ) -> Result<Option<Vec<StreamId>>, RedisError> {
        let mut call = READ.prepare_invoke();
        call.key(&self.keys.stream)
            .key(&self.keys.owner)
            .arg(&self.owner)
            .arg(GROUP)
            .arg(&self.name)
            .arg(count);
        match call.invoke_async::<Value>(connection).await? {
            Value::Int(_) => Ok(None),
            Value::Nil => Ok(Some(Vec::new())),
            reply => Ok(Some(ids(::redis::from_redis_value(reply)?))),
        }
    }

    /// Returns when there may be new entries, or after the time.
    async fn wait_for_entries(
        &mut self,
        connection: &mut MultiplexedConnection,
        wait: Duration,
    ) -> Result<(), RedisError> {
        let block = wait.min(MAX_BLOCK).as_millis().max(1) as u64;
        let reply: Option<StreamReadReply> = ::redis::cmd("XREAD")
            .arg("COUNT")
            .arg(1)
            .arg("BLOCK")
            .arg(block)
            .arg("STREAMS")
            .arg(&self.keys.stream)
            .arg(self.newest.to_string())
            .query_async(connection)
            .await?;
        // Known from here on, even if it turns out to be nobody's.
        let seen = reply.into_iter().flat_map(ids).filter_map(|id| parse_id(&id.id));
        self.newest = seen.fold(self.newest, Position::max);
        Ok(())
    }
}

/// The name in an owner.
pub(super) fn name_of(owner: &str) -> &str {
    owner.get(17..).unwrap_or_default()
}

fn ids(reply: StreamReadReply) -> Vec<StreamId> {
    reply.keys.into_iter().flat_map(|key| key.ids).collect()
}

async fn create_group(connection: &mut MultiplexedConnection, keys: &ShardKeys) -> Result<(), RedisError> {
    CREATE_GROUP.key(&keys.stream).arg(GROUP).invoke_async(connection).await
}

/// All that a foreign entry holds, for its dead letter: names and values in turn, a line each.
fn foreign(id: &StreamId) -> Bytes {
    let mut fields: Vec<(&String, &Value)> = id.map.iter().collect();
    fields.sort_by_key(|(name, _)| *name);
    let mut lines = Vec::new();
    for (name, value) in fields {
        lines.extend_from_slice(name.as_bytes());
        lines.push(b'\n');
        lines.extend(payload(Some(value)).unwrap_or_default());
        lines.push(b'\n');
    }
    lines.into()
}

fn delivery(id: &StreamId, shard: u16) -> Option<Delivery> {
    let position = parse_id(&id.id)?;
    let Some(bytes) = payload(id.map.get(FIELD)) else {
        return Some(Delivery::Undecodable {
            position,
            reason: format!("no field {FIELD:?}: not written by scalekit"),
            payload: foreign(id),
        });
    };
    Some(match codec::decode(&bytes, shard, position) {
        Ok(requests) => Delivery::Entry(Entry { position, requests, bytes: bytes.len() }),
        Err(reason) => Delivery::Undecodable { position, reason, payload: bytes.into() },
    })
}

#[async_trait]
impl Consumer for RedisConsumer {
    async fn read(
        &mut self,
        max_entries: usize,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>, JournalError> {
        let mut connection = self.connect().await?;
        match self.own(&mut connection).await {
            Ok(Ownership::Held) => {}
            // Not just from the start again: what was read for the same batch would come a second time in it.
            Ok(Ownership::Lapsed) => {
                return Err(JournalError::Unavailable("the lease on the shard had run out".into()));
            }
            Ok(Ownership::Another) => {
                tokio::time::sleep(wait.min(STANDBY_PAUSE)).await;
                return Ok(Vec::new());
            }
            Err(error) => return Err(self.failed(&error)),
        }
        let count = (max_bytes / self.entry_bytes.max(1)).clamp(1, max_entries.max(1));
        match self.fetch(&mut connection, count, wait).await {
            // Somebody took it over while this process stood still.
            Ok(None) => {
                self.owned_since = None;
                self.is_anothers = true;
                Ok(Vec::new())
            }
            Ok(Some(ids)) => {
                let deliveries: Vec<Delivery> =
                    ids.iter().filter_map(|id| delivery(id, self.keys.shard)).collect();
                for delivery in &deliveries {
                    self.newest = self.newest.max(delivery.position());
                    if let Delivery::Entry(entry) = delivery {
                        self.entry_bytes = (self.entry_bytes * 7 + entry.bytes) / 8;
                    }
                }
                Ok(deliveries)
            }
            Err(error) if error.code() == Some("NOGROUP") => {
                tracing::warn!("the consumer group is gone; created again from the start of the stream");
                create_group(&mut connection, &self.keys).await.map_err(|error| self.failed(&error))?;
                self.rewind();
                tokio::time::sleep(wait.min(STANDBY_PAUSE)).await;
                Ok(Vec::new())
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn has_lost(&self) -> bool {
        self.is_anothers
    }

    // Without a look at the owner, since a former one does no harm here: it names only entries that it has seen stored
    // or buried itself, so the journal may forget them, whoever owns it. The owner by now was delivered the same entries
    // (they were not acknowledged when it took over), or will never see them; it stores them again, which the versions
    // make nothing of, and acknowledges what is gone, which is nothing. Letters are kept by write, each once.
    async fn ack(&mut self, positions: &[Position]) -> Result<(), JournalError> {
        if positions.is_empty() {
            return Ok(());
        }
        let mut connection = self.connect().await?;
        let mut call = ACK.prepare_invoke();
        call.key(&self.keys.stream).key(&self.keys.bytes).arg(GROUP);
        for position in positions {
            call.arg(position.to_string());
        }
        call.invoke_async::<i64>(&mut connection).await.map(drop).map_err(|error| self.failed(&error))
    }

    async fn bury(&mut self, letters: &[DeadLetter]) -> Result<(), JournalError> {
        let mut connection = self.connect().await?;
        dead::bury(&mut connection, &self.keys, letters).await.map_err(|error| self.failed(&error))
    }

    async fn superseded(&mut self, entries: &[WriteId]) -> Result<(), JournalError> {
        let mut connection = self.connect().await?;
        let noted = dead::note(&mut connection, &self.keys, entries, &Note::Superseded).await;
        noted.map_err(|error| self.failed(&error))
    }

    fn rewind(&mut self) {
        self.reclaim_from = Some("0-0".into());
    }

    async fn release(&mut self) {
        if let Some(connection) = &mut self.connection {
            let released: Result<i64, RedisError> =
                RELEASE.key(&self.keys.owner).arg(&self.owner).invoke_async(connection).await;
            if let Err(error) = released {
                tracing::warn!(%error, "could not release the shard; it is free after {:?}", self.lease);
            }
        }
        self.owned_since = None;
    }
}
