//! The coordinator: deals a plan out to agents, lets them begin together, follows them, unites what they measured.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinSet;

use super::client::{AgentError, Client};
use super::clock::{Clocks, Offset};
use super::follow::{Followed, Times, follow_all};
use super::judging::Judging;
use super::protocol::Assignment;
use super::token::Token;
use crate::load::{self, Observer, Plan, Recording, Watch};

/// From the word to start until the start: time for the word to reach everybody.
const START_LEAD: Duration = Duration::from_secs(1);
/// An agent may take this much longer than its plan says.
const GRACE: Duration = Duration::from_secs(60);

/// Agents that are there and willing.
#[derive(Debug)]
pub(crate) struct Crowd {
    members: Vec<Member>,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) client: Client,
    name: String,
}

/// What all agents together measured.
#[derive(Debug)]
pub(crate) struct Conducted {
    pub(crate) recording: Recording,
    /// In the order in which they were named.
    pub(crate) agents: Vec<AgentRun>,
    /// Generator threads of all.
    pub(crate) threads: usize,
    /// The common start, by this machine's clock.
    pub(crate) began: Instant,
}

/// One agent's part.
#[derive(Debug)]
pub(crate) struct AgentRun {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) users: u32,
    /// The agent's wall clock less this machine's, in nanoseconds.
    pub(crate) clock_offset_nanos: i64,
    /// How far that may be wrong.
    pub(crate) clock_uncertainty: Duration,
    /// How long after the common start it began, by its own clock.
    pub(crate) late: Duration,
    /// Without its series and its ledger, which are in the whole. `None`: it was lost.
    pub(crate) recording: Option<Recording>,
    /// Why its users are missing, wholly or in part.
    pub(crate) problem: Option<String>,
}

/// An agent that has its part and waits for the start.
#[derive(Clone, Debug)]
pub(super) struct Assigned {
    pub(super) member: Member,
    pub(super) run: String,
    threads: usize,
    pub(super) users: u32,
    offset: Offset,
}

impl Crowd {
    /// Makes sure that every agent is there, of this version, and lets us in.
    ///
    /// # Errors
    /// The first that is not.
    pub(crate) async fn gather(addresses: &[&str], token: Option<&Token>) -> Result<Self, AgentError> {
        let clients = addresses.iter().map(|address| Client::new(address, token.cloned()));
        let clients = clients.collect::<Result<Vec<_>, _>>()?;
        let members = all(clients.into_iter().map(|client| async move {
            let about = client.about().await?;
            Ok(Member { client, name: about.name })
        }));
        Ok(Self { members: successes(members.await)? })
    }

    /// The number of agents.
    pub(crate) fn size(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }

    /// Carries a plan out. `threads` for each agent; `None` leaves it to them. Setting `stop` ends it early, and so
    /// does what `watch` breaks, which is marked as cut short; an agent that is lost ends it, too, and what the
    /// others have measured until then is returned.
    ///
    /// # Errors
    /// An agent cannot take its part or cannot start in time: then none makes any load.
    pub(crate) async fn conduct(
        &self,
        plan: &Plan,
        threads: Option<usize>,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
        watch: Option<Watch<'_>>,
    ) -> Result<Conducted, AgentError> {
        let clocks = Clocks::start();
        let watched = watch.as_ref().map(|watch| watch.trends.iter().map(|&name| name.to_owned()).collect());
        let assigned = self.assign(plan, threads, watched, clocks).await?;
        let began = match start(&assigned, clocks).await {
            Ok(began) => began,
            Err(error) => {
                forget(assigned).await;
                return Err(error);
            }
        };
        let end = began + plan.warmup + plan.duration;
        let times = Times { end, deadline: end + plan.timeout + GRACE };
        observer.began(SystemTime::now() + began.saturating_duration_since(Instant::now()));
        let judging = Judging::new(watch, plan.duration, assigned.len());
        let followed = follow_all(&assigned, times, stop, observer, judging).await;
        forget(assigned.clone()).await;
        Ok(unite(assigned, followed, began))
    }

