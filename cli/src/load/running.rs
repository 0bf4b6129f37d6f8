//! The measured part so far, for judging while it runs. Each thread leaves a copy of the few figures that were
//! asked for once a second; the latest copy counts, and a request costs nothing for it.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::{Nanos, SECOND, nanos};
use super::harvest::Counts;
use super::recorder::Recorder;
use super::transfer;
use super::trends::Trend;

/// How often a run is judged: k6's interval.
pub(crate) const JUDGING_INTERVAL: Duration = Duration::from_secs(2);
const INTERVAL: Nanos = 2 * SECOND;
/// After a full second, so that the threads' copies of it are there.
const GRACE: Nanos = SECOND / 10;

/// The figures of the measured part so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Running {
    /// How much of the measured part the figures are of.
    pub(crate) measured: Duration,
    /// Users whose last request brought a response.
    pub(crate) users: u32,
    pub(crate) users_requested: u32,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) iterations: u64,
    /// Checks that were met, and all that were made.
    pub(crate) checks: [u64; 2],
    pub(crate) dropped: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    /// Those that were asked for.
    pub(crate) trends: Vec<RunningTrend>,
    /// A machine's figures are missing or late: shares and trends are of the rest, and sums are too small.
    #[serde(skip)]
    pub(crate) is_partial: bool,
}

/// One trend of the measured part so far, in µs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RunningTrend {
    pub(crate) name: Cow<'static, str>,
    #[serde(with = "transfer")]
    pub(crate) trend: Trend,
}

/// Judges a run every two seconds of its measured part.
pub(crate) struct Watch<'a> {
    /// The trends to judge by, with the names that reports use; each costs every thread a copy of 140 KB a second.
    pub(crate) trends: &'a [&'a str],
    /// `Break` ends the run.
    pub(crate) judge: &'a mut dyn FnMut(&Running) -> ControlFlow<()>,
}

/// Where the threads leave their copies.
#[derive(Debug, Default)]
pub(super) struct Board {
    trends: Vec<String>,
    users_requested: u32,
    /// One for each thread; empty if nobody watches.
    parts: Vec<Mutex<Option<Running>>>,
}

impl Board {
    pub(super) fn new(watch: Option<&Watch<'_>>, users_requested: u32, threads: usize) -> Self {
        let Some(watch) = watch else { return Self::default() };
        let parts = (0..threads).map(|_| Mutex::default()).collect();
        let trends = watch.trends.iter().map(|name| (*name).to_owned()).collect();
        Self { trends, users_requested, parts }
    }

    pub(super) fn is_watched(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Leaves a thread's figures as of `now`. `measure_start`: when the measured part began.
    pub(super) fn post(
        &self,
        thread: usize,
        now: Nanos,
        measure_start: Nanos,
        recorder: &Recorder,
        counts: &Counts,
    ) {
        let Some(part) = self.parts.get(thread).filter(|_| now > measure_start) else { return };
        let named = recorder.trends.named();
        let running = Running {
            measured: Duration::from_nanos(now - measure_start),
            users: 0,
            users_requested: self.users_requested,
            requests: recorder.requests,
            failed: recorder.failed,
            iterations: recorder.iterations,
            checks: recorder.checks(),
            dropped: counts.dropped,
            bytes_sent: recorder.bytes_sent,
            bytes_received: recorder.bytes_received,
            trends: named
                .iter()
                .filter(|(name, _)| self.trends.iter().any(|wanted| wanted == name))
                .map(|&(name, trend)| RunningTrend { name: Cow::Borrowed(name), trend: trend.clone() })
                .collect(),
            is_partial: false,
        };
        *part.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
    }

    /// All threads' figures together; `None` until each has left some.
    fn merged(&self, users: u32) -> Option<Running> {
        let mut merged: Option<Running> = None;
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            let part = part.as_ref()?;
            match &mut merged {
                None => merged = Some(part.clone()),
                Some(merged) => merged.add(part),
            }
        }
        merged.map(|merged| Running { users, ..merged })
    }
}

impl Running {
    /// Adds the figures of another machine, with its users. Both have the same trends in the same order.
    pub(crate) fn unite(&mut self, other: &Self) {
        self.add(other);
        self.users = self.users.saturating_add(other.users);
        self.users_requested = self.users_requested.saturating_add(other.users_requested);
    }

    /// Adds the figures of another thread. Counts from another machine may be anything, and must not overflow.
    fn add(&mut self, other: &Self) {
        // The longest, so that no rate is overstated.
        self.measured = self.measured.max(other.measured);
        for (mine, theirs) in [
            (&mut self.requests, other.requests),
            (&mut self.failed, other.failed),
            (&mut self.iterations, other.iterations),
            (&mut self.dropped, other.dropped),
            (&mut self.bytes_sent, other.bytes_sent),
            (&mut self.bytes_received, other.bytes_received),
        ]
        .into_iter()
        .chain(self.checks.iter_mut().zip(other.checks))
        {
            *mine = mine.saturating_add(theirs);
        }
        for (mine, theirs) in self.trends.iter_mut().zip(&other.trends) {
            mine.trend.add(&theirs.trend).expect("histograms of equal bounds, as decoded");
        }
    }
}

