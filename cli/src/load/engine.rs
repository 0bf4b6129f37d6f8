//! Starts the generator threads, watches them, and merges what they bring home.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, SystemTime};

use nix::sys::resource::{UsageWho, getrusage};

use super::clock::{Clock, nanos};
use super::harvest::{Counts, Harvest, Live, Shared};
use super::heartbeat::Heartbeat;
use super::ledger::{Ledger, UserLedger};
use super::plan::Plan;
use super::recorder::{Recorder, Trend};
use super::recording::Recording;
use super::running::{Board, Judging, Watch};
use super::series::{Interval, SeriesBuilder};
use super::tick::{RateWindow, Tick};
use super::withheld::{Meter, Withheld};
use super::worker::Worker;

const TICK: Duration = Duration::from_millis(200);
/// Seconds that each thread may hand over before somebody takes them: four minutes of a blocked terminal.
const QUEUED_SECONDS: usize = 240;

/// Why a run failed as such; what befell its requests is in the recording.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("the load generator cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("a generator thread ended abnormally; please report this with the message above")]
    ThreadPanicked,
}

/// Carries out a checked plan. Blocks; calls `on_tick` about five times a second. Setting `stop` ends the run
/// within about 100 ms, and what was measured until then is returned.
///
/// # Errors
/// Epoll, a timer or a thread is refused by the system. Errors of requests are outcomes, not errors.
pub(crate) fn run(
    plan: &Plan,
    stop: &AtomicBool,
    on_tick: &mut dyn FnMut(&Tick),
) -> Result<Recording, LoadError> {
    run_watched(plan, stop, on_tick, None)
}

/// The same, judged while it runs: what `watch` breaks ends as a stop does, and is marked as cut short.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_watched(
    plan: &Plan,
    stop: &AtomicBool,
    on_tick: &mut dyn FnMut(&Tick),
    mut watch: Option<Watch<'_>>,
) -> Result<Recording, LoadError> {
    let threads = plan.worker_threads();
    let shared = Shared {
        abort: AtomicBool::new(false),
        online: AtomicU32::new(0),
        peak: AtomicU32::new(0),
        live: (0..threads).map(|_| Live::default()).collect(),
        board: Board::new(watch.as_ref(), plan.users, threads),
    };
    let (sender, intervals) = mpsc::sync_channel(QUEUED_SECONDS * threads);
    let mut workers = Vec::with_capacity(threads);
    for index in 0..threads {
        let worker = Worker::new(plan, index, Clock::start(), &shared, stop, sender.clone());
        workers
            .push(worker.map_err(|source| LoadError::Io { what: "set up a thread's event loop", source })?);
    }
    // The channel closes when the last worker is gone.
    drop(sender);

    let started_at = SystemTime::now();
    let clock = Clock::start();
    let (harvests, watched) = thread::scope(|scope| {
        // The scope waits for its threads, so a panic in `on_tick` must end them, too.
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
        let watched = oversee(plan, clock, &shared, &intervals, on_tick, judging);
        let harvests = join(handles);
        match spawn_error {
            Some(error) => Err(error),
            None => harvests.map(|harvests| (harvests, watched)),
        }
    })?;
    let wall = started_at.elapsed().map_or_else(|backwards| -signed(backwards.duration()), signed);
    let clock_jump_nanos = wall.saturating_sub(i64::try_from(clock.now()).unwrap_or(i64::MAX));
    let peak = shared.peak.load(Ordering::Relaxed);
    Ok(merge(plan, harvests, watched, Circumstances { clock_jump_nanos, peak }))
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
    intervals: &Receiver<(usize, Interval)>,
    on_tick: &mut dyn FnMut(&Tick),
    mut judging: Judging<'_, '_>,
) -> Overseen {
    let mut series = SeriesBuilder::new(shared.live.len());
    let start = nanos(plan.warmup);
    let end = start.saturating_add(nanos(plan.duration));
    let mut meter = Meter::new(Path::new("/"), start, end);
    let mut heartbeat = Heartbeat::new(start, end);
    let mut cut_short = false;
    let mut rate = RateWindow::default();
    let mut next_tick = nanos(TICK);
    loop {
        let now = clock.now();
        meter.look(now);
        let wait = next_tick.min(meter.next()).saturating_sub(now).min(heartbeat.limit(now));
        match intervals.recv_timeout(Duration::from_nanos(wait)) {
            Ok((thread, interval)) => series.add(thread, interval),
            Err(RecvTimeoutError::Timeout) => {
                let due = now + wait;
                let now = clock.now();
                heartbeat.note(due, now);
                if now < next_tick {
                    continue;
                }
                next_tick = now + nanos(TICK);
                on_tick(&Tick::of(plan, shared, now, &mut rate, series.last_p95()));
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

fn merge(plan: &Plan, harvests: Vec<Harvest>, overseen: Overseen, circumstances: Circumstances) -> Recording {
    let mut recorder = Recorder::new();
    let mut counts = Counts::default();
    let Overseen { mut series, heartbeat, withheld, cut_short } = overseen;
    let (mut ended, mut stopped, mut busiest_thread) = (0, false, 0.0f64);
    let mut run_delay: Option<f64> = None;
    let mut ledgers = Vec::with_capacity(harvests.len());
    for (thread, harvest) in harvests.into_iter().enumerate() {
        recorder.add(&harvest.recorder);
        counts.add(harvest.counts);
        series.add(thread, harvest.last_interval);
        ended = ended.max(harvest.ended);
        stopped |= harvest.interrupted;
        busiest_thread = busiest_thread.max(harvest.shares.busy);
        run_delay = run_delay.into_iter().chain(harvest.shares.delayed).reduce(f64::max);
        ledgers.push(harvest.ledgers.into_iter());
    }
    let elapsed = Duration::from_nanos(ended);
    Recording {
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
        users_requested: plan.users,
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
        clock_jump_nanos: circumstances.clock_jump_nanos,
        ledger: Ledger::new(interleave(plan.users, ledgers)),
    }
}

/// Undoes the dealing out of users to threads in turn.
fn interleave(users: u32, mut ledgers: Vec<std::vec::IntoIter<UserLedger>>) -> Vec<UserLedger> {
    let threads = ledgers.len();
    (0..users as usize).filter_map(|user| ledgers[user % threads].next()).collect()
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
    use super::super::ledger::Fate;
    use super::*;

    #[test]
    fn ledgers_return_to_the_order_of_users() {
        // Three threads, seven users; user i has i requests.
        let ledger = |user: u32| {
            let mut ledger = UserLedger::default();
            (0..user).for_each(|_| ledger.push(Fate::Refused));
            ledger
        };
        let threads: Vec<_> =
            (0..3).map(|thread| (thread..7).step_by(3).map(ledger).collect::<Vec<_>>().into_iter()).collect();
        let ledger = Ledger::new(interleave(7, threads));
        assert_eq!(ledger.users(), 7);
        for user in 0..7 {
            assert_eq!(ledger.runs(user).map(|(_, count)| count).sum::<u32>(), user);
        }
    }

    #[test]
    fn the_resident_set_is_plausible() {
        assert!((1 << 20..1 << 40).contains(&max_rss_bytes()));
    }
}
