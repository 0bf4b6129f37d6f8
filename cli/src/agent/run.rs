//! One run on an agent: a thread that makes load, and what others may know and ask of it meanwhile.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::sync::watch;

use super::protocol::{Assignment, Figures, MAX_HISTOGRAMS, MAX_SECONDS, Progress, Stage};
use crate::load::{self, Interval, LoadError, Observer, Plan, Recording, Running, Tick, Watch};

/// Seconds kept that nobody has asked for: far more than pass before a lost coordinator is noticed.
const MAX_QUEUED: usize = 300;
/// How soon a stop is noticed while the start is awaited.
const SLICE: Duration = Duration::from_millis(50);

/// A run, as seen from outside its thread.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: String,
    /// Generator threads.
    pub(super) threads: usize,
    stop: AtomicBool,
    start: mpsc::SyncSender<Instant>,
    stage: watch::Sender<Stage>,
    told: Mutex<Told>,
}

/// What it has told so far.
#[derive(Debug)]
struct Told {
    tick: Option<Tick>,
    /// The number of the first of `seconds`.
    first: u64,
    seconds: VecDeque<Interval>,
    /// The latest only.
    figures: Option<Figures>,
    recording: Option<Bytes>,
    /// When the coordinator last asked for anything.
    contact: Instant,
    is_started: bool,
    /// How long after the instant that was named the load began.
    late: Duration,
}

