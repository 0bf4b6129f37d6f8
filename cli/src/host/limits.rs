//! Resource limits: of a running process, which can be raised from outside, and of this one.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::libc;

use super::facts::Machine;
use super::journal::{Journal, JournalError, What};
use super::known::Scope;
use super::plan::{PlanError, Row};
use super::rollback::Outcome;
use super::status::{Status, describe, refused_write};
use super::values::{Key, Values as _};
use crate::profile::{Host, Limit, Variables};
use crate::root::Root;

/// More open files than any process uses; with limits near 2^30 some programs do nothing else than close them
/// (<https://github.com/containerd/containerd/pull/8924>).
const MOST_FILES: u64 = 4 << 20;

/// What a limit is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    OpenFiles,
    Processes,
}

impl Resource {
    const ALL: [Self; 2] = [Self::OpenFiles, Self::Processes];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OpenFiles => "nofile",
            Self::Processes => "nproc",
        }
    }
}

/// Soft and hard limit of a process (0: this one), after setting `new`, if there is one.
fn prlimit(pid: i32, resource: Resource, new: Option<(u64, u64)>) -> io::Result<(u64, u64)> {
    // Its type is one of the C library's, and each has another.
    let number = match resource {
        Resource::OpenFiles => libc::RLIMIT_NOFILE,
        Resource::Processes => libc::RLIMIT_NPROC,
    };
    let new = new.map(|(soft, hard)| libc::rlimit { rlim_cur: soft, rlim_max: hard });
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `new` is null or points to a limit that lives until the end of the function, and `old` is one to write to.
    let result = unsafe { libc::prlimit(pid, number, new, &raw mut old) };
    Errno::result(result)?;
    Ok((old.rlim_cur, old.rlim_max))
}

/// Soft and hard limit of a process; 0 is this one.
///
/// # Errors
/// As the system says.
pub(crate) fn of(pid: i32, resource: Resource) -> io::Result<(u64, u64)> {
    prlimit(pid, resource, None)
}

/// When a process started, in clock ticks since boot: with its number it names a process for good.
fn started(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let field = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
    field.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in /proc/PID/stat"))
}

/// A limit as the plan shows it, with the number that is wanted.
pub(crate) struct LimitRow {
    pub(crate) resource: Resource,
    pub(crate) wanted: u64,
    /// The present hard limit of the process.
    pub(crate) hard: u64,
    pub(crate) row: Row,
}

/// The limits that the profile asks for, of process `pid`, or else of what is started from here.
///
/// # Errors
/// A formula without a value.
pub(crate) fn plan(
    host: &Host,
    users: u64,
    machine: &Machine,
    root: &Root,
    sysctls: &[Row],
    pid: Option<i32>,
) -> Result<Vec<LimitRow>, PlanError> {
    let variables = Variables { users, ram: machine.ram, cores: machine.cores };
    let key = Key::Sysctl("fs.nr_open".to_owned());
    let planned = sysctls.iter().find(|row| row.key == key && row.status == Status::Planned);
    let most = planned.map(|row| row.wanted.clone()).or_else(|| root.read(&key).ok());
    let most = most.and_then(|most| most.parse::<u64>().ok());
    let limits = [(Resource::OpenFiles, &host.limits.nofile), (Resource::Processes, &host.limits.nproc)];
    let asked = limits.into_iter().filter_map(|(resource, limit)| Some((resource, limit.as_ref()?)));
    asked
        .map(|(resource, limit)| {
            let wanted = wanted(resource, limit, variables)?;
            let now = of(pid.unwrap_or(0), resource);
            let status = match &now {
                _ if resource == Resource::OpenFiles && most.is_some_and(|most| wanted > most) => {
                    let most = most.unwrap_or_default();
                    Status::Refused { reason: format!("fs.nr_open allows {most}; raise it first, it costs kernel memory") }
                }
                _ if resource == Resource::OpenFiles && wanted > MOST_FILES => Status::Refused {
                    reason: format!(
                        "above {MOST_FILES} it is as good as infinity: programs that close or list all files they might \
                         have then take minutes or gigabytes"
                    ),
                },
                Err(error) => Status::Failed { errno: describe(error) },
                // What is started raises its own soft limit; one that runs already may not.
                Ok((soft, hard)) if *hard >= wanted && (pid.is_none() || *soft >= wanted) => Status::Already,
                Ok(_) if pid.is_some() => Status::Planned,
                Ok(_) => Status::OfProcesses {
                    remedy: "--pid PID raises those of a running process, --persist those of later logins and services"
                        .to_owned(),
                },
            };
            let hard = now.as_ref().map_or(0, |(_, hard)| *hard);
            let now = now.ok().map(|(soft, hard)| format!("{} {}", shown(soft), shown(hard)));
            let key = Key::Limit(resource.name());
            let row = Row {
                key,
                now,
                wanted: wanted.to_string(),
                status,
                scope: Scope::Host,
                wish: None,
                reasons: limit.reasons.clone(),
            };
            Ok(LimitRow { resource, wanted, hard, row })
        })
        .collect()
}

