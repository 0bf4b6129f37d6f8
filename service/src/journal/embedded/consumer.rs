//! The worker's side of the embedded log: reads the segment files behind the writer, so a backlog of any
//! length costs no memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::segment::{self, Reader, Scan};
use super::shared::Shared;
use crate::journal::{Consumer, DeadLetter, Delivery, Entry, JournalError, Note, WriteId, codec};
use crate::operation::Position;

/// Reads the log in order from the watermark on.
pub struct EmbeddedConsumer {
    shared: Arc<Shared>,
    cursor: Option<Cursor>,
    /// Delivered and not yet acknowledged: position and framed size, in order.
    delivered: VecDeque<(Position, u64)>,
}

struct Cursor {
    /// First position of the segment, which names it.
    segment: Position,
    reader: Reader,
}

/// The surroundings of the cursor.
struct Located {
    /// Durable bytes of its segment.
    end: u64,
    /// The segment after it.
    next: Option<(Position, PathBuf)>,
}

impl EmbeddedConsumer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, cursor: None, delivered: VecDeque::new() }
    }

    /// Whatever is durable and not delivered yet, up to the bounds; at least one entry if there is one.
    fn available(&mut self, max_entries: usize, max_bytes: usize) -> io::Result<Vec<Delivery>> {
        let mut deliveries = Vec::new();
        let mut bytes = 0;
        while deliveries.len() < max_entries && bytes < max_bytes {
            let Some(Located { end, next }) = self.locate()? else { break };
            let Some(cursor) = &mut self.cursor else { break };
            match cursor.reader.next(end)? {
                Scan::Record(record) => {
                    let framed = segment::framed_bytes(&record.payload);
                    if record.position <= self.shared.state().watermark {
                        continue;
                    }
                    bytes += record.payload.len();
                    self.delivered.push_back((record.position, framed));
                    deliveries.push(delivery(record.position, record.payload));
                }
                Scan::End => match next {
                    Some((first, path)) => {
                        self.cursor = Some(Cursor { segment: first, reader: Reader::new(File::open(path)?) });
                    }
                    None => break,
                },
                Scan::Damaged(what) => {
                    return Err(io::Error::other(format!(
                        "damaged at byte {} of segment {}: {what}",
                        cursor.reader.offset(),
                        cursor.segment
                    )));
                }
            }
        }
        Ok(deliveries)
    }

    /// The durable end of the cursor's segment and the segment after it; opens the oldest one at first.
    fn locate(&mut self) -> io::Result<Option<Located>> {
        let state = self.shared.state();
        if self.cursor.is_none() {
            let Some(oldest) = state.segments.front() else { return Ok(None) };
            self.cursor =
                Some(Cursor { segment: oldest.first, reader: Reader::new(File::open(&oldest.path)?) });
        }
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let Some(index) = state.segments.iter().position(|segment| segment.first == cursor.segment) else {
            return Err(io::Error::other(format!("segment {} has vanished", cursor.segment)));
        };
        let next = state.segments.get(index + 1).map(|segment| (segment.first, segment.path.clone()));
        Ok(Some(Located { end: state.segments[index].durable_bytes, next }))
    }

    fn read_now(&mut self, max_entries: usize, max_bytes: usize) -> Result<Vec<Delivery>, JournalError> {
        self.available(max_entries, max_bytes).map_err(|error| JournalError::Failed(error.to_string()))
    }
}

fn delivery(position: Position, payload: Vec<u8>) -> Delivery {
    match codec::decode(&payload, 0, position) {
        Ok(requests) => Delivery::Entry(Entry { position, requests, bytes: payload.len() }),
        Err(reason) => Delivery::Undecodable { position, reason, payload: Bytes::from(payload) },
    }
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn read(
        &mut self,
        max_entries: usize,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>, JournalError> {
        let shared = Arc::clone(&self.shared);
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let grown = shared.grown.notified();
            let deliveries = self.read_now(max_entries, max_bytes)?;
            if !deliveries.is_empty() || tokio::time::timeout_at(deadline, grown).await.is_err() {
                return Ok(deliveries);
            }
        }
    }

    async fn ack(&mut self, positions: &[Position]) -> Result<(), JournalError> {
        let Some(&last) = positions.iter().max() else { return Ok(()) };
        let failed = |error: io::Error| JournalError::Failed(error.to_string());
        self.shared
            .checkpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .advance(last)
            .map_err(failed)?;
        let mut removable = Vec::new();
        {
            let mut state = self.shared.state();
            state.watermark = last;
            while let Some(&(position, bytes)) = self.delivered.front()
                && position <= last
            {
                self.delivered.pop_front();
                state.waiting.remove(1, bytes);
            }
            // The last segment may be the writer's open one.
            while state.segments.len() > 1 && state.segments[0].last <= last {
                removable.extend(state.segments.pop_front());
            }
        }
        if let Some(cursor) = &self.cursor
            && removable.iter().any(|segment| segment.first == cursor.segment)
        {
            self.cursor = None;
        }
        for segment in removable {
            std::fs::remove_file(&segment.path).map_err(failed)?;
        }
        Ok(())
    }

    async fn bury(&mut self, letters: &[DeadLetter]) -> Result<(), JournalError> {
        self.shared.dead().bury(letters).map_err(|error| JournalError::Failed(error.to_string()))
    }

    async fn superseded(&mut self, entries: &[WriteId]) -> Result<(), JournalError> {
        let noted = self.shared.dead().add_notes(entries, &Note::Superseded);
        noted.map_err(|error| JournalError::Failed(error.to_string()))
    }

    fn rewind(&mut self) {
        self.cursor = None;
        self.delivered.clear();
    }
}
