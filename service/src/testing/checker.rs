//! Judges what came of a load: its history, and what is in the database after the journal was emptied. Pure, so that it
//! can be shown to find each kind of fault.
//!
//! A history that it can judge follows two rules. A document that is merged or deleted has one writer, which leaves it
//! alone once an operation on it stays open (an open write may take effect at any later time); documents that are only
//! replaced may have many writers. What a client reads is noted for documents of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde_json::{Map, Value};

use crate::contract::write_operation_id;

/// Fields of a document, without `_id` and `_sk`.
pub type Fields = Map<String, Value>;

/// `collection/id`
pub type Key = String;

/// What a write does, as the client means it.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Insert(Fields),
    Replace(Fields),
    Merge(Fields),
    Delete,
}

/// One thing that a client did or saw, in the order in which it happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// About to be sent; `op` is the `Idempotency-Key`.
    Invoke { op: String, writes: Vec<(Key, Change)> },
    /// 202, with the version that the `write_id` stands for.
    Accepted { op: String, version: i64 },
    /// An error that says that nothing was accepted.
    Refused { op: String, status: u16 },
    /// An attempt without an answer, or with 504.
    Open { op: String },
    /// The only writer of this document read it.
    Read { key: Key, found: Option<Fields> },
    /// The database had this version of the document.
    Sample { key: Key, version: i64 },
}

/// A document as the database has it, tombstones too.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub key: Key,
    /// `_sk.op`
    pub op: String,
    /// `_sk.v`
    pub version: i64,
    pub deleted: bool,
    pub fields: Fields,
}

/// What is there when the load is over and the journal was given time to empty.
#[derive(Clone, Debug, Default)]
pub struct End {
    pub stored: Vec<Stored>,
    /// Of each dead letter the operation of its write.
    pub dead: Vec<String>,
    /// Entries in the journal, and those of them that were delivered and not acknowledged.
    pub entries: u64,
    pub pending: u64,
}

/// A promise that was broken. Operations are named as `_sk.op` has them.
#[derive(Clone, Debug, PartialEq)]
pub enum Violation {
    /// Accepted, and neither in the database nor a dead letter.
    Lost { op: String, key: Key },
    /// It took effect under a second id or version, or is stored and a dead letter too.
    Twice { op: String },
    /// Refused, and it took effect all the same.
    RefusedTookEffect { op: String },
    /// Only a part of an open request took effect.
    Torn { op: String },
    /// No client ever sent this, or not for this document.
    Stranger { op: String, key: Key },
    /// The document is not what its writes make of it.
    Wrong { key: Key, expected: Option<Fields>, found: Option<Fields> },
    /// The client did not see its own accepted writes.
    Stale { key: Key, expected: Option<Fields>, found: Option<Fields> },
    /// Of two accepted writes the one that was sent after the other's answer has the lower version.
    Reordered { key: Key },
    /// The version in the database fell.
    Regressed { key: Key, from: i64, to: i64 },
    /// Work is left.
    Undrained { entries: u64, pending: u64 },
    /// The history breaks the rules of this module: nothing can be said.
    Undecidable { key: Key },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Accepted { version: i64, at: usize },
    Open,
    Refused,
}

struct Operation<'a> {
    writes: &'a [(Key, Change)],
    invoked_at: usize,
    outcome: Outcome,
}

/// One write of one operation.
struct Write<'a> {
    id: String,
    change: &'a Change,
    invoked_at: usize,
    outcome: Outcome,
}

impl Write<'_> {
    fn version(&self) -> Option<i64> {
        match self.outcome {
            Outcome::Accepted { version, .. } => Some(version),
            Outcome::Open | Outcome::Refused => None,
        }
    }
}

/// All that is wrong; empty if every promise was kept.
#[must_use]
pub fn check(history: &[Event], end: &End) -> Vec<Violation> {
    let mut violations = Vec::new();
    let operations = operations(history, &mut violations);
    let mut by_key: BTreeMap<&str, Vec<Write<'_>>> = BTreeMap::new();
    for (op, operation) in &operations {
        for (place, (key, change)) in operation.writes.iter().enumerate() {
            let (invoked_at, outcome) = (operation.invoked_at, operation.outcome);
            let write = Write { id: write_operation_id(op, place), change, invoked_at, outcome };
            by_key.entry(key).or_default().push(write);
        }
    }
    let dead: BTreeSet<&str> = end.dead.iter().map(String::as_str).collect();
    effects(&by_key, end, &mut violations);
    let stored: HashMap<&str, &Stored> = end.stored.iter().map(|doc| (doc.key.as_str(), doc)).collect();
    for (key, writes) in &by_key {
        document(key, writes, stored.get(key).copied(), &dead, &mut violations);
    }
    torn(&operations, &by_key, &stored, &dead, &mut violations);
    reads(history, &operations, &by_key, &dead, &mut violations);
    samples(history, &mut violations);
    if end.entries > 0 || end.pending > 0 {
        violations.push(Violation::Undrained { entries: end.entries, pending: end.pending });
    }
    violations
}

