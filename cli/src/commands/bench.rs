//! `scalekit bench`: load a deployed service, or any URL, and judge it.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::bail;

use super::access::Entry;
use super::cluster::Agents;
use super::control::Service;
use super::device::Device;
use super::experiment::{Documents, Experiment, RunName};
use super::interrupt::Interrupt;
use super::makers::Makers;
use super::subject::Subject;
use super::watching::Servers;
use super::{cluster, control_runtime, options, planning, print, use_color};
use crate::args::{BenchArgs, Global};
use crate::deploy::kubernetes::cluster::{Forward, From};
use crate::deploy::{Deployment, Role, StateDir};
use crate::exit::ExitStatus;
use crate::profile::{self, DeployTarget, Layer, Profile, ScenarioKind, flag_error};
use crate::report::{self, Report, RunFolder};

pub(super) fn bench(global: &Global, args: &BenchArgs) -> anyhow::Result<ExitStatus> {
    let mut layer = Layer::default();
    options::load(&args.load, &mut layer)?;
    options::connect(&args.connect, &mut layer)?;
    options::request(args, &mut layer)?;
    let pods = options::pods(&args.agents)?;
    if pods.is_none() {
        options::agents(&args.agents, &mut layer);
    }
    options::target(args.target.as_deref(), &mut layer)?;
    options::context(args.context.as_deref(), &mut layer);
    let profile = profile::load(&global.profile, layer)?;
    let in_cluster = profile.load.url.is_none() && profile.deploy.target == DeployTarget::K8s;
    if pods.is_some() && !in_cluster {
        let message = "a number of agents is for what is deployed in a cluster";
        let help = "add --target k8s, or name machines that run `scalekit agent` as HOST:PORT,...";
        return Err(flag_error("--agents", message, help).into());
    }
    print_notes(&profile);
    options::criteria_of(&profile)?;
    let runtime = control_runtime()?;
    let interrupt = runtime.block_on(async { Interrupt::listen() })?;
    let target = match &profile.load.url {
        Some(url) => Target::url(url, profile.load.scenario),
        None if in_cluster => {
            let from = if pods.is_some() { From::Pods } else { From::Here };
            Target::in_cluster(runtime.block_on(cluster::reach(&profile, from))?)
        }
        None => Target::deployed(deployed(&profile)?),
    };
    let session = Session { global, args, profile: &profile, runtime: &runtime, interrupt: &interrupt };
    let Some(count) = pods else {
        return session.load(target, &Makers::new(&profile, &args.agents)?);
    };
    // What is wrong with the load is known before pods are made for it.
    let plan = planning::plan_for_agents(&profile, &target.url, &RunName::new().token, u32::from(count))?;
    let length = plan.warmup + plan.duration + plan.timeout;
    let agents = runtime.block_on(Agents::raise(&profile, count, length, &interrupt))?;
    let status = session.load(target, &Makers::pods(&agents.addresses, agents.token.clone()));
    runtime.block_on(agents.remove());
    status
}

/// One bench.
struct Session<'a> {
    global: &'a Global,
    args: &'a BenchArgs,
    profile: &'a Profile,
    runtime: &'a tokio::runtime::Runtime,
    interrupt: &'a Interrupt,
}

impl Session<'_> {
    fn load(&self, target: Target, makers: &Makers<'_>) -> anyhow::Result<ExitStatus> {
        let Self { global, args, profile, runtime, interrupt } = *self;
        let (specs, criteria) = options::criteria_of(profile)?;
        let named = args.pid.map(Subject::named).transpose()?;
        let run = RunName::new();
        if let Some(listens) = target.listens {
            makers.expect_reach(listens)?;
        }
        let entry = Entry::new(profile, &args.token)?;
        let plan = makers.plan(profile, &target.url, &run.token, &entry)?;
        let folder = report::prepare(&args.load.out, &run.id)?;
        let report = runtime.block_on(async {
            let crowd = makers.gather().await?;
            let service = match target.roles.is_empty() {
                true => None,
                false => Some(reachable(target.roles, &entry).await?),
            };
            let experiment = Experiment {
                profile,
                specs,
                criteria: &criteria,
                run,
                service,
                mongo: target.mongo,
                interrupt,
                folder: &folder,
                crowd,
                subject: named.or(target.subject),
                servers: target.servers,
                device: target.device,
            };
            experiment.conduct(plan).await
        });
        let report = discard_on_error(report, &folder)?;
        conclude(global, report, &criteria, &folder)
    }
}

