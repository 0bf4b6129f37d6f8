//! `scalekit deploy --target k8s` and its `--diff`, `status`, `logs` and `down`.

use std::fmt::Write as _;
use std::time::Duration;

use kube::core::DynamicObject;
use serde_json::json;

use super::interrupt::Interrupt;
use super::{access, bench, cap, control_runtime, print};
use crate::agent::Token;
use crate::args::{DeployAction, DeployArgs, Global};
use crate::deploy::Role;
use crate::deploy::cap::Facts;
use crate::deploy::kubernetes::cluster::{
    self, Applied, Cluster, ClusterError, Fleet, Forward, From, LogRequest, Purpose, Size, Status, connect,
};
use crate::deploy::kubernetes::{self, Credentials, Material};
use crate::exit::ExitStatus;
use crate::profile::{AgentAddress, Profile, flag_error};

/// How often the interruption is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Beyond what a bench needs of its agents: for seeding, and for a user who looks on.
const SPARE: Duration = Duration::from_secs(600);

/// Flags that mean nothing without a cluster.
pub(super) fn refuse_flags(args: &DeployArgs) -> anyhow::Result<()> {
    for (is_set, flag) in [
        (args.diff, "--diff"),
        (args.force_conflicts, "--force-conflicts"),
        (args.context.is_some(), "--context"),
    ] {
        if is_set {
            return Err(flag_error(
                flag,
                "is about a cluster, and the target is `local`",
                "add --target k8s",
            )
            .into());
        }
    }
    Ok(())
}

/// Brings the deployment to what the profile says, or only tells what that would change.
pub(super) fn deploy(global: &Global, args: &DeployArgs, profile: &Profile) -> anyhow::Result<ExitStatus> {
    if args.systemd {
        let message = "is about this host, and the target is `k8s`";
        return Err(flag_error("--systemd", message, "add --target local, or take it away").into());
    }
    access::checked(profile)?;
    bench::print_notes(profile);
    control_runtime()?.block_on(async {
        let interrupt = Interrupt::listen()?;
        let cluster = to(profile).await?;
        let objects = objects(&cluster, profile).await?;
        if args.diff {
            return diff(&cluster, profile, objects, args.force_conflicts).await;
        }
        up(global, &cluster, profile, objects, args.force_conflicts, &interrupt).await
    })
}

async fn to(profile: &Profile) -> Result<Cluster, ClusterError> {
    let wanted = &profile.deploy.kubernetes;
    connect(wanted.context.as_deref(), &wanted.namespace).await
}

/// With the passwords that are there, or with new ones.
async fn objects(cluster: &Cluster, profile: &Profile) -> anyhow::Result<Vec<DynamicObject>> {
    let saved = cluster::saved_credentials(cluster, profile).await?;
    let credentials = match &saved {
        Some(secret) => Credentials::of(secret)?,
        None => Credentials::generate()?,
    };
    let material = Material::read(&profile.deploy, profile.deploy.servers()?, credentials)?;
    Ok(kubernetes::objects(profile, &material)?)
}

async fn diff(
    cluster: &Cluster,
    profile: &Profile,
    objects: Vec<DynamicObject>,
    force: bool,
) -> anyhow::Result<ExitStatus> {
    let plan = cluster::plan(cluster, profile, objects, Purpose::Look, force).await?;
    tell(&plan.notes);
    let text = cluster::diff(&plan)?;
    print(&text)?;
    Ok(if text.is_empty() { ExitStatus::Done } else { ExitStatus::HostDiffers })
}

fn tell(notes: &[String]) {
    for note in notes {
        eprintln!("note: {note}");
    }
}

