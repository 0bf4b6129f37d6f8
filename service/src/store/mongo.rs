//! The MongoDB document store.
//!
//! Writes go as raw `insert` and `update` commands, unordered, so that the server's word on each document is
//! seen in full. An update names its document by `_id` and asks for an older version; if a newer one is there,
//! the upsert collides on `_id`. What collided is looked up in one `find` and decided by the same rules as
//! everywhere, then, where it lost a race, written again.

mod command;
mod reply;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bson::raw::RawDocumentBuf;
use bson::{Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Database};

use self::command::{Kind, MAX_COMMAND_BYTES, MAX_COMMAND_WRITES};
use self::reply::{CommandError, Outcome};
use super::encoding::{self, RawStamp};
use super::rules::{self, Existing, Verdict};
use super::{Applied, Stamp, Store, StoreError, StoredDocument, Throttle, Unlimited};
use crate::operation::{Change, DocumentKey, DocumentWrite};

const MAX_POOL_SIZE: u32 = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// After this the outcome of a command counts as unknown.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// Most ids in one `find`.
const FIND_IDS: usize = 5_000;
/// Most stamps in one `find`: some 600 bytes each at most, far below the 16 MiB of an answer.
const FIND_STAMPS: usize = 10_000;
/// How often a write that collided, but was newer after all, is tried again.
const CONFLICT_ROUNDS: usize = 4;

/// A connection pool to one database.
pub struct Mongo {
    database: Database,
    operations: AtomicU64,
    /// Collections whose tombstone index this process has asked for.
    indexed: Mutex<HashSet<Box<str>>>,
}

/// One write of a collection, encoded, and its place in the answer.
struct Statement {
    place: usize,
    body: RawDocumentBuf,
}

impl Mongo {
    /// Prepares a pool. It connects on first use, so that the service can start before the database does;
    /// [`Store::ping`] tells whether it is there.
    ///
    /// # Errors
    /// If the URL or the names in it cannot be resolved. The URL is never part of a message: it may hold a
    /// password.
    pub async fn connect(url: &str, database: &str) -> Result<Self, StoreError> {
        let invalid = |error: mongodb::error::Error| {
            // The parser quotes what it does not like, which may be the password.
            let detail = if url.contains('@') { String::new() } else { format!(": {}", error.kind) };
            StoreError::Failed(format!(
                "the MongoDB URL cannot be used (expected mongodb://[user:password@]host[:port]/...){detail}"
            ))
        };
        let mut options = ClientOptions::parse(url).await.map_err(invalid)?;
        options.app_name.get_or_insert_with(|| "scalekit".to_owned());
        options.max_pool_size.get_or_insert(MAX_POOL_SIZE);
        options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
        options.server_selection_timeout.get_or_insert(CONNECT_TIMEOUT);
        // Every command is asked for and counted here, so the driver must not repeat one by itself.
        options.retry_reads = Some(false);
        options.retry_writes = Some(false);
        let client = Client::with_options(options).map_err(invalid)?;
        Ok(Self {
            database: client.database(database),
            operations: AtomicU64::new(0),
            indexed: Mutex::new(HashSet::new()),
        })
    }

    async fn run(&self, command: RawDocumentBuf, throttle: &dyn Throttle) -> Result<Document, CommandError> {
        throttle.acquire().await;
        self.operations.fetch_add(1, Ordering::Relaxed);
        match tokio::time::timeout(COMMAND_TIMEOUT, self.database.run_raw_command(command)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(reply::classify(&error)),
            Err(_) => Err(CommandError::Store(StoreError::Unavailable(format!(
                "no answer within {} s",
                COMMAND_TIMEOUT.as_secs()
            )))),
        }
    }

    /// Sends the statements in as few commands as the bounds allow. A command that is refused as a whole
    /// because of a document in it is halved until that document is alone.
    async fn send(
        &self,
        kind: Kind,
        collection: &str,
        statements: &[Statement],
        throttle: &dyn Throttle,
    ) -> Result<Vec<(usize, Outcome)>, StoreError> {
        let mut outcomes = Vec::with_capacity(statements.len());
        let mut queue: VecDeque<Range<usize>> = chunks(statements).into();
        while let Some(range) = queue.pop_front() {
            let part = &statements[range.clone()];
            let command = command::write(kind, collection, part.iter().map(|statement| &statement.body));
            match self.run(command, throttle).await {
                Ok(reply) => {
                    let places = part.iter().map(|statement| statement.place);
                    outcomes.extend(places.zip(reply::outcomes(&reply, part.len())?));
                }
                Err(CommandError::Store(error)) => return Err(error),
                Err(CommandError::Namespace(reason)) => {
                    let refused = |statement: &Statement| (statement.place, Outcome::Refused(reason.clone()));
                    outcomes.extend(part.iter().map(refused));
                }
                Err(CommandError::Document(reason)) if part.len() == 1 => {
                    outcomes.push((part[0].place, Outcome::Refused(reason)));
                }
                Err(CommandError::Document(_)) => {
                    let middle = range.start + part.len() / 2;
                    queue.push_front(middle..range.end);
                    queue.push_front(range.start..middle);
                }
            }
        }
        Ok(outcomes)
    }

