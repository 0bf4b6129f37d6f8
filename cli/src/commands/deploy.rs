//! `scalekit deploy` and its `status`, `logs` and `down`.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::control::Service;
use super::interrupt::Interrupt;
use super::{control_runtime, options, print};
use crate::args::{DeployAction, DeployArgs, Global};
use crate::deploy::{self, Deployment, Lifetime, STOP_GRACE, StateDir};
use crate::exit::ExitStatus;
use crate::profile::{self, Layer, Profile};

pub(super) fn deploy(global: &Global, args: &DeployArgs) -> anyhow::Result<ExitStatus> {
    let state = StateDir::of_user()?;
    match &args.action {
        None => up(global, args, &state),
        Some(action) => {
            // Only the name counts here, but a profile that cannot be read should say so.
            let profile = profile::load(&global.profile, Layer::default())?;
            match action {
                DeployAction::Status => status(global, &state, &profile),
                DeployAction::Logs { lines } => logs(&state, &profile, *lines),
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

fn up(global: &Global, args: &DeployArgs, state: &StateDir) -> anyhow::Result<ExitStatus> {
    let mut layer = Layer::default();
    options::backend(&args.backend, &mut layer)?;
    layer.deploy.section().listen = args.listen.clone().into();
    let profile = profile::load(&global.profile, layer)?;
    refuse_if_up(state, &profile)?;
    let dir = state.deployment(&profile.name);
    let binary = std::env::current_exe().context("cannot find this program's own file")?;
    let deployment = control_runtime()?.block_on(async {
        let interrupt = Interrupt::listen()?;
        let request = deploy::Request {
            profile: &profile,
            dir: &dir,
            binary: &binary,
            lifetime: Lifetime::Detached,
            stop: &interrupt.stop,
        };
        let running = deploy::up(&request).await?;
        // Recorded before it is left alone, so that it can always be found.
        if let Err(error) = state.save(&running.deployment) {
            running.stop().await?;
            return Err(error.into());
        }
        anyhow::Ok(running.leave())
    })?;
    if global.json {
        print(&format!(
            "{}\n",
            json!({ "profile": deployment.profile, "url": deployment.api_url(), "roles": deployment.roles })
        ))?;
    } else {
        print(&format!(
            "{} is up at {}\nload it with `scalekit bench -p {}`, end it with `scalekit deploy down -p {}`\n",
            profile.name,
            deployment.api_url(),
            global.profile,
            global.profile
        ))?;
    }
    Ok(ExitStatus::Done)
}

fn find(state: &StateDir, profile: &Profile) -> anyhow::Result<Deployment> {
    state.load(&profile.name)?.with_context(|| {
        format!(
            "nothing is deployed for the profile `{0}`: there is no {1}\nhelp: `scalekit deploy -p {0}` brings it up",
            profile.name,
            state.record(&profile.name).display()
        )
    })
}

/// Exit status 1 if any part of it is down.
fn status(global: &Global, state: &StateDir, profile: &Profile) -> anyhow::Result<ExitStatus> {
    let deployment = find(state, profile)?;
    let service = Service::new(deployment.roles.clone())?;
    let stats = control_runtime()?.block_on(service.stats());
    let all_alive = deployment.processes.iter().all(|process| process.is_alive());
    if global.json {
        let processes: Vec<_> = deployment
            .processes
            .iter()
            .map(|process| json!({ "name": process.name, "pid": process.pid, "alive": process.is_alive(), "log": process.log }))
            .collect();
        let facts = json!({ "profile": deployment.profile, "url": deployment.api_url(), "processes": processes, "stats": stats.as_ref().ok() });
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
        match &stats {
            Ok(stats) => {
                for (role, stats) in stats {
                    let journal = &stats.journal;
                    let _ = writeln!(
                        text,
                        "  {role}: {} requests, {} entries wait in the journal ({}), {} database operations",
                        stats.requests, journal.backlog_entries, journal.durability, stats.store.operations
                    );
                }
            }
            Err(error) => {
                let _ = writeln!(text, "  no counters: {error:#}");
            }
        }
        print(&text)?;
    }
    Ok(if all_alive && stats.is_ok() { ExitStatus::Done } else { ExitStatus::Failed })
}

fn logs(state: &StateDir, profile: &Profile, lines: usize) -> anyhow::Result<ExitStatus> {
    let deployment = find(state, profile)?;
    for process in &deployment.processes {
        let bytes =
            fs::read(&process.log).with_context(|| format!("cannot read {}", process.log.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        let last = all[all.len().saturating_sub(lines)..].join("\n");
        print(&format!("==> {} <==\n{last}\n", process.log.display()))?;
    }
    Ok(ExitStatus::Done)
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