async fn up(
    global: &Global,
    cluster: &Cluster,
    profile: &Profile,
    objects: Vec<DynamicObject>,
    force: bool,
    interrupt: &Interrupt,
) -> anyhow::Result<ExitStatus> {
    let plan = cluster::plan(cluster, profile, objects, Purpose::Apply, force).await?;
    tell(&plan.notes);
    let mut applied = Applied::default();
    let result = cluster::apply(cluster, &plan, &interrupt.stop, &mut applied).await;
    if let Err(error) = result {
        if !applied.is_nothing() {
            eprintln!("{}", summary(&applied));
        }
        return Err(error.into());
    }
    let patience = profile.deploy.kubernetes.ready_timeout;
    let pods = cluster::pods_selector(profile);
    let notice = |text: &str| {
        if !global.json {
            eprintln!("waiting: {text}");
        }
    };
    let waited = cluster::wait(cluster, &plan, &pods, patience, &interrupt.stop, notice).await;
    if let Err(error) = waited {
        eprintln!("{}", summary(&applied));
        return Err(error.into());
    }
    // What was replaced goes once its successor is up.
    cluster::prune(cluster, &plan, &mut applied).await?;
    // Whoever deploys from afar may not reach it, and need not.
    let address = cluster::addresses(cluster, profile, From::Here).await;
    let url = address.as_ref().map(|address| address.url.as_str()).ok();
    if global.json {
        let facts = json!({
            "profile": profile.name,
            "instance": kubernetes::instance(profile),
            "namespace": cluster.namespace,
            "context": cluster.context,
            "url": url,
            "created": applied.created,
            "changed": applied.changed,
            "unchanged": applied.unchanged,
            "removed": applied.removed,
            "skipped": plan.notes,
        });
        print(&format!("{facts}\n"))?;
        return Ok(ExitStatus::Done);
    }
    let name = &global.profile;
    let mut text = format!("{}\n", summary(&applied));
    let (namespace, context) = (&cluster.namespace, &cluster.context);
    match (url, &address) {
        (Some(url), _) => {
            let _ =
                writeln!(text, "{} is up at {url}, in the namespace {namespace} ({context})", profile.name);
        }
        (None, Err(error)) => {
            let _ =
                writeln!(text, "{} is up in the namespace {namespace} ({context}); {error}", profile.name);
        }
        (None, Ok(_)) => {}
    }
    let _ = writeln!(
        text,
        "load it with `scalekit bench --target k8s -p {name}`, end it with `scalekit deploy down --target k8s -p {name}`"
    );
    print(&text)?;
    Ok(ExitStatus::Done)
}

/// How the service of a deployment is reached from here.
pub(super) struct Reach {
    pub(super) url: String,
    /// The API first.
    pub(super) roles: Vec<Role>,
    pub(super) forwards: Vec<Forward>,
    /// On the disk of its MongoDB.
    pub(super) cap: Option<Facts>,
}

/// The API by the way that users take; the counters of the worker through the cluster's API.
///
/// # Errors
/// Nothing is deployed, or it is not reached from here.
pub(super) async fn reach(profile: &Profile, from: From) -> anyhow::Result<Reach> {
    let cluster = to(profile).await?;
    let addresses = cluster::addresses(&cluster, profile, from).await?;
    tell(addresses.note.as_slice());
    let scheme = if profile.deploy.tls.is_some() { "https" } else { "http" };
    let (mut roles, mut forwards) = (Vec::new(), Vec::new());
    if !addresses.pods.iter().any(|(component, _)| *component == addresses.component) {
        roles.push(Role { name: addresses.component, url: addresses.url.clone() });
    }
    for (component, pod) in addresses.pods {
        let forward = cluster::forward(&cluster, &pod, profile.deploy.kubernetes.port).await?;
        let url = format!("{scheme}://{}", forward.address);
        // The first of a component goes by its name alone.
        let count = roles.iter().filter(|role| role.name.starts_with(&component)).count();
        let name = if count == 0 { component } else { format!("{component}-{}", count + 1) };
        roles.push(Role { name, url });
        forwards.push(forward);
    }
    let cap = cluster::cap(&cluster, profile).await?;
    Ok(Reach { url: addresses.url, roles, forwards, cap })
}

/// Agents in the cluster, and how a coordinator reaches them.
pub(super) struct Agents {
    fleet: Fleet,
    pub(super) addresses: Vec<AgentAddress>,
    pub(super) token: Token,
}

impl Agents {
    /// `length`: of the load that they are for.
    ///
    /// # Errors
    /// They do not come up, or the interruption; nothing stays of them then.
    pub(super) async fn raise(
        profile: &Profile,
        count: u16,
        length: Duration,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let text = kubernetes::password()?;
        let token = Token::parse(&text).map_err(anyhow::Error::msg)?;
        let deploy = &profile.deploy;
        let lifetime = length + deploy.kubernetes.ready_timeout * 2 + deploy.drain_timeout + SPARE;
        let cluster = to(profile).await?;
        let size = Size { count, lifetime };
        let fleet = Fleet::raise(&cluster, profile, size, &text, &interrupt.stop).await?;
        let named = |address| AgentAddress { address, location: "--agents".to_owned() };
        let addresses = fleet.addresses().into_iter().map(named).collect();
        Ok(Self { fleet, addresses, token })
    }

