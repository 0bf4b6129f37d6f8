//! One experiment: seed, load, drain, audit, and the facts of it as a report.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, anyhow};
use scalekit_service::contract::Stats;
use scalekit_service::store::Stamp;
use scalekit_service::store::mongo::Mongo;

use super::control::{Drained, Service};
use super::interrupt::Interrupt;
use super::latency_log::LatencyLog;
use super::live::LiveJudge;
use super::progress::Progress;
use super::sampler::{Sample, Sampler};
use super::{crowd, facts};
use crate::agent::{AgentRun, Conducted, Crowd};
use crate::audit::{Audit, Findings};
use crate::criteria::{Criterion, Spec};
use crate::load::{
    self, Arrivals, Check, ConnectOptions, Connecting, Data, Interval, Observer, Plan, Recording, Scenario,
    Share, Stage, Step, Target, TlsOptions, Watch,
};
use crate::profile::{self, Profile, ScenarioKind, StepSpec};
use crate::report::{Aborted, INTERVAL_LOG, Report, RunFolder};

/// After an interruption the journal gets this long to empty.
const INTERRUPTED_DRAIN: Duration = Duration::from_secs(10);

/// What is to be done, checked.
pub(super) struct Experiment<'a> {
    pub(super) profile: &'a Profile,
    pub(super) specs: Vec<Spec>,
    pub(super) criteria: &'a [Criterion],
    pub(super) run: RunName,
    /// The service under test, where it is scalekit's own.
    pub(super) service: Option<Service>,
    /// Where its documents are, if they can be read without it.
    pub(super) mongo: Option<(String, String)>,
    pub(super) interrupt: &'a Interrupt,
    /// Where its latencies are logged while it lasts.
    pub(super) folder: &'a RunFolder,
    /// Who makes the load; `None`: this process.
    pub(super) crowd: Option<Crowd>,
}

/// Names one run.
#[derive(Clone, Debug)]
pub(super) struct RunName {
    pub(super) started_at: SystemTime,
    /// Of the folder.
    pub(super) id: String,
    /// The prefix of its operation ids.
    pub(super) token: String,
}

impl RunName {
    pub(super) fn new() -> Self {
        let token: String = std::iter::repeat_with(|| {
            fastrand::choice(b"abcdefghijklmnopqrstuvwxyz0123456789").map_or('0', |&byte| char::from(byte))
        })
        .take(8)
        .collect();
        let started_at = SystemTime::now();
        Self { started_at, id: crate::report::run_id(started_at, &token), token }
    }
}

/// All that was learned, before it becomes a report.
pub(super) struct Measured {
    pub(super) recording: Recording,
    /// Those who made the load, if not this process.
    pub(super) agents: Vec<AgentRun>,
    /// The criterion that ended the load early.
    pub(super) aborted: Option<Aborted>,
    pub(super) samples: Vec<Sample>,
    /// Counters before the load, right after it, and at the end. Empty where there is no service of ours.
    pub(super) before: BTreeMap<String, Stats>,
    pub(super) loaded: BTreeMap<String, Stats>,
    pub(super) after: BTreeMap<String, Stats>,
    pub(super) drained: Option<Drained>,
    /// `Err` is why there was none.
    pub(super) audit: Option<Result<Findings, String>>,
    /// The load, or what had to follow it, was cut short by the user.
    pub(super) interrupted: bool,
    pub(super) took: Duration,
}

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
        tls: TlsOptions {
            ca: spec.tls.ca.as_ref().map(PathBuf::from),
            insecure_skip_verify: spec.tls.insecure_skip_verify,
        },
    }
}

