//! Settings that hold after the next boot: the files below /etc, what stands in them, and that no other beats them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::libc;
use serde::Serialize;

use super::decide::{Decision, decide};
use super::dropins::directives;
use super::etc_file::{self, Access};
use super::journal::{Journal, JournalError, What};
use super::known::{self, Meaning};
use super::limits::Resource;
use super::plan::Row;
use super::standing::{self, Pair};
use super::status::{Status, refused_write};
use super::values::Key;
use crate::root::Root;

/// Sorts after what is usual, so that it is read last.
pub(super) const NAME: &str = "99-zz-scalekit.conf";
const HEADER: &str = "# Written by `scalekit tune --persist`; `scalekit tune rollback` takes it back.\n";

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Sysctls,
    /// Huge pages are no sysctl; systemd-tmpfiles writes them at boot. Of its lines for one path the first counts, by the
    /// names of their files, so this one sorts before what is usual.
    HugePages,
    Modules,
    Logins,
    /// For every service and login that systemd starts.
    System,
    User,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Sysctls, Self::HugePages, Self::Modules, Self::Logins, Self::System, Self::User];

    fn file(self) -> &'static str {
        match self {
            Self::Sysctls => "etc/sysctl.d/99-zz-scalekit.conf",
            Self::HugePages => "etc/tmpfiles.d/00-scalekit.conf",
            Self::Modules => "etc/modules-load.d/scalekit.conf",
            Self::Logins => "etc/security/limits.d/99-zz-scalekit.conf",
            Self::System => "etc/systemd/system.conf.d/99-zz-scalekit.conf",
            Self::User => "etc/systemd/user.conf.d/99-zz-scalekit.conf",
        }
    }

    /// What a line is about: two lines of one key do not both hold.
    pub(super) fn key(self, line: &str) -> String {
        let words = |from: usize, count: usize| {
            line.split_whitespace().skip(from).take(count).collect::<Vec<_>>().join(" ")
        };
        match self {
            Self::Sysctls | Self::System | Self::User => {
                line.split_once('=').map_or(line, |(key, _)| key).trim().to_owned()
            }
            Self::HugePages => words(1, 1),
            Self::Modules => line.to_owned(),
            Self::Logins => words(0, 3),
        }
    }
}

/// Whether `path` is one of these files.
pub(super) fn is_known(root: &Root, path: &Path) -> bool {
    Kind::ALL.iter().any(|kind| root.path(kind.file()) == path)
}

/// Whether any of them is there.
pub(crate) fn is_any_there(root: &Root) -> bool {
    Kind::ALL.iter().any(|kind| root.path(kind.file()).exists())
}

/// A line of a file, with a comment that says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    comment: Option<String>,
    pub(super) line: String,
}

/// One file, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Persisted {
    pub(crate) path: PathBuf,
    #[serde(skip)]
    pub(super) kind: Kind,
    #[serde(skip)]
    pub(crate) text: String,
    /// What is asked for now; the text also has what an earlier profile had persisted.
    #[serde(rename = "lines", serialize_with = "lines")]
    pub(super) entries: Vec<Entry>,
    /// What an earlier `--persist` wrote and this profile does not ask for; it stays.
    pub(crate) kept: Vec<String>,
    pub(crate) status: Status,
}

fn lines<S: serde::Serializer>(entries: &[Entry], output: S) -> Result<S::Ok, S::Error> {
    output.collect_seq(entries.iter().map(|entry| &entry.line))
}

impl Persisted {
    /// The lines that are asked for now.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.line.as_str())
    }
}

/// A limit to persist.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LimitWish {
    pub(crate) resource: Resource,
    pub(crate) wanted: u64,
    /// The hard limit of who asks: no login may end lower.
    pub(crate) own_hard: u64,
}

/// The files that make the rows, modules and limits hold after a boot.
pub(crate) fn files(root: &Root, rows: &[Row], modules: &[String], limits: &[LimitWish]) -> Vec<Persisted> {
    let plain = |line: String| Entry { comment: None, line };
    let of = |kind| {
        let old = old(root, kind);
        let entries = match kind {
            Kind::Sysctls => rows.iter().filter_map(|row| sysctl(row, &old)).collect(),
            Kind::HugePages => rows.iter().filter_map(huge_pages).map(plain).collect(),
            Kind::Modules => modules.iter().cloned().map(plain).collect(),
            Kind::Logins => limits.iter().flat_map(|wish| logins(root, wish, &old)).map(plain).collect(),
            Kind::System => services(root, "system", limits, &old).into_iter().map(plain).collect(),
            Kind::User => services(root, "user", limits, &old).into_iter().map(plain).collect::<Vec<_>>(),
        };
        (!entries.is_empty()).then(|| file(root, kind, &old, entries))
    };
    Kind::ALL.into_iter().filter_map(of).collect()
}

