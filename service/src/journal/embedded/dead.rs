//! Dead letters of the embedded journal: a log of JSON objects, one a line, in `dead-letters.jsonl`, flushed to the
//! device before the entry they came from is acknowledged.
//!
//! A line is a letter, or says what became of one: buried `again`, `gone`, or a `note` on its request. Lines of letters
//! that are gone are left out when the file is written anew, which is done once they are the greater part of it. What
//! cannot be read is kept as it is.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::dead_line::{Fate, Line, from_hex, note_line, write_line};
use crate::journal::dead::place_of;
use crate::journal::{DeadLetter, KeptLetter, LetterId, Note, Replay, WriteId, now_ms};
use crate::operation::Position;

/// What became of so many requests is remembered; older notes are forgotten.
const NOTES: usize = 10_000;
/// The line of a note, about.
const NOTE_BYTES: u64 = 80;

/// Where a letter is in the file.
#[derive(Clone, Debug)]
struct Slot {
    id: LetterId,
    op_id: Box<str>,
    offset: u64,
    bytes: usize,
    last_ms: u64,
    times: u32,
}

pub(super) struct DeadLetters {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    end: u64,
    /// Of these, lines that say something of a letter that is there, or cannot be read.
    live_bytes: u64,
    /// In the order in which they were buried.
    slots: BTreeMap<Position, Slot>,
    by_id: HashMap<LetterId, Position>,
    by_op: HashMap<Box<str>, LetterId>,
    /// Offset and length of lines that cannot be read.
    unreadable: Vec<(u64, usize)>,
    notes: HashMap<WriteId, Note>,
    /// Which of them are the oldest.
    noted: VecDeque<WriteId>,
}

