//! Follows agents while they make load: asks each once a second, and tells them to stop when it is time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client::AgentError;
use super::crowd::Assigned;
use super::judging::Judging;
use super::protocol::{Progress, Stage};
use crate::load::{Observer, Recording, SeriesBuilder, Tick};

const POLL: Duration = Duration::from_secs(1);
/// How soon an agent that was told to stop is asked for what it has.
const STOP_POLL: Duration = Duration::from_millis(100);
/// How soon Ctrl-C is noticed.
const STOP_CHECK: Duration = Duration::from_millis(100);
/// An agent that cannot be asked for this long is lost.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// An agent that was told to stop has this long to end, which takes it a tenth of a second, and to encode what it has.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const QUEUED_EVENTS: usize = 256;

/// When the load is to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Of the measured part.
    pub(super) end: Instant,
    /// Whoever still makes load then will not end by itself.
    pub(super) deadline: Instant,
}

impl Times {
    /// Until an agent is asked again: soon after the end, so that what is counted until then is of the load.
    fn pause(self, now: Instant) -> Duration {
        POLL.min(self.end.saturating_duration_since(now)).max(STOP_POLL)
    }

    /// Whether an agent that has not ended will not end by itself. `told`: when it was told to stop.
    fn are_over(self, now: Instant, told: Option<Instant>) -> bool {
        now > self.deadline || told.is_some_and(|told| now.saturating_duration_since(told) > STOP_PATIENCE)
    }
}

/// How an agent's part ended.
pub(super) struct End {
    pub(super) recording: Option<Box<Recording>>,
    /// Why its users are missing, wholly or in part.
    pub(super) problem: Option<String>,
    /// How long after the common start it began, by its own clock.
    pub(super) late: Duration,
}

impl End {
    fn lost(problem: impl Into<String>) -> Self {
        Self { recording: None, problem: Some(problem.into()), late: Duration::ZERO }
    }
}

/// What an agent's follower tells.
enum Event {
    Progress(Box<Progress>),
    /// Its last word.
    End(End),
}

/// What came of following.
pub(super) struct Followed {
    /// In the order of the agents.
    pub(super) ends: Vec<End>,
    pub(super) series: SeriesBuilder,
    /// The judge ended it.
    pub(super) was_judged: bool,
}

/// Follows all agents to the end.
pub(super) async fn follow_all(
    assigned: &[Assigned],
    times: Times,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
    mut judging: Judging<'_>,
) -> Followed {
    let end_early = CancellationToken::new();
    let (sender, mut events) = mpsc::channel(QUEUED_EVENTS);
    let mut followers = JoinSet::new();
    for (index, agent) in assigned.iter().cloned().enumerate() {
        followers.spawn(follow(index, agent, times, end_early.clone(), sender.clone()));
    }
    drop(sender);
    let mut series = SeriesBuilder::new(assigned.len());
    let mut ticks: Vec<Option<Tick>> = vec![None; assigned.len()];
    let mut ends: Vec<_> = assigned.iter().map(|_| End::lost("its follower ended abnormally")).collect();
    let mut was_judged = false;
    loop {
        if stop.load(Ordering::Relaxed) {
            end_early.cancel();
        }
        let now = Instant::now();
        // After the measured part there is nothing left to cut short.
        if now < times.end && !end_early.is_cancelled() && judging.ends(now) {
            was_judged = true;
            end_early.cancel();
        }
        let event = tokio::time::timeout(STOP_CHECK, events.recv());
        let (index, event) = match event.await {
            Err(_) => continue,
            Ok(None) => {
                series.flush().into_iter().for_each(|second| observer.second(second));
                return Followed { ends, series, was_judged };
            }
            Ok(Some(event)) => event,
        };
        match event {
            Event::Progress(progress) => {
                for second in progress.seconds {
                    series.add(index, second).into_iter().for_each(|second| observer.second(second));
                }
                if let Some(figures) = progress.figures {
                    judging.hear(index, figures.running, Instant::now());
                }
                ends[index].late = progress.late;
                ticks[index] = progress.tick.or(ticks[index]);
                if let Some(tick) = together(&ticks, series.last_p95()) {
                    observer.tick(&tick);
                }
            }
            Event::End(end) => {
                // Without all of its users the load is not what was asked for: no use in going on.
                if end.problem.is_some() {
                    end_early.cancel();
                }
                judging.end(index);
                series.end(index).into_iter().for_each(|second| observer.second(second));
                ends[index] = End { late: ends[index].late, ..end };
            }
        }
    }
}