/// Calls the judge when it is time.
pub(super) struct Judging<'a, 'w> {
    watch: Option<&'w mut Watch<'a>>,
    next: Nanos,
    end: Nanos,
}

impl<'a, 'w> Judging<'a, 'w> {
    pub(super) fn new(watch: Option<&'w mut Watch<'a>>, warmup: Duration, duration: Duration) -> Self {
        let start = nanos(warmup);
        Self {
            watch,
            next: start.saturating_add(INTERVAL + GRACE),
            end: start.saturating_add(nanos(duration)),
        }
    }

    /// `true` if the run is to end. After the measured part there is nothing left to cut short.
    pub(super) fn ends(&mut self, board: &Board, now: Nanos, users: u32) -> bool {
        let Some(watch) = &mut self.watch else { return false };
        if now < self.next || now >= self.end {
            return false;
        }
        while self.next <= now {
            self.next = self.next.saturating_add(INTERVAL);
        }
        board.merged(users).is_some_and(|running| (watch.judge)(&running).is_break())
    }
}

#[cfg(test)]
mod tests {
    use super::super::exchange::{Exchange, Times};
    use super::super::outcome::Outcome;
    use super::*;

    fn recorder(millis: &[u64]) -> Recorder {
        let mut recorder = Recorder::new(&[1]);
        for &millis in millis {
            let ended = millis * 1_000_000;
            let times = Times { ended, ..Times::default() };
            let exchange = Exchange {
                times,
                outcome: Outcome::Response(500),
                bytes_sent: 3,
                bytes_received: 4,
                body_has: false,
            };
            recorder.record_alone(&exchange, std::iter::once(true));
            recorder.record_iteration(ended);
        }
        recorder
    }

    #[test]
    fn the_threads_figures_are_one_once_all_are_there() {
        let mut judge = |_: &Running| ControlFlow::Continue(());
        let watch = Watch { trends: &["http_req_total_duration"], judge: &mut judge };
        let board = Board::new(Some(&watch), 9, 2);
        let counts = Counts { dropped: 5, ..Counts::default() };
        board.post(0, 3 * SECOND, SECOND, &recorder(&[10]), &counts);
        assert!(board.merged(7).is_none(), "the second thread has not said anything");
        board.post(1, SECOND, SECOND, &recorder(&[10]), &counts);
        assert!(board.merged(7).is_none(), "nothing is measured at the start");
        board.post(1, 3 * SECOND + 1000, SECOND, &recorder(&[20, 30]), &counts);
        // The latest counts.
        board.post(0, 3 * SECOND, SECOND, &recorder(&[10, 40]), &counts);
        let merged = board.merged(7).unwrap();
        assert_eq!((merged.requests, merged.failed, merged.dropped), (4, 4, 10));
        assert_eq!((merged.users, merged.users_requested), (7, 9));
        assert_eq!((merged.bytes_sent, merged.bytes_received), (12, 16));
        assert_eq!(merged.measured, Duration::from_nanos(2 * SECOND + 1000));
        let [RunningTrend { name, trend }] = &merged.trends[..] else { panic!("{:?}", merged.trends) };
        assert_eq!((name.as_ref(), trend.len()), ("http_req_total_duration", 4));
        assert!(trend.max().abs_diff(40_000) <= 40);
    }

    #[test]
    fn nobody_watching_costs_nothing() {
        let board = Board::new(None, 9, 2);
        board.post(0, 3 * SECOND, SECOND, &recorder(&[10]), &Counts::default());
        assert!(board.merged(1).is_none());
        let mut judging = Judging::new(None, Duration::ZERO, Duration::from_secs(60));
        assert!(!judging.ends(&board, 30 * SECOND, 1));
    }

    #[test]
    fn a_run_is_judged_every_two_seconds_of_its_measured_part() {
        let mut judged = Vec::new();
        let mut judge = |running: &Running| {
            judged.push(running.requests);
            if running.requests >= 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let mut watch = Watch { trends: &[], judge: &mut judge };
        let board = Board::new(Some(&watch), 9, 1);
        let mut judging = Judging::new(Some(&mut watch), Duration::from_secs(10), Duration::from_secs(9));
        let mut ends = |tenths: u64, requests: usize| {
            let now = tenths * SECOND / 10;
            board.post(0, now, 10 * SECOND, &recorder(&vec![1; requests]), &Counts::default());
            judging.ends(&board, now, 1)
        };
        for (tenths, requests, expected) in [
            (20, 3, false),  // the warm-up
            (120, 1, false), // two seconds, but the copies may not be there yet
            (121, 1, false), // judged: 1
            (140, 3, false), // between two
            (161, 2, false), // judged: 2, and not twice for the one that was missed
            (162, 3, false),
            (181, 3, true),  // judged: 3
            (191, 3, false), // over
        ] {
            assert_eq!(ends(tenths, requests), expected, "{tenths} {requests}");
        }
        assert_eq!(judged, [1, 2, 3]);
    }
}
