//! `scalekit deploy status`: what runs, since when, and how often it had to be started again.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::find;
use super::systemd::{self, UnitState};
use crate::args::Global;
use crate::commands::access::Entry;
use crate::commands::control::Service;
use crate::commands::{cap, control_runtime, print};
use crate::deploy::cap::Cap;
use crate::deploy::{Deployment, Member, StateDir};
use crate::exit::ExitStatus;
use crate::profile::Profile;
use crate::report::rfc3339;
use scalekit_service::contract::Stats;

/// Exit status 1 if any part of it is down.
pub(super) fn status(
    global: &Global,
    state: &StateDir,
    profile: &Profile,
    entry: &Entry,
) -> anyhow::Result<ExitStatus> {
    let deployment = find(state, profile)?;
    let service = Service::new(deployment.roles.clone(), entry)?;
    let stats = control_runtime()?.block_on(service.stats());
    let all_ready =
        deployment.processes.iter().all(|process| process.identity.is_alive() && process.is_ready);
    let cap = deployment.current_cap();
    let cap_problem = cap.as_ref().and_then(Cap::problem);
    let units = deployment.systemd.as_ref().map(systemd::units).transpose()?;
    if global.json {
        let processes: Vec<_> = match &units {
            Some(units) => units.iter().map(UnitState::facts).collect(),
            None => deployment.processes.iter().map(facts).collect(),
        };
        let supervisor = deployment.supervisor.as_ref().map(|supervisor| {
            json!({ "pid": supervisor.pid, "alive": supervisor.is_alive(), "log": supervisor.log })
        });
        let cap = cap.as_ref().map(Cap::facts);
        let facts = json!({
            "profile": deployment.profile,
            "url": deployment.api_url(),
            "supervisor": supervisor,
            "systemd": deployment.systemd,
            "processes": processes,
            "cap": cap,
            "stats": stats.as_ref().ok(),
        });
        print(&format!("{facts}\n"))?;
    } else {
        let mut text = format!("{} at {}\n", deployment.profile, deployment.api_url());
        match &units {
            Some(units) => text.extend(units.iter().map(UnitState::line)),
            None => text.push_str(&lines(&deployment, &global.profile)),
        }
        if let Some(cap) = &cap {
            let _ = writeln!(text, "  cap on the database's disk: {}", cap::line(&cap.facts()));
        }
        match &stats {
            Ok(stats) => stats.iter().for_each(|(role, stats)| text.push_str(&counters(role, stats))),
            Err(error) => {
                let _ = writeln!(text, "  no counters: {error:#}");
            }
        }
        print(&text)?;
    }
    let is_kept = match &units {
        Some(units) => units.iter().all(UnitState::is_active),
        None => deployment.is_supervised() && all_ready,
    };
    let is_up = is_kept && cap_problem.is_none() && stats.is_ok();
    Ok(if is_up { ExitStatus::Done } else { ExitStatus::Failed })
}

fn since(process: &Member) -> String {
    rfc3339(UNIX_EPOCH + Duration::from_millis(process.since_ms))
}

fn facts(process: &Member) -> Value {
    let is_alive = process.identity.is_alive();
    json!({
        "name": process.identity.name,
        "pid": process.identity.pid,
        "alive": is_alive,
        "ready": is_alive && process.is_ready,
        "restarts": process.restarts,
        "last_exit": process.last_exit,
        "since": since(process),
        "log": process.identity.log,
    })
}

/// A line for each process, and what to do if nothing keeps them up.
fn lines(deployment: &Deployment, profile: &str) -> String {
    let mut text = String::new();
    let mut line = |name: &str, state: &str, pid: i32, more: &str, log: &std::path::Path| {
        let _ = writeln!(text, "  {name:<14} {state:<8} process {pid:<8} {more}{}", log.display());
    };
    for process in &deployment.processes {
        let state = match (process.identity.is_alive(), process.is_ready) {
            (true, true) => "up",
            (true, false) => "starting",
            (false, _) => "DOWN",
        };
        let mut more = format!("since {}  ", since(process));
        if process.restarts > 0 || process.last_exit.is_some() {
            let last = process.last_exit.as_deref().unwrap_or("how it ended is not known");
            let _ = write!(more, "{} restarts (it {last})  ", process.restarts);
        }
        line(&process.identity.name, state, process.identity.pid, &more, &process.identity.log);
    }
    let state = if deployment.is_supervised() { "up" } else { "DOWN" };
    match &deployment.supervisor {
        Some(supervisor) => line(&supervisor.name, state, supervisor.pid, "", &supervisor.log),
        None => text.push_str("  supervisor     none\n"),
    }
    if !deployment.is_supervised() {
        let _ = writeln!(
            text,
            "  no supervisor runs, so what ends stays down; `scalekit deploy -p {profile}` starts one, which takes over what runs"
        );
    }
    text
}

fn counters(role: &str, stats: &Stats) -> String {
    let journal = &stats.journal;
    let journal = match stats.mode.as_str() {
        "direct" => "no journal (direct mode)".to_owned(),
        _ => format!("{} entries wait in the journal ({})", journal.backlog_entries, journal.durability),
    };
    format!(
        "  {role}: {} requests, {journal}, {} database operations\n",
        stats.requests, stats.store.operations
    )
}
