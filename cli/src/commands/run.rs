//! `scalekit run`: deploy, load, drain, audit, judge, tear down.

use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

use super::access::{self, Entry};
use super::bench::{conclude, discard_on_error, print_notes};
use super::cap;
use super::control::Service;
use super::device::Device;
use super::experiment::{Documents, Experiment, RunName};
use super::interrupt::Interrupt;
use super::makers::Makers;
use super::subject::Subject;
use super::watching::Servers;
use super::{control_runtime, options};
use crate::agent::Crowd;
use crate::args::{Global, RunArgs};
use crate::criteria::{Criterion, Spec};
use crate::deploy::{self, DeployError, Deployment, Lifetime, Lock, Running, StateDir};
use crate::exit::ExitStatus;
use crate::memory;
use crate::profile::{self, DeployTarget, Layer, Profile, flag_error};
use crate::report::{self, Report, RunFolder};

pub(super) fn run(global: &Global, args: &RunArgs) -> anyhow::Result<ExitStatus> {
    let mut layer = Layer::default();
    options::load(&args.load, &mut layer)?;
    options::backend(&args.backend, &mut layer)?;
    options::agents(&args.agents, &mut layer);
    options::access(&args.access, &mut layer);
    let profile = profile::load(&global.profile, layer)?;
    if let Some(url) = &profile.load.url {
        let message = format!("the profile loads {url}, and `run` deploys a service of its own");
        return Err(
            flag_error("load.url", message, "use `scalekit bench` for it, or set load.url to null").into()
        );
    }
    if profile.deploy.target == DeployTarget::K8s {
        let message = "`run` brings up and removes processes of this host, and the target is `k8s`";
        let help = "use `scalekit deploy`, `bench` and `deploy down` with --target k8s, or set it to local";
        return Err(flag_error("deploy.target", message, help).into());
    }
    print_notes(&profile);
    access::checked(&profile)?;
    let servers = profile.deploy.servers()?;
    let entry = Entry::new(&profile, &args.token)?;
    access::expect_token(&profile, &entry)?;
    let (specs, criteria) = options::criteria_of(&profile)?;
    let name = RunName::new();
    let makers = Makers::new(&profile, &args.agents)?;
    makers.expect_reach(profile.deploy.listen)?;
    // Any address will do to check the load; where the service listens is known once it is up.
    makers.plan(&profile, "http://127.0.0.1:1/", &name.token, &entry)?;
    let state = StateDir::of_user()?;
    let folder = report::prepare(&args.load.out, &name.id)?;
    let dir = if args.keep { state.deployment(&profile.name) } else { state.run(&name.id) };
    let keep = args.keep.then_some(&state);
    let job = Job {
        profile: &profile,
        servers: &servers,
        entry: &entry,
        specs,
        criteria: &criteria,
        run: name,
        folder: &folder,
        makers: &makers,
    };
    let runtime = control_runtime()?;
    let (report, stopped) = discard_on_error(runtime.block_on(job.run_once(&dir, keep)), &folder)?;
    let status = conclude(global, report, &criteria, &folder)?;
    match stopped {
        // The results are kept and judged, but the command has not done all that it is for.
        Err(error) if status == ExitStatus::Done => Err(error.into()),
        Err(error) => {
            eprintln!("error: {error}");
            Ok(status)
        }
        Ok(()) => Ok(status),
    }
}

/// What is to be done with the service once it is up, checked.
struct Job<'a> {
    profile: &'a Profile,
    servers: &'a profile::Servers,
    entry: &'a Entry,
    specs: Vec<Spec>,
    criteria: &'a [Criterion],
    run: RunName,
    folder: &'a RunFolder,
    makers: &'a Makers<'a>,
}