impl Experiment<'_> {
    /// Carries it out. An interruption makes the results partial, not an error.
    pub(super) async fn conduct(self, plan: Plan) -> anyhow::Result<Report> {
        let started = Instant::now();
        let service = self.service.as_ref();
        if let (Some(service), ScenarioKind::Transactions) = (service, self.profile.load.scenario) {
            let spec = &self.profile.load.transactions;
            if spec.reads > 0 {
                let bodies = load::seed_requests(spec.items, &spec.item_collection);
                service.seed(bodies, || self.interrupt.requested()).await?;
            }
        }
        let before = stats(service).await;
        let sampled_since = Instant::now();
        let sampler = service.cloned().map(Sampler::start);
        let Loaded { plan, recording, aborted, agents, began } = self.load(plan).await?;
        caveats(&recording);
        let loaded = stats(service).await;
        let samples = match sampler {
            Some(sampler) => since(began.saturating_duration_since(sampled_since), sampler.finish().await),
            None => Vec::new(),
        };
        let mut drained = None;
        let mut audit = None;
        if let (Some(service), Scenario::Transactions { writes: 1.., .. }) = (service, &plan.scenario) {
            match self.drain(service).await {
                Ok(Drained::Empty) => {
                    drained = Some(Drained::Empty);
                    audit = match crowd::missing(&agents) {
                        Some(reason) => Some(Err(reason)),
                        None => self.audit(service, &plan, &recording).await,
                    };
                }
                // What is still in the journal is not lost, and nobody can tell it from what is.
                Ok(end) => drained = Some(end),
                Err(error) => audit = Some(Err(format!("{error:#}"))),
            }
        }
        let after = stats(service).await;
        let gave_up = self.interrupt.abandon.is_cancelled() && !matches!(audit, Some(Ok(_)));
        let interrupted = recording.interrupted || gave_up;
        let took = started.elapsed();
        let measured = Measured {
            recording,
            agents,
            aborted,
            samples,
            before,
            loaded,
            after,
            drained,
            audit,
            interrupted,
            took,
        };
        Ok(facts::report(self.profile, self.specs, &self.run, &plan, measured))
    }

    /// Makes the load, here or on agents.
    async fn load(&self, plan: Plan) -> anyhow::Result<Loaded> {
        match &self.crowd {
            None => {
                let plan = Arc::new(plan);
                let began = Instant::now();
                let (recording, aborted) = self.load_here(Arc::clone(&plan)).await?;
                Ok(Loaded { plan, recording, aborted, agents: Vec::new(), began })
            }
            Some(crowd) => {
                let threads = self.profile.load.threads.map(|threads| threads as usize);
                let mut display = Display::new(&plan, self.folder)?;
                let conducted = crowd.conduct(&plan, threads, &self.interrupt.stop, &mut display).await;
                display.finish(conducted.is_ok());
                let Conducted { recording, agents, threads, began } = conducted?;
                Ok(Loaded {
                    plan: Arc::new(Plan { threads, ..plan }),
                    recording,
                    aborted: None,
                    agents,
                    began,
                })
            }
        }
    }

    /// The generator has threads of its own, and this one waits for them beside the control plane's tasks.
    /// The criteria that may end it are judged on the way.
    async fn load_here(&self, plan: Arc<Plan>) -> anyhow::Result<(Recording, Option<Aborted>)> {
        let stop = Arc::clone(&self.interrupt.stop);
        let mut display = Display::new(&plan, self.folder)?;
        let mut live = LiveJudge::new(self.criteria);
        let task = tokio::task::spawn_blocking(move || {
            let recording = match &mut live {
                None => load::run(&plan, &stop, &mut display, None),
                Some(live) => {
                    let trends = live.trends();
                    let watch = Watch { trends: &trends, judge: &mut |running| live.judge(running) };
                    load::run(&plan, &stop, &mut display, Some(watch))
                }
            };
            display.finish(recording.is_ok());
            (recording, live)
        });
        let (recording, live) = task.await.map_err(|error| anyhow!("the load generator failed: {error}"))?;
        let recording = recording.context("the load generator failed")?;
        // Only what really cut the run short is told.
        let aborted = live.and_then(LiveJudge::finish).filter(|_| recording.cut_short);
        if let Some(aborted) = &aborted {
            eprintln!("{:>9} {aborted}", "stopped");
        }
        Ok((recording, aborted))
    }

    async fn drain(&self, service: &Service) -> anyhow::Result<Drained> {
        let patience = self.profile.deploy.drain_timeout;
        let patience = if self.interrupt.requested() { patience.min(INTERRUPTED_DRAIN) } else { patience };
        eprintln!("{:>9} until the journal is empty", "waiting");
        service.drain(patience, &self.interrupt.abandon).await
    }

    /// Looks every acknowledged write up. `None`: the user did not want to wait for it.
    async fn audit(
        &self,
        service: &Service,
        plan: &Plan,
        recording: &Recording,
    ) -> Option<Result<Findings, String>> {
        let Scenario::Transactions { write_collection, writes, .. } = &plan.scenario else {
            return Some(Err("only transactions can be audited".into()));
        };
        eprintln!("{:>9} every acknowledged write in the store", "looking up");
        let reading = self.read_back(service, write_collection, *writes, recording);
        tokio::select! {
            result = reading => Some(result.map_err(|error| format!("{error:#}"))),
            () = self.interrupt.abandon.cancelled() => None,
        }
    }

    async fn read_back(
        &self,
        service: &Service,
        collection: &str,
        writes: u8,
        recording: &Recording,
    ) -> anyhow::Result<Findings> {
        let token = &self.run.token;
        let mut audit = Audit::new(token, writes, &recording.ledger);
        let prefix = format!("{token}-");
        match &self.mongo {
            // Past the service: its word is not evidence where the database can be asked.
            Some((url, database)) => {
                let mongo = Mongo::connect(url, database).await?;
                let each = |stamp: Stamp| {
                    if !stamp.deleted {
                        audit.found(&stamp.id, &stamp.op_id);
                    }
                };
                mongo.scan_stamps(collection, &prefix, each).await?;
            }
            None => {
                let mut after: Option<String> = None;
                loop {
                    let page = service.audit_page(collection, &prefix, after.as_deref()).await?;
                    page.documents
                        .iter()
                        .filter(|found| !found.deleted)
                        .for_each(|found| audit.found(&found.id, &found.op));
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
            }
        }
        Ok(audit.finish())
    }
}

