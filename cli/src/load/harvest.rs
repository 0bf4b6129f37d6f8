//! What generator threads tell while they run and bring home when they end.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use super::clock::Nanos;
use super::effort::Shares;
use super::ledger::UserLedger;
use super::recorder::Recorder;
use super::running::Board;
use super::series::Interval;

/// What the threads tell while they run.
#[derive(Debug)]
pub(super) struct Shared {
    /// A thread failed, or the run was judged: all are to end.
    pub(super) abort: AtomicBool,
    /// Users whose last request brought a response, and the most of them at any time.
    pub(super) online: AtomicU32,
    pub(super) peak: AtomicU32,
    pub(super) live: Vec<Live>,
    pub(super) board: Board,
}

/// One thread's running totals, warm-up included; apart in memory, so that threads do not slow each other.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Live {
    pub(super) requests: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// A second that a thread has left, with the thread's index; `None`: it has ended.
pub(super) type Told = (usize, Option<Interval>);

/// What a thread brings home.
#[derive(Debug)]
pub(super) struct Harvest {
    pub(super) recorder: Recorder,
    /// In the order of the thread's slots.
    pub(super) ledgers: Vec<UserLedger>,
    /// Its last second, if nobody took it.
    pub(super) last_interval: Option<Interval>,
    pub(super) counts: Counts,
    /// Of the measured part.
    pub(super) shares: Shares,
    pub(super) ended: Nanos,
    pub(super) interrupted: bool,
}

/// Counts that are not of measured requests alone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// In flight when the run was stopped.
    pub(super) aborted: u64,
    /// Iterations due within the measured part that were not started.
    pub(super) dropped: u64,
    pub(super) no_free_port: u64,
    pub(super) too_many_files: u64,
    /// When each of the two came first.
    pub(super) no_free_port_at: Option<Nanos>,
    pub(super) too_many_files_at: Option<Nanos>,
    /// Seconds of the series that were lost because nobody took them.
    pub(super) series_gaps: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        self.aborted += other.aborted;
        self.dropped += other.dropped;
        self.no_free_port += other.no_free_port;
        self.too_many_files += other.too_many_files;
        for (mine, theirs) in [
            (&mut self.no_free_port_at, other.no_free_port_at),
            (&mut self.too_many_files_at, other.too_many_files_at),
        ] {
            *mine = mine.iter().copied().chain(theirs).min();
        }
        self.series_gaps += other.series_gaps;
    }
}
