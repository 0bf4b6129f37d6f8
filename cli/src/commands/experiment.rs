//! One experiment: seed, load, drain, audit, and the facts of it as a report.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use scalekit_service::authorities::Authorities;
use scalekit_service::contract::Stats;
use scalekit_service::server_url::ServerUrl;
use scalekit_service::store::Stamp;
use scalekit_service::store::mongo::Mongo;

use super::control::{Drained, Service};
use super::device::{self, Device, DeviceReader, DeviceRun, Readings};
use super::interrupt::Interrupt;
use super::loading::Loaded;
use super::sampler::{Sample, Sampler};
use super::subject::Subject;
use super::watching::{Servers, Watched, Watching};
use super::{crowd, facts};
use crate::agent::{AgentRun, Crowd};
use crate::audit::{Audit, Findings};
use crate::criteria::{Criterion, Spec};
use crate::load::{self, Plan, Recording, Scenario};
use crate::profile::{Profile, ScenarioKind};
use crate::report::{Aborted, Report, RunFolder};

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
    pub(super) mongo: Option<Documents>,
    pub(super) interrupt: &'a Interrupt,
    /// Where its latencies are logged while it lasts.
    pub(super) folder: &'a RunFolder,
    /// Who makes the load; `None`: this process.
    pub(super) crowd: Option<Crowd>,
    /// Whose host is sampled; `None`: of whoever listens where the load goes.
    pub(super) subject: Option<Subject>,
    /// The servers whose counters are read beside it.
    pub(super) servers: Servers,
    /// The database's device, where this host can read it.
    pub(super) device: Option<Device>,
}

/// A database that the audit reads itself.
pub(super) struct Documents {
    pub(super) url: ServerUrl,
    pub(super) database: String,
    pub(super) authorities: Option<Authorities>,
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
    /// When the load began.
    pub(super) began: Instant,
    /// The database's device during the load; `None`: it could not be read.
    pub(super) device: Option<DeviceRun>,
    /// Counters of the service's host during the load; `None`: they could not be sampled.
    pub(super) watched: Option<Watched>,
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

impl Measured {
    /// Operations of the database's device: as this host reads them, or else as the service tells.
    pub(super) fn iops(&self) -> Cow<'_, Readings> {
        match &self.device {
            Some(device) if device.reads() => Cow::Borrowed(&device.readings),
            _ => Cow::Owned(device::told(self.began, &self.samples)),
        }
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
        let subject = self.subject.clone().unwrap_or_else(|| Subject::loaded(&plan.target));
        let watching = Watching::start(subject, self.servers.clone(), self.crowd.is_none()).await;
        let sampled_since = Instant::now();
        let sampler = service.cloned().map(Sampler::start);
        let device = self.device.clone().map(DeviceReader::start);
        let Loaded { plan, recording, aborted, agents, began } = self.load(plan).await?;
        caveats(&recording);
        let watched = async {
            match watching {
                Some(watching) => watching.finish().await,
                None => None,
            }
        };
        let (loaded, watched) = tokio::join!(stats(service), watched);
        let device = match device {
            Some(device) => Some(device.finish().await),
            None => None,
        };
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
            began,
            device,
            watched,
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
            Some(Documents { url, database, authorities }) => {
                let mongo = Mongo::open(url, database, authorities.as_ref()).await?;
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

/// The samples as of the beginning of the load, which was so long after the first.
fn since(delay: Duration, mut samples: Vec<Sample>) -> Vec<Sample> {
    samples.iter_mut().for_each(|sample| sample.at = sample.at.saturating_sub(delay));
    samples
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
