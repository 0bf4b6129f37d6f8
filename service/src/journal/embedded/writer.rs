//! The thread that writes the log: it takes all requests that wait, writes them with one call, flushes them
//! to the device with one fdatasync, and only then answers them (group commit).

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use tokio::sync::oneshot;

use super::Shared;
use super::recent::{Recent, RecentOperations};
use super::segment::{self, Segment};
use crate::contract::Durability;
use crate::journal::{Appended, JournalError};
use crate::operation::Position;

/// Most requests that share one flush.
const GROUP_REQUESTS: usize = 4096;
/// Most bytes that share one flush.
const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// A request on its way into the log.
pub(super) struct Job {
    pub(super) op_id: Box<str>,
    /// Of what the operation is.
    pub(super) checksum: u32,
    pub(super) payload: Vec<u8>,
    pub(super) reply: oneshot::Sender<Result<Appended, JournalError>>,
}

pub(super) struct Writer {
    pub(super) dir: PathBuf,
    pub(super) durability: Durability,
    pub(super) shared: Arc<Shared>,
    pub(super) recent: RecentOperations,
    pub(super) last: Position,
    /// The open segment; none before the first append after a start, and after a full one.
    pub(super) open: Option<File>,
    /// A segment is closed at this size.
    pub(super) segment_bytes: u64,
    /// Milliseconds since the Unix epoch.
    pub(super) clock: fn() -> u64,
}

impl Writer {
    /// Runs until all senders are gone.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let mut group = Vec::new();
        while let Ok(first) = jobs.recv() {
            let mut bytes = first.payload.len();
            group.push(first);
            while group.len() < GROUP_REQUESTS && bytes < GROUP_BYTES {
                let Ok(job) = jobs.try_recv() else { break };
                bytes += job.payload.len();
                group.push(job);
            }
            self.shared.queued_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
            if let Err(error) = self.commit(&mut group) {
                // After a failed flush nobody knows what the device holds: never acknowledge again.
                tracing::error!(%error, "the journal cannot be written any more; restart after mending the disk");
                self.shared.fail(&error.to_string());
                for job in group.drain(..) {
                    let _ = job.reply.send(Err(JournalError::Unknown(error.to_string())));
                }
                while let Ok(job) = jobs.recv() {
                    self.shared.queued_bytes.fetch_sub(job.payload.len() as u64, Ordering::Relaxed);
                    let _ = job.reply.send(Err(JournalError::Failed(error.to_string())));
                }
                return;
            }
        }
    }

    /// Writes and flushes a group and answers it. An error means that the log's state is unknown.
    fn commit(&mut self, group: &mut Vec<Job>) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut answers = Vec::with_capacity(group.len());
        let before = self.last;
        let mut first_new = None;
        let mut appended = 0;
        for job in group.iter() {
            if let Some(Recent { position, checksum }) = self.recent.get(&job.op_id) {
                let is_same = checksum == job.checksum;
                answers.push(if is_same {
                    Ok(Appended::at(position, true))
                } else {
                    Err(JournalError::Reused)
                });
                continue;
            }
            let position = self.next_position();
            first_new.get_or_insert(position);
            segment::frame(position, &job.payload, &mut buffer);
            self.recent.insert(&job.op_id, Recent { position, checksum: job.checksum });
            appended += 1;
            answers.push(Ok(Appended::at(position, false)));
        }
        if let Some(first) = first_new
            && let Err(refused) = self.append(first, &buffer, appended)?
        {
            self.last = before;
            for (job, answer) in group.drain(..).zip(answers) {
                // What has its name within the group goes the way of the first.
                let is_refused = self.recent.get(&job.op_id).is_none_or(|recent| recent.position > before);
                if is_refused {
                    self.recent.remove(&job.op_id);
                }
                let refusal = || Err(JournalError::Unavailable(refused.to_string()));
                let _ = job.reply.send(if is_refused { refusal() } else { answer });
            }
            return Ok(());
        }
        for (job, answer) in group.drain(..).zip(answers) {
            // A client that has gone does not need its answer.
            let _ = job.reply.send(answer);
        }
        Ok(())
    }

    /// Grows even when the clock stands still or goes back.
    fn next_position(&mut self) -> Position {
        let now = (self.clock)();
        self.last = if now > self.last.ms {
            Position { ms: now, seq: 0 }
        } else {
            Position { ms: self.last.ms, seq: self.last.seq + 1 }
        };
        self.last
    }

    /// The inner error is a clean refusal (a full disk): nothing of the group is in the log.
    fn append(&mut self, first: Position, buffer: &[u8], entries: u64) -> io::Result<Result<(), io::Error>> {
        let (mut file, start) = match self.open.take() {
            Some(file) => {
                let start = self.shared.open_segment_bytes();
                (file, start)
            }
            None => match create(&self.dir, first) {
                Ok(file) => {
                    self.shared.add_segment(Segment {
                        path: segment::path(&self.dir, first),
                        first,
                        last: first,
                        durable_bytes: 0,
                    });
                    (file, 0)
                }
                Err(error) => return Ok(Err(error)),
            },
        };
        if let Err(error) = file.write_all(buffer) {
            // What is half written must go before anything else may follow it.
            file.set_len(start)?;
            file.sync_data()?;
            self.open = Some(file);
            return Ok(Err(error));
        }
        if self.durability == Durability::Fsync {
            file.sync_data()?;
        }
        self.shared.appended(self.last, entries, buffer.len() as u64);
        if start + (buffer.len() as u64) < self.segment_bytes {
            self.open = Some(file);
        }
        Ok(Ok(()))
    }
}

fn create(dir: &Path, first: Position) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create_new(true).open(segment::path(dir, first))?;
    // The name must survive a power cut as well as the bytes.
    File::open(dir)?.sync_all()?;
    Ok(file)
}