impl DeadLetters {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("dead-letters.jsonl");
        // A crash while it was written anew: the old one holds.
        match std::fs::remove_file(next(&path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let letters = Self::read(path)?;
        if !letters.unreadable.is_empty() {
            tracing::warn!(
                path = %letters.path.display(),
                lines = letters.unreadable.len(),
                "some dead letters cannot be read; their lines are kept"
            );
        }
        Ok(letters)
    }

    fn read(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(&path)?;
        let mut letters = Self {
            path,
            end: 0,
            live_bytes: 0,
            slots: BTreeMap::new(),
            by_id: HashMap::new(),
            by_op: HashMap::new(),
            unreadable: Vec::new(),
            notes: HashMap::new(),
            noted: VecDeque::new(),
            file,
        };
        let mut reader = BufReader::new(letters.file.try_clone()?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            if line.last() != Some(&b'\n') {
                // A crash while writing: this letter's entry was not acknowledged and will be buried again.
                letters.file.set_len(letters.end)?;
                break;
            }
            let offset = letters.end;
            letters.end += line.len() as u64;
            letters.note_line(&line, offset);
            line.clear();
        }
        Ok(letters)
    }

    fn note_line(&mut self, line: &[u8], offset: u64) {
        let parsed = serde_json::from_slice::<Line>(line).ok();
        let Some((write, parsed)) = parsed.and_then(|line| Some((line.write_id.parse().ok()?, line))) else {
            self.unreadable.push((offset, line.len()));
            self.live_bytes += line.len() as u64;
            return;
        };
        let id = LetterId { write, place: place_of(&parsed.op_id) };
        if let Some(note) = parsed.note.as_deref().and_then(Note::decode) {
            self.remember(write, note);
            return;
        }
        match parsed.is {
            Some(Fate::Again) => {
                if let Some(slot) = self.by_id.get(&id).and_then(|at| self.slots.get_mut(at)) {
                    slot.times = parsed.times.unwrap_or(slot.times + 1);
                    slot.last_ms = parsed.last_ms.unwrap_or(slot.last_ms);
                }
            }
            Some(Fate::Gone) => self.forget(id),
            None if self.by_id.contains_key(&id) => {}
            None => {
                // A build from before wrote no times: later than its request, and than the letters before it.
                let (ms, seq) = parsed.at.unwrap_or((write.position.ms, 0));
                let at = self.next_position(Position { ms, seq });
                let slot = Slot {
                    id,
                    op_id: parsed.op_id.into(),
                    offset,
                    bytes: line.len(),
                    last_ms: parsed.last_ms.unwrap_or(at.ms),
                    times: parsed.times.unwrap_or(1),
                };
                self.insert(at, slot);
            }
        }
    }

    /// The position, or one that is later than all.
    fn next_position(&self, at: Position) -> Position {
        match self.slots.last_key_value() {
            Some((last, _)) if *last >= at => Position { seq: last.seq + 1, ..*last },
            _ => at,
        }
    }

    fn insert(&mut self, at: Position, slot: Slot) {
        self.live_bytes += slot.bytes as u64;
        self.by_id.insert(slot.id, at);
        self.by_op.insert(slot.op_id.clone(), slot.id);
        self.slots.insert(at, slot);
    }

    fn forget(&mut self, id: LetterId) {
        let Some(slot) = self.by_id.remove(&id).and_then(|at| self.slots.remove(&at)) else { return };
        self.live_bytes -= slot.bytes as u64;
        if self.by_op.get(&slot.op_id) == Some(&id) {
            self.by_op.remove(&slot.op_id);
        }
    }

    fn remember(&mut self, write: WriteId, note: Note) {
        if self.notes.insert(write, note).is_none() {
            self.noted.push_back(write);
        }
        if self.noted.len() > NOTES
            && let Some(oldest) = self.noted.pop_front()
        {
            self.notes.remove(&oldest);
        }
    }

    pub(super) fn has(&self, id: LetterId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Ends a replay whose entry is in the log: its letters go. One that was buried since, because the worker was
    /// faster, is another matter, and stays.
    pub(super) fn complete(&mut self, entry: WriteId, replay: &Replay, ids: &[LetterId]) -> io::Result<()> {
        let is_that = |id: &LetterId| {
            let slot = self.by_id.get(id).and_then(|at| self.slots.get(at));
            slot.is_some_and(|slot| slot.times <= replay.times)
        };
        let ids: Vec<LetterId> = ids.iter().copied().filter(is_that).collect();
        self.remove(&ids, replay.origin, &Note::Replayed(entry)).map(drop)
    }

    pub(super) fn count(&self) -> u64 {
        self.slots.len() as u64
    }

    pub(super) fn note(&self, write: WriteId) -> Option<Note> {
        self.notes.get(&write).cloned()
    }

    /// Why writes of the request were refused, if they were.
    pub(super) fn reason(&self, write: WriteId) -> io::Result<Option<String>> {
        if self.slots.is_empty() {
            return Ok(None);
        }
        let id = LetterId::all_of(write).find(|id| self.by_id.contains_key(id));
        Ok(id.map(|id| self.letter(id)).transpose()?.flatten().map(|kept| kept.letter.reason))
    }

    pub(super) fn letter(&self, id: LetterId) -> io::Result<Option<KeptLetter>> {
        let found = self.by_id.get(&id).and_then(|at| self.slots.get_key_value(at));
        found.map(|(at, slot)| self.load(*at, slot)).transpose()
    }

    pub(super) fn by_operation(&self, op_id: &str) -> io::Result<Option<KeptLetter>> {
        // An entry that nobody can read has none.
        match self.by_op.get(op_id) {
            Some(id) if !op_id.is_empty() => self.letter(*id),
            _ => Ok(None),
        }
    }

    pub(super) fn of_request(&self, write: WriteId) -> io::Result<Vec<KeptLetter>> {
        LetterId::all_of(write).filter_map(|id| self.letter(id).transpose()).collect()
    }

    pub(super) fn page(&self, after: Position, limit: usize) -> io::Result<Vec<KeptLetter>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let page = self.slots.range((Excluded(after), Unbounded)).take(limit);
        page.map(|(at, slot)| self.load(*at, slot)).collect()
    }

    fn load(&self, at: Position, slot: &Slot) -> io::Result<KeptLetter> {
        let line: Line = serde_json::from_slice(&self.raw(slot.offset, slot.bytes)?)?;
        let letter = DeadLetter {
            write_id: slot.id.write,
            reason: line.reason,
            op_id: line.op_id,
            payload: from_hex(&line.payload.unwrap_or_default()).into(),
            returned: None,
        };
        Ok(KeptLetter { at, last_ms: slot.last_ms, times: slot.times, letter })
    }

    fn raw(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut raw = vec![0; bytes];
        self.file.read_exact_at(&mut raw, offset)?;
        Ok(raw)
    }

    /// Keeps letters; those that are there are counted.
    pub(super) fn bury(&mut self, letters: &[DeadLetter]) -> io::Result<()> {
        let last_ms = now_ms();
        let mut lines = Vec::with_capacity(letters.len());
        let mut at = self.next_position(Position { ms: last_ms, seq: 0 });
        for letter in letters {
            let before = letter.returned.map_or(0, |returned| returned.times);
            let known = self.by_id.get(&letter.id()).and_then(|at| self.slots.get(at));
            let mut line = Line {
                write_id: letter.write_id.to_string(),
                op_id: letter.op_id.clone(),
                last_ms: Some(last_ms),
                times: Some(known.map_or(before, |slot| slot.times.max(before)) + 1),
                ..Line::default()
            };
            if known.is_some() {
                line.is = Some(Fate::Again);
            } else {
                line.reason.clone_from(&letter.reason);
                line.payload = Some(letter.payload.iter().map(|byte| format!("{byte:02x}")).collect());
                line.at = Some((at.ms, at.seq));
                at.seq += 1;
            }
            lines.push(line);
            if let Some(returned) = letter.returned {
                lines.push(note_line(returned.entry, &Note::Dead(letter.reason.clone())));
            }
        }
        self.append(&lines)
    }

    /// Notes what became of requests.
    pub(super) fn add_notes(&mut self, of: &[WriteId], note: &Note) -> io::Result<()> {
        let lines: Vec<Line> = of.iter().map(|write| note_line(*write, note)).collect();
        self.append(&lines)
    }

    /// Forgets letters, and notes what became of their request; how many there were.
    pub(super) fn remove(&mut self, ids: &[LetterId], write: WriteId, note: &Note) -> io::Result<usize> {
        let there: Vec<Line> = ids
            .iter()
            .filter_map(|id| self.slots.get(self.by_id.get(id)?))
            .map(|slot| Line {
                write_id: slot.id.write.to_string(),
                op_id: slot.op_id.to_string(),
                is: Some(Fate::Gone),
                ..Line::default()
            })
            .collect();
        let count = there.len();
        if count == 0 {
            return Ok(0);
        }
        let mut lines = there;
        lines.push(note_line(write, note));
        self.append(&lines)?;
        let notes = self.noted.len() as u64 * NOTE_BYTES;
        if (self.live_bytes + notes) < self.end / 2 || self.slots.is_empty() {
            // What is gone is gone without it.
            if let Err(error) = self.compact() {
                tracing::warn!(%error, path = %self.path.display(), "dead letters that are gone still take up space");
            }
        }
        Ok(count)
    }

    /// Writes lines and flushes them to the device.
    fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(lines.len());
        for line in lines {
            serde_json::to_writer(&mut bytes, line)?;
            bytes.push(b'\n');
            ends.push(bytes.len());
        }
        if let Err(error) = self.file.write_all(&bytes).and_then(|()| self.file.sync_data()) {
            // What is half written must go before anything else may follow it.
            self.file.set_len(self.end)?;
            return Err(error);
        }
        let (start, mut begin) = (self.end, 0);
        self.end += bytes.len() as u64;
        for end in ends {
            self.note_line(&bytes[begin..end], start + begin as u64);
            begin = end;
        }
        Ok(())
    }