fn file(root: &Root, kind: Kind, old: &[Entry], entries: Vec<Entry>) -> Persisted {
    // What is said anew goes, also in other words: later lines hold at boot.
    let is_new = |line: &str| {
        let key = kind.key(line);
        entries.iter().any(|entry| {
            let new = kind.key(&entry.line);
            new == key || known::twin(&key) == Some(&*new) || known::alias(&key) == Some(&*new)
        })
    };
    let kept: Vec<&Entry> = old.iter().filter(|entry| !is_new(&entry.line)).collect();
    let mut text = HEADER.to_owned();
    if matches!(kind, Kind::System | Kind::User) {
        text.push_str("[Manager]\n");
    }
    for entry in entries.iter().chain(kept.iter().copied()) {
        if let Some(comment) = &entry.comment {
            text.push_str(&format!("# {comment}\n"));
        }
        text.push_str(&format!("{}\n", entry.line));
    }
    let kept = kept.iter().map(|entry| entry.line.clone()).collect();
    Persisted { path: root.path(kind.file()), kind, text, entries, kept, status: Status::Planned }
}

/// What stands in our file already.
fn old(root: &Root, kind: Kind) -> Vec<Entry> {
    let text = root.known(kind.file()).unwrap_or_default();
    let mut comment = None;
    let mut entries = Vec::new();
    for line in text.lines().map(str::trim) {
        match line.strip_prefix('#') {
            Some(words) => comment = (!HEADER.contains(line)).then(|| words.trim().to_owned()),
            None if line.is_empty() || line.starts_with('[') => comment = None,
            None => entries.push(Entry { comment: comment.take(), line: line.to_owned() }),
        }
    }
    entries
}

fn sysctl(row: &Row, old: &[Entry]) -> Option<Entry> {
    let value = match (&row.key, &row.status) {
        (Key::Sysctl(_), Status::Planned | Status::Raised) => &row.wanted,
        // What holds now may hold only until the next boot.
        (Key::Sysctl(_), Status::Already | Status::KeptHigher { equals: false }) => row.now.as_ref()?,
        _ => return None,
    };
    let key = row.key.name();
    let before = old.iter().find(|entry| Kind::Sysctls.key(&entry.line) == key);
    let before = before.and_then(|entry| entry.line.split_once('=')).map(|(_, value)| value.trim());
    let value = before.and_then(|before| higher(row, before, value)).unwrap_or_else(|| value.clone());
    Some(Entry { comment: Some(row.reasons.why.clone()), line: format!("{key} = {value}") })
}

/// The higher of two capacities, so that a second profile does not lower what the first persisted.
fn higher(row: &Row, one: &str, other: &str) -> Option<String> {
    let numbers =
        |text: &str| text.split_whitespace().map(|word| word.parse::<u64>().ok()).collect::<Option<Vec<_>>>();
    let (one, other) = (numbers(one)?, numbers(other)?);
    let raises = row.wish.as_ref().is_none_or(|wish| !wish.is_exact());
    (raises && known::meaning(&row.key.name()) == Meaning::Capacity && one.len() == other.len()).then(|| {
        let higher: Vec<u64> = one.iter().zip(&other).map(|(one, other)| *one.max(other)).collect();
        super::decide::joined(&higher)
    })
}

fn huge_pages(row: &Row) -> Option<String> {
    let Key::HugePages(_) = row.key else { return None };
    let mode = match &row.status {
        Status::Planned | Status::Raised => &row.wanted,
        // Without a mongod nothing is asked for.
        Status::Already => row.now.as_ref().filter(|now| **now == row.wanted)?,
        _ => return None,
    };
    Some(format!("w /{} - - - - {mode}", row.key.place().display()))
}

