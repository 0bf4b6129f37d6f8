//! The write path: statements, what collided, and what is written again.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::PoisonError;

use bson::DateTime;
use bson::raw::RawDocumentBuf;

use super::command::{self, Kind};
use super::reply::{self, CommandError, Outcome};
use super::{Mongo, invalid_bson};
use crate::operation::{Change, DocumentWrite};
use crate::store::encoding::RawStamp;
use crate::store::rules::{self, Existing, Verdict};
use crate::store::{Applied, StoreError, Throttle};

/// How often a write that collided, but was newer after all, is tried again.
const CONFLICT_ROUNDS: usize = 4;

/// One write of a collection, encoded, and its place in the answer.
pub(super) struct Statement {
    pub(super) place: usize,
    pub(super) body: RawDocumentBuf,
}

/// What is known of the writes of one collection so far.
#[derive(Default)]
struct Progress {
    applied: Vec<(usize, Applied)>,
    /// Places of writes that found something under their id.
    conflicts: Vec<usize>,
}

impl Progress {
    fn refuse(&mut self, place: usize, reason: String) {
        self.applied.push((place, Applied::Refused { reason }));
    }

    fn settle(&mut self, outcomes: Vec<(usize, Outcome)>) {
        for (place, outcome) in outcomes {
            match outcome {
                Outcome::Done => self.applied.push((place, Applied::Stored)),
                Outcome::Refused(reason) => self.refuse(place, reason),
                Outcome::DuplicateId => self.conflicts.push(place),
            }
        }
    }
}

impl Mongo {
    /// Writes those of `writes` that `places` names, all of one collection; the answer names each of them.
    pub(super) async fn write_collection(
        &self,
        collection: &str,
        places: Vec<usize>,
        writes: &[DocumentWrite],
        throttle: &dyn Throttle,
    ) -> Result<Vec<(usize, Applied)>, StoreError> {
        let applied = self.write_documents(collection, &places, writes, throttle).await?;
        if places.iter().any(|place| matches!(writes[*place].change, Change::Delete)) {
            self.index_tombstones(collection, throttle).await;
        }
        Ok(applied)
    }

    async fn write_documents(
        &self,
        collection: &str,
        places: &[usize],
        writes: &[DocumentWrite],
        throttle: &dyn Throttle,
    ) -> Result<Vec<(usize, Applied)>, StoreError> {
        let now = DateTime::now();
        let mut progress = Progress::default();
        let (mut inserts, mut updates) = (Vec::new(), Vec::new());
        for &place in places {
            let write = &writes[place];
            let (list, body) = match &write.change {
                Change::Insert(_) => (&mut inserts, command::insert(write)),
                _ => (&mut updates, command::update(write, now)),
            };
            match body {
                Ok(body) => list.push(Statement { place, body }),
                Err(reason) => progress.refuse(place, reason),
            }
        }
        for (kind, statements) in [(Kind::Insert, inserts), (Kind::Update, updates)] {
            progress.settle(self.send(kind, collection, &statements, throttle).await?);
        }
        for _ in 0..CONFLICT_ROUNDS {
            if progress.conflicts.is_empty() {
                return Ok(progress.applied);
            }
            let again = self.decide(collection, &mut progress, writes, now, throttle).await?;
            progress.settle(self.send(Kind::Update, collection, &again, throttle).await?);
        }
        match progress.conflicts.len() {
            0 => Ok(progress.applied),
            left => Err(StoreError::Unavailable(format!(
                "{left} documents of {collection} changed faster than they could be compared"
            ))),
        }
    }