impl Job<'_> {
    /// From nothing to nothing, with a report of what was in between, and whether the service could be ended.
    /// `keep`: leave it running, recorded there.
    async fn run_once(
        self,
        dir: &Path,
        keep: Option<&StateDir>,
    ) -> anyhow::Result<(Report, Result<(), DeployError>)> {
        let profile = self.profile;
        let interrupt = Interrupt::listen()?;
        if let Some(state) = keep {
            super::deploy::refuse_if_up(state, profile)?;
        }
        let crowd = self.makers.gather().await?;
        let _lock = keep.map(|_| Lock::of_command(dir)).transpose()?;
        let binary = std::env::current_exe().context("cannot find this program's own file")?;
        let request = deploy::Request {
            profile,
            servers: self.servers,
            dir,
            binary: &binary,
            lifetime: if keep.is_some() { Lifetime::Detached } else { Lifetime::Command },
            stop: &interrupt.stop,
        };
        let running = self.deploy(&request).await?;
        let measured = self.measure(crowd, &running.deployment, &interrupt).await;
        let measured = match measured {
            Ok(report) if keep.is_some() => {
                let deployment = running.deployment.clone();
                if let Err(error) = running.leave(&binary).await {
                    // The report is not lost for that; `deploy status` shows it, too.
                    eprintln!("error: nothing keeps the service up: {error}");
                }
                eprintln!(
                    "the service stays up at {}; `scalekit deploy down -p {}` ends it",
                    deployment.api_url(),
                    profile.name
                );
                return Ok((report, Ok(())));
            }
            measured => measured,
        };
        let stopped = running.stop().await;
        match keep {
            None => remove(dir),
            Some(_) => {
                if let Err(error) = deploy::forget(dir) {
                    tracing::warn!(%error, "the record of what was stopped stays");
                }
            }
        }
        match (measured, stopped) {
            (Ok(report), stopped) => Ok((report, stopped)),
            (Err(error), Ok(())) => Err(error),
            // What went wrong first is what matters; but a process that will not end is told of, too.
            (Err(error), Err(stuck)) => {
                eprintln!("error: {stuck}");
                Err(error)
            }
        }
    }

    /// Brings the service up.
    async fn deploy(&self, request: &deploy::Request<'_>) -> anyhow::Result<Running> {
        eprintln!("{:>9} the service ({})", "starting", self.profile.description.trim_end_matches('.'));
        let running = match deploy::up(request).await {
            Ok(running) => running,
            Err(error) => {
                // The end of the log that matters is part of the error.
                if request.lifetime == Lifetime::Command {
                    remove(request.dir);
                }
                return Err(error.into());
            }
        };
        if let Some(cap) = &running.deployment.cap {
            eprintln!("{:>9} the database's disk: {}", "capped", cap::line(&cap.facts()));
        }
        Ok(running)
    }

    async fn measure(
        self,
        crowd: Option<Crowd>,
        deployment: &Deployment,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Report> {
        let Self { profile, servers, entry, specs, criteria, run, folder, makers } = self;
        let plan = makers.plan(profile, deployment.api_url(), &run.token, entry)?;
        let service = Some(Service::new(deployment.roles.clone(), entry)?);
        let mongo = deployment.mongo_url.clone().map(|url| Documents {
            url,
            database: deployment.mongo_database.clone(),
            authorities: servers.authorities.clone(),
        });
        // The service has its processes; from here on this one only generates load.
        memory::allow_huge_pages(false);
        let experiment = Experiment {
            profile,
            specs,
            criteria,
            run,
            service,
            mongo,
            interrupt,
            folder,
            crowd,
            subject: Subject::deployed(deployment),
            servers: Servers::deployed(deployment),
            device: Device::deployed(deployment),
        };
        let mut report = experiment.conduct(plan).await?;
        for process in deployment.processes.iter().map(|process| &process.identity) {
            let peak = deploy::memory_peak_bytes(process.pid);
            report.server.after.insert(
                format!("process {}", process.name),
                json!({ "pid": process.pid, "memory_peak_bytes": peak }),
            );
        }
        Ok(report)
    }
}

/// The run's own data served only the run.
fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "the run's data stays in {}", dir.display());
    }
}