/// Soft and hard for what a PAM login gets; the hard one only where it must rise.
fn logins(root: &Root, wish: &LimitWish, old: &[Entry]) -> Vec<String> {
    let item = wish.resource.name();
    // `*` is not root.
    let of = |domain: &str| {
        let (soft, hard) = standing::of_logins(root, domain, wish.resource).unwrap_or((0, 0));
        let before =
            old.iter().fold(None, |pair, entry| standing::pam_value(&entry.line, domain, item, pair));
        let (old_soft, old_hard) = before.unwrap_or((0, 0));
        let line = |kind, value| format!("{domain} {kind} {item} {}", shown(value, "unlimited"));
        let mut lines = Vec::new();
        if wish.wanted.max(old_soft) > soft {
            lines.push(line("soft", wish.wanted.max(old_soft)));
        }
        if wish.wanted.max(old_hard) > hard {
            lines.push(line("hard", wish.wanted.max(old_hard).max(wish.own_hard)));
        }
        lines
    };
    [of("*"), of("root")].concat()
}

fn services(root: &Root, manager: &str, limits: &[LimitWish], old: &[Entry]) -> Vec<String> {
    if !standing::has_systemd(root) {
        return Vec::new();
    }
    let line = |wish: &LimitWish| {
        let directive = format!("DefaultLimit{}", wish.resource.name().to_uppercase());
        let now = standing::of_systemd(root, manager, wish.resource);
        let before = old.iter().find_map(|entry| standing::systemd_value(&entry.line, &directive));
        let raised = |pair: Pair| (pair.0.max(wish.wanted), pair.1.max(wish.wanted));
        let (mut soft, mut hard) = raised(now.unwrap_or((0, 0)));
        if let Some(before) = before {
            (soft, hard) = (soft.max(before.0), hard.max(before.1));
        }
        let (soft_text, hard_text) = (shown(soft, "infinity"), shown(hard, "infinity"));
        (now != Some((soft, hard))).then(|| format!("{directive}={soft_text}:{hard_text}"))
    };
    limits.iter().filter_map(line).collect()
}

fn shown(limit: u64, infinity: &str) -> String {
    if limit == libc::RLIM_INFINITY { infinity.to_owned() } else { limit.to_string() }
}

/// Compares the files with what is asked for: `Already` where all of it is there, else `Planned`.
pub(crate) fn check(files: &mut [Persisted], rows: &[Row]) {
    for file in files {
        let text = fs::read_to_string(&file.path).unwrap_or_default();
        let lines: Vec<&str> = directives(&text).collect();
        let holds = |entry: &Entry| {
            let key = file.kind.key(&entry.line);
            lines.contains(&entry.line.as_str())
                || lines.iter().any(|line| file.kind.key(line) == key && fulfils(rows, line))
        };
        file.status = if file.entries.iter().all(holds) { Status::Already } else { Status::Planned };
    }
}

/// Whether a line of a sysctl's file is what its row asks for; the present value may be above both.
fn fulfils(rows: &[Row], line: &str) -> bool {
    let Some((key, value)) = line.split_once('=') else { return false };
    let row = rows.iter().find(|row| row.key.name() == key.trim());
    row.and_then(|row| row.wish.as_ref()).is_some_and(|wish| {
        matches!(
            decide(key.trim(), value.trim(), &wish.wanted, wish.allow_lower),
            Decision::Stay(Status::Already | Status::KeptHigher { equals: false })
        )
    })
}

/// Writes the files, each journaled before.
///
/// # Errors
/// A journal that cannot be written.
pub(crate) fn write(
    files: &mut [Persisted],
    is_root: bool,
    journal: &mut Journal,
) -> Result<(), JournalError> {
    for file in files {
        let prior = match fs::read_to_string(&file.path).and_then(|text| Ok((text, Access::of(&file.path)?)))
        {
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                file.status = refused_write(&error, is_root);
                continue;
            }
        };
        let (prior, access) = prior.unzip();
        if prior.as_ref() == Some(&file.text) {
            file.status = Status::Already;
            continue;
        }
        let (path, ours) = (file.path.clone(), file.text.clone());
        let made = etc_file::missing_dirs(&path);
        let change = journal.change(What::File { path, prior, access, made, ours })?;
        file.status = match etc_file::write(&file.path, &file.text, access) {
            Ok(()) => Status::Raised,
            Err(error) => {
                // The last step may fail after the file was replaced.
                if fs::read_to_string(&file.path).ok().as_ref() != Some(&file.text) {
                    journal.settled(change)?;
                }
                refused_write(&error, is_root)
            }
        };
    }
    Ok(())
}

#[cfg(test)]
#[path = "persist_tests.rs"]
mod tests;
