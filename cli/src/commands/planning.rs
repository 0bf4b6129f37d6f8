//! From a profile to the plan of its load.

use std::path::PathBuf;
use std::sync::Arc;

use crate::load::{
    self, Arrivals, Check, ConnectOptions, Connecting, Data, Plan, Scenario, Share, Stage, Step, Target,
    TlsOptions,
};
use crate::profile::{self, Profile, ScenarioKind, StepSpec};

/// The plan of a profile's load against `url`; everything that can be known to fail is known after this.
pub(super) fn plan(profile: &Profile, url: &str, token: &str) -> Result<Plan, load::PlanError> {
    let plan = draft(profile, url, token)?;
    plan.check()?;
    Ok(plan)
}

/// The same for a load that `agents` machines make; whether each can carry its part is theirs to say.
pub(super) fn plan_for_agents(
    profile: &Profile,
    url: &str,
    token: &str,
    agents: u32,
) -> Result<Plan, load::PlanError> {
    let plan = draft(profile, url, token)?;
    // The last one's part is the smallest.
    plan.share(agents.saturating_sub(1), agents).check_bounds()?;
    Ok(plan)
}

fn draft(profile: &Profile, url: &str, token: &str) -> Result<Plan, load::PlanError> {
    let spec = &profile.load;
    let transactions = &spec.transactions;
    // The profile bounds both to 64.
    let count = |count: u32| u8::try_from(count).unwrap_or(u8::MAX);
    let scenario = match spec.scenario {
        ScenarioKind::Transactions => Scenario::Transactions {
            run: token.to_owned(),
            items: transactions.items,
            item_collection: transactions.item_collection.clone(),
            write_collection: transactions.write_collection.clone(),
            reads: count(transactions.reads),
            writes: count(transactions.writes),
        },
        ScenarioKind::Request => Scenario::request(
            &spec.request.method,
            spec.request.headers.clone(),
            spec.request.body.as_deref().unwrap_or_default(),
        ),
        ScenarioKind::Steps => Scenario::Steps(spec.steps.iter().map(step).collect()),
    };
    // Half of the cores: the service under test is often on the same machine.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = spec.threads.map_or((cores / 2).max(1), |threads| threads as usize);
    let target = Target::parse(url)?;
    let connecting = Connecting::new(&connect_options(spec), &target)?;
    Ok(Plan {
        connecting,
        target,
        scenario,
        users: spec.vus,
        arrivals: match (spec.rate_per_s, spec.pacing) {
            (Some(rate), _) => Arrivals::Rate(rate),
            (None, Some(every)) => Arrivals::Every(every),
            (None, None) => Arrivals::Think,
        },
        stages: spec
            .stages
            .iter()
            .map(|stage| Stage { duration: stage.duration, target: stage.target })
            .collect(),
        iterations: spec.iterations,
        seed: spec.seed,
        data: spec.data.as_deref().map(|path| Data::read(path).map(Arc::new)).transpose()?,
        authorization: None,
        cookies: spec.cookies,
        share: Share::ALL,
        think_time: spec.think_time,
        warmup: spec.warmup,
        duration: spec.duration,
        timeout: spec.timeout,
        threads,
    })
}

fn step(spec: &StepSpec) -> Step {
    let mut checks = Vec::new();
    if !spec.status.is_empty() {
        checks.push(Check::Status(spec.status.clone()));
    }
    checks.extend(spec.body_contains.clone().map(Check::BodyContains));
    Step {
        name: spec.name.clone(),
        method: spec.request.method.clone(),
        path: spec.path.clone(),
        headers: spec.request.headers.clone(),
        body: spec.request.body.clone().unwrap_or_default(),
        checks,
        think_time: spec.think_time,
    }
}

fn connect_options(spec: &profile::Load) -> ConnectOptions {
    ConnectOptions {
        reuse: spec.connection_reuse,
        local_ips: spec.local_ips.clone(),
        http: match spec.http {
            profile::HttpVersion::Auto => load::HttpVersion::Auto,
            profile::HttpVersion::Http1 => load::HttpVersion::Http1,
            profile::HttpVersion::Http2 => load::HttpVersion::Http2,
        },
        tls: tls_options(spec),
    }
}

/// What users, and this tool's own questions, trust.
pub(super) fn tls_options(spec: &profile::Load) -> TlsOptions {
    TlsOptions {
        ca: spec.tls.ca.as_ref().map(PathBuf::from),
        insecure_skip_verify: spec.tls.insecure_skip_verify,
    }
}
