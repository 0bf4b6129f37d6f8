//! Limits on open files: of the service, of the load generator, of the host.

use super::row::{Row, Unit};
use super::{Generator, Service, Situation};
use crate::host::counters::Limit;

pub(super) fn rows(situation: &Situation<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    if let Some(service) = situation.service {
        rows.push(of_service(situation, service));
    }
    rows.extend(situation.generator.map(|generator| of_generator(generator, situation.users)));
    rows.push(of_host(situation));
    rows
}

/// A connection is one descriptor, of which the process may have as many as its soft limit says (getrlimit(2)).
fn of_service(situation: &Situation<'_>, service: &Service) -> Row {
    let process = &situation.snapshot.process;
    let row = Row::of("open files of the service", "process.open_files", Unit::Count).lifted_by(
        &["nofile"],
        &[],
        "`scalekit tune --pid PID` raises a running process's limit, LimitNOFILE= that of a unit",
    );
    if service.pid.is_none() {
        return row.unknown("the process cannot be told without root, and so not its files");
    }
    let limit = process.max_open_files.and_then(Limit::value);
    let row = row.counts(process.open_files, limit);
    match (process.open_files, process.max_open_files) {
        (_, Some(Limit::Unlimited)) => row.ok("there is no limit"),
        (Some(open), Some(Limit::At(limit))) => {
            let free = limit.saturating_sub(open);
            match service.processes {
                0 | 1 => row.room(free, 1, situation.users, "a user takes one"),
                // (h) They are alike, and take equal parts.
                count => {
                    let what = format!("a user takes one in one of {count} processes");
                    row.heuristic().room(free.saturating_mul(count), 1, situation.users, &what)
                }
            }
        }
        (None, _) => row.unknown("/proc/PID/fd may not be read: it is another user's; run as root"),
        (_, None) => row.unknown("/proc/PID/limits cannot be read"),
    }
}

/// One socket a user, and what the generator opens beside; it raises its soft limit up to the hard one itself.
fn of_generator(generator: &Generator, users: u64) -> Row {
    let Generator { max_files, other_files, .. } = *generator;
    let row = Row::of("open files of the generator", "RLIMIT_NOFILE", Unit::Count)
        .counts(Some(other_files), max_files)
        .lifted_by(&["nofile"], &["load.agents"], "raise the hard limit (ulimit -Hn, LimitNOFILE=)");
    match max_files {
        None => row.unknown("the limit of this process cannot be read"),
        Some(max) => row.room(max.saturating_sub(other_files), 1, users, "a user takes one"),
    }
}

/// Both ends of a connection are files, where both are on this host.
fn of_host(situation: &Situation<'_>) -> Row {
    let files = &situation.snapshot.files;
    let row = Row::of("open files of the host", "files.open", Unit::Count)
        .counts(files.open, files.max)
        .lifted_by(&["fs.file-max"], &[], "raise it");
    match (files.open, files.max) {
        (Some(open), Some(max)) => {
            let what = format!("a user takes {}", situation.ends());
            row.room(max.saturating_sub(open), situation.ends(), situation.users, &what)
        }
        _ => row.unknown("/proc/sys/fs/file-nr cannot be read"),
    }
}
