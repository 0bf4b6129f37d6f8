//! The worker's side of the stream: ownership of the shard, reclaiming what a dead worker left, reading,
//! acknowledging and burying.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::streams::{StreamAutoClaimReply, StreamId, StreamReadReply};
use ::redis::{RedisError, Script, Value};
use async_trait::async_trait;
use bytes::Bytes;

use super::{DEAD, DEAD_REASONS, FIELD, GROUP, OWNER, STREAM, parse_id, payload, unavailable};
use crate::journal::{Consumer, DeadLetter, Delivery, Entry, JournalError, codec};
use crate::operation::Position;
use crate::redis_link::{RedisLink, is_broken};

/// An owner that does not renew within this time has died.
const LEASE: Duration = Duration::from_secs(10);
/// While another worker owns the shard, look again after this.
const STANDBY_PAUSE: Duration = Duration::from_millis(500);
/// Longest server-side wait; the response timeout of the connection is well above it.
const MAX_BLOCK: Duration = Duration::from_secs(2);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

// What takes entries away must work on a server whose memory is full (`allow-oom`), or it stays full.

static OWN: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=allow-oom
        local owner = redis.call('GET', KEYS[1])
        if owner and owner ~= ARGV[1] and (ARGV[3] == '' or string.sub(owner, 18) ~= ARGV[3]) then return 0 end
        redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
        return owner == ARGV[1] and 2 or 1",
    )
});

/// What [`OWN`] answers.
const OWNED_BY_ANOTHER: u8 = 0;
/// It was not this consumer's until now.
const TAKEN: u8 = 1;

static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0",
    )
});

/// From 0, never from `$`: what waits in the stream is accepted.
static CREATE_GROUP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=allow-oom
        local created = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
        if created.err and not string.find(created.err, 'BUSYGROUP') then return created end
        return 1",
    )
});

/// Acknowledges and deletes in one step; a transaction would be refused when memory is full. In parts, since
/// Lua takes some thousand arguments at the most.
static ACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=allow-oom
        for i = 2, #ARGV, 1000 do
            local last = math.min(i + 999, #ARGV)
            redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, i, last))
            redis.call('XDEL', KEYS[1], unpack(ARGV, i, last))
        end
        return 1",
    )
});

/// Buries each letter once, however often its entry is delivered.
static BURY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=allow-oom
        for i = 1, #ARGV, 4 do
            if redis.call('HSETNX', KEYS[2], ARGV[i] .. ' ' .. ARGV[i + 1], '') == 1 then
                redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 2])
                redis.call('XADD', KEYS[1], '*', 'write_id', ARGV[i], 'op_id', ARGV[i + 1],
                           'reason', ARGV[i + 2], 'payload', ARGV[i + 3])
            end
        end
        return 0",
    )
});

