//! Takes back what the journal says was changed, the newest first, and only what is still as it was left.

use std::collections::HashSet;
use std::fs;
use std::io;

use serde::Serialize;

use super::etc_file;
use super::facts::{Machine, Namespace};
use super::journal::{Account, Journal, JournalError, Open, What};
use super::limits;
use super::persist;
use super::status::describe;
use super::values::{Key, Values};
use crate::root::Root;

/// What became of one change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Restored,
    /// It would be restored.
    ToRestore,
    /// It has its prior value: the change was never made, or is undone already.
    NothingToDo,
    /// Somebody set it since; left alone.
    ChangedByOther {
        now: String,
    },
    /// What was changed is proven to be gone: a process that ended, a namespace or a value that ended with its boot.
    Gone,
    /// It was changed in another namespace; run it there.
    OtherNamespace {
        namespace: String,
        enter: Option<String>,
    },
    /// A newer change of the same is not undone yet, and this one's value comes before it.
    Waits,
    /// It cannot be seen from here, so whether it is still as it was left is not known.
    NotHere,
    /// The change was interrupted before its result was known, and this may be its result or somebody's choice.
    Unclear {
        now: String,
        command: String,
    },
    Failed {
        errno: String,
    },
}

impl Outcome {
    /// Whether the change is no longer to be undone.
    pub(crate) fn is_settled(&self) -> bool {
        match self {
            Self::Restored | Self::NothingToDo | Self::ChangedByOther { .. } | Self::Gone => true,
            Self::ToRestore
            | Self::OtherNamespace { .. }
            | Self::Waits
            | Self::NotHere
            | Self::Unclear { .. }
            | Self::Failed { .. } => false,
        }
    }