/// What is loaded.
struct Target {
    url: String,
    /// Processes that have counters; none for a service that is not scalekit's.
    roles: Vec<Role>,
    /// Where the documents can be read past the service.
    mongo: Option<Documents>,
    /// Where a service of this machine listens.
    listens: Option<SocketAddr>,
    /// Its process, where that is known beforehand.
    subject: Option<Subject>,
    /// Redis and MongoDB behind it, where they are known.
    servers: Servers,
    /// Ways to the counters, which live as long as this.
    _forwards: Vec<Forward>,
    /// The database's device, where this host can read it.
    device: Option<Device>,
}

impl Target {
    fn url(url: &str, scenario: ScenarioKind) -> Self {
        let roles = match scenario {
            ScenarioKind::Request | ScenarioKind::Steps => Vec::new(),
            // Only scalekit's own service has transactions, and so counters and an audit.
            ScenarioKind::Transactions => vec![Role { name: "service".into(), url: url.to_owned() }],
        };
        Self {
            url: url.to_owned(),
            roles,
            mongo: None,
            listens: None,
            subject: None,
            servers: Servers::default(),
            _forwards: Vec::new(),
            device: None,
        }
    }

    /// What `scalekit deploy --target k8s` brought up. Its MongoDB is not reached from here, so the audit asks the service.
    fn in_cluster(reach: cluster::Reach) -> Self {
        let cluster::Reach { url, roles, forwards, cap } = reach;
        let device = cap.map(Device::Told);
        Self { roles, device, _forwards: forwards, ..Self::url(&url, ScenarioKind::Request) }
    }

    fn deployed(deployment: Deployment) -> Self {
        let url = deployment.api_url().to_owned();
        let (subject, servers) = (Subject::deployed(&deployment), Servers::deployed(&deployment));
        let device = Device::deployed(&deployment);
        let authorities = deployment.authorities();
        let database = deployment.mongo_database;
        let mongo = deployment.mongo_url.map(|url| Documents { url, database, authorities });
        let address = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let listens = address.and_then(|address| address.parse().ok());
        let roles = deployment.roles;
        Self { url, roles, mongo, listens, subject, servers, device, _forwards: Vec::new() }
    }
}

/// The deployment that `scalekit deploy` made for this profile.
fn deployed(profile: &Profile) -> anyhow::Result<Deployment> {
    let state = StateDir::of_user()?;
    let name = &profile.name;
    let ways = format!("deploy it first with `scalekit deploy -p {name}`, or name a service with --url URL");
    match state.load(name)? {
        None => bail!(
            "nothing is deployed for the profile `{name}`: there is no {}\nhelp: {ways}",
            state.record(name).display()
        ),
        Some(deployment) => match deployment
            .processes
            .iter()
            .map(|process| &process.identity)
            .find(|process| !process.is_alive())
        {
            Some(dead) => bail!(
                "the deployment of the profile `{name}` is not up: {} (process {}) has ended, see {}\nhelp: {ways}",
                dead.name,
                dead.pid,
                dead.log.display()
            ),
            None => Ok(deployment),
        },
    }
}

/// A service that does not answer now would only give a run of nothing but failures.
async fn reachable(roles: Vec<Role>, entry: &Entry) -> anyhow::Result<Service> {
    let service = Service::new(roles, entry)?;
    service.stats().await?;
    Ok(service)
}

/// A run that never started leaves no empty folder.
pub(super) fn discard_on_error<T>(result: anyhow::Result<T>, folder: &RunFolder) -> anyhow::Result<T> {
    if result.is_err() {
        folder.discard_if_empty();
    }
    result
}

pub(super) fn print_notes(profile: &Profile) {
    for note in &profile.notes {
        eprintln!("note: {note}");
    }
}

/// Judges, writes the report and prints what came of it.
pub(super) fn conclude(
    global: &Global,
    mut report: Report,
    criteria: &[crate::criteria::Criterion],
    folder: &RunFolder,
) -> anyhow::Result<ExitStatus> {
    let verdict = report::judge(&mut report, criteria);
    let written = folder.write_report(&report, &report::text(&report, false))?;
    print_report(global, &report, &written)?;
    Ok(ExitStatus::of(&verdict))
}

pub(super) fn print_report(global: &Global, report: &Report, path: &Path) -> anyhow::Result<()> {
    if global.json {
        return print(&format!("{}\n", serde_json::to_string(report)?));
    }
    let color = use_color(global.color, std::io::stdout().is_terminal());
    print(&format!("{}\nreport: {}\n", report::text(report, color).trim_end(), path.display()))
}
