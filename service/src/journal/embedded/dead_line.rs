//! The lines of `dead-letters.jsonl`.

use serde::{Deserialize, Serialize};

use crate::journal::{Note, WriteId};

/// A line of the file. Letters of builds from before there were other lines have the first four fields.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Line {
    pub(super) write_id: String,
    pub(super) op_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) reason: String,
    /// The payload, hexadecimal. Only letters have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payload: Option<String>,
    /// When it was buried first, milliseconds since the Unix epoch, and a number within them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) at: Option<(u64, u64)>,
    /// When it was buried last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) times: Option<u32>,
    /// What became of the letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) is: Option<Fate>,
    /// What became of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Fate {
    Again,
    Gone,
}

pub(super) fn note_line(write: WriteId, note: &Note) -> Line {
    Line { write_id: write.to_string(), note: Some(note.encode()), ..Line::default() }
}

pub(super) fn write_line(out: &mut impl std::io::Write, line: &Line) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// Of text that is not hexadecimal, what is before that.
pub(super) fn from_hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map_while(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}