/// Reads the shard while it owns it.
pub struct RedisConsumer {
    link: Arc<RedisLink>,
    name: String,
    /// 16 digits that no other consumer has, and the name. Two of one name must not both own the shard.
    owner: String,
    /// Whose shard it may take over while the lease runs: that of its own name, which it succeeds after a restart.
    /// Empty once it has owned the shard: if that one lives after all, the two would take it from each other for ever.
    succeeds: String,
    connection: Option<MultiplexedConnection>,
    owned_since: Option<Instant>,
    /// Where reclaiming stands; `None` once all that was delivered before is delivered again.
    reclaim_from: Option<String>,
    /// Average entry size, bytes; bounds how many are asked for.
    entry_bytes: usize,
    lease: Duration,
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
    pub(super) fn new(link: Arc<RedisLink>, name: &str) -> Self {
        Self {
            link,
            name: name.to_owned(),
            owner: format!("{:016x} {name}", fastrand::u64(..)),
            succeeds: name.to_owned(),
            connection: None,
            owned_since: None,
            reclaim_from: Some("0-0".into()),
            entry_bytes: 4096,
            lease: LEASE,
        }
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
            .key(OWNER)
            .arg(&self.owner)
            .arg(self.lease.as_millis() as u64)
            .arg(&self.succeeds)
            .invoke_async(connection)
            .await?;
        if answer == OWNED_BY_ANOTHER {
            self.owned_since = None;
            return Ok(Ownership::Another);
        }
        self.succeeds.clear();
        let before = self.owned_since;
        if before.is_none() {
            create_group(connection).await?;
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

    async fn fetch(
        &mut self,
        connection: &mut MultiplexedConnection,
        count: usize,
        wait: Duration,
    ) -> Result<Vec<StreamId>, RedisError> {
        while let Some(from) = self.reclaim_from.clone() {
            let reply: StreamAutoClaimReply = ::redis::cmd("XAUTOCLAIM")
                .arg(STREAM)
                .arg(GROUP)
                .arg(&self.name)
                .arg(0)
                .arg(&from)
                .arg("COUNT")
                .arg(count)
                .query_async(connection)
                .await?;
            self.reclaim_from = (reply.next_stream_id != "0-0").then(|| reply.next_stream_id.clone());
            if !reply.deleted_ids.is_empty() {
                // Only our own acknowledgement deletes; anything else is somebody's hand on the stream.
                tracing::error!(
                    count = reply.deleted_ids.len(),
                    "entries were deleted from the journal before they were stored"
                );
            }
            if !reply.claimed.is_empty() {
                return Ok(reply.claimed);
            }
        }
        let block = wait.min(MAX_BLOCK).as_millis().max(1) as u64;
        let reply: Option<StreamReadReply> = ::redis::cmd("XREADGROUP")
            .arg("GROUP")
            .arg(GROUP)
            .arg(&self.name)
            .arg("COUNT")
            .arg(count)
            .arg("BLOCK")
            .arg(block)
            .arg("STREAMS")
            .arg(STREAM)
            .arg(">")
            .query_async(connection)
            .await?;
        Ok(reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids).collect())
    }
}

async fn create_group(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    CREATE_GROUP.key(STREAM).arg(GROUP).invoke_async(connection).await
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

fn delivery(id: &StreamId) -> Option<Delivery> {
    let position = parse_id(&id.id)?;
    let Some(bytes) = payload(id.map.get(FIELD)) else {
        return Some(Delivery::Undecodable {
            position,
            reason: format!("no field {FIELD:?}: not written by scalekit"),
            payload: foreign(id),
        });
    };
    Some(match codec::decode(&bytes) {
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
            Ok(ids) => {
                let deliveries: Vec<Delivery> = ids.iter().filter_map(delivery).collect();
                for delivery in &deliveries {
                    if let Delivery::Entry(entry) = delivery {
                        self.entry_bytes = (self.entry_bytes * 7 + entry.bytes) / 8;
                    }
                }
                Ok(deliveries)
            }
            Err(error) if error.code() == Some("NOGROUP") => {
                tracing::warn!("the consumer group is gone; created again from the start of the stream");
                create_group(&mut connection).await.map_err(|error| self.failed(&error))?;
                self.rewind();
                tokio::time::sleep(wait.min(STANDBY_PAUSE)).await;
                Ok(Vec::new())
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn ack(&mut self, positions: &[Position]) -> Result<(), JournalError> {
        if positions.is_empty() {
            return Ok(());
        }
        let mut connection = self.connect().await?;
        let mut call = ACK.prepare_invoke();
        call.key(STREAM).arg(GROUP);
        for position in positions {
            call.arg(position.to_string());
        }
        call.invoke_async::<i64>(&mut connection).await.map(drop).map_err(|error| self.failed(&error))
    }

    async fn bury(&mut self, letters: &[DeadLetter]) -> Result<(), JournalError> {
        if letters.is_empty() {
            return Ok(());
        }
        let mut connection = self.connect().await?;
        let mut call = BURY.prepare_invoke();
        call.key(DEAD).key(DEAD_REASONS);
        for letter in letters {
            call.arg(letter.write_id.to_string())
                .arg(&letter.op_id)
                .arg(&letter.reason)
                .arg(&letter.payload[..]);
        }
        call.invoke_async::<i64>(&mut connection).await.map(drop).map_err(|error| self.failed(&error))
    }

    fn rewind(&mut self) {
        self.reclaim_from = Some("0-0".into());
    }

    async fn release(&mut self) {
        if let Some(connection) = &mut self.connection {
            let released: Result<i64, RedisError> =
                RELEASE.key(OWNER).arg(&self.owner).invoke_async(connection).await;
            if let Err(error) = released {
                tracing::warn!(%error, "could not release the shard; it is free after {:?}", self.lease);
            }
        }
        self.owned_since = None;
    }
}
