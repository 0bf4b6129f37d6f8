//! `scalekit deploy` and its `status`, `logs` and `down`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::access::{self, Entry};
use super::cap;
use super::control::Service;
use super::interrupt::Interrupt;
use super::{cluster, control_runtime, options, print, render};
use crate::args::{DeployAction, DeployArgs, Global};
use crate::deploy::cap::Cap;
use crate::deploy::{self, Deployment, Lifetime, Running, STOP_GRACE, StateDir};
use crate::exit::ExitStatus;
use crate::profile::{self, DeployTarget, Layer, Profile};

/// Of each log, however long it has become.
const MAX_LOG_BYTES: u64 = 16 << 20;

pub(super) fn deploy(global: &Global, args: &DeployArgs) -> anyhow::Result<ExitStatus> {
    let state = StateDir::of_user()?;
    match &args.action {
        None => up(global, args, &state),
        Some(action) => {
            // Only the name counts here, but a profile that cannot be read should say so.
            let mut layer = Layer::default();
            options::target(args.target.as_deref(), &mut layer)?;
            options::context(args.context.as_deref(), &mut layer);
            let profile = profile::load(&global.profile, layer)?;
            if profile.deploy.target == DeployTarget::K8s {
                return cluster::act(global, &profile, action);
            }
            match action {
                DeployAction::Status(token) => {
                    status(global, &state, &profile, &Entry::new(&profile, token)?)
                }
                DeployAction::Logs { lines, .. } => logs(&state, &profile, *lines),
                DeployAction::Down { purge } => down(&state, &profile, *purge),
            }
        }
    }
}

/// Two deployments of one profile would share a directory.
pub(super) fn refuse_if_up(state: &StateDir, profile: &Profile) -> anyhow::Result<()> {
    if let Some(deployment) = state.load(&profile.name)?
        && deployment.processes.iter().any(|process| process.is_alive())
    {
        bail!(
            "the profile `{0}` is deployed already, at {1}\nhelp: end it with `scalekit deploy down -p {0}`",
            profile.name,
            deployment.api_url()
        );
    }
    Ok(())
}

/// Records what runs; what cannot be recorded, and so not be found again, is ended.
pub(super) async fn record(state: &StateDir, running: Running) -> anyhow::Result<Running> {
    let Err(error) = state.save(&running.deployment) else { return Ok(running) };
    if let Err(stuck) = running.stop().await {
        eprintln!("error: {stuck}");
    }
    Err(error.into())
}

fn up(global: &Global, args: &DeployArgs, state: &StateDir) -> anyhow::Result<ExitStatus> {
    let mut layer = Layer::default();
    options::backend(&args.backend, &mut layer)?;
    options::access(&args.access, &mut layer);
    options::target(args.target.as_deref(), &mut layer)?;
    options::context(args.context.as_deref(), &mut layer);
    layer.deploy.section().listen = args.listen.clone().into();
    let profile = profile::load(&global.profile, layer)?;
    if args.render {
        return render::render(&profile);
    }
    if profile.deploy.target == DeployTarget::K8s {
        return cluster::deploy(global, args, &profile);
    }
    cluster::refuse_flags(args)?;
    refuse_if_up(state, &profile)?;
    let servers = profile.deploy.servers()?;
    access::checked(&profile)?;
    let dir = state.deployment(&profile.name);
    let binary = std::env::current_exe().context("cannot find this program's own file")?;
    let deployment = control_runtime()?.block_on(async {
        let interrupt = Interrupt::listen()?;
        let request = deploy::Request {
            profile: &profile,
            servers: &servers,
            dir: &dir,
            binary: &binary,
            lifetime: Lifetime::Detached,
            stop: &interrupt.stop,
        };
        let running = deploy::up(&request).await?;
        // Recorded before it is left alone, so that it can always be found.
        anyhow::Ok(record(state, running).await?.leave())
    })?;
    if global.json {
        print(&format!(
            "{}\n",
            json!({ "profile": deployment.profile, "url": deployment.api_url(), "roles": deployment.roles })
        ))?;
    } else {
        let cap =
            deployment.cap.as_ref().map(|cap| format!("cap on the database's disk: {}\n", cap::line(cap)));
        print(&format!(
            "{} is up at {}\n{}load it with `scalekit bench -p {}`, end it with `scalekit deploy down -p {}`\n",
            profile.name,
            deployment.api_url(),
            cap.unwrap_or_default(),
            global.profile,
            global.profile
        ))?;
    }
    Ok(ExitStatus::Done)
}