    /// Writes the file anew, with what still counts: under another name, to the device, then in its place.
    fn compact(&mut self) -> io::Result<()> {
        let next = next(&self.path);
        // Opened under its first name: once it has the other one, nothing may fail before it is used.
        let written = self.write_live(&next).and_then(|()| Self::read(next.clone())).and_then(|fresh| {
            std::fs::rename(&next, &self.path)?;
            Ok(fresh)
        });
        match written {
            Ok(fresh) => *self = Self { path: std::mem::take(&mut self.path), ..fresh },
            Err(error) => {
                // It may not be there.
                let _ = std::fs::remove_file(&next);
                return Err(error);
            }
        }
        let Some(dir) = self.path.parent() else { return Ok(()) };
        File::open(dir)?.sync_all()
    }

    fn write_live(&self, path: &Path) -> io::Result<()> {
        let mut out = io::BufWriter::new(File::create(path)?);
        for (offset, bytes) in &self.unreadable {
            out.write_all(&self.raw(*offset, *bytes)?)?;
        }
        for (at, slot) in &self.slots {
            let mut line: Line = serde_json::from_slice(&self.raw(slot.offset, slot.bytes)?)?;
            line.at = Some((at.ms, at.seq));
            (line.last_ms, line.times) = (Some(slot.last_ms), Some(slot.times));
            write_line(&mut out, &line)?;
        }
        for write in &self.noted {
            if let Some(note) = self.notes.get(write) {
                write_line(&mut out, &note_line(*write, note))?;
            }
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }
}

fn next(path: &Path) -> PathBuf {
    path.with_extension("jsonl.new")
}
