//! Reads a report back. Whatever is wrong with it is found here, before anything is judged.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::model::{Report, SCHEMA_VERSION};

/// Largest report: a day of seconds and every trend's buckets take a third of it.
const MAX_BYTES: u64 = 64 << 20;

/// A report that cannot be used: exit status 104.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{0}: there is no report\nhelp: name a report.json, or the folder of a run that has one")]
    NotFound(PathBuf),
    #[error("{path}: cannot read the report: {error}\nhelp: make it a readable file")]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{0}: larger than {MAX_BYTES} bytes\nhelp: check that this is a report of scalekit")]
    TooLarge(PathBuf),
    #[error(
        "{path}: the report ends early, at line {line} column {column}\nhelp: copy it again from where it was written"
    )]
    Truncated { path: PathBuf, line: usize, column: usize },
    #[error("{path}: not JSON: {error}\nhelp: name a report.json that scalekit wrote")]
    NotJson { path: PathBuf, error: serde_json::Error },
    #[error(
        "{path}: expected schema_version {SCHEMA_VERSION}, found {found}\nhelp: use the version of scalekit that wrote the report"
    )]
    WrongVersion { path: PathBuf, found: String },
    #[error("{path}: not a report: {error}\nhelp: reports/report.schema.json describes the form")]
    NotAReport { path: PathBuf, error: serde_json::Error },
}

/// Reads a report from its file, or from a run's folder.
///
/// # Errors
/// See [`ReadError`]; all of them are exit status 104.
pub(crate) fn read(path: &Path) -> Result<Report, ReadError> {
    let path = if path.is_dir() { path.join("report.json") } else { path.to_owned() };
    let mut text = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut text));
    match read {
        Ok(_) if text.len() as u64 > MAX_BYTES => return Err(ReadError::TooLarge(path)),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(ReadError::NotFound(path)),
        Err(error) => return Err(ReadError::Unreadable { path, error }),
    }
    parse(&path, &text)
}

/// The version alone, so that a report of another version is called that and not malformed.
#[derive(Deserialize)]
struct Versioned {
    #[serde(default)]
    schema_version: serde_json::Value,
}

fn parse(path: &Path, text: &[u8]) -> Result<Report, ReadError> {
    let path = || path.to_owned();
    let versioned: Versioned = serde_json::from_slice(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Eof => {
            ReadError::Truncated { path: path(), line: error.line(), column: error.column() }
        }
        // Cut inside a number, the rest is no number.
        serde_json::error::Category::Syntax if text.starts_with(b"{") && is_at_end(&error, text) => {
            ReadError::Truncated { path: path(), line: error.line(), column: error.column() }
        }
        serde_json::error::Category::Data => ReadError::NotAReport { path: path(), error },
        _ => ReadError::NotJson { path: path(), error },
    })?;
    match versioned.schema_version {
        serde_json::Value::Null => {
            Err(ReadError::WrongVersion { path: path(), found: "no version at all".to_owned() })
        }
        found if found != SCHEMA_VERSION => {
            let found: String = found.to_string().chars().take(40).collect();
            Err(ReadError::WrongVersion { path: path(), found })
        }
        _ => serde_json::from_slice(text).map_err(|error| ReadError::NotAReport { path: path(), error }),
    }
}

/// Whether the parser stumbled over the very last byte.
fn is_at_end(error: &serde_json::Error, text: &[u8]) -> bool {
    let lines = text.split(|byte| *byte == b'\n');
    let (line, last) = lines.enumerate().last().map_or((1, 0), |(index, last)| (index + 1, last.len()));
    error.line() == line && error.column() >= last
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn wherever_it_is_cut_a_report_ends_early() {
        let whole = serde_json::to_string(&fixture::report()).unwrap();
        for cut in 0..whole.len() {
            let error = parse(Path::new("report.json"), &whole.as_bytes()[..cut]).unwrap_err().to_string();
            assert!(error.contains("ends early"), "cut at {cut}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_report_is_said() {
        let whole = serde_json::to_string(&fixture::report()).unwrap();
        let cut = &whole[..whole.len() / 2];
        let other = whole.replacen("\"schema_version\":1", "\"schema_version\":9", 1);
        let without = whole.replacen("\"metrics\":", "\"mertics\":", 1);
        for (text, expected) in [
            ("", "ends early"),
            (cut, "ends early"),
            ("not json", "not JSON"),
            ("5", "not a report"),
            ("{}", "expected schema_version 1, found no version at all"),
            (&other, "expected schema_version 1, found 9"),
            (&without, "not a report: missing field `metrics`"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("report.json"), text).unwrap();
            let error = read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.contains("report.json") && error.contains("\nhelp: "), "{error}");
        }
        assert!(matches!(read(Path::new("no/such/report.json")), Err(ReadError::NotFound(_))));
    }
}