/// A load that was made.
struct Loaded {
    plan: Arc<Plan>,
    recording: Recording,
    /// The criterion that ended it early.
    aborted: Option<Aborted>,
    agents: Vec<AgentRun>,
    /// Agents need a moment from the word to the start.
    began: Instant,
}

/// The samples as of the beginning of the load, which was so long after the first.
fn since(delay: Duration, mut samples: Vec<Sample>) -> Vec<Sample> {
    samples.iter_mut().for_each(|sample| sample.at = sample.at.saturating_sub(delay));
    samples
}

/// Shows how the load gets on, and logs its latencies.
struct Display {
    progress: Progress,
    log: LatencyLog,
    warmup: Duration,
}

impl Display {
    fn new(plan: &Plan, folder: &RunFolder) -> anyhow::Result<Self> {
        let progress = Progress::new(plan.warmup + plan.duration);
        Ok(Self {
            progress,
            log: LatencyLog::create(folder, &plan.scenario.step_names())?,
            warmup: plan.warmup,
        })
    }

    /// Of a load that failed there is no log either.
    fn finish(self, loaded: bool) {
        self.progress.finish();
        if loaded && let Err(error) = self.log.finish() {
            eprintln!("note: {INTERVAL_LOG} could not be written: {error}");
        }
    }
}

impl Observer for Display {
    fn began(&mut self, at: SystemTime) {
        self.log.measured_since(at + self.warmup);
    }

    fn tick(&mut self, tick: &load::Tick) {
        self.progress.show(tick);
    }

    fn second(&mut self, second: Interval) {
        self.log.add(&second);
    }
}

/// What the figures do not show.
fn caveats(recording: &Recording) {
    for (count, what) in [
        (recording.aborted, "requests were under way when the run was stopped; they are in no figure"),
        (
            recording.series_gaps,
            "seconds of a generator thread are missing from the series and from latency.hlog, not from the totals",
        ),
    ] {
        if count > 0 {
            eprintln!("note: {count} {what}");
        }
    }
}

async fn stats(service: Option<&Service>) -> BTreeMap<String, Stats> {
    let Some(service) = service else { return BTreeMap::new() };
    match service.stats().await {
        Ok(stats) => stats,
        Err(error) => {
            tracing::warn!("the service's counters cannot be read: {error:#}");
            BTreeMap::new()
        }
    }
}