fn operations<'a>(history: &'a [Event], violations: &mut Vec<Violation>) -> BTreeMap<&'a str, Operation<'a>> {
    let mut operations: BTreeMap<&str, Operation<'_>> = BTreeMap::new();
    for (at, event) in history.iter().enumerate() {
        let op = match event {
            Event::Invoke { op, writes } => {
                let operation = Operation { writes, invoked_at: at, outcome: Outcome::Refused };
                operations.entry(op).or_insert(operation);
                continue;
            }
            Event::Accepted { op, .. } | Event::Refused { op, .. } | Event::Open { op } => op,
            Event::Read { .. } | Event::Sample { .. } => continue,
        };
        let operation = operations.get_mut(op.as_str()).expect("an answer comes after its invocation");
        match (event, operation.outcome) {
            // A retry must find the first entry.
            (Event::Accepted { version, .. }, Outcome::Accepted { version: first, .. })
                if *version != first =>
            {
                violations.push(Violation::Twice { op: write_operation_id(op, 0) });
            }
            (Event::Accepted { version, .. }, Outcome::Open | Outcome::Refused) => {
                operation.outcome = Outcome::Accepted { version: *version, at };
            }
            // A later refusal says nothing about the attempt that is open.
            (Event::Open { .. }, Outcome::Refused) => operation.outcome = Outcome::Open,
            _ => {}
        }
    }
    operations
}

/// Each operation at most once, counted by `_sk.op` and not by id, and only what was not refused.
fn effects(by_key: &BTreeMap<&str, Vec<Write<'_>>>, end: &End, violations: &mut Vec<Violation>) {
    let mut sent: HashMap<&str, (&str, Outcome)> = HashMap::new();
    for (key, writes) in by_key {
        sent.extend(writes.iter().map(|write| (write.id.as_str(), (*key, write.outcome))));
    }
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    let stored = end.stored.iter().map(|doc| (doc.op.as_str(), Some(doc.key.as_str())));
    for (op, key) in stored.chain(end.dead.iter().map(|op| (op.as_str(), None))) {
        *times.entry(op).or_default() += 1;
        match sent.get(op) {
            Some((_, Outcome::Refused)) => {
                violations.push(Violation::RefusedTookEffect { op: op.to_owned() });
            }
            Some((wanted, _)) if key.is_none_or(|key| key == *wanted) => {}
            _ => violations
                .push(Violation::Stranger { op: op.to_owned(), key: key.unwrap_or_default().to_owned() }),
        }
    }
    let twice = times.into_iter().filter(|(_, times)| *times > 1);
    violations.extend(twice.map(|(op, _)| Violation::Twice { op: op.to_owned() }));
}

