//! The plan: what a profile asks for against what the host has. Nothing here changes anything.

use std::io;

use nix::errno::Errno;
use serde::Serialize;

use super::facts::Machine;
use super::known::{self, Meaning, Scope};
use super::root::{Key, LOADED, Root, Values};
use crate::profile::{Formulas, Host, HugePages, NoValue, PortSet, Reasons, Variables, Wanted};

/// From which major version on MongoDB wants transparent huge pages
/// (<https://www.mongodb.com/docs/manual/administration/tcmalloc-performance/>).
const MONGOD_WITH_HUGE_PAGES: u32 = 8;

/// How one setting stands. What follows `Planned` comes from applying.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub(crate) enum Status {
    /// As it should be.
    Already,
    /// More than is asked for; left so.
    KeptHigher,
    /// To be changed.
    Planned,
    /// Changed, and read back.
    Raised,
    /// The kernel took it and made something else of it.
    Clamped {
        got: String,
    },
    /// This kernel has no such setting; fine where the profile says that it is optional.
    Absent {
        optional: bool,
    },
    /// It cannot be written to from here.
    ReadOnly {
        errno: String,
        remedy: String,
    },
    /// The whole host shares it, and this is a network namespace of its own.
    NotNamespacedHere,
    /// A program that runs here sets it itself.
    OwnedByOther {
        owner: String,
        remedy: String,
    },
    /// A limit belongs to a process, and none was named.
    OfProcesses {
        remedy: String,
    },
    /// It would do harm.
    Refused {
        reason: String,
    },
    Failed {
        errno: String,
    },
}

impl Status {
    /// Whether something that was asked for is not so.
    pub(crate) fn is_undone(&self) -> bool {
        !matches!(self, Self::Already | Self::KeptHigher | Self::Raised | Self::Absent { optional: true })
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Already => "already",
            Self::KeptHigher => "kept-higher",
            Self::Planned => "to change",
            Self::Raised => "raised",
            Self::Clamped { .. } => "clamped",
            Self::Absent { .. } => "absent",
            Self::ReadOnly { .. } => "read-only",
            Self::NotNamespacedHere => "not-namespaced-here",
            Self::OwnedByOther { .. } => "owned-by-other",
            Self::OfProcesses { .. } => "of processes",
            Self::Refused { .. } => "refused",
            Self::Failed { .. } => "failed",
        }
    }
}

impl Status {
    /// What there is to say about it.
    pub(crate) fn detail(&self) -> Option<String> {
        match self {
            Self::Clamped { got } => Some(format!("the kernel made {got} of it")),
            Self::Absent { optional: true } => Some("this kernel does not have it, which is fine".to_owned()),
            Self::Absent { optional: false } => Some("this kernel does not have it".to_owned()),
            Self::ReadOnly { errno, remedy } => Some(format!("{errno}; {remedy}")),
            Self::NotNamespacedHere => {
                Some("the whole host shares it; it can only be set in the host's own namespace".to_owned())
            }
            Self::OwnedByOther { owner, remedy } => Some(format!("{owner} runs and sets it; {remedy}")),
            Self::OfProcesses { remedy } => Some(remedy.clone()),
            Self::Refused { reason } => Some(reason.clone()),
            Self::Failed { errno } => Some(errno.clone()),
            Self::Already | Self::KeptHigher | Self::Planned | Self::Raised => None,
        }
    }
}

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

/// What one value should become.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Stay(Status),
    Change(String),
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

/// What a write that the system refuses means.
pub(crate) fn refused_write(error: &io::Error, is_root: bool) -> Status {
    let remedy = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EROFS) => "the tree is mounted read-only, as in a container: run this on the node itself",
        Some(Errno::EACCES | Errno::EPERM) if is_root => {
            "root may not write it here, as in a container without privileges: run this on the node itself"
        }
        Some(Errno::EACCES | Errno::EPERM) => "run it as root",
        _ => return Status::Failed { errno: describe(error) },
    };
    Status::ReadOnly { errno: describe(error), remedy: remedy.to_owned() }
}

/// `EINVAL: Invalid argument`
pub(crate) fn describe(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno) => format!("{errno:?}: {}", errno.desc()),
        None => error.to_string(),
    }
}

/// What is wanted, with numbers for formulas.
enum Resolved {
    AtLeast(Vec<u64>),
    Equals(Vec<u64>),
    Includes(PortSet),
}

impl Resolved {
    fn new(wanted: &Wanted, variables: Variables) -> Result<Self, NoValue> {
        let values = |formulas: &Formulas| {
            formulas.0.iter().map(|one| one.value(variables)).collect::<Result<Vec<_>, _>>()
        };
        Ok(match wanted {
            Wanted::AtLeast(formulas) => Self::AtLeast(values(formulas)?),
            Wanted::Equals(formulas) => Self::Equals(values(formulas)?),
            Wanted::Includes(ports) => Self::Includes(PortSet::parse(ports).unwrap_or_default()),
        })
    }
}

impl std::fmt::Display for Resolved {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(values) | Self::Equals(values) => out.write_str(&joined(values)),
            Self::Includes(ports) => write!(out, "{ports}"),
        }
    }
}

fn joined(values: &[u64]) -> String {
    values.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

fn decide(key: &str, now: &str, wanted: &Resolved, allow_lower: bool) -> Decision {
    let refused = |reason: String| Decision::Stay(Status::Refused { reason });
    let (values, exact) = match wanted {
        Resolved::AtLeast(values) => (values, false),
        Resolved::Equals(values) => (values, true),
        Resolved::Includes(ports) => {
            let Some(held) = PortSet::parse(now) else {
                return refused(format!("{now:?} is no list of ports, which `includes` is about"));
            };
            let both = held.union(ports);
            return if both == held {
                Decision::Stay(Status::Already)
            } else {
                Decision::Change(both.to_string())
            };
        }
    };
    let held: Option<Vec<u64>> = now.split_whitespace().map(|word| word.parse().ok()).collect();
    let held = held.unwrap_or_default();
    if held.len() != values.len() {
        return refused(format!("the key holds {now:?}, the profile has {} values for it", values.len()));
    }
    let meaning = known::meaning(key);
    let target = if exact && (meaning == Meaning::Choice || allow_lower) {
        values.clone()
    } else {
        raised(meaning, &held, values)
    };
    if let Some(reason) = known::folklore(key, &held, &target) {
        return refused(reason.to_owned());
    }
    if meaning == Meaning::Range && target.len() == 2 && target[0] >= target[1] {
        return refused("the first port must be below the last".to_owned());
    }
    match (target == held, held == *values) {
        (true, true) => Decision::Stay(Status::Already),
        (true, false) => Decision::Stay(Status::KeptHigher),
        (false, _) => Decision::Change(joined(&target)),
    }
}

/// Each value raised, none lowered; a range widened at both ends.
fn raised(meaning: Meaning, held: &[u64], wanted: &[u64]) -> Vec<u64> {
    let pairs = held.iter().zip(wanted);
    match (meaning, held, wanted) {
        (Meaning::Range, [low, high], [wanted_low, wanted_high]) => {
            vec![*low.min(wanted_low), *high.max(wanted_high)]
        }
        _ => pairs.map(|(held, wanted)| *held.max(wanted)).collect(),
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
