//! What was changed, in JSON lines that are on the device before the change is made.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::etc_file::Access;
use super::facts::Namespace;

/// Longest line, in bytes: the files that are journaled whole have some kilobytes.
const MAX_LINE: u64 = 4 << 20;

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
    File {
        path: PathBuf,
        prior: Option<String>,
        /// Whose it was, and who could use it.
        access: Option<Access>,
        /// The directories that were made for it, the lowest first.
        made: Vec<PathBuf>,
        ours: String,
    },
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
        "the journal is not safe: {path} {problem}, and rollback does what the journal says\nhelp: make it root's alone"
    )]
    Unsafe { path: String, problem: String },
}

/// The journal's file, held for this process alone.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    last_id: u64,
}

impl Account {
    /// Whether files that were written are not taken back yet.
    pub(crate) fn has_files(&self) -> bool {
        self.open.values().any(|open| matches!(open.change.what, What::File { .. }))
    }
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
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(path)
            .map_err(failed)?;
        file.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => JournalError::InUse(path.display().to_string()),
            fs::TryLockError::Error(cause) => failed(cause),
        })?;
        let found = file.metadata().map_err(failed)?;
        if found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o022 != 0 || !found.is_file() {
            let problem = format!("belongs to user {} and has mode {:o}", found.uid(), found.mode() & 0o7777);
            return Err(JournalError::Unsafe { path: path.display().to_string(), problem });
        }
        let (account, whole) = read(&file).map_err(failed)?;
        file.set_len(whole).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        // The file's name too is on the device before anything changes.
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
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

    /// Empties it, when nothing is left to undo.
    pub(crate) fn clear(&mut self) -> Result<(), JournalError> {
        let emptied =
            self.file.set_len(0).and_then(|()| self.file.rewind()).and_then(|()| self.file.sync_all());
        emptied.map_err(|cause| JournalError::Io { path: self.path.display().to_string(), cause })
    }

    /// What a journal says that others may be writing; nothing if it cannot be read.
    pub(crate) fn peek(path: &Path) -> Account {
        File::open(path).and_then(|file| read(&file)).map(|(account, _)| account).unwrap_or_default()
    }

    /// One whose device is full.
    #[cfg(test)]
    pub(super) fn unwritable() -> Self {
        let path = PathBuf::from("/dev/full");
        let file = File::options().write(true).open(&path).unwrap();
        Self { path, file, last_id: 0 }
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

/// What whole lines say, and how many bytes they have. Journals of any length are read.
fn read(file: &File) -> io::Result<(Account, u64)> {
    let mut reader = BufReader::new(file);
    let mut account = Account::default();
    let (mut line, mut whole, mut number, mut begun) = (Vec::new(), 0, 0, 0);
    loop {
        line.clear();
        let length = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line)? as u64;
        if length == 0 {
            // Without its end the last line is torn.
            return Ok((account, whole));
        }
        let is_part = begun > 0;
        begun += length;
        if line.ends_with(b"\n") {
            number += 1;
            whole += begun;
            begun = 0;
            account.take(number, if is_part { &[] } else { &line });
        }
    }
}

impl Account {
    fn take(&mut self, number: usize, line: &[u8]) {
        match serde_json::from_slice(line) {
            Ok(Line::Change(change)) => {
                self.last_id = self.last_id.max(change.id);
                self.open.insert(change.id, Open { change, read_back: None });
            }
            Ok(Line::ReadBack { change, value }) => {
                if let Some(open) = self.open.get_mut(&change) {
                    open.read_back = Some(value);
                }
            }
            Ok(Line::Settled { change }) => {
                self.open.remove(&change);
            }
            Err(_) => self.damaged.push(number),
        }
    }
}