    /// What there is to say about it.
    pub(crate) fn detail(&self) -> Option<String> {
        match self {
            Self::ChangedByOther { now } => Some(format!("it is {now} now, and left so")),
            Self::OtherNamespace { namespace, enter } => {
                let how = enter.as_deref().map(|enter| format!(": {enter} scalekit tune rollback"));
                Some(format!("it was changed in {namespace}; run this there{}", how.unwrap_or_default()))
            }
            Self::Waits => Some("a newer change of the same has to be undone first".to_owned()),
            Self::NotHere => {
                Some("there is no such thing to be seen from here; it stays to be undone".to_owned())
            }
            Self::Unclear { now, command } => Some(format!(
                "the change was interrupted, and it is {now} now; if that is not meant to be: {command}"
            )),
            Self::Failed { errno } => Some(errno.clone()),
            Self::Restored | Self::ToRestore | Self::NothingToDo | Self::Gone => None,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::ToRestore => "to restore",
            Self::NothingToDo => "nothing to do",
            Self::ChangedByOther { .. } => "changed by other",
            Self::Gone => "gone",
            Self::OtherNamespace { .. } => "other namespace",
            Self::Waits => "waits",
            Self::NotHere => "not here",
            Self::Unclear { .. } => "unclear",
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

/// Undoes all open changes, as far as that can be done from the namespaces that this process is in.
///
/// # Errors
/// A journal that cannot be written. Doing it again is safe.
pub(crate) fn rollback(
    account: &Account,
    journal: &mut Journal,
    values: &dyn Values,
    machine: &Machine,
    root: &Root,
) -> Result<Vec<Undone>, JournalError> {
    let (mut undone, mut unsettled) = (Vec::new(), HashSet::new());
    let there = There { account, values, machine, root };
    for (id, open) in account.open.iter().rev() {
        let row = in_turn(open, &mut unsettled, || there.undo(open, false));
        if row.outcome.is_settled() {
            journal.settled(*id)?;
        }
        undone.push(row);
    }
    if account.damaged.is_empty() && undone.iter().all(|row| row.outcome.is_settled()) {
        journal.clear()?;
    }
    Ok(undone)
}

/// What [`rollback`] would do; changes nothing. Of several changes of one thing only the newest can be told.
pub(crate) fn preview(account: &Account, values: &dyn Values, machine: &Machine, root: &Root) -> Vec<Undone> {
    let mut unsettled = HashSet::new();
    let there = There { account, values, machine, root };
    let one = |open| in_turn(open, &mut unsettled, || there.undo(open, true));
    account.open.values().rev().map(one).collect()
}

/// The newest change of a thing comes first. While it is not undone the value is its, which an older one would take for
/// somebody else's.
fn in_turn(open: &Open, unsettled: &mut HashSet<String>, undo: impl FnOnce() -> Outcome) -> Undone {
    let what = &open.change.what;
    let thing = match what {
        What::Value { key, namespace, .. } => {
            format!("{key} {}", namespace.as_ref().map_or("", |namespace| namespace.id.as_str()))
        }
        What::File { path, .. } => path.display().to_string(),
        What::Limit { pid, started, resource, .. } => format!("{resource} {pid} {started}"),
    };
    let outcome = if unsettled.contains(&thing) { Outcome::Waits } else { undo() };
    if !outcome.is_settled() {
        unsettled.insert(thing);
    }
    let lines = |text: &str| format!("{} lines", text.lines().count());
    let pair = |pair: (u64, u64)| format!("{} {}", pair.0, pair.1);
    let (what, ours, prior) = match what {
        What::Value { key, prior, ours, .. } => (key.clone(), ours.clone(), prior.clone()),
        What::File { path, prior, ours, .. } => {
            let prior = prior.as_deref().map_or_else(|| "no file".to_owned(), lines);
            (path.display().to_string(), lines(ours), prior)
        }
        What::Limit { pid, resource, prior, ours, .. } => {
            (format!("{resource} of process {pid}"), pair(*ours), pair(*prior))
        }
    };
    Undone { what, ours, prior, outcome }
}

/// Where changes are undone.
struct There<'a> {
    account: &'a Account,
    values: &'a dyn Values,
    machine: &'a Machine,
    root: &'a Root,
}

impl There<'_> {
    fn undo(&self, open: &Open, is_dry: bool) -> Outcome {
        let Self { values, machine, root, .. } = *self;
        let failed = |error: io::Error| Outcome::Failed { errno: describe(&error) };
        match &open.change.what {
            What::Value { key, prior, ours, namespace, boot, twin } => {
                namespace.as_ref().and_then(|then| elsewhere(then, machine, root)).unwrap_or_else(|| {
                    let is_same_boot = *boot == machine.namespace.boot;
                    let is_persisted = self.is_persisted(key);
                    let read_back = open.read_back.as_ref();
                    let change = Value { key, prior, ours, read_back, is_same_boot, is_persisted };
                    change.undo(twin.as_ref(), values, is_dry).unwrap_or_else(failed)
                })
            }
            What::File { path, prior, access, made, ours } => match fs::read_to_string(path) {
                // Root writes no file because a line says so.
                _ if !persist::is_known(root, path) => {
                    Outcome::Failed { errno: "it is none of the files that --persist writes".to_owned() }
                }
                Ok(now) if Some(&now) == prior.as_ref() => Outcome::NothingToDo,
                Ok(now) if now == *ours && is_dry => Outcome::ToRestore,
                Ok(now) if now == *ours => match prior {
                    Some(prior) => etc_file::write(path, prior, *access),
                    None => etc_file::remove(path, made),
                }
                .map_or_else(failed, |()| Outcome::Restored),
                Ok(now) => Outcome::ChangedByOther { now: format!("{} lines", now.lines().count()) },
                Err(error) if error.kind() == io::ErrorKind::NotFound && prior.is_none() => {
                    Outcome::NothingToDo
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Outcome::NotHere,
                Err(error) => failed(error),
            },
            What::Limit { boot, .. } if *boot != machine.namespace.boot => Outcome::Gone,
            What::Limit { processes, .. } if *processes != machine.processes.id => {
                Outcome::OtherNamespace { namespace: processes.clone(), enter: None }
            }
            What::Limit { pid, started, resource, prior, ours, .. } => {
                limits::restore(*pid, *started, resource, *prior, *ours, is_dry)
            }
        }
    }

    /// Whether a file of ours gave a setting its value at boot.
    fn is_persisted(&self, key: &str) -> bool {
        let name = match Key::parse(key) {
            Some(Key::Sysctl(name) | Key::Module(name)) => name,
            _ => "transparent_hugepage".to_owned(),
        };
        let names = |line: &str| !line.starts_with('#') && line.contains(&name);
        self.account.open.values().any(|open| match &open.change.what {
            What::File { ours, .. } => ours.lines().any(names),
            _ => false,
        })
    }
}

/// What there is to say of a change made in network namespace `then`, if this process is in another.
fn elsewhere(then: &Namespace, machine: &Machine, root: &Root) -> Option<Outcome> {
    let now = &machine.namespace;
    let is_same_boot = then.boot == now.boot;
    let other = || Outcome::OtherNamespace { namespace: then.id.clone(), enter: then.entrance(root) };
    match (then.is_first, now.is_first) {
        _ if is_same_boot && then.id == now.id => None,
        // Its inode is another one on some kernels after the next boot.
        (Some(true), Some(true)) => None,
        (Some(false), _) if !is_same_boot => Some(Outcome::Gone),
        (Some(false), _) => match other() {
            // All that could hold it would be seen.
            Outcome::OtherNamespace { enter: None, .. } if machine.processes.is_first && machine.is_root => {
                Some(Outcome::Gone)
            }
            other => Some(other),
        },
        // Nothing told which one it was: after another boot only its number is left to go by.
        (None, _) if !is_same_boot && then.id == now.id => None,
        _ => Some(other()),
    }
}

/// A change of a value, as the journal has it.
struct Value<'a> {
    key: &'a str,
    prior: &'a str,
    ours: &'a String,
    read_back: Option<&'a String>,
    is_same_boot: bool,
    /// Whether the value that it has after a boot may be ours.
    is_persisted: bool,
}

impl Value<'_> {
    fn undo(
        &self,
        twin: Option<&(String, String)>,
        values: &dyn Values,
        is_dry: bool,
    ) -> io::Result<Outcome> {
        let unknown = |key: &str| io::Error::other(format!("{key:?} is no setting"));
        let key = Key::parse(self.key).ok_or_else(|| unknown(self.key))?;
        let now = match values.read(&key) {
            // What is not there now had its value until the boot ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_same_boot => {
                return Ok(Outcome::Gone);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::NotHere),
            now => now?,
        };
        if now == self.prior {
            return Ok(Outcome::NothingToDo);
        }
        // Ours ended with its boot, and whoever set the same since means it.
        if !self.is_same_boot && !self.is_persisted {
            return Ok(Outcome::ChangedByOther { now });
        }
        if now != *self.ours && Some(&now) != self.read_back {
            return Ok(match self.read_back {
                None if self.is_same_boot => Outcome::Unclear { now, command: self.command(twin) },
                _ => Outcome::ChangedByOther { now },
            });
        }
        // A 0 is not given back by writing it, but the kernel makes it one when the twin is set.
        let (written, value) = match twin {
            Some((twin, value)) => (Key::parse(twin).ok_or_else(|| unknown(twin))?, value.as_str()),
            None => (key.clone(), self.prior),
        };
        if is_dry {
            return Ok(Outcome::ToRestore);
        }
        values.write(&written, value)?;
        for (key, value) in [(&written, value), (&key, self.prior)] {
            let got = values.read(key)?;
            if got != value {
                return Ok(Outcome::Failed {
                    errno: format!("the kernel made {got} of {value} in {}", key.name()),
                });
            }
        }
        Ok(Outcome::Restored)
    }

    /// What gives the prior value back by hand.
    fn command(&self, twin: Option<&(String, String)>) -> String {
        let (key, value) =
            twin.map_or((self.key, self.prior), |(twin, value)| (twin.as_str(), value.as_str()));
        match Key::parse(key) {
            Some(Key::Sysctl(key)) => format!("sysctl -w {key}='{value}'"),
            _ => format!("set {key} to {value}"),
        }
    }
}