fn shown(limit: u64) -> String {
    if limit == libc::RLIM_INFINITY { "unlimited".to_owned() } else { limit.to_string() }
}

fn wanted(resource: Resource, limit: &Limit, variables: Variables) -> Result<u64, PlanError> {
    let value = limit.at_least.0.first().map_or(Ok(0), |formula| formula.value(variables));
    value.map_err(|cause| PlanError {
        location: limit.location.clone(),
        key: format!("host.limits.{}", resource.name()),
        cause,
    })
}

/// What `fs.nr_open` is at boot if nobody sets it (`NR_OPEN`'s default in `fs/file.c`).
const BOOT_NR_OPEN: u64 = 1 << 20;

/// Refuses limits of open files above what `fs.nr_open` will be after a boot: nobody could log in with them. That, in files.
pub(crate) fn refuse_beyond_boot(limits: &mut [LimitRow], sysctls: &[Row], root: &Root) -> u64 {
    let key = Key::Sysctl("fs.nr_open".to_owned());
    let now = root.read(&key).ok().and_then(|now| now.parse::<u64>().ok());
    let row = sysctls.iter().find(|row| row.key == key);
    let persisted = row.and_then(|row| match row.status {
        Status::Planned | Status::Raised => row.wanted.parse().ok(),
        Status::Already | Status::KeptHigher { .. } => now,
        _ => None,
    });
    let most = persisted.unwrap_or_else(|| now.unwrap_or(BOOT_NR_OPEN).min(BOOT_NR_OPEN));
    for limit in
        limits.iter_mut().filter(|limit| limit.resource == Resource::OpenFiles && limit.wanted > most)
    {
        let reason =
            format!("nothing keeps fs.nr_open above {most} after a boot; ask for it in the profile too");
        limit.row.status = Status::Refused { reason };
    }
    most
}

/// Raises both limits of a process to `wanted`; neither is lowered.
///
/// # Errors
/// A journal that cannot be written.
pub(crate) fn raise(
    pid: i32,
    resource: Resource,
    wanted: u64,
    machine: &Machine,
    journal: &mut Journal,
) -> Result<Status, JournalError> {
    let (prior, started) = match of(pid, resource).and_then(|prior| Ok((prior, started(pid)?))) {
        Ok(found) => found,
        Err(error) => return Ok(Status::Failed { errno: describe(&error) }),
    };
    let ours = (prior.0.max(wanted), prior.1.max(wanted));
    if ours == prior {
        return Ok(Status::Already);
    }
    let change = journal.change(What::Limit {
        pid,
        started,
        processes: machine.processes.id.clone(),
        boot: machine.namespace.boot.clone(),
        resource: resource.name().to_owned(),
        prior,
        ours,
    })?;
    if let Err(error) = prlimit(pid, resource, Some(ours)) {
        journal.settled(change)?;
        return Ok(refused_write(&error, machine.is_root));
    }
    Ok(match of(pid, resource) {
        Ok(got) if got == ours => Status::Raised,
        Ok((soft, hard)) => Status::Clamped { got: format!("{soft} {hard}") },
        Err(error) => Status::Failed { errno: describe(&error) },
    })
}

/// Sets the limits back, if this is still that process and they are still ours.
pub(crate) fn restore(
    pid: i32,
    start: u64,
    resource: &str,
    prior: (u64, u64),
    ours: (u64, u64),
    is_dry: bool,
) -> Outcome {
    let Some(resource) = Resource::ALL.into_iter().find(|known| known.name() == resource) else {
        return Outcome::Failed { errno: format!("unknown limit {resource}") };
    };
    match started(pid) {
        Ok(started) if started == start => {}
        // The number is another process's now.
        Ok(_) => return Outcome::Gone,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Outcome::Gone,
        Err(error) => return Outcome::Failed { errno: describe(&error) },
    }
    match of(pid, resource) {
        Ok(now) if now == prior => Outcome::NothingToDo,
        Ok(now) if now != ours => Outcome::ChangedByOther { now: format!("{} {}", now.0, now.1) },
        Ok(_) if is_dry => Outcome::ToRestore,
        Ok(_) => match prlimit(pid, resource, Some(prior)) {
            Ok(_) => Outcome::Restored,
            Err(error) => Outcome::Failed { errno: describe(&error) },
        },
        Err(error) => Outcome::Failed { errno: describe(&error) },
    }
}
