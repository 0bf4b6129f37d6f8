//! Appending: what concurrent requests want to have journaled goes to Redis together, in one command whose entries
//! hold several requests each, so that all of them share a round trip, and a flush where there is one.

mod command;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ::redis::RedisError;
use ahash::RandomState;
use tokio::time::Instant;

use super::keys::ShardKeys;
use super::refusal::{not_connected, unavailable};
use super::settings::Standing;
use crate::batches::{Batches, Waiting, Work};
use crate::journal::embedded::BacklogBounds;
use crate::journal::{Appended, JournalError};
use crate::redis_link::{RedisLink, is_broken};
use command::{APPEND, Command, Outcome};

/// How long an append whose outcome is open is retried before the client is told so, and how long a request waits
/// for its turn.
const DEADLINE: Duration = Duration::from_secs(4);
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Commands under way at a time. With one, half of the clients would wait for a flush that they are not part of.
const COMMANDS: usize = 2;
/// Parts of requests in a command, and the bytes, after which no further one joins. Lua takes some thousand keys at once.
const COMMAND_PARTS: usize = 512;
const COMMAND_BYTES: usize = 1 << 20;
/// Bytes that may wait for their turn; what comes then is turned away.
const WAITING_BYTES: usize = 256 << 20;

static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// What goes into one shard.
pub(super) struct Part {
    pub(super) shard: u16,
    /// Where Redis remembers its operation; `None` for one that its position names.
    pub(super) key: Option<String>,
    /// What its name has beside the position.
    pub(super) salt: Option<u64>,
    /// As it stands in an entry of [`codec::MARKED_VERSION`].
    pub(super) encoded: Vec<u8>,
    /// Of what is written, so that a retry is known from another request under the same operation id.
    pub(super) checksum: u32,
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
struct SoFar {
    parts: usize,
    bytes: usize,
    /// Hashes of the operations' keys.
    operations: HashSet<u64, RandomState>,
}

impl Work for Appends {
    type Item = Vec<Part>;
    type Answer = Result<Appended, JournalError>;
    type Batch = SoFar;

    fn joins(command: &mut SoFar, parts: &Vec<Part>) -> bool {
        let is_full = command.parts >= COMMAND_PARTS || command.bytes >= COMMAND_BYTES;
        command.parts += parts.len();
        command.bytes += bytes(parts);
        // A repetition of an operation waits for the next command, in which it shows that it is one.
        let key = parts[0].key.as_ref();
        let is_new = key.is_none_or(|key| command.operations.insert(HASHER.hash_one(key)));
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

impl Appends {
    /// Sends one command, again if its outcome is open, and answers its requests.
    async fn settle(&self, mut requests: Vec<Waiting<Self>>) {
        let deadline = Instant::now() + DEADLINE;
        let name = rand::random();
        let mut open = None;
        let failed = loop {
            match self.attempt(&requests, name).await {
                Ok(Ok(Outcome::Settled(answers))) => {
                    return requests.into_iter().zip(answers).for_each(|(one, answer)| one.answer(answer));
                }
                Ok(Ok(Outcome::Found(answers))) => {
                    requests = answer_found(requests, answers);
                    if requests.is_empty() {
                        return;
                    }
                    if Instant::now() < deadline {
                        // Now without those.
                        continue;
                    }
                    break JournalError::Unavailable(
                        "other requests under the same names came in between".into(),
                    );
                }
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
    async fn attempt(
        &self,
        requests: &[Waiting<Self>],
        name: u128,
    ) -> Result<Result<Outcome, JournalError>, String> {
        let lease = match self.link.lease().await {
            Ok(lease) => lease,
            Err(reason) => return Ok(Err(not_connected(reason))),
        };
        if let Err(error) = self.standing.hold(&self.link, &lease).await {
            return Ok(Err(error));
        }
        let mut connection = lease.connection.clone();
        let requests = requests.iter().map(|waiting| waiting.item.as_slice()).collect();
        let command = Command::new(requests, name, &self.shards);
        let call = command.evaluate(&self.shards, self.bounds);
        let mut result = call.query_async::<Vec<Vec<u8>>>(&mut connection).await;
        if result.as_ref().is_err_and(|error: &RedisError| error.code() == Some("NOSCRIPT")) {
            result = match APPEND.prepare_invoke().load_async(&mut connection).await {
                Ok(_) => call.query_async(&mut connection).await,
                Err(error) => Err(error),
            };
        }
        self.link.check(&lease, &result);
        match result {
            Ok(answer) => Ok(command.outcome(&answer, self.bounds)),
            Err(error) if is_broken(&error) => Err(error.to_string()),
            Err(error) => Ok(Err(unavailable(self.link.address(), &error))),
        }
    }
}

/// Answers those that were found; the others are left.
fn answer_found(
    requests: Vec<Waiting<Appends>>,
    answers: Vec<Option<Result<Appended, JournalError>>>,
) -> Vec<Waiting<Appends>> {
    let mut left = Vec::new();
    for (waiting, answer) in requests.into_iter().zip(answers) {
        match answer {
            Some(answer) => waiting.answer(answer),
            None => left.push(waiting),
        }
    }
    left
}
