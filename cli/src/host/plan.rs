//! The plan: what a profile asks for against what the host has. Nothing here changes anything.

use std::io;

use serde::Serialize;

use super::decide::{Decision, Resolved, Wish, decide};
use super::facts::Machine;
use super::guards;
use super::known::{self, Scope};
use super::status::{Status, describe, refused_write};
use super::values::{HugePagesFile, Key, LOADED, Values};
use crate::profile::{Host, HugePages, HugePagesSpec, NoValue, Reasons, Variables};
use crate::root::Root;

/// From which major version on MongoDB wants transparent huge pages
/// (<https://www.mongodb.com/docs/manual/administration/tcmalloc-performance/>).
const MONGOD_WITH_HUGE_PAGES: u32 = 8;

/// One line of the plan.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    #[serde(serialize_with = "name")]
    pub(crate) key: Key,
    pub(crate) now: Option<String>,
    /// What it should become, or stay.
    pub(crate) wanted: String,
    pub(crate) status: Status,
    pub(crate) scope: Scope,
    /// What is asked for, to judge what the kernel makes of it.
    #[serde(skip)]
    pub(super) wish: Option<Wish>,
    #[serde(flatten)]
    pub(crate) reasons: Reasons,
}

impl Row {
    /// Whether more than is wanted is not as good.
    pub(crate) fn is_exact(&self) -> bool {
        self.wish.as_ref().is_some_and(Wish::is_exact)
    }

    #[cfg(test)]
    pub(crate) fn of_test(key: Key, status: Status, now: &str, wanted: &str) -> Self {
        let (now, wanted, scope) = (Some(now.to_owned()), wanted.to_owned(), known::scope(&key.name()));
        Self { key, now, wanted, status, scope, wish: None, reasons: super::tests::reasons() }
    }
}

fn name<S: serde::Serializer>(key: &Key, output: S) -> Result<S::Ok, S::Error> {
    output.serialize_str(&key.name())
}

/// A formula that has no value here.
#[derive(Debug, thiserror::Error)]
#[error("{location}: {key}: {cause}\nhelp: correct the formula")]
pub(crate) struct PlanError {
    pub(super) location: String,
    pub(super) key: String,
    pub(super) cause: NoValue,
}

/// Compares; `values` is asked for the present ones.
///
/// # Errors
/// A formula without a value.
pub(crate) fn plan(
    host: &Host,
    users: u64,
    machine: &Machine,
    root: &Root,
    values: &dyn Values,
) -> Result<Vec<Row>, PlanError> {
    let variables = Variables { users, ram: machine.ram, cores: machine.cores };
    let mut rows = Vec::new();
    for (name, reasons) in &host.modules {
        let row = Row {
            key: Key::Module(name.clone()),
            now: None,
            wanted: LOADED.to_owned(),
            status: Status::Absent { optional: false, perhaps_elsewhere: false },
            scope: Scope::Host,
            wish: None,
            reasons: reasons.clone(),
        };
        rows.push(judge(row, machine, root, values, |now| match now {
            LOADED => Decision::Stay(Status::Already),
            _ => Decision::Change(LOADED.to_owned()),
        }));
    }
    for sysctl in &host.sysctls {
        let wanted = Resolved::new(&sysctl.wanted, variables).map_err(|cause| PlanError {
            location: sysctl.location.clone(),
            key: format!("host.sysctls.{}", sysctl.key),
            cause,
        })?;
        let wish = Wish { wanted, allow_lower: host.allow_lower };
        let row = Row {
            key: Key::Sysctl(sysctl.key.clone()),
            now: None,
            wanted: wish.wanted.to_string(),
            status: Status::Absent { optional: sysctl.optional, perhaps_elsewhere: false },
            scope: known::scope(&sysctl.key),
            wish: None,
            reasons: sysctl.reasons.clone(),
        };
        let mut row =
            judge(row, machine, root, values, |now| decide(&sysctl.key, now, &wish.wanted, wish.allow_lower));
        refuse_folklore(&mut row, &wish, machine);
        row.wish = Some(wish);
        rows.push(row);
    }
    rows.sort_by_key(|row| guards::rank(&row.key));
    refuse_both_twins(&mut rows);
    guards::refuse(&mut rows, values);
    if let Some(spec) = &host.transparent_huge_pages {
        rows.extend(huge_pages(spec, machine, root, values));
    }
    Ok(rows)
}