    /// Gives each agent its part, and finds out how its clocks stand.
    async fn assign(
        &self,
        plan: &Plan,
        threads: Option<usize>,
        watched: Option<Vec<String>>,
        clocks: Clocks,
    ) -> Result<Vec<Assigned>, AgentError> {
        let parts = self.members.iter().cloned().zip(0..).map(|(member, index)| {
            let part = plan.share(index, self.size());
            let users = part.own_users();
            let assignment = Assignment { plan: part, threads, watched: watched.clone() };
            async move {
                let assigned = member.client.assign(assignment).await?;
                Ok(Assigned {
                    member,
                    run: assigned.run,
                    threads: assigned.threads,
                    users,
                    offset: Offset::default(),
                })
            }
        });
        let mut assigned = succeed_or_forget(all(parts).await).await?;
        // All at once: that may delay some answers, but the quickest of many is what counts.
        let compared = assigned.iter().map(|agent| agent.member.client.clone());
        let offsets = all(compared.map(|client| async move { client.offset(clocks).await })).await;
        match successes(offsets) {
            Ok(offsets) => {
                assigned.iter_mut().zip(offsets).for_each(|(agent, offset)| agent.offset = offset);
                Ok(assigned)
            }
            Err(error) => {
                forget(assigned).await;
                Err(error)
            }
        }
    }
}

/// Names one instant to all, each in its own clock.
async fn start(assigned: &[Assigned], clocks: Clocks) -> Result<Instant, AgentError> {
    let slowest = assigned.iter().map(|agent| agent.offset.uncertainty).max().unwrap_or_default();
    let lead = START_LEAD + 8 * slowest;
    let began = Instant::now() + lead;
    let at = clocks.read().monotonic_nanos.saturating_add(i64::try_from(lead.as_nanos()).unwrap_or(i64::MAX));
    // In the other half of the lead they can still be called back before any of them makes load.
    let patience = lead / 2;
    let told = assigned.iter().cloned().map(|agent| async move {
        let at = at.saturating_add(agent.offset.monotonic_nanos);
        agent.member.client.start(&agent.run, at, patience).await
    });
    successes(all(told).await).map(|_| began)
}

fn unite(assigned: Vec<Assigned>, followed: Followed, began: Instant) -> Conducted {
    let Followed { mut ends, series, was_judged } = followed;
    let threads = assigned.iter().map(|agent| agent.threads).sum();
    let is_whole = ends.iter().all(|end| end.recording.is_some());
    let parts: Vec<&mut Recording> = ends.iter_mut().filter_map(|end| end.recording.as_deref_mut()).collect();
    let mut recording = load::unite(parts, series.finish(), is_whole);
    if was_judged {
        // To an agent, being stopped by the judge is being stopped.
        recording.cut_short = std::mem::take(&mut recording.interrupted);
    }
    let agents = assigned
        .into_iter()
        .zip(ends)
        .map(|(agent, end)| AgentRun {
            name: agent.member.name,
            address: agent.member.client.address,
            users: agent.users,
            clock_offset_nanos: agent.offset.wall_nanos,
            clock_uncertainty: agent.offset.uncertainty,
            late: end.late,
            recording: end.recording.map(|recording| *recording),
            problem: end.problem,
        })
        .collect();
    Conducted { recording, agents, threads, began }
}

/// Runs all at once; results in order.
async fn all<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    tasks: impl Iterator<Item = F>,
) -> Vec<T> {
    let mut set = JoinSet::new();
    for (index, task) in tasks.enumerate() {
        set.spawn(async move { (index, task.await) });
    }
    let mut results = Vec::new();
    while let Some(result) = set.join_next().await {
        match result {
            Ok(result) => results.push(result),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Nobody cancels them but the end of the runtime.
            Err(_) => {}
        }
    }
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn successes<T>(results: Vec<Result<T, AgentError>>) -> Result<Vec<T>, AgentError> {
    results.into_iter().collect()
}

/// All of them, or the first error; then those that succeeded are set free.
async fn succeed_or_forget(results: Vec<Result<Assigned, AgentError>>) -> Result<Vec<Assigned>, AgentError> {
    let (mut assigned, mut first_error) = (Vec::new(), None);
    for result in results {
        match result {
            Ok(agent) => assigned.push(agent),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    match first_error {
        None => Ok(assigned),
        Some(error) => {
            forget(assigned).await;
            Err(error)
        }
    }
}

/// Leaves agents idle; one that cannot be told finds out by itself.
async fn forget(assigned: Vec<Assigned>) {
    let told = assigned.into_iter().map(|agent| async move {
        if let Err(error) = agent.member.client.forget(&agent.run).await {
            tracing::debug!("{error}");
        }
    });
    all(told).await;
}
