//! What would stop so many users on this host now: pure, from counters to one row a limit.
//!
//! Each row's formula and its source are in its function. Those marked (h) are heuristics: they say what is likely,
//! and their rows say so too. A user is one connection, as the load generator makes them.

mod connections;
mod files;
mod machine;
mod row;
mod stores;
#[cfg(test)]
mod tests;
mod text;
mod watched;

use schemars::JsonSchema;
use serde::Serialize;

pub(crate) use self::row::{Row, Status};
pub(crate) use self::text::{Paint, paragraph, text};
pub(crate) use self::watched::summary;
use crate::backends::Readings;
use crate::host::counters::{Listener, Ports, Series, Snapshot};

/// What there is to judge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation<'a> {
    pub(crate) users: u64,
    /// Of the service's process, or of this one where there is none.
    pub(crate) snapshot: &'a Snapshot,
    /// The same, watched for a while.
    pub(crate) series: &'a Series,
    /// `None`: the host alone.
    pub(crate) service: Option<&'a Service>,
    /// `None`: other machines make the load.
    pub(crate) generator: Option<&'a Generator>,
    /// The backlog that the profile's service asks for when it is started.
    pub(crate) backlog: u64,
    /// Connections that the deployed service takes; `None`: it is not ours, or unknown.
    pub(crate) max_connections: Option<u64>,
    /// Whether the profile wants writes to survive a power cut; `None`: it is not about our service.
    pub(crate) wants_fsync: Option<bool>,
    /// Redis and MongoDB where they are processes of this host.
    pub(crate) servers: &'a [Server],
    pub(crate) backends: &'a Readings,
    pub(crate) backend_series: &'a Series,
}

/// Who is to serve the users.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Unknown where its descriptors may not be looked at.
    pub(crate) pid: Option<u32>,
    /// Processes that accept from the same listener, itself among them.
    pub(crate) processes: u64,
    /// Its listeners, or why they are unknown.
    pub(crate) listeners: Result<Vec<Listener>, String>,
}

/// A server behind the service, on this host.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) snapshot: Snapshot,
    pub(crate) series: Series,
}

/// The load generator, if it is started on this host as this user.
#[derive(Clone, Debug)]
pub(crate) struct Generator {
    /// The hard limit, up to which it raises its own; `None`: unknown.
    pub(crate) max_files: Option<u64>,
    /// Files that it needs beside one a user.
    pub(crate) other_files: u64,
    /// Of its network namespace.
    pub(crate) ports: Option<Ports>,
    /// The port that it connects to.
    pub(crate) target: Option<u16>,
    /// Addresses that it connects from.
    pub(crate) addresses: u64,
    /// Whether a user keeps its connection.
    pub(crate) keeps_connections: bool,
}

impl Situation<'_> {
    /// Ends of a user's connection that are on this host.
    fn ends(&self) -> u64 {
        1 + u64::from(self.generator.is_some())
    }

    /// Why the control groups are not the service's: they are read by its process.
    fn hides_groups(&self) -> Option<String> {
        let hides = self.service.is_some_and(|service| service.pid.is_none());
        hides.then(|| {
            "which process is the service only root can see, and so not its control groups".to_owned()
        })
    }
}

/// What comes of it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Verdict {
    /// Whether nothing fails; what is unknown may all the same.
    pub(crate) passes: bool,
    /// The check that fails first.
    pub(crate) first: Option<String>,
    /// The number of users at which it does.
    pub(crate) fails_at_users: Option<u64>,
    pub(crate) warnings: usize,
    /// Checks that could not be made.
    pub(crate) unknown: Vec<String>,
    /// All of it in a sentence.
    pub(crate) summary: String,
}

/// One row a limit, in a fixed order.
pub(crate) fn rows(situation: &Situation<'_>) -> Vec<Row> {
    let mut rows = connections::rows(situation);
    rows.extend(files::rows(situation));
    rows.extend(machine::rows(situation));
    rows.extend(stores::rows(situation));
    watched::add(&mut rows, situation.series);
    rows
}

/// The first thing that stops the users, if there is one.
pub(crate) fn verdict(rows: &[Row], users: u64) -> Verdict {
    let first = rows
        .iter()
        .filter_map(|row| match row.status {
            Status::WillFail { at_users } => Some((at_users, row)),
            _ => None,
        })
        .min_by_key(|(at_users, _)| *at_users);
    let warnings = rows.iter().filter(|row| row.status == Status::Warn).count();
    let mut unknown: Vec<String> = Vec::new();
    for row in rows.iter().filter(|row| row.status == Status::Unknown) {
        if !unknown.contains(&row.check) {
            unknown.push(row.check.clone());
        }
    }
    let mut summary = match first {
        Some((at_users, row)) => {
            let settings = row.settings();
            let lift = if settings.is_empty() { &row.advice } else { &settings };
            format!("{} will fail at {}; lifted by {lift}", row.check, counted(at_users, "user"))
        }
        None => format!("nothing here stops {}", counted(users, "user")),
    };
    if warnings > 0 {
        summary = format!("{summary}; {}", counted(warnings as u64, "warning"));
    }
    if !unknown.is_empty() {
        summary = format!("{summary}; unknown: {}", unknown.join(", "));
    }
    Verdict {
        passes: first.is_none(),
        first: first.map(|(_, row)| row.check.clone()),
        fails_at_users: first.map(|(at_users, _)| at_users),
        warnings,
        unknown,
        summary,
    }
}

/// `1 user`, `2 users`
fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
