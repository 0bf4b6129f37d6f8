//! Reads the counters once a second, on a thread of its own.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

use super::pace::{pause, processor_time};
use super::reader::Reader;
use super::series::Series;
use crate::root::Root;

const INTERVAL: Duration = Duration::from_secs(1);
/// Samples kept: half an hour of seconds; a longer run has fewer a minute.
const MAX_SAMPLES: usize = 1800;

/// Samples until it is stopped. Dropping it stops it too.
#[derive(Debug)]
pub(crate) struct Sampler {
    stop: mpsc::Sender<()>,
    thread: Option<JoinHandle<Series>>,
}

impl Sampler {
    /// Returns when the first sample, the state before, is taken.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(root: Root, pid: u32) -> io::Result<Self> {
        Self::start_beside(root, pid, None)
    }

    /// The same during a load, with the process that makes it. If that is `pid`, no service's process is known, and its
    /// files are the generator's.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start_beside(root: Root, pid: u32, generator: Option<u32>) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let (first, taken) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("host-counters".to_owned())
            .spawn(move || sample(Reader::enter(root, pid, generator), &first, &stopped))?;
        // A thread that is gone will not take any.
        let _ = taken.recv();
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Takes a last sample and ends the thread.
    pub(crate) fn stop(mut self) -> Series {
        self.join()
    }

    fn join(&mut self) -> Series {
        // A thread that is gone has nothing to stop.
        let _ = self.stop.send(());
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        mem::drop(self.join());
    }
}

fn sample(mut reader: Reader, first: &mpsc::SyncSender<()>, stopped: &mpsc::Receiver<()>) -> Series {
    let started = Instant::now();
    let own_time = processor_time();
    let mut series = Series::default();
    let mut due = started;
    loop {
        let before = processor_time();
        let at_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        series.push(at_ms, &reader.read(), MAX_SAMPLES);
        // Nobody waits for those after the first.
        let _ = first.try_send(());
        // What is read at a pace of its own does not hold up the rest.
        let cost = processor_time().saturating_sub(before).saturating_sub(reader.paced_cost);
        let now = Instant::now();
        // Seconds that were missed, on a machine that stood still, are not made up for.
        due = (due + INTERVAL).max(now + pause(cost));
        match stopped.recv_timeout(due.saturating_duration_since(now)) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let at_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    series.push(at_ms, &reader.read(), MAX_SAMPLES);
    series.cost_ms = processor_time().saturating_sub(own_time).as_secs_f64() * 1000.0;
    series.duration_ms = started.elapsed().as_secs_f64() * 1000.0;
    series
}
