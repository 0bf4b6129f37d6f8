//! Starts the generator threads, watches them, and merges what they bring home.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, SystemTime};

use nix::sys::resource::{UsageWho, getrusage};

use super::check::Check;
use super::clock::{Clock, nanos};
use super::harvest::{Counts, Harvest, Live, Shared, Told};
use super::heartbeat::Heartbeat;
use super::ledger::Ledger;
use super::plan::Plan;
use super::recorder::Recorder;
use super::recording::{CheckCount, Recording, StepRecording};
use super::running::{Board, Judging, Watch};
use super::series::{Interval, SeriesBuilder};
use super::tick::{RateWindow, Tick};
use super::trends::Trend;
use super::withheld::{Meter, Withheld};
use super::worker::Worker;
use crate::root::Root;

const TICK: Duration = Duration::from_millis(200);
/// Seconds that each thread may hand over before somebody takes them: a minute of a blocked terminal or disk.
const QUEUED_SECONDS: usize = 60;
/// Where many steps make these seconds large there are fewer of them: of histograms of 70 KB a thread may hand over so
/// many, 45 MB in all, but those of ten seconds in any case.
const QUEUED_HISTOGRAMS: usize = 640;

/// Why a run failed as such; what befell its requests is in the recording.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("the load generator cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("a generator thread ended abnormally; please report this with the message above")]
    ThreadPanicked,
}

/// What a run tells while it lasts, on the thread that waits for it.
pub(crate) trait Observer {
    /// Everything is set up; returns when the load is to begin.
    fn begin(&mut self) {}

    /// The load has begun, at this time.
    fn began(&mut self, _at: SystemTime) {}

    /// Live figures, about five times a second.
    fn tick(&mut self, tick: &Tick);

    /// A second is complete: all threads have left it. Those of the warm-up are told, too, in their order.
    fn second(&mut self, _second: Interval) {}
}

/// Told of ticks alone.
#[cfg(test)]
pub(crate) struct Ticks<'a>(pub(crate) &'a mut dyn FnMut(&Tick));

#[cfg(test)]
impl Observer for Ticks<'_> {
    fn tick(&mut self, tick: &Tick) {
        (self.0)(tick);
    }
}

/// Carries out a checked plan. Blocks. Setting `stop` ends the run within about 100 ms, and what was measured until
/// then is returned. What `watch` breaks ends as a stop does, and is marked as cut short.
///
/// # Errors
/// Epoll, a timer or a thread is refused by the system. Errors of requests are outcomes, not errors.
pub(crate) fn run(
    plan: &Plan,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
    mut watch: Option<Watch<'_>>,
) -> Result<Recording, LoadError> {
    let threads = plan.worker_threads();
    let shared = Shared {
        abort: AtomicBool::new(false),
        online: AtomicU32::new(0),
        peak: AtomicU32::new(0),
        live: (0..threads).map(|_| Live::default()).collect(),
        board: Board::new(watch.as_ref(), plan.own_users(), threads),
    };
    let (sender, intervals) = mpsc::sync_channel(queued_seconds(plan.scenario.step_names().len()) * threads);
    let mut workers = Vec::with_capacity(threads);
    for index in 0..threads {
        let worker = Worker::new(plan, index, Clock::start(), &shared, stop, sender.clone());
        workers
            .push(worker.map_err(|source| LoadError::Io { what: "set up a thread's event loop", source })?);
    }
    // The channel closes when the last worker is gone.
    drop(sender);

    observer.begin();
    let started_at = SystemTime::now();
    observer.began(started_at);
    let clock = Clock::start();
    let (harvests, watched) = thread::scope(|scope| {
        // The scope waits for its threads, so a panic in the observer must end them, too.
        let _guard = AbortOnPanic(&shared.abort);
        let mut handles = Vec::with_capacity(threads);
        let mut spawn_error = None;
        for (index, worker) in workers.into_iter().enumerate() {
            let builder = thread::Builder::new().name(format!("load-{index}"));
            let abort = &shared.abort;
            match builder.spawn_scoped(scope, move || {
                let _guard = AbortOnPanic(abort);
                worker.run(clock).inspect_err(|_| abort.store(true, Ordering::Relaxed))
            }) {
                Ok(handle) => handles.push(handle),
                Err(source) => {
                    shared.abort.store(true, Ordering::Relaxed);
                    spawn_error = Some(LoadError::Io { what: "start a thread", source });
                    break;
                }
            }
        }
        let judging = Judging::new(watch.as_mut(), plan.warmup, plan.duration);
        let watched = oversee(plan, clock, &shared, &intervals, observer, judging);
        let harvests = join(handles);
        match spawn_error {
            Some(error) => Err(error),
            None => harvests.map(|harvests| (harvests, watched)),
        }
    })?;
    let wall = started_at.elapsed().map_or_else(|backwards| -signed(backwards.duration()), signed);
    let clock_jump_nanos = wall.saturating_sub(i64::try_from(clock.now()).unwrap_or(i64::MAX));
    let peak = shared.peak.load(Ordering::Relaxed);
    Ok(merge(plan, harvests, watched, Circumstances { clock_jump_nanos, peak }, observer))
}

