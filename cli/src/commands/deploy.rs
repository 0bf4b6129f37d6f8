//! `scalekit deploy` and its `status`, `logs` and `down`.

mod logs;
mod status;
mod systemd;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::json;

use self::logs::Choice;
use super::access::{self, Entry};
use super::cap;
use super::interrupt::Interrupt;
use super::{cluster, control_runtime, options, print, render};
use crate::args::{DeployAction, DeployArgs, Global};
use crate::deploy::systemd::{Installed, SystemdRequest};
use crate::deploy::{self, Deployed, Deployment, Lifetime, Lock, STOP_GRACE, StateDir};
use crate::exit::ExitStatus;
use crate::profile::{self, DeployTarget, Layer, Profile};

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
                    status::status(global, &state, &profile, &Entry::new(&profile, token)?)
                }
                DeployAction::Logs { names, lines, follow } => {
                    logs::logs(&state, &profile, &Choice { names, lines: *lines, follow: *follow })
                }
                DeployAction::Down { purge } => down(&state, &profile, *purge),
            }
        }
    }
}

/// What `run --keep` measures must be its own.
pub(super) fn refuse_if_up(state: &StateDir, profile: &Profile) -> anyhow::Result<()> {
    if let Some(deployment) = state.load(&profile.name)?
        && deployment.is_alive()
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
    options::access(&args.access, &mut layer);
    options::target(args.target.as_deref(), &mut layer)?;
    options::context(args.context.as_deref(), &mut layer);
    layer.deploy.section().listen = args.listen.clone().into();
    let profile = profile::load(&global.profile, layer)?;
    if args.render && !args.systemd {
        return render::render(&profile);
    }
    if profile.deploy.target == DeployTarget::K8s {
        return cluster::deploy(global, args, &profile);
    }
    cluster::refuse_flags(args)?;
    let servers = profile.deploy.servers()?;
    access::checked(&profile)?;
    let dir = state.deployment(&profile.name);
    let binary = std::env::current_exe().context("cannot find this program's own file")?;
    if args.render {
        let request = SystemdRequest { profile: &profile, servers: &servers, dir: &dir, binary: &binary };
        return systemd::render(&request);
    }
    let _lock = Lock::of_command(&dir)?;
    let before = state.load(&profile.name)?;
    if args.systemd {
        let request = SystemdRequest { profile: &profile, servers: &servers, dir: &dir, binary: &binary };
        let (deployment, installed) = systemd::up(&request, before.as_ref())?;
        return tell_systemd(global, &deployment, &installed);
    }
    if let Some(systemd) = before.as_ref().and_then(|before| before.systemd.as_ref()) {
        bail!(
            "the profile `{0}` is deployed as {1} of systemd\nhelp: change it with --systemd, or end it first with \
             `scalekit deploy down -p {0}`",
            profile.name,
            systemd.target
        );
    }
    let deployed = control_runtime()?.block_on(async {
        let interrupt = Interrupt::listen()?;
        let request = deploy::Request {
            profile: &profile,
            servers: &servers,
            dir: &dir,
            binary: &binary,
            lifetime: Lifetime::Detached,
            stop: &interrupt.stop,
        };
        anyhow::Ok(deploy::deploy(&request, before.as_ref()).await?)
    })?;
    for note in shared(&deployed.deployment, &state.all()) {
        eprintln!("warning: {note}");
    }
    tell(global, &deployed, before.as_ref().is_some_and(Deployment::is_alive))?;
    Ok(ExitStatus::Done)
}

fn tell(global: &Global, deployed: &Deployed, was_up: bool) -> anyhow::Result<()> {
    let Deployed { deployment, changes, was_unsupervised } = deployed;
    let name = &deployment.profile;
    if global.json {
        return print(&format!(
            "{}\n",
            json!({ "profile": name, "url": deployment.api_url(), "roles": deployment.roles, "changes": changes })
        ));
    }
    let mut text = format!("{name} is up at {}\n", deployment.api_url());
    if was_up {
        let _ = match changes.is_none() {
            true => writeln!(text, "nothing to change"),
            false => writeln!(text, "{}", changes.text()),
        };
    }
    if *was_unsupervised {
        text.push_str("its supervisor had ended, and a new one has taken over what runs\n");
    }
    if let Some(cap) = &deployment.cap {
        let _ = writeln!(text, "cap on the database's disk: {}", cap::line(&cap.facts()));
    }
    let profile = &global.profile;
    let _ = writeln!(
        text,
        "load it with `scalekit bench -p {profile}`, end it with `scalekit deploy down -p {profile}`"
    );
    print(&text)
}

fn tell_systemd(
    global: &Global,
    deployment: &Deployment,
    installed: &Installed,
) -> anyhow::Result<ExitStatus> {
    let Installed { written, removed } = installed;
    if global.json {
        print(&format!(
            "{}\n",
            json!({ "profile": deployment.profile, "url": deployment.api_url(), "roles": deployment.roles, "systemd": deployment.systemd, "written": written, "removed": removed })
        ))?;
        return Ok(ExitStatus::Done);
    }
    let mut text = format!("{} is up at {}\n", deployment.profile, deployment.api_url());
    for (done, files) in [("wrote", written), ("removed", removed)] {
        for file in files {
            let _ = writeln!(text, "{done} {}", file.display());
        }
    }
    if written.is_empty() && removed.is_empty() {
        text.push_str("nothing to change\n");
    }
    let _ =
        writeln!(text, "end it, and remove all of that, with `scalekit deploy down -p {}`", global.profile);
    print(&text)?;
    Ok(ExitStatus::Done)
}

/// Which other deployments use the same journal or documents. That may be wanted, as it is for scaling out.
fn shared(deployment: &Deployment, all: &[Deployment]) -> Vec<String> {
    let others = all.iter().filter(|other| other.profile != deployment.profile && other.is_alive());
    let mut notes = Vec::new();
    for other in others {
        if deployment.redis_url.is_some() && deployment.redis_url == other.redis_url {
            notes.push(format!(
                "the deployment `{}` has its journal in the same Redis, and each worker stores what either accepts; if that \
                 is not meant, give one of them another database of it, such as redis://HOST/1",
                other.profile
            ));
        }
        let documents = |one: &Deployment| one.mongo_url.clone().map(|url| (url, one.mongo_database.clone()));
        if deployment.mongo_url.is_some() && documents(deployment) == documents(other) {
            notes.push(format!(
                "the deployment `{}` has its documents in the same MongoDB and database `{}`; if that is not meant, give one \
                 of them another deploy.mongo_database",
                other.profile, deployment.mongo_database
            ));
        }
    }
    notes
}

/// Keeps up what `deploy` has written down.
pub(super) fn supervise(dir: &Path) -> anyhow::Result<ExitStatus> {
    control_runtime()?.block_on(deploy::supervise(dir))?;
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

fn down(state: &StateDir, profile: &Profile, purge: bool) -> anyhow::Result<ExitStatus> {
    let deployment = find(state, profile)?;
    let _lock = Lock::of_command(&deployment.dir)?;
    if let Some(systemd) = &deployment.systemd {
        print(&format!("{}\n", systemd::down(&deployment, systemd, purge)?))?;
        return Ok(ExitStatus::Done);
    }
    control_runtime()?.block_on(deployment.stop(STOP_GRACE))?;
    deploy::forget(&deployment.dir)?;
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
