//! What the writer, the consumer and status requests of one log share.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::checkpoint::Checkpoint;
use super::dead::DeadLetters;
use super::segment::Segment;
use crate::journal::{Backlog, JournalError, Note, WriteId, WriteState};
use crate::operation::Position;

pub(super) struct State {
    /// Oldest first; the last one may be open.
    pub(super) segments: VecDeque<Segment>,
    /// The last durable entry.
    pub(super) last: Position,
    /// All entries up to here are acknowledged.
    pub(super) watermark: Position,
    pub(super) waiting: Waiting,
    failed: Option<String>,
}

pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) dead: Mutex<DeadLetters>,
    pub(super) checkpoint: Mutex<Checkpoint>,
    /// Bytes of requests that wait for the writer.
    pub(super) queued_bytes: AtomicU64,
    /// Wakes the consumer after an append.
    pub(super) grown: Notify,
}

impl Shared {
    pub(super) fn new(
        segments: VecDeque<Segment>,
        last: Position,
        checkpoint: Checkpoint,
        dead: DeadLetters,
        waiting: Waiting,
    ) -> Self {
        let watermark = checkpoint.position();
        Self {
            state: Mutex::new(State { segments, last, watermark, waiting, failed: None }),
            dead: Mutex::new(dead),
            checkpoint: Mutex::new(checkpoint),
            queued_bytes: AtomicU64::new(0),
            grown: Notify::new(),
        }
    }

    /// The state stays consistent between its short critical sections, none of which calls out.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open_segment_bytes(&self) -> u64 {
        self.state().segments.back().map_or(0, |segment| segment.durable_bytes)
    }

    pub(super) fn add_segment(&self, segment: Segment) {
        self.state().segments.push_back(segment);
    }

    pub(super) fn appended(&self, last: Position, entries: u64, bytes: u64) {
        let mut state = self.state();
        state.last = last;
        state.waiting.add(last.ms, entries, bytes);
        if let Some(segment) = state.segments.back_mut() {
            segment.last = last;
            segment.durable_bytes += bytes;
        }
        drop(state);
        self.grown.notify_one();
    }

    pub(super) fn fail(&self, reason: &str) {
        self.state().failed = Some(reason.to_owned());
    }

    pub(super) fn healthy(&self) -> Result<(), JournalError> {
        match &self.state().failed {
            Some(reason) => Err(JournalError::Failed(reason.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn dead(&self) -> MutexGuard<'_, DeadLetters> {
        // A call that fails leaves file and index as they were.
        self.dead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn backlog(&self) -> Backlog {
        let state = self.state();
        let waiting = &state.waiting;
        Backlog {
            entries: waiting.entries,
            bytes: waiting.bytes,
            oldest_ms: waiting.oldest_ms(),
            removed: waiting.removed,
            // Counted by who asks for all; this is asked for with each append.
            dead_letters: 0,
        }
    }

    pub(super) fn status(&self, id: WriteId) -> Result<WriteState, JournalError> {
        let (last, watermark) = {
            let state = self.state();
            (state.last, state.watermark)
        };
        // One shard, and one request an entry.
        if id.shard != 0 || id.place != 0 || id.position > last || id.position == Position::default() {
            return Ok(WriteState::Unknown);
        }
        let (reason, note) = {
            let dead = self.dead();
            (dead.reason(id), dead.note(id))
        };
        if let Some(reason) = reason.map_err(|error| JournalError::Failed(error.to_string()))? {
            return Ok(WriteState::Dead { reason });
        }
        match note {
            // A replay comes after what it replays, so this ends.
            Some(Note::Replayed(entry)) if entry.position > id.position => return self.status(entry),
            Some(note) => return Ok(note.state()),
            None => {}
        }
        Ok(if id.position > watermark { WriteState::Accepted } else { WriteState::Stored })
    }
}

/// What waits, in buckets of one second: enough to know the count exactly and the oldest to the second, in
/// memory bounded by the age of the backlog.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    buckets: VecDeque<Bucket>,
    entries: u64,
    bytes: u64,
    removed: u64,
}

#[derive(Debug)]
struct Bucket {
    first_ms: u64,
    entries: u64,
}

impl Waiting {
    pub(super) fn add(&mut self, ms: u64, entries: u64, bytes: u64) {
        self.entries += entries;
        self.bytes += bytes;
        match self.buckets.back_mut() {
            Some(bucket) if ms / 1000 == bucket.first_ms / 1000 => {
                bucket.entries += entries;
            }
            _ => self.buckets.push_back(Bucket { first_ms: ms, entries }),
        }
    }

    pub(super) fn remove(&mut self, mut entries: u64, bytes: u64) {
        self.entries = self.entries.saturating_sub(entries);
        self.removed += entries;
        self.bytes = self.bytes.saturating_sub(bytes);
        while entries > 0 {
            let Some(bucket) = self.buckets.front_mut() else { break };
            let taken = entries.min(bucket.entries);
            bucket.entries -= taken;
            entries -= taken;
            if bucket.entries == 0 {
                self.buckets.pop_front();
            }
        }
    }

    fn oldest_ms(&self) -> Option<u64> {
        self.buckets.front().map(|bucket| bucket.first_ms)
    }
}