    /// Whole documents (or only their stamps) by id, in any order; absent ones are left out. An answer that
    /// the server cut at its size limit is asked for again without what has come.
    async fn find(
        &self,
        collection: &str,
        ids: &[&str],
        stamps_only: bool,
        throttle: &dyn Throttle,
    ) -> Result<HashMap<String, RawDocumentBuf>, StoreError> {
        let mut found = HashMap::with_capacity(ids.len());
        for ids in ids.chunks(FIND_IDS) {
            let mut missing = ids.to_vec();
            loop {
                let command = command::find_ids(collection, &missing, stamps_only)?;
                let reply = self.run(command, throttle).await.map_err(CommandError::into_store)?;
                let (documents, complete) = reply::batch(&reply)?;
                let none = documents.is_empty();
                for document in documents {
                    if let Ok(id) = document.get_str("_id") {
                        found.insert(id.to_owned(), document);
                    }
                }
                if complete || none {
                    break;
                }
                missing.retain(|id| !found.contains_key(*id));
            }
        }
        Ok(found)
    }

    async fn write_collection(
        &self,
        collection: &str,
        places: &[usize],
        writes: &[DocumentWrite],
        answer: &mut [Applied],
        throttle: &dyn Throttle,
    ) -> Result<(), StoreError> {
        let now = bson::DateTime::now();
        let (mut inserts, mut updates) = (Vec::new(), Vec::new());
        for &place in places {
            let write = &writes[place];
            let (list, body) = match &write.change {
                Change::Insert(_) => (&mut inserts, command::insert(write)),
                _ => (&mut updates, command::update(write, now)),
            };
            match body {
                Ok(body) => list.push(Statement { place, body }),
                Err(reason) => answer[place] = Applied::Refused { reason },
            }
        }
        let mut conflicts = Vec::new();
        for (kind, statements) in [(Kind::Insert, inserts), (Kind::Update, updates)] {
            let outcomes = self.send(kind, collection, &statements, throttle).await?;
            settle(outcomes, answer, &mut conflicts);
        }
        for _ in 0..CONFLICT_ROUNDS {
            if conflicts.is_empty() {
                return Ok(());
            }
            let again = self.decide(collection, &conflicts, writes, answer, now, throttle).await?;
            conflicts.clear();
            let outcomes = self.send(Kind::Update, collection, &again, throttle).await?;
            settle(outcomes, answer, &mut conflicts);
        }
        if conflicts.is_empty() {
            return Ok(());
        }
        Err(StoreError::Unavailable(format!(
            "{} documents of {collection} changed faster than they could be compared",
            conflicts.len()
        )))
    }

    /// Looks up what collided and returns what is to be written all the same: over an older tombstone, or
    /// over an older version that came in between.
    async fn decide(
        &self,
        collection: &str,
        conflicts: &[usize],
        writes: &[DocumentWrite],
        answer: &mut [Applied],
        now: bson::DateTime,
        throttle: &dyn Throttle,
    ) -> Result<Vec<Statement>, StoreError> {
        let ids: Vec<&str> = conflicts.iter().map(|place| &*writes[*place].key.id).collect();
        let found = self.find(collection, &ids, true, throttle).await?;
        let mut again = Vec::new();
        for &place in conflicts {
            let write = &writes[place];
            let existing = match found.get(&*write.key.id) {
                Some(document) => RawStamp::existing(RawStamp::of(document).map_err(invalid_bson)?),
                None => Existing::Absent,
            };
            match rules::decide(write.change.op(), &write.op_id, write.version, existing) {
                Verdict::Superseded => answer[place] = Applied::Superseded,
                Verdict::Exists => answer[place] = Applied::Refused { reason: rules::EXISTS.to_owned() },
                Verdict::Write => match command::update(write, now) {
                    Ok(body) => again.push(Statement { place, body }),
                    Err(reason) => answer[place] = Applied::Refused { reason },
                },
            }
        }
        Ok(again)
    }