/// Asks one agent how it gets on until it is over, and fetches its recording.
async fn follow(
    index: usize,
    agent: Assigned,
    times: Times,
    end_early: CancellationToken,
    events: mpsc::Sender<(usize, Event)>,
) {
    let end = match watch(index, &agent, times, &end_early, &events).await {
        Ok(recording) => {
            let by_itself = recording.interrupted && !end_early.is_cancelled();
            let problem = by_itself.then(|| "it was stopped on its own machine before the end".to_owned());
            End { recording: Some(recording), problem, late: Duration::ZERO }
        }
        Err(problem) => End::lost(problem),
    };
    // The receiver waits until the last sender is gone.
    let _ = events.send((index, Event::End(end))).await;
}

async fn watch(
    index: usize,
    agent: &Assigned,
    times: Times,
    end_early: &CancellationToken,
    events: &mpsc::Sender<(usize, Event)>,
) -> Result<Box<Recording>, String> {
    let client = &agent.member.client;
    let (mut heard, mut from, mut figures, mut told) = (Instant::now(), 0, 0, None);
    loop {
        if times.are_over(Instant::now(), told) {
            return Err("it did not end in time".to_owned());
        }
        if end_early.is_cancelled() && told.is_none() {
            match client.stop(&agent.run).await {
                Ok(()) => told = Some(Instant::now()),
                Err(_) => tokio::time::sleep(STOP_POLL).await,
            }
        }
        let result = match client.progress(&agent.run, from, figures).await {
            Ok(progress) => {
                heard = Instant::now();
                // Seconds that were told before are told again if the last answer was lost on its way.
                let missed = progress.from.saturating_sub(from);
                if missed > 0 {
                    tracing::warn!(agent = client.address, missed, "seconds of the series are missing");
                }
                from = progress.from.saturating_add(progress.seconds.len() as u64);
                figures = progress.figures.as_ref().map_or(figures, |latest| latest.number);
                let (stage, is_last) = (progress.stage.clone(), progress.seconds.is_empty());
                let _ = events.send((index, Event::Progress(Box::new(progress)))).await;
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
        let pause = if told.is_some() { STOP_POLL } else { times.pause(Instant::now()) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = end_early.cancelled(), if told.is_none() => {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Phase;

    fn tick(phase: Phase, seconds: u64, requests: u64) -> Tick {
        Tick {
            phase,
            elapsed: Duration::from_secs(seconds),
            planned: Duration::from_secs(30),
            users: 3,
            requests,
            failed: 1,
            requests_per_second: 10.5,
            p95: Some(Duration::from_secs(9)),
        }
    }

    #[test]
    fn the_end_is_not_waited_for_a_second_too_long() {
        let now = Instant::now();
        for (left_ms, pause_ms) in [(5000, 1000), (1000, 1000), (300, 300), (20, 100), (0, 100)] {
            let times = Times { end: now + Duration::from_millis(left_ms), deadline: now };
            assert_eq!(times.pause(now), Duration::from_millis(pause_ms), "{left_ms}");
        }
        let over = Times { end: now, deadline: now };
        assert_eq!(over.pause(now + POLL), STOP_POLL);
    }

    #[test]
    fn nobody_is_waited_for_for_ever() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        let times = Times { end: now + seconds(3600), deadline: now + seconds(3700) };
        for (at_s, told_s, expected) in [
            (0, None, false),
            (3700, None, false),
            (3701, None, true),
            (40, Some(10), false),
            (41, Some(10), true),
            (3701, Some(3700), true),
        ] {
            let told = told_s.map(|told| now + seconds(told));
            assert_eq!(times.are_over(now + seconds(at_s), told), expected, "{at_s} {told_s:?}");
        }
    }

    #[test]
    fn live_figures_add_up_once_all_have_some() {
        assert_eq!(together(&[], None), None);
        assert_eq!(together(&[Some(tick(Phase::Measuring, 7, 5)), None], None), None);
        let ticks = [Some(tick(Phase::Measuring, 7, 5)), Some(tick(Phase::WarmUp, 6, u64::MAX))];
        let sum = together(&ticks, Some(Duration::from_millis(4))).unwrap();
        assert_eq!((sum.phase, sum.elapsed.as_secs(), sum.users), (Phase::WarmUp, 7, 6));
        assert_eq!((sum.requests, sum.failed, sum.p95), (u64::MAX, 2, Some(Duration::from_millis(4))));
        assert!((sum.requests_per_second - 21.0).abs() < 1e-9);
    }
}
