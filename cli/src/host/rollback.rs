//! Takes back what the journal says was changed, the newest first, and only what is still as it was left.

use std::fs;
use std::io;

use serde::Serialize;

use super::journal::{Account, Journal, JournalError, Open, What};
use super::limits;
use super::persist;
use super::status::describe;
use super::values::{Key, Values};

/// What became of one change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Restored,
    /// It has its prior value: the change was never made, or is undone already.
    NothingToDo,
    /// Somebody set it since; left alone.
    ChangedByOther {
        now: String,
    },
    /// What was changed is gone, such as a process.
    Gone,
    /// It was changed in another network namespace; run it there.
    OtherNamespace {
        namespace: String,
    },
    Failed {
        errno: String,
    },
}

impl Outcome {
    /// Whether the change is no longer to be undone.
    pub(crate) fn is_settled(&self) -> bool {
        !matches!(self, Self::OtherNamespace { .. } | Self::Failed { .. })
    }

    /// What there is to say about it.
    pub(crate) fn detail(&self) -> Option<String> {
        match self {
            Self::ChangedByOther { now } => Some(format!("it is {now} now, and left so")),
            Self::OtherNamespace { namespace } => {
                Some(format!("it was changed in {namespace}; run this there"))
            }
            Self::Failed { errno } => Some(errno.clone()),
            Self::Restored | Self::NothingToDo | Self::Gone => None,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::NothingToDo => "nothing to do",
            Self::ChangedByOther { .. } => "changed by other",
            Self::Gone => "gone",
            Self::OtherNamespace { .. } => "other namespace",
            Self::Failed { .. } => "failed",
        }
    }
}

/// One change, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Undone {
    pub(crate) what: String,
    pub(crate) ours: String,
    pub(crate) prior: String,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

/// Undoes all open changes; `namespace` is the present one.
///
/// # Errors
/// A journal that cannot be written. Doing it again is safe.
pub(crate) fn rollback(
    account: &Account,
    journal: &mut Journal,
    values: &dyn Values,
    namespace: &str,
) -> Result<Vec<Undone>, JournalError> {
    let mut undone = Vec::new();
    for (id, open) in account.open.iter().rev() {
        let row = undo(open, values, namespace);
        if row.outcome.is_settled() {
            journal.settled(*id)?;
        }
        undone.push(row);
    }
    Ok(undone)
}

fn undo(open: &Open, values: &dyn Values, present: &str) -> Undone {
    let failed = |error: io::Error| Outcome::Failed { errno: describe(&error) };
    match &open.change.what {
        What::Value { key, prior, ours, namespace, twin } => {
            let outcome = match namespace {
                Some(other) if other != present => Outcome::OtherNamespace { namespace: other.clone() },
                _ => {
                    let ours = [Some(ours), open.read_back.as_ref()];
                    value(key, prior, &ours, twin.as_ref(), values).unwrap_or_else(failed)
                }
            };
            Undone { what: key.clone(), ours: ours.clone(), prior: prior.clone(), outcome }
        }
        What::File { path, prior, ours } => {
            let text = |lines: &str| format!("{} lines", lines.lines().count());
            let outcome = match fs::read_to_string(path) {
                Ok(now) if Some(&now) == prior.as_ref() => Outcome::NothingToDo,
                Ok(now) if now == *ours => match prior {
                    Some(prior) => persist::write_atomically(path, prior),
                    None => fs::remove_file(path),
                }
                .map_or_else(failed, |()| Outcome::Restored),
                Ok(now) => Outcome::ChangedByOther { now: text(&now) },
                Err(error) if error.kind() == io::ErrorKind::NotFound && prior.is_none() => {
                    Outcome::NothingToDo
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Outcome::Gone,
                Err(error) => failed(error),
            };
            let prior = prior.as_deref().map_or_else(|| "no file".to_owned(), text);
            Undone { what: path.display().to_string(), ours: text(ours), prior, outcome }
        }
        What::Limit { pid, started, resource, prior, ours } => Undone {
            what: format!("{resource} of process {pid}"),
            ours: format!("{} {}", ours.0, ours.1),
            prior: format!("{} {}", prior.0, prior.1),
            outcome: limits::restore(*pid, *started, resource, *prior, *ours),
        },
    }
}

fn value(
    key: &str,
    prior: &str,
    ours: &[Option<&String>],
    twin: Option<&(String, String)>,
    values: &dyn Values,
) -> io::Result<Outcome> {
    let key = Key::parse(key);
    let now = match values.read(&key) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Gone),
        now => now?,
    };
    if now == prior {
        return Ok(Outcome::NothingToDo);
    }
    if !ours.contains(&Some(&now)) {
        return Ok(Outcome::ChangedByOther { now });
    }
    // The kernel does not take a 0 here, but makes it one when the twin is set.
    match twin {
        Some((twin, value)) => values.write(&Key::Sysctl(twin.clone()), value)?,
        None => values.write(&key, prior)?,
    }
    let got = values.read(&key)?;
    if got == prior {
        return Ok(Outcome::Restored);
    }
    Ok(Outcome::Failed { errno: format!("the kernel made {got} of {prior}") })
}