/// The document is what its accepted writes make of it, in the order of their versions, with the open one or without.
fn document(
    key: &str,
    writes: &[Write<'_>],
    stored: Option<&Stored>,
    dead: &BTreeSet<&str>,
    violations: &mut Vec<Violation>,
) {
    let mut accepted: Vec<&Write<'_>> = writes.iter().filter(|write| write.version().is_some()).collect();
    accepted.sort_by_key(|write| write.version());
    let mut latest_invocation = 0;
    for write in &accepted {
        let Outcome::Accepted { at, .. } = write.outcome else { continue };
        if at < latest_invocation {
            violations.push(Violation::Reordered { key: key.to_owned() });
        }
        latest_invocation = latest_invocation.max(write.invoked_at);
    }
    accepted.retain(|write| !dead.contains(write.id.as_str()));
    let open = writes.iter().filter(|write| write.outcome == Outcome::Open).count();
    let lost = |write: &Write<'_>| Violation::Lost { op: write.id.clone(), key: key.to_owned() };
    let Some(stored) = stored else {
        violations.extend(accepted.last().map(|write| lost(write)));
        return;
    };
    // Strangers and what was refused are told of elsewhere.
    let Some(last) = writes.iter().find(|write| write.id == stored.op) else { return };
    if last.version().is_some_and(|version| version != stored.version) {
        violations.push(Violation::Twice { op: last.id.clone() });
        return;
    }
    if let Some(newest) = accepted.last().filter(|write| write.version() > Some(stored.version)) {
        violations.push(lost(newest));
    }
    if open > 1 && matches!(last.change, Change::Merge(_)) {
        violations.push(Violation::Undecidable { key: key.to_owned() });
        return;
    }
    let before = accepted.iter().filter(|write| write.version() < Some(stored.version));
    let expected = fold(before.map(|write| write.change).chain([last.change]));
    let found = (!stored.deleted).then(|| stored.fields.clone());
    if expected != found {
        violations.push(Violation::Wrong { key: key.to_owned(), expected, found });
    }
}

/// All or none, of requests that nobody knows the end of; that of the others is known for each write.
fn torn(
    operations: &BTreeMap<&str, Operation<'_>>,
    by_key: &BTreeMap<&str, Vec<Write<'_>>>,
    stored: &HashMap<&str, &Stored>,
    dead: &BTreeSet<&str>,
    violations: &mut Vec<Violation>,
) {
    for (op, operation) in operations.iter().filter(|(_, operation)| operation.outcome == Outcome::Open) {
        let mut shows = BTreeSet::new();
        for (place, (key, _)) in operation.writes.iter().enumerate() {
            let id = write_operation_id(op, place);
            let here = stored.get(key.as_str()).is_some_and(|doc| doc.op == id) || dead.contains(id.as_str());
            // A later write would hide it.
            let writes = by_key.get(key.as_str()).map_or(&[][..], Vec::as_slice);
            let is_last = writes.iter().all(|write| write.invoked_at <= operation.invoked_at);
            if here || is_last {
                shows.insert(here);
            }
        }
        if shows.len() > 1 {
            violations.push(Violation::Torn { op: (*op).to_owned() });
        }
    }
}

/// A client sees what it was promised, and nothing else.
fn reads(
    history: &[Event],
    operations: &BTreeMap<&str, Operation<'_>>,
    by_key: &BTreeMap<&str, Vec<Write<'_>>>,
    dead: &BTreeSet<&str>,
    violations: &mut Vec<Violation>,
) {
    let mut so_far: HashMap<&str, BTreeMap<i64, &Change>> = HashMap::new();
    for event in history {
        match event {
            Event::Accepted { op, version } => {
                let operation = operations.get(op.as_str()).map_or(&[][..], |operation| operation.writes);
                for (key, change) in operation {
                    so_far.entry(key).or_default().insert(*version, change);
                }
            }
            Event::Read { key, found } => {
                let writes = by_key.get(key.as_str()).map_or(&[][..], Vec::as_slice);
                // What is refused later shows until then, and an open one shows or does not.
                let is_certain =
                    |write: &Write<'_>| write.outcome != Outcome::Open && !dead.contains(write.id.as_str());
                if !writes.iter().all(is_certain) {
                    continue;
                }
                let changes = so_far.get(key.as_str()).into_iter().flat_map(BTreeMap::values);
                let expected = fold(changes.copied());
                if expected != *found {
                    let (key, found) = (key.clone(), found.clone());
                    violations.push(Violation::Stale { key, expected, found });
                }
            }
            _ => {}
        }
    }
}

fn samples(history: &[Event], violations: &mut Vec<Violation>) {
    let mut seen: HashMap<&str, i64> = HashMap::new();
    for event in history {
        let Event::Sample { key, version } = event else { continue };
        let before = seen.insert(key, *version).unwrap_or(i64::MIN);
        if before > *version {
            violations.push(Violation::Regressed { key: key.clone(), from: before, to: *version });
        }
    }
}

/// `None`: deleted, or never there.
fn fold<'a>(changes: impl Iterator<Item = &'a Change>) -> Option<Fields> {
    let mut document: Option<Fields> = None;
    for change in changes {
        match change {
            Change::Insert(fields) | Change::Replace(fields) => document = Some(fields.clone()),
            Change::Delete => document = None,
            Change::Merge(fields) => {
                let document = document.get_or_insert_default();
                for (name, value) in fields {
                    if value.is_null() {
                        document.remove(name);
                    } else {
                        document.insert(name.clone(), value.clone());
                    }
                }
            }
        }
    }
    document
}

#[cfg(test)]
mod tests;