impl Run {
    /// Starts a thread that checks the plan, sets everything up and waits for the start.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn spawn(id: String, assignment: Assignment) -> std::io::Result<Arc<Self>> {
        let (start, begin) = mpsc::sync_channel(1);
        let told = Told {
            tick: None,
            first: 0,
            seconds: VecDeque::new(),
            figures: None,
            recording: None,
            contact: Instant::now(),
            is_started: false,
            late: Duration::ZERO,
        };
        let Assignment { plan, threads, watched } = assignment;
        // The machine is there to make load.
        let threads = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
        let run = Arc::new(Self {
            id,
            threads,
            stop: AtomicBool::new(false),
            start,
            stage: watch::Sender::new(Stage::Preparing),
            told: Mutex::new(told),
        });
        let reporter = Reporter { run: Arc::clone(&run), begin };
        thread::Builder::new().name("run".into()).spawn(move || {
            // Says that it is over even if it panics.
            let mut end = End { run: Arc::clone(&reporter.run), stage: None };
            end.stage = Some(carry_out(Plan { threads, ..plan }, watched, reporter));
        })?;
        Ok(run)
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage.borrow().clone()
    }

    /// Waits until the stage is such.
    pub(super) async fn reached(&self, wanted: impl FnMut(&Stage) -> bool) -> Stage {
        // The sender lives as long as `self`.
        self.stage.subscribe().wait_for(wanted).await.map_or_else(|_| self.stage(), |stage| stage.clone())
    }

    /// Lets it begin then. `false`: it has been told before.
    pub(super) fn begin_at(&self, moment: Instant) -> bool {
        let mut told = self.told();
        told.contact = Instant::now();
        !std::mem::replace(&mut told.is_started, true) && self.start.try_send(moment).is_ok()
    }

    pub(super) fn is_started(&self) -> bool {
        self.told().is_started
    }

    /// For how long nobody has asked.
    pub(super) fn silence(&self) -> Duration {
        self.told().contact.elapsed()
    }

    /// What there is to tell; seconds before number `from` have arrived and are forgotten, and so have figures up
    /// to number `figures`.
    pub(super) fn progress(&self, from: u64, figures: u64) -> Progress {
        // Before the seconds: once it is over, no more are added.
        let stage = self.stage();
        let mut told = self.told();
        told.contact = Instant::now();
        while told.first < from && told.seconds.pop_front().is_some() {
            told.first += 1;
        }
        let count = fitting(told.seconds.iter().map(Interval::histograms));
        let seconds = told.seconds.iter().take(count).cloned().collect();
        let figures = told.figures.as_ref().filter(|latest| latest.number > figures).cloned();
        Progress { stage, tick: told.tick, late: told.late, from: told.first, seconds, figures }
    }

    pub(super) fn recording(&self) -> Option<Bytes> {
        let mut told = self.told();
        told.contact = Instant::now();
        told.recording.clone()
    }

    /// Keeps the figures by which the coordinator judges.
    fn keep(&self, running: &Running) {
        let running = running.clone();
        let mut told = self.told();
        let number = told.figures.as_ref().map_or(0, |figures| figures.number) + 1;
        told.figures = Some(Figures { number, running });
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many seconds with so many histograms each go into one answer.
fn fitting(histograms: impl Iterator<Item = usize>) -> usize {
    let mut sum = 0;
    let fits = |histograms: &usize| {
        let is_first = sum == 0;
        sum += histograms;
        is_first || sum <= MAX_HISTOGRAMS
    };
    histograms.take(MAX_SECONDS).take_while(fits).count()
}

/// Sets the last stage when the thread ends, however it ends.
struct End {
    run: Arc<Run>,
    stage: Option<Stage>,
}

impl Drop for End {
    fn drop(&mut self) {
        let crashed = || Stage::Failed("the run's thread ended abnormally; see the agent's log".into());
        self.run.stage.send_replace(self.stage.take().unwrap_or_else(crashed));
    }
}

fn carry_out(plan: Plan, watched: Option<Vec<String>>, mut reporter: Reporter) -> Stage {
    let run = Arc::clone(&reporter.run);
    let plan = plan.made_here();
    let plan = plan.and_then(|plan| plan.check().map(|()| plan));
    let recording = match &plan {
        Err(error) => return Stage::Failed(error.to_string()),
        Ok(plan) => make_load(plan, &run, &mut reporter, watched.as_deref()),
    };
    let encoded = match recording {
        Err(error) => return Stage::Failed(error.to_string()),
        Ok(recording) => serde_json::to_vec(&recording),
    };
    match encoded {
        Err(error) => Stage::Failed(format!("the recording cannot be encoded: {error}")),
        Ok(bytes) => {
            run.told().recording = Some(bytes.into());
            Stage::Done
        }
    }
}

/// Whether the figures end the run is the coordinator's to say, who has those of all agents.
fn make_load(
    plan: &Plan,
    run: &Run,
    reporter: &mut Reporter,
    watched: Option<&[String]>,
) -> Result<Recording, LoadError> {
    let Some(watched) = watched else { return load::run(plan, &run.stop, reporter, None) };
    let trends: Vec<&str> = watched.iter().map(String::as_str).collect();
    let mut keep = |running: &Running| {
        run.keep(running);
        ControlFlow::Continue(())
    };
    load::run(plan, &run.stop, reporter, Some(Watch { trends: &trends, judge: &mut keep }))
}

/// Keeps for the coordinator what the engine tells.
struct Reporter {
    run: Arc<Run>,
    begin: mpsc::Receiver<Instant>,
}

impl Observer for Reporter {
    fn begin(&mut self) {
        self.run.stage.send_replace(Stage::Ready);
        let is_stopped = || self.run.stop.load(Ordering::Relaxed);
        let moment = loop {
            match self.begin.recv_timeout(SLICE) {
                Ok(moment) => break moment,
                // The engine sees the stop itself, at once.
                Err(RecvTimeoutError::Timeout) if is_stopped() => return,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.run.stop(),
            }
        };
        while let Some(left) = moment.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if is_stopped() {
                return;
            }
            thread::sleep(left.min(SLICE));
        }
        self.run.told().late = moment.elapsed();
        self.run.stage.send_replace(Stage::Running);
    }

    fn tick(&mut self, tick: &Tick) {
        self.run.told().tick = Some(*tick);
    }

    fn second(&mut self, second: Interval) {
        let mut told = self.run.told();
        if told.seconds.len() == MAX_QUEUED {
            told.seconds.pop_front();
            told.first += 1;
        }
        told.seconds.push_back(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_bounded_and_never_without_a_second() {
        for (histograms, expected) in [
            (&[][..], 0),
            (&[2; 300], 64),
            (&[66; 300], 1),
            (&[0, 500, 2], 2),
            (&[64, 64, 1], 2),
            (&[0; 300], 64),
        ] {
            assert_eq!(fitting(histograms.iter().copied()), expected, "{histograms:?}");
        }
    }
}