    /// Lets the server purge tombstones. Without the index they stay, which costs space and nothing else, so
    /// a failure is no reason to hold up writes.
    async fn index_tombstones(&self, collection: &str, throttle: &dyn Throttle) {
        if !self.indexed.lock().unwrap_or_else(PoisonError::into_inner).insert(collection.into()) {
            return;
        }
        let failure = match command::tombstone_index(collection) {
            Ok(command) => self.run(command, throttle).await.err().map(CommandError::into_store),
            Err(error) => Some(error),
        };
        if let Some(error) = failure {
            tracing::warn!(collection, %error, "cannot create the index that purges tombstones");
        }
    }
}

#[async_trait]
impl Store for Mongo {
    fn kind(&self) -> &'static str {
        "mongodb"
    }

    async fn get_many(&self, keys: &[DocumentKey]) -> Result<Vec<Option<StoredDocument>>, StoreError> {
        let mut by_collection: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (place, key) in keys.iter().enumerate() {
            by_collection.entry(&key.collection).or_default().push(place);
        }
        let mut answer = vec![None; keys.len()];
        for (collection, places) in by_collection {
            let ids: Vec<&str> = places.iter().map(|place| &*keys[*place].id).collect();
            let found = self.find(collection, &ids, false, &Unlimited).await?;
            for place in places {
                if let Some(document) = found.get(&*keys[place].id) {
                    answer[place] = encoding::decode(document).map_err(invalid_bson)?;
                }
            }
        }
        Ok(answer)
    }

    async fn apply(
        &self,
        writes: &[DocumentWrite],
        throttle: &dyn Throttle,
    ) -> Result<Vec<Applied>, StoreError> {
        let mut answer = vec![Applied::Superseded; writes.len()];
        let mut by_collection: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (place, write) in writes.iter().enumerate() {
            match rules::refusal(write) {
                Some(reason) => answer[place] = Applied::Refused { reason },
                None => by_collection.entry(&write.key.collection).or_default().push(place),
            }
        }
        for (collection, places) in by_collection {
            self.write_collection(collection, &places, writes, &mut answer, throttle).await?;
            if places.iter().any(|place| matches!(writes[*place].change, Change::Delete)) {
                self.index_tombstones(collection, throttle).await;
            }
        }
        Ok(answer)
    }

    async fn stamps(
        &self,
        collection: &str,
        op_prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Stamp>, StoreError> {
        let mut found: Vec<Stamp> = Vec::new();
        while found.len() < limit {
            let after = found.last().map(|stamp| stamp.id.as_str()).or(after);
            let page = (limit - found.len()).min(FIND_STAMPS);
            let command = command::find_stamps(collection, op_prefix, after, page)?;
            let reply = self.run(command, &Unlimited).await.map_err(CommandError::into_store)?;
            let (documents, _) = reply::batch(&reply)?;
            let received = documents.len();
            for document in documents {
                found.extend(encoding::audit_stamp(&document, op_prefix).map_err(invalid_bson)?);
            }
            if received < page {
                break;
            }
        }
        Ok(found)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let command = command::encode(&doc! { "ping": 1 })?;
        self.run(command, &Unlimited).await.map(drop).map_err(CommandError::into_store)
    }

    fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }
}

fn settle(outcomes: Vec<(usize, Outcome)>, answer: &mut [Applied], conflicts: &mut Vec<usize>) {
    for (place, outcome) in outcomes {
        match outcome {
            Outcome::Done => answer[place] = Applied::Stored,
            Outcome::Refused(reason) => answer[place] = Applied::Refused { reason },
            Outcome::DuplicateId => conflicts.push(place),
        }
    }
}

/// Ranges of statements that fit into one command each.
fn chunks(statements: &[Statement]) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (place, statement) in statements.iter().enumerate() {
        let size = statement.body.as_bytes().len() + command::ELEMENT_BYTES;
        if place > start && (place - start == MAX_COMMAND_WRITES || bytes + size > MAX_COMMAND_BYTES) {
            chunks.push(start..place);
            (start, bytes) = (place, 0);
        }
        bytes += size;
    }
    if start < statements.len() {
        chunks.push(start..statements.len());
    }
    chunks
}

fn invalid_bson(error: bson::error::Error) -> StoreError {
    StoreError::Failed(format!("the server sent a document that is not valid BSON: {error}"))
}

#[cfg(test)]
mod tests;