/// What is deployed for the profile.
pub(super) fn find(state: &StateDir, profile: &Profile) -> anyhow::Result<Deployment> {
    state.load(&profile.name)?.with_context(|| {
        format!(
            "nothing is deployed for the profile `{0}`: there is no {1}\nhelp: `scalekit deploy -p {0}` brings it up",
            profile.name,
            state.record(&profile.name).display()
        )
    })
}

/// Exit status 1 if any part of it is down.
fn status(global: &Global, state: &StateDir, profile: &Profile, entry: &Entry) -> anyhow::Result<ExitStatus> {
    let deployment = find(state, profile)?;
    let service = Service::new(deployment.roles.clone(), entry)?;
    let stats = control_runtime()?.block_on(service.stats());
    let all_alive = deployment.processes.iter().all(|process| process.is_alive());
    let cap_problem = deployment.cap.as_ref().and_then(Cap::problem);
    if global.json {
        let processes: Vec<_> = deployment
            .processes
            .iter()
            .map(|process| json!({ "name": process.name, "pid": process.pid, "alive": process.is_alive(), "log": process.log }))
            .collect();
        let cap = deployment.cap.as_ref().map(cap::facts);
        let facts = json!({ "profile": deployment.profile, "url": deployment.api_url(), "processes": processes, "cap": cap, "stats": stats.as_ref().ok() });
        print(&format!("{facts}\n"))?;
    } else {
        let mut text = format!("{} at {}\n", deployment.profile, deployment.api_url());
        for process in &deployment.processes {
            let state = if process.is_alive() { "up" } else { "DOWN" };
            let _ = writeln!(
                text,
                "  {:<14} {state:<5} process {:<8} {}",
                process.name,
                process.pid,
                process.log.display()
            );
        }
        if let Some(cap) = &deployment.cap {
            let _ = writeln!(text, "  cap on the database's disk: {}", cap::line(cap));
        }
        match &stats {
            Ok(stats) => {
                for (role, stats) in stats {
                    let journal = &stats.journal;
                    let journal = match stats.mode.as_str() {
                        "direct" => "no journal (direct mode)".to_owned(),
                        _ => {
                            format!(
                                "{} entries wait in the journal ({})",
                                journal.backlog_entries, journal.durability
                            )
                        }
                    };
                    let _ = writeln!(
                        text,
                        "  {role}: {} requests, {journal}, {} database operations",
                        stats.requests, stats.store.operations
                    );
                }
            }
            Err(error) => {
                let _ = writeln!(text, "  no counters: {error:#}");
            }
        }
        print(&text)?;
    }
    Ok(if all_alive && cap_problem.is_none() && stats.is_ok() {
        ExitStatus::Done
    } else {
        ExitStatus::Failed
    })
}

fn logs(state: &StateDir, profile: &Profile, lines: usize) -> anyhow::Result<ExitStatus> {
    let deployment = find(state, profile)?;
    for process in &deployment.processes {
        let text = last_lines(&process.log, lines, MAX_LOG_BYTES)
            .with_context(|| format!("cannot read {}", process.log.display()))?;
        print(&format!("==> {} <==\n{text}\n", process.log.display()))?;
    }
    Ok(ExitStatus::Done)
}

/// The last lines of a file, of its last `most` bytes.
fn last_lines(path: &Path, lines: usize, most: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(most);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    // It may grow meanwhile.
    file.take(most).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line is whole only at the beginning of the file.
    let whole: Vec<&str> = text.lines().skip(usize::from(start > 0)).collect();
    Ok(whole[whole.len().saturating_sub(lines)..].join("\n"))
}

fn down(state: &StateDir, profile: &Profile, purge: bool) -> anyhow::Result<ExitStatus> {
    let deployment = find(state, profile)?;
    control_runtime()?.block_on(deployment.stop(STOP_GRACE))?;
    state.forget(&profile.name)?;
    let mut said = format!("{} is down", profile.name);
    if purge {
        fs::remove_dir_all(&deployment.dir)
            .with_context(|| format!("cannot remove {}", deployment.dir.display()))?;
        said.push_str(", and its data is removed");
    } else {
        let _ = write!(said, "; its data stays in {}", deployment.dir.display());
    }
    print(&format!("{said}\n"))?;
    Ok(ExitStatus::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_read_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        fs::write(&log, "one\ntwo\nthree\nfour\n").unwrap();
        for (lines, most, expected) in [
            (2, 100, "three\nfour"),
            (9, 100, "one\ntwo\nthree\nfour"),
            (0, 100, ""),
            // Of a line that is cut there is nothing.
            (9, 13, "three\nfour"),
            (9, 8, "four"),
            (9, 2, ""),
        ] {
            assert_eq!(last_lines(&log, lines, most).unwrap(), expected, "{lines} {most}");
        }
        assert!(last_lines(&folder.path().join("none"), 1, 1).is_err());
    }
}