/// Fills a row in: the present value, the decision, and what stands in its way.
fn judge(
    mut row: Row,
    machine: &Machine,
    root: &Root,
    values: &dyn Values,
    decide: impl FnOnce(&str) -> Decision,
) -> Row {
    let elsewhere = row.scope == Scope::Host
        && row.key.name().starts_with("net.")
        && machine.namespace.is_first == Some(false);
    match values.read(&row.key) {
        Ok(now) => {
            let decision = decide(&now);
            row.now = Some(now);
            match decision {
                Decision::Stay(status) => row.status = status,
                Decision::Change(value) => {
                    row.wanted = value;
                    row.status = obstacle(&row.key, elsewhere, machine, root, values);
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A namespace of one's own does not even show what is not its own.
            if elsewhere {
                row.status = Status::NotNamespacedHere;
            } else if let Status::Absent { perhaps_elsewhere, .. } = &mut row.status {
                let is_of_network = row.key.name().starts_with("net.");
                *perhaps_elsewhere = is_of_network && machine.namespace.is_first == Some(false);
            }
        }
        Err(error) => row.status = Status::Failed { errno: describe(&error) },
    }
    row
}

/// What stands in the way of a change; `Planned` if nothing does.
fn obstacle(key: &Key, elsewhere: bool, machine: &Machine, root: &Root, values: &dyn Values) -> Status {
    if let Some((owner, remedy)) = known::owner(&key.name())
        && root.runs(owner)
    {
        return Status::OwnedByOther { owner: owner.to_owned(), remedy: remedy.to_owned() };
    }
    match values.writable(key) {
        Err(_) if elsewhere => Status::NotNamespacedHere,
        Err(error) => refused_write(&error, machine.is_root),
        Ok(()) => Status::Planned,
    }
}

/// Of two settings that zero each other a profile can only ask for one.
fn refuse_both_twins(rows: &mut [Row]) {
    let names: Vec<String> = rows.iter().map(|row| row.key.name()).collect();
    for row in rows {
        let twin = known::twin(&row.key.name()).filter(|twin| names.iter().any(|name| name == twin));
        if let Some(twin) = twin {
            let reason =
                format!("writing it makes {twin} 0, which the profile sets too; leave one of them out");
            row.status = Status::Refused { reason };
        }
    }
}

/// Always, also where it is met already: what is asked for is wrong.
fn refuse_folklore(row: &mut Row, wish: &Wish, machine: &Machine) {
    let (Key::Sysctl(key), Resolved::AtLeast(values) | Resolved::Equals(values)) = (&row.key, &wish.wanted)
    else {
        return;
    };
    let reason = known::folklore(key, &[], values).map(str::to_owned);
    if let Some(reason) = reason.or_else(|| known::more_than_memory(key, values, machine.ram)) {
        row.status = Status::Refused { reason };
    }
}

/// What the pages that a mode is about are to be like: with `always` also what keeps page faults short and memory from
/// growing (<https://www.mongodb.com/docs/manual/administration/tcmalloc-performance/>).
fn huge_pages(spec: &HugePagesSpec, machine: &Machine, root: &Root, values: &dyn Values) -> Vec<Row> {
    let mode = match (spec.mode, machine.mongod) {
        (HugePages::ByMongod, Some(major)) if major >= MONGOD_WITH_HUGE_PAGES => Some("always"),
        (HugePages::ByMongod, Some(_)) | (HugePages::Never, _) => Some("never"),
        (HugePages::ByMongod, None) => None,
        (HugePages::Always, _) => Some("always"),
        (HugePages::Madvise, _) => Some("madvise"),
    };
    let mut asked = vec![(HugePagesFile::Enabled, mode)];
    if mode == Some("always") {
        asked.push((HugePagesFile::Defrag, Some("defer+madvise")));
        asked.push((HugePagesFile::MaxPtesNone, Some("0")));
    }
    let row = |(file, wanted): (HugePagesFile, Option<&str>)| {
        let row = Row {
            key: Key::HugePages(file),
            now: None,
            wanted: wanted.unwrap_or("as it is (no mongod here)").to_owned(),
            status: Status::Absent { optional: wanted.is_none(), perhaps_elsewhere: false },
            scope: Scope::Host,
            wish: None,
            reasons: spec.reasons.clone(),
        };
        judge(row, machine, root, values, |now| match wanted {
            Some(wanted) if wanted != now => Decision::Change(wanted.to_owned()),
            _ => Decision::Stay(Status::Already),
        })
    };
    asked.into_iter().map(row).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