    /// What is in their way is told; they end by themselves after a while.
    pub(super) async fn remove(self) {
        if let Err(error) = self.fleet.remove().await {
            eprintln!("warning: the agents in the cluster are not removed: {error}");
        }
    }
}

/// What was done, a line for each way.
fn summary(applied: &Applied) -> String {
    if applied.is_nothing() {
        return "nothing to change".to_owned();
    }
    let mut lines = Vec::new();
    for (way, titles) in [
        ("created", &applied.created),
        ("changed", &applied.changed),
        ("removed", &applied.removed),
        ("unchanged", &applied.unchanged),
    ] {
        if !titles.is_empty() {
            lines.push(format!("{way}: {}", titles.join(", ")));
        }
    }
    lines.join("\n")
}

/// What is done with a deployment that is there.
pub(super) fn act(global: &Global, profile: &Profile, action: &DeployAction) -> anyhow::Result<ExitStatus> {
    control_runtime()?.block_on(async {
        let interrupt = Interrupt::listen()?;
        let cluster = to(profile).await?;
        match action {
            DeployAction::Status(_) => status(global, &cluster::status(&cluster, profile).await?),
            DeployAction::Logs { names, lines, follow } => {
                let request = LogRequest { names, lines: *lines, follow: *follow };
                logs(&cluster, profile, request, &interrupt).await
            }
            DeployAction::Down { purge } => down(global, &cluster, profile, *purge, &interrupt).await,
        }
    })
}

/// Exit status 1 if any part of it is not ready.
fn status(global: &Global, status: &Status) -> anyhow::Result<ExitStatus> {
    if global.json {
        print(&format!("{}\n", serde_json::to_string(status)?))?;
    } else {
        let Status { instance, namespace, context, parts, pods, cap } = status;
        let mut text = format!("{instance} in the namespace {namespace} ({context})\n");
        let all = || parts.iter().chain(pods);
        let width = all().map(|part| part.kind.len() + part.name.len() + 1).max().unwrap_or(0);
        for part in all() {
            let title = format!("{} {}", part.kind, part.name);
            let ready = if part.ready { "ready" } else { "NOT READY" };
            let line = format!("  {title:<width$}  {ready:<9}  {}", part.state);
            let _ = writeln!(text, "{}", line.trim_end());
        }
        if let Some(cap) = cap {
            let _ = writeln!(text, "  cap on the database's disk: {}", cap::line(cap));
        }
        print(&text)?;
    }
    Ok(if status.is_ready() { ExitStatus::Done } else { ExitStatus::Failed })
}

/// Ends with the interruption, which is how one leaves a log that is followed.
async fn logs(
    cluster: &Cluster,
    profile: &Profile,
    request: LogRequest<'_>,
    interrupt: &Interrupt,
) -> anyhow::Result<ExitStatus> {
    let mut outcome = Ok(());
    let take = |line: cluster::LogLine| {
        outcome = print(&format!("{}: {}\n", line.origin, line.text));
        outcome.is_ok()
    };
    let stopped = async {
        while !interrupt.requested() {
            tokio::time::sleep(TICK).await;
        }
    };
    tokio::select! {
        ended = cluster::logs(cluster, profile, request, take) => ended?,
        () = stopped => {}
    }
    outcome?;
    Ok(ExitStatus::Done)
}

async fn down(
    global: &Global,
    cluster: &Cluster,
    profile: &Profile,
    purge: bool,
    interrupt: &Interrupt,
) -> anyhow::Result<ExitStatus> {
    let left = cluster::down(cluster, profile, purge, &interrupt.stop).await?;
    if global.json {
        let facts = json!({ "profile": profile.name, "removed": left.removed, "kept": left.kept });
        print(&format!("{facts}\n"))?;
        return Ok(ExitStatus::Done);
    }
    let mut text =
        format!("{} is down; removed: {}\n", kubernetes::instance(profile), left.removed.join(", "));
    if !left.kept.is_empty() {
        let _ = writeln!(
            text,
            "its data and the passwords of it stay: {}; `--purge` removes them too",
            left.kept.join(", ")
        );
    }
    let _ = writeln!(
        text,
        "the namespace {0} stays, since others may live there; `kubectl delete namespace {0}` removes it with all that is \
         in it",
        cluster.namespace
    );
    print(&text)?;
    Ok(ExitStatus::Done)
}