    /// Looks up what collided and returns what is to be written all the same: over an older tombstone, or
    /// over an older version that came in between.
    async fn decide(
        &self,
        collection: &str,
        progress: &mut Progress,
        writes: &[DocumentWrite],
        now: DateTime,
        throttle: &dyn Throttle,
    ) -> Result<Vec<Statement>, StoreError> {
        let conflicts = std::mem::take(&mut progress.conflicts);
        let ids: Vec<&str> = conflicts.iter().map(|place| writes[*place].key.id()).collect();
        let found = self.find(collection, &ids, true, throttle).await?;
        let mut again = Vec::new();
        for place in conflicts {
            let write = &writes[place];
            let existing = match found.get(write.key.id()) {
                Some(document) => RawStamp::existing(RawStamp::of(document).map_err(invalid_bson)?),
                None => Existing::Absent,
            };
            match rules::decide(write.change.op(), &write.op_id, write.version, existing) {
                Verdict::Superseded => progress.applied.push((place, Applied::Superseded)),
                Verdict::Exists => progress.refuse(place, rules::EXISTS.to_owned()),
                Verdict::Write => match command::update(write, now) {
                    Ok(body) => again.push(Statement { place, body }),
                    Err(reason) => progress.refuse(place, reason),
                },
            }
        }
        Ok(again)
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
            match self.long(command, throttle).await {
                Ok(reply) => {
                    let places = part.iter().map(|statement| statement.place);
                    match reply::outcomes(&reply, part.len()) {
                        Ok(known) => outcomes.extend(places.zip(known)),
                        Err(error) => return Err(self.doubted(collection, error, throttle).await),
                    }
                }
                Err(CommandError::Namespace(reason)) => {
                    let refused = |statement: &Statement| (statement.place, Outcome::Refused(reason.clone()));
                    outcomes.extend(part.iter().map(refused));
                }
                Err(CommandError::Document(reason)) if part.len() == 1 => {
                    // Some of these codes also say that the server dislikes the command, whatever is in it.
                    self.control(collection, &reason, throttle).await?;
                    outcomes.push((part[0].place, Outcome::Refused(reason)));
                }
                Err(CommandError::Document(_)) => {
                    let middle = range.start + part.len() / 2;
                    queue.push_front(middle..range.end);
                    queue.push_front(range.start..middle);
                }
                Err(error) => return Err(self.doubted(collection, error, throttle).await),
            }
        }
        Ok(outcomes)
    }

    /// What to say of a command that failed as a whole: if nobody knows why, the server is asked for another write.
    async fn doubted(&self, collection: &str, error: CommandError, throttle: &dyn Throttle) -> StoreError {
        match error {
            CommandError::Unknown(reason) => match self.control(collection, &reason, throttle).await {
                Ok(()) => StoreError::Failed(reason),
                Err(error) => error,
            },
            error => error.into_store(),
        }
    }

    /// Writes a tombstone that belongs to nobody to the same collection. If that fails for another reason than the
    /// document itself, what failed before is no fault of the documents either: they wait. So a code that nobody knows
    /// makes no dead letters while other writes fail, too.
    pub(super) async fn control(
        &self,
        collection: &str,
        reason: &str,
        throttle: &dyn Throttle,
    ) -> Result<(), StoreError> {
        let body = command::control(DateTime::now());
        let command = command::write(Kind::Update, collection, std::iter::once(&body));
        let outcome = self.long(command, throttle).await.and_then(|reply| reply::outcomes(&reply, 1));
        match outcome {
            // Refused by a validator or an index, it was judged all the same.
            Ok(_) | Err(CommandError::Namespace(_)) => {
                self.index_tombstones(collection, throttle).await;
                Ok(())
            }
            Err(CommandError::Store(error)) => Err(error),
            Err(CommandError::Document(other) | CommandError::Unknown(other)) => {
                Err(StoreError::Unavailable(format!(
                    "{reason}; a write of another document fails, too, so it waits ({other})"
                )))
            }
        }
    }

    /// Lets the server purge tombstones. Without the index they stay, which costs space and nothing else, so
    /// a failure is no reason to hold up writes.
    async fn index_tombstones(&self, collection: &str, throttle: &dyn Throttle) {
        if !self.indexed.lock().unwrap_or_else(PoisonError::into_inner).insert(collection.into()) {
            return;
        }
        let failure = match command::tombstone_index(collection) {
            Ok(command) => self.long(command, throttle).await.err().map(CommandError::into_store),
            Err(error) => Some(error),
        };
        if let Some(error) = failure {
            tracing::warn!(collection, %error, "cannot create the index that purges tombstones");
        }
    }
}

/// Ranges of statements that fit into one command each.
pub(super) fn chunks(statements: &[Statement]) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (place, statement) in statements.iter().enumerate() {
        let size = statement.body.as_bytes().len() + command::ELEMENT_BYTES;
        let full = place - start == command::MAX_COMMAND_WRITES || bytes + size > command::MAX_COMMAND_BYTES;
        if place > start && full {
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
