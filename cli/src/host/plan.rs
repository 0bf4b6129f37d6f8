//! The plan: what a profile asks for against what the host has. Nothing here changes anything.

use std::io;

use serde::Serialize;

use super::decide::{Decision, Resolved, decide};
use super::facts::Machine;
use super::known::{self, Scope};
use super::status::{Status, describe, refused_write};
use super::values::{Key, LOADED, Values};
use crate::profile::{Host, HugePages, NoValue, Reasons, Variables};
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
    #[serde(flatten)]
    pub(crate) reasons: Reasons,
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
            status: Status::Absent { optional: false },
            scope: Scope::Host,
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
        let row = Row {
            key: Key::Sysctl(sysctl.key.clone()),
            now: None,
            wanted: wanted.to_string(),
            status: Status::Absent { optional: sysctl.optional },
            scope: known::scope(&sysctl.key),
            reasons: sysctl.reasons.clone(),
        };
        let mut row =
            judge(row, machine, root, values, |now| decide(&sysctl.key, now, &wanted, host.allow_lower));
        if let (Status::Absent { .. }, Resolved::AtLeast(values) | Resolved::Equals(values)) =
            (&row.status, &wanted)
            && let Some(reason) = known::folklore(&sysctl.key, &[], values)
        {
            row.status = Status::Refused { reason: reason.to_owned() };
        }
        rows.push(row);
    }
    refuse_lone_conntrack(&mut rows, values);
    refuse_unguarded_ports(&mut rows);
    if let Some(spec) = &host.transparent_huge_pages {
        let mode = match (spec.mode, machine.mongod) {
            (HugePages::ByMongod, Some(major)) if major >= MONGOD_WITH_HUGE_PAGES => Some("always"),
            (HugePages::ByMongod, Some(_)) | (HugePages::Never, _) => Some("never"),
            (HugePages::ByMongod, None) => None,
            (HugePages::Always, _) => Some("always"),
            (HugePages::Madvise, _) => Some("madvise"),
        };
        let row = Row {
            key: Key::HugePages,
            now: None,
            wanted: mode.unwrap_or("as it is (no mongod here)").to_owned(),
            status: Status::Absent { optional: mode.is_none() },
            scope: Scope::Host,
            reasons: spec.reasons.clone(),
        };
        rows.push(judge(row, machine, root, values, |now| match mode {
            Some(mode) if mode != now => Decision::Change(mode.to_owned()),
            _ => Decision::Stay(Status::Already),
        }));
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

/// Entries without buckets make long chains: each packet then walks them.
fn refuse_lone_conntrack(rows: &mut [Row], values: &dyn Values) {
    let number = |text: &str| text.parse::<u64>().ok();
    let key = Key::Sysctl("net.netfilter.nf_conntrack_buckets".to_owned());
    let planned = rows.iter().find(|row| row.key == key && row.status == Status::Planned);
    let buckets = planned.map(|row| row.wanted.clone()).or_else(|| values.read(&key).ok());
    let Some(buckets) = buckets.as_deref().and_then(number) else { return };
    for row in rows.iter_mut().filter(|row| row.key.name() == "net.netfilter.nf_conntrack_max") {
        if row.status == Status::Planned && number(&row.wanted).is_some_and(|max| max / 4 > buckets) {
            let reason =
                format!("over four entries for each of {buckets} buckets; raise nf_conntrack_buckets too");
            row.status = Status::Refused { reason };
        }
    }
}

/// Ports of services begin to be taken by connections when the range reaches down to them.
fn refuse_unguarded_ports(rows: &mut [Row]) {
    let guarded = rows.iter().any(|row| row.key.name() == "net.ipv4.ip_local_reserved_ports");
    for row in rows.iter_mut().filter(|row| row.key.name() == "net.ipv4.ip_local_port_range") {
        let first = row.wanted.split(' ').next().and_then(|first| first.parse::<u64>().ok());
        if row.status == Status::Planned && !guarded && first.is_some_and(|first| first < 10_000) {
            let reason = "connections could take ports of services, such as 6379; start at 10240, or reserve them \
                          with net.ipv4.ip_local_reserved_ports";
            row.status = Status::Refused { reason: reason.to_owned() };
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
