//! What was changed, in JSON lines that are on the device before the change is made.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::facts::Namespace;

/// Largest journal, in bytes: some hundred thousand changes.
const MAX_BYTES: u64 = 64 << 20;

/// A change, and how it is undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    /// Counts from 1.
    pub(crate) id: u64,
    /// Milliseconds since 1970.
    pub(crate) at_ms: u64,
    #[serde(flatten)]
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub(crate) enum What {
    /// A kernel setting.
    Value {
        key: String,
        prior: String,
        ours: String,
        /// The network namespace it was changed from, for a setting of the network: from another one it is another
        /// setting, or none at all.
        namespace: Option<Namespace>,
        /// The boot that it was changed in.
        boot: String,
        /// The setting that says the same in other units, which holds where this one's prior value is 0.
        twin: Option<(String, String)>,
    },
    /// A file, whole; `prior` is none where there was none.
    File { path: PathBuf, prior: Option<String>, ours: String },
    /// A resource limit of a process: soft and hard.
    Limit {
        pid: i32,
        started: u64,
        /// Where the process has this number: the namespace of processes, and the boot.
        processes: String,
        boot: String,
        resource: String,
        prior: (u64, u64),
        ours: (u64, u64),
    },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line {
    Change(Change),
    /// What the kernel made of it. Without this line the program ended between write and reading back.
    ReadBack {
        change: u64,
        value: String,
    },
    /// Undone, or nothing left to undo.
    Settled {
        change: u64,
    },
}

/// A change that is not settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) change: Change,
    pub(crate) read_back: Option<String>,
}

/// What the journal says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// By id, the oldest first.
    pub(crate) open: BTreeMap<u64, Open>,
    /// Lines that cannot be understood, other than a torn last one.
    pub(crate) damaged: Vec<usize>,
    last_id: u64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("cannot keep the journal {path}: {cause}\nhelp: without it nothing is changed; make it writable")]
    Io { path: String, cause: io::Error },
    #[error("the journal {0} is in use by another `scalekit tune`\nhelp: wait until that one has ended")]
    InUse(String),
    #[error(
        "the journal {0} has more than {MAX_BYTES} bytes\nhelp: `scalekit tune rollback`, then move it away"
    )]
    TooLarge(String),
}

/// The journal's file, held for this process alone.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    last_id: u64,
}

impl Journal {
    /// Opens or creates it, and reads it. A torn last line is cut off: its change was never made.
    ///
    /// # Errors
    /// A file that cannot be used, or is in use.
    pub(crate) fn open(path: &Path) -> Result<(Self, Account), JournalError> {
        let failed = |cause| JournalError::Io { path: path.display().to_string(), cause };
        let dir = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        file.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => JournalError::InUse(path.display().to_string()),
            fs::TryLockError::Error(cause) => failed(cause),
        })?;
        let mut bytes = Vec::new();
        (&file).take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(JournalError::TooLarge(path.display().to_string()));
        }
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        // The file's name too is on the device before anything changes.
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
        let account = account(&String::from_utf8_lossy(&bytes[..whole]));
        Ok((Self { path: path.to_owned(), file, last_id: account.last_id }, account))
    }

    /// Records a change that is about to be made; it is on the device when this returns.
    ///
    /// # Errors
    /// A journal that cannot be written: then nothing must be changed.
    pub(crate) fn change(&mut self, what: What) -> Result<u64, JournalError> {
        self.last_id += 1;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.append(&Line::Change(Change { id: self.last_id, at_ms, what }))?;
        Ok(self.last_id)
    }

    pub(crate) fn read_back(&mut self, change: u64, value: String) -> Result<(), JournalError> {
        self.append(&Line::ReadBack { change, value })
    }

    pub(crate) fn settled(&mut self, change: u64) -> Result<(), JournalError> {
        self.append(&Line::Settled { change })
    }

    fn append(&mut self, line: &Line) -> Result<(), JournalError> {
        let written = serde_json::to_string(line).map_err(io::Error::from).and_then(|mut text| {
            text.push('\n');
            self.file.write_all(text.as_bytes())?;
            self.file.sync_data()
        });
        written.map_err(|cause| JournalError::Io { path: self.path.display().to_string(), cause })
    }
}

/// What whole lines say.
fn account(text: &str) -> Account {
    let mut account = Account::default();
    for (index, line) in text.lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(Line::Change(change)) => {
                account.last_id = account.last_id.max(change.id);
                account.open.insert(change.id, Open { change, read_back: None });
            }
            Ok(Line::ReadBack { change, value }) => {
                if let Some(open) = account.open.get_mut(&change) {
                    open.read_back = Some(value);
                }
            }
            Ok(Line::Settled { change }) => {
                account.open.remove(&change);
            }
            Err(_) => account.damaged.push(index + 1),
        }
    }
    account
}
