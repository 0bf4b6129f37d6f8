//! The coordinator: deals a plan out to agents, lets them begin together, follows them, unites what they measured.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client::{AgentError, Client};
use super::clock::{Clocks, Offset};
use super::protocol::{Progress, Stage};
use super::token::Token;
use crate::load::{self, Plan, Recording, SeriesBuilder, Tick};

/// From the word to start until the start: time for the word to reach everybody.
const START_LEAD: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_secs(1);
/// How soon an agent that was told to stop is asked for what it has.
const STOP_POLL: Duration = Duration::from_millis(100);
/// How soon Ctrl-C is noticed.
const STOP_CHECK: Duration = Duration::from_millis(100);
/// An agent that cannot be asked for this long is lost.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// An agent may take this much longer than its plan says.
const GRACE: Duration = Duration::from_secs(60);
const QUEUED_EVENTS: usize = 256;

/// Agents that are there and willing.
#[derive(Debug)]
pub(crate) struct Crowd {
    members: Vec<Member>,
}

#[derive(Clone, Debug)]
struct Member {
    client: Client,
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
    /// How far the common start may have been missed.
    pub(crate) clock_uncertainty: Duration,
    /// Without its series and its ledger, which are in the whole. `None`: it was lost.
    pub(crate) recording: Option<Recording>,
    /// Why its users are missing, wholly or in part.
    pub(crate) problem: Option<String>,
}

/// An agent that has its part and waits for the start.
#[derive(Clone, Debug)]
struct Assigned {
    member: Member,
    run: String,
    threads: usize,
    users: u32,
    offset: Offset,
}