/// How many seconds a thread may hand over before somebody takes them.
fn queued_seconds(steps: usize) -> usize {
    // Two of all requests, and one of each step where there are several.
    let histograms = if steps > 1 { 2 + steps } else { 2 };
    (QUEUED_HISTOGRAMS / histograms).clamp(10, QUEUED_SECONDS)
}

/// A thread that panics must not leave the others running for hours.
struct AbortOnPanic<'a>(&'a AtomicBool);

impl Drop for AbortOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// What the coordinator saw while the threads ran.
struct Overseen {
    series: SeriesBuilder,
    heartbeat: Trend,
    withheld: Withheld,
    cut_short: bool,
}

/// Collects intervals, reports live figures and has them judged until all threads are gone.
fn oversee(
    plan: &Plan,
    clock: Clock,
    shared: &Shared,
    intervals: &Receiver<Told>,
    observer: &mut dyn Observer,
    mut judging: Judging<'_, '_>,
) -> Overseen {
    let mut series = SeriesBuilder::new(shared.live.len());
    let start = nanos(plan.warmup);
    let end = start.saturating_add(nanos(plan.duration));
    let host = Root::host();
    let mut meter = Meter::new(&host, start, end);
    let mut heartbeat = Heartbeat::new(start, end);
    let mut cut_short = false;
    let mut rate = RateWindow::default();
    let mut next_tick = nanos(TICK);
    loop {
        let now = clock.now();
        meter.look(now);
        let wait = next_tick.min(meter.next()).saturating_sub(now).min(heartbeat.limit(now));
        match intervals.recv_timeout(Duration::from_nanos(wait)) {
            Ok((thread, told)) => {
                let settled = match told {
                    Some(interval) => series.add(thread, interval),
                    None => series.end(thread),
                };
                settled.into_iter().for_each(|second| observer.second(second));
            }
            Err(RecvTimeoutError::Timeout) => {
                let due = now + wait;
                let now = clock.now();
                heartbeat.note(due, now);
                if now < next_tick {
                    continue;
                }
                next_tick = now + nanos(TICK);
                observer.tick(&Tick::of(plan, shared, now, &mut rate, series.last_p95()));
                if judging.ends(&shared.board, now, shared.online.load(Ordering::Relaxed)) {
                    cut_short = true;
                    shared.abort.store(true, Ordering::Relaxed);
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                let withheld = meter.finish(clock.now());
                return Overseen { series, heartbeat: heartbeat.finish(), withheld, cut_short };
            }
        }
    }
}

fn join(handles: Vec<ScopedJoinHandle<'_, io::Result<Harvest>>>) -> Result<Vec<Harvest>, LoadError> {
    // All are joined before the first error is returned.
    let joined: Vec<_> = handles.into_iter().map(ScopedJoinHandle::join).collect();
    joined
        .into_iter()
        .map(|result| match result {
            Ok(harvest) => harvest.map_err(|source| LoadError::Io { what: "wait for events", source }),
            Err(_) => Err(LoadError::ThreadPanicked),
        })
        .collect()
}

/// What is known of the run apart from the threads.
struct Circumstances {
    clock_jump_nanos: i64,
    peak: u32,
}

fn merge(
    plan: &Plan,
    harvests: Vec<Harvest>,
    overseen: Overseen,
    circumstances: Circumstances,
    observer: &mut dyn Observer,
) -> Recording {
    // The first thread's own: two megabytes less at the end, when the report takes some, too.
    let mut recorder: Option<Box<Recorder>> = None;
    let mut counts = Counts::default();
    let Overseen { mut series, heartbeat, withheld, cut_short } = overseen;
    let (mut ended, mut stopped, mut busiest_thread) = (0, false, 0.0f64);
    let mut run_delay: Option<f64> = None;
    let mut ledgers = Vec::with_capacity(harvests.len());
    for (thread, harvest) in harvests.into_iter().enumerate() {
        match &mut recorder {
            None => recorder = Some(Box::new(harvest.recorder)),
            Some(recorder) => recorder.add(&harvest.recorder),
        }
        counts.add(harvest.counts);
        if let Some(interval) = harvest.last_interval {
            series.add(thread, interval).into_iter().for_each(|second| observer.second(second));
        }
        ended = ended.max(harvest.ended);
        stopped |= harvest.interrupted;
        busiest_thread = busiest_thread.max(harvest.shares.busy);
        run_delay = run_delay.into_iter().chain(harvest.shares.delayed).reduce(f64::max);
        ledgers.push(harvest.ledgers);
    }
    series.flush().into_iter().for_each(|second| observer.second(second));
    let recorder = *recorder.unwrap_or_else(|| Box::new(Recorder::new(&plan.checks_of_steps())));
    let elapsed = Duration::from_nanos(ended);
    let steps = steps(plan, &recorder);
    Recording {
        iterations: recorder.iterations,
        steps,
        requests: recorder.requests,
        failed: recorder.failed,
        by_status: recorder.by_status(),
        by_failure: recorder.by_failure(),
        bytes_sent: recorder.bytes_sent,
        bytes_received: recorder.bytes_received,
        clamped: recorder.clamped,
        trends: recorder.trends,
        series: series.finish(),
        series_gaps: counts.series_gaps,
        users_requested: plan.own_users(),
        users_achieved: circumstances.peak,
        warmup: plan.warmup.min(elapsed),
        measured: elapsed.saturating_sub(plan.warmup).min(plan.duration),
        elapsed,
        interrupted: stopped && !cut_short,
        cut_short: stopped && cut_short,
        aborted: counts.aborted,
        dropped: counts.dropped,
        busiest_thread,
        run_delay,
        heartbeat,
        withheld,
        max_rss_bytes: max_rss_bytes(),
        no_free_port: counts.no_free_port,
        too_many_files: counts.too_many_files,
        no_free_port_since: counts.no_free_port_at.map(Duration::from_nanos),
        too_many_files_since: counts.too_many_files_at.map(Duration::from_nanos),
        clock_jump_nanos: circumstances.clock_jump_nanos,
        ledger: Ledger::dealt(plan.own_users(), ledgers),
    }
}

/// The steps with their names; an only one has the trends of the whole.
fn steps(plan: &Plan, recorder: &Recorder) -> Vec<StepRecording> {
    let only = recorder.steps.len() == 1;
    let trends = &recorder.trends;
    let check = |(check, [passes, fails]): (&Check, &[u64; 2])| CheckCount {
        name: check.name(),
        passes: *passes,
        fails: *fails,
    };
    plan.scenario
        .step_names()
        .into_iter()
        .zip(&recorder.steps)
        .enumerate()
        .map(|(index, (name, step))| StepRecording {
            name: name.to_owned(),
            requests: step.requests,
            failed: step.failed,
            total: if only { trends.total.clone() } else { step.total.clone() },
            duration: if only { trends.duration.clone() } else { step.duration.clone() },
            checks: plan.scenario.checks(index).iter().zip(&step.checks).map(check).collect(),
        })
        .collect()
}

fn signed(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn max_rss_bytes() -> u64 {
    // Linux reports KiB. Asking for one's own usage fails only on a bad pointer.
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0, |usage| u64::try_from(usage.max_rss()).unwrap_or(0).saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_of_many_steps_are_queued_in_smaller_number() {
        let queued = [1, 2, 8, 9, 62, 64].map(queued_seconds);
        assert_eq!(queued, [60, 60, 60, 58, 10, 10]);
    }

    #[test]
    fn the_resident_set_is_plausible() {
        assert!((1 << 20..1 << 40).contains(&max_rss_bytes()));
    }
}
