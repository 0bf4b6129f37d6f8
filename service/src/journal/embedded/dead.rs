//! Dead letters of the embedded journal: one JSON object a line in `dead-letters.jsonl`, flushed to the device
//! before the entry they came from is acknowledged.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::journal::{DeadLetter, WriteId};

/// Dead letters whose reason is kept in memory for write-status requests; the file keeps all of them.
const INDEX_ENTRIES: usize = 100_000;

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    write_id: String,
    op_id: String,
    reason: String,
    /// The payload, hexadecimal.
    payload: String,
}

pub(super) struct DeadLetters {
    file: File,
    reasons: HashMap<WriteId, String>,
    /// Which writes are in the file, to bury none twice.
    buried: std::collections::HashSet<(WriteId, String)>,
}

impl DeadLetters {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("dead-letters.jsonl");
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let mut letters = Self { reasons: HashMap::new(), buried: std::collections::HashSet::new(), file };
        let mut reader = BufReader::new(letters.file.try_clone()?);
        let mut line = String::new();
        let mut whole_bytes = 0;
        while reader.read_line(&mut line)? > 0 {
            if !line.ends_with('\n') {
                // A crash while writing: this letter's entry was not acknowledged and will be buried again.
                letters.file.set_len(whole_bytes)?;
                break;
            }
            whole_bytes += line.len() as u64;
            if let Ok(Line { write_id, op_id, reason, .. }) = serde_json::from_str(&line)
                && let Ok(id) = write_id.parse()
            {
                letters.remember(id, op_id, reason);
            }
            line.clear();
        }
        Ok(letters)
    }

    pub(super) fn reason(&self, id: WriteId) -> Option<&str> {
        self.reasons.get(&id).map(String::as_str)
    }

    pub(super) fn bury(&mut self, letters: &[DeadLetter]) -> io::Result<()> {
        let new: Vec<&DeadLetter> = letters
            .iter()
            .filter(|letter| !self.buried.contains(&(letter.write_id, letter.op_id.clone())))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for letter in &new {
            let payload = letter.payload.iter().map(|byte| format!("{byte:02x}")).collect();
            let line = Line {
                write_id: letter.write_id.to_string(),
                op_id: letter.op_id.clone(),
                reason: letter.reason.clone(),
                payload,
            };
            serde_json::to_writer(&mut lines, &line)?;
            lines.push(b'\n');
        }
        self.file.write_all(&lines)?;
        self.file.sync_data()?;
        for letter in new {
            self.remember(letter.write_id, letter.op_id.clone(), letter.reason.clone());
        }
        Ok(())
    }

    fn remember(&mut self, id: WriteId, op_id: String, reason: String) {
        if self.reasons.len() < INDEX_ENTRIES {
            self.reasons.entry(id).or_insert(reason);
            self.buried.insert((id, op_id));
        }
    }
}
