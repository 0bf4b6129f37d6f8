//! Opening a log after a stop or a crash: scan the segments, cut a torn tail, count what waits.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::checkpoint::Checkpoint;
use super::dead::DeadLetters;
use super::recent::{Recent, RecentOperations};
use super::segment::{self, Reader, Scan, Segment};
use super::shared::{Shared, Waiting};
use crate::journal::{LetterId, Replay, WriteId, codec};
use crate::operation::Position;

pub(super) struct Recovered {
    pub(super) shared: Shared,
    pub(super) recent: RecentOperations,
    pub(super) last: Position,
}

pub(super) fn recover(dir: &Path) -> io::Result<Recovered> {
    let checkpoint = Checkpoint::open(dir)?;
    let watermark = checkpoint.position();
    let mut paths: Vec<(Position, PathBuf)> = std::fs::read_dir(dir)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter_map(|path| segment::parse_name(&path).map(|first| (first, path)))
        .collect();
    paths.sort();
    let mut scan = Recovery {
        recent: RecentOperations::default(),
        waiting: Waiting::default(),
        last: watermark,
        watermark,
        replays: Vec::new(),
    };
    let mut segments = VecDeque::new();
    let count = paths.len();
    for (index, (first, path)) in paths.into_iter().enumerate() {
        let segment = scan.segment(first, path, index + 1 == count)?;
        if segment.last <= watermark || segment.durable_bytes == 0 {
            std::fs::remove_file(&segment.path)?;
        } else {
            segments.push_back(segment);
        }
    }
    // The names as well as the bytes.
    File::open(dir)?.sync_all()?;
    let mut dead = DeadLetters::open(dir)?;
    // A crash came between them and the end of their letters.
    for (entry, replay, letters) in &scan.replays {
        dead.complete(*entry, replay, letters)?;
    }
    let shared = Shared::new(segments, scan.last, checkpoint, dead, scan.waiting);
    Ok(Recovered { shared, recent: scan.recent, last: scan.last })
}

struct Recovery {
    recent: RecentOperations,
    waiting: Waiting,
    last: Position,
    watermark: Position,
    /// Dead letters that were put back.
    replays: Vec<(WriteId, Replay, Vec<LetterId>)>,
}

impl Recovery {
    fn segment(&mut self, first: Position, path: PathBuf, is_last: bool) -> io::Result<Segment> {
        let file = File::options().read(true).write(true).open(&path)?;
        let end = file.metadata()?.len();
        let mut segment = Segment { path, first, last: first, durable_bytes: 0 };
        let mut reader = Reader::new(file.try_clone()?);
        loop {
            match reader.next(end)? {
                Scan::Record(record) => {
                    segment.durable_bytes = reader.offset();
                    segment.last = record.position;
                    self.record(record.position, &record.payload);
                }
                Scan::End => {
                    if is_last {
                        // A process that was killed before its flush left entries in the page cache: retries will be
                        // told that they are durable.
                        file.sync_all()?;
                    }
                    return Ok(segment);
                }
                Scan::Damaged(what) if is_last => {
                    // A crash while writing: nothing from here on was acknowledged to anybody.
                    let cut = end - segment.durable_bytes;
                    tracing::warn!(path = %segment.path.display(), bytes = cut, what, "cut a torn tail off the journal");
                    file.set_len(segment.durable_bytes)?;
                    file.sync_all()?;
                    return Ok(segment);
                }
                Scan::Damaged(what) => {
                    return Err(io::Error::other(format!(
                        "{} at byte {}: {what}; restore the file from a backup, or move it away to give up its entries",
                        segment.path.display(),
                        segment.durable_bytes
                    )));
                }
            }
        }
    }

    fn record(&mut self, position: Position, payload: &[u8]) {
        self.last = self.last.max(position);
        if position <= self.watermark {
            return;
        }
        self.waiting.add(position.ms, 1, segment::framed_bytes(payload));
        // What cannot be decoded has no operation ids to remember; the consumer makes it a dead letter.
        for request in codec::decode(payload, 0, position).unwrap_or_default() {
            let checksum = if request.replay.is_some() { 0 } else { codec::checksum_of_entry(payload) };
            self.recent.insert(&request.key(), Recent { position, checksum });
            let letters = request.letters();
            if let Some(replay) = request.replay {
                self.replays.push((WriteId { shard: 0, position, place: 0 }, *replay, letters));
            }
        }
    }
}