impl Crowd {
    /// Makes sure that every agent is there, of this version, and lets us in.
    ///
    /// # Errors
    /// The first that is not.
    pub(crate) async fn gather(addresses: &[String], token: Option<&Token>) -> Result<Self, AgentError> {
        let clients = addresses.iter().enumerate().map(|(place, address)| {
            if addresses[..place].contains(address) {
                return Err(AgentError::Twice { address: address.clone() });
            }
            Client::new(address, token.cloned())
        });
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

    /// Carries a plan out. `threads` for each agent; `None` leaves it to them. Setting `stop` ends it early; an
    /// agent that is lost ends it, too, and what the others have measured until then is returned.
    ///
    /// # Errors
    /// An agent cannot take its part or cannot start in time: then none makes any load.
    pub(crate) async fn conduct(
        &self,
        plan: &Plan,
        threads: Option<usize>,
        stop: &AtomicBool,
        on_tick: &mut dyn FnMut(&Tick),
    ) -> Result<Conducted, AgentError> {
        let clocks = Clocks::start();
        let assigned = self.assign(plan, threads, clocks).await?;
        let began = match start(&assigned, clocks).await {
            Ok(began) => began,
            Err(error) => {
                forget(assigned).await;
                return Err(error);
            }
        };
        let deadline = began + plan.warmup + plan.duration + plan.timeout + GRACE;
        let (ends, series) = follow_all(&assigned, deadline, stop, on_tick).await;
        let threads = assigned.iter().map(|agent| agent.threads).sum();
        forget(assigned.clone()).await;
        Ok(unite(assigned, ends, series, threads, began))
    }

    /// Gives each agent its part, and finds out how its clocks stand.
    async fn assign(
        &self,
        plan: &Plan,
        threads: Option<usize>,
        clocks: Clocks,
    ) -> Result<Vec<Assigned>, AgentError> {
        let parts = self.members.iter().cloned().zip(0..).map(|(member, index)| {
            let part = plan.share(index, self.size());
            async move {
                let users = part.own_users();
                let assigned = member.client.assign(part, threads).await?;
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
    let told = assigned.iter().cloned().map(|agent| async move {
        agent.member.client.start(&agent.run, at.saturating_add(agent.offset.monotonic_nanos)).await
    });
    successes(all(told).await).map(|_| began)
}

/// How an agent's part ended.
struct End {
    recording: Option<Box<Recording>>,
    /// Why its users are missing, wholly or in part.
    problem: Option<String>,
}

impl End {
    fn lost(problem: impl Into<String>) -> Self {
        Self { recording: None, problem: Some(problem.into()) }
    }
}

/// What an agent's follower tells.
enum Event {
    Progress(Progress),
    /// Its last word.
    End(End),
}

/// Follows all agents to the end.
async fn follow_all(
    assigned: &[Assigned],
    deadline: Instant,
    stop: &AtomicBool,
    on_tick: &mut dyn FnMut(&Tick),
) -> (Vec<End>, SeriesBuilder) {
    let end_early = CancellationToken::new();
    let (sender, mut events) = mpsc::channel(QUEUED_EVENTS);
    let mut followers = JoinSet::new();
    for (index, agent) in assigned.iter().cloned().enumerate() {
        followers.spawn(follow(index, agent, deadline, end_early.clone(), sender.clone()));
    }
    drop(sender);
    let mut series = SeriesBuilder::new(assigned.len());
    let mut ticks: Vec<Option<Tick>> = vec![None; assigned.len()];
    let mut ends: Vec<_> = assigned.iter().map(|_| End::lost("its follower ended abnormally")).collect();
    loop {
        if stop.load(Ordering::Relaxed) {
            end_early.cancel();
        }
        let event = tokio::time::timeout(STOP_CHECK, events.recv());
        let (index, event) = match event.await {
            Err(_) => continue,
            Ok(None) => return (ends, series),
            Ok(Some(event)) => event,
        };
        match event {
            Event::Progress(progress) => {
                for second in progress.seconds {
                    series.add(index, second);
                }
                ticks[index] = progress.tick.or(ticks[index]);
                if let Some(tick) = together(&ticks, series.last_p95()) {
                    on_tick(&tick);
                }
            }
            Event::End(end) => {
                // Without all of its users the load is not what was asked for: no use in going on.
                if end.problem.is_some() {
                    end_early.cancel();
                }
                ends[index] = end;
            }
        }
    }
}

/// Asks one agent how it gets on until it is over, and fetches its recording.
async fn follow(
    index: usize,
    agent: Assigned,
    deadline: Instant,
    end_early: CancellationToken,
    events: mpsc::Sender<(usize, Event)>,
) {
    let end = match watch(index, &agent, deadline, &end_early, &events).await {
        Ok(recording) => {
            let by_itself = recording.interrupted && !end_early.is_cancelled();
            let problem = by_itself.then(|| "it was stopped on its own machine before the end".to_owned());
            End { recording: Some(recording), problem }
        }
        Err(problem) => End::lost(problem),
    };
    // The receiver waits until the last sender is gone.
    let _ = events.send((index, Event::End(end))).await;
}

async fn watch(
    index: usize,
    agent: &Assigned,
    deadline: Instant,
    end_early: &CancellationToken,
    events: &mpsc::Sender<(usize, Event)>,
) -> Result<Box<Recording>, String> {
    let client = &agent.member.client;
    let (mut heard, mut from, mut is_told) = (Instant::now(), 0, false);
    loop {
        if end_early.is_cancelled() && !is_told {
            is_told = client.stop(&agent.run).await.is_ok();
            if !is_told {
                tokio::time::sleep(STOP_POLL).await;
            }
        }
        let result = match client.progress(&agent.run, from).await {
            Ok(progress) => {
                heard = Instant::now();
                // Seconds that were told before are told again if the last answer was lost on its way.
                let missed = progress.from.saturating_sub(from);
                if missed > 0 {
                    tracing::warn!(agent = client.address, missed, "seconds of the series are missing");
                }
                from = progress.from.saturating_add(progress.seconds.len() as u64);
                let (stage, is_last) = (progress.stage.clone(), progress.seconds.is_empty());
                let _ = events.send((index, Event::Progress(progress))).await;
                match stage {
                    Stage::Failed(reason) => return Err(reason),
                    // The rest of the seconds first.
                    Stage::Done if !is_last => continue,
                    Stage::Done => client.recording(&agent.run).await.map(Some),
                    _ => Ok(None),
                }
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(Some(recording)) => return sound(agent, recording),
            Ok(None) => {}
            Err(error) if error.is_passing() && heard.elapsed() < LOST_AFTER => {}
            Err(error) => return Err(reason_of(&error)),
        }
        if Instant::now() > deadline {
            return Err("it did not end in time".to_owned());
        }
        tokio::select! {
            () = tokio::time::sleep(if is_told { STOP_POLL } else { POLL }) => {}
            () = end_early.cancelled(), if !is_told => {}
        }
    }
}

/// A recording that is not of the agent's users would spoil the others'.
fn sound(agent: &Assigned, recording: Recording) -> Result<Box<Recording>, String> {
    let (of, ledger) = (recording.users_requested, recording.ledger.users());
    if of == agent.users && ledger == agent.users {
        return Ok(Box::new(recording));
    }
    Err(format!("its recording is of {of} users with the ledgers of {ledger}, expected {}", agent.users))
}

/// What went wrong, without the help that is of no use any more.
fn reason_of(error: &AgentError) -> String {
    let text = error.to_string();
    text.split('\n').next().unwrap_or_default().to_owned()
}

/// The live figures of all, once there are any of each.
fn together(ticks: &[Option<Tick>], p95: Option<Duration>) -> Option<Tick> {
    let mut ticks = ticks.iter();
    let first = (*ticks.next()?)?;
    let mut sum = Tick { p95, ..first };
    for tick in ticks {
        let tick = (*tick)?;
        sum.phase = sum.phase.min(tick.phase);
        sum.elapsed = sum.elapsed.max(tick.elapsed);
        sum.users = sum.users.saturating_add(tick.users);
        sum.requests = sum.requests.saturating_add(tick.requests);
        sum.failed = sum.failed.saturating_add(tick.failed);
        sum.requests_per_second += tick.requests_per_second;
    }
    Some(sum)
}

fn unite(
    assigned: Vec<Assigned>,
    ends: Vec<End>,
    series: SeriesBuilder,
    threads: usize,
    began: Instant,
) -> Conducted {
    let is_whole = ends.iter().all(|end| end.recording.is_some());
    let mut ends: Vec<(Option<Recording>, Option<String>)> =
        ends.into_iter().map(|end| (end.recording.map(|recording| *recording), end.problem)).collect();
    let parts: Vec<&mut Recording> =
        ends.iter_mut().filter_map(|(recording, _)| recording.as_mut()).collect();
    let recording = load::unite(parts, series.finish(), is_whole);
    let agents = assigned
        .into_iter()
        .zip(ends)
        .map(|(agent, (recording, problem))| AgentRun {
            name: agent.member.name,
            address: agent.member.client.address,
            users: agent.users,
            clock_offset_nanos: agent.offset.wall_nanos,
            clock_uncertainty: agent.offset.uncertainty,
            recording,
            problem,
        })
        .collect();
    Conducted { recording, agents, threads, began }
}

/// Runs all at once; results in order. One whose task ended abnormally is missing.
async fn all<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    tasks: impl Iterator<Item = F>,
) -> Vec<T> {
    let mut set = JoinSet::new();
    for (index, task) in tasks.enumerate() {
        set.spawn(async move { (index, task.await) });
    }
    let mut results = Vec::new();
    while let Some(result) = set.join_next().await {
        results.extend(result.ok());
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
