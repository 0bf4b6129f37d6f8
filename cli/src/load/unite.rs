//! One recording from those of several machines. Counts and histograms add up exactly.

use std::time::Duration;

use super::ledger::Ledger;
use super::recording::{Recording, StepRecording};
use super::series::Second;
use super::trends::{Trends, trend};
use super::withheld::Withheld;

/// Puts the recordings of machines together that shared one plan, in the order of their shares. The series comes
/// apart, from the seconds that they told. `is_whole`: the recordings of all shares are there; else there is no
/// ledger, since nobody could say which users it is of. The parts keep all but their ledgers.
pub(crate) fn unite(parts: Vec<&mut Recording>, series: Vec<Second>, is_whole: bool) -> Recording {
    let mut whole = nothing();
    for part in &parts {
        whole.add(part);
    }
    let ledgers = parts.into_iter().map(|part| std::mem::take(&mut part.ledger)).collect();
    Recording { series, ledger: if is_whole { Ledger::united(ledgers) } else { Ledger::default() }, ..whole }
}

fn nothing() -> Recording {
    Recording {
        trends: Trends::new(),
        requests: 0,
        failed: 0,
        by_status: Default::default(),
        by_failure: Default::default(),
        bytes_sent: 0,
        bytes_received: 0,
        clamped: 0,
        iterations: 0,
        steps: Vec::new(),
        series: Vec::new(),
        series_gaps: 0,
        users_requested: 0,
        users_achieved: 0,
        warmup: Duration::ZERO,
        measured: Duration::ZERO,
        elapsed: Duration::ZERO,
        interrupted: false,
        cut_short: false,
        aborted: 0,
        dropped: 0,
        busiest_thread: 0.0,
        max_rss_bytes: 0,
        no_free_port: 0,
        too_many_files: 0,
        no_free_port_since: None,
        too_many_files_since: None,
        clock_jump_nanos: 0,
        run_delay: None,
        heartbeat: trend(),
        withheld: Withheld::default(),
        ledger: Ledger::default(),
    }
}

impl Recording {
    /// Adds all but series and ledger. Every field is named, so that a new one cannot be forgotten here.
    fn add(&mut self, other: &Self) {
        let Self {
            trends,
            requests,
            failed,
            by_status,
            by_failure,
            bytes_sent,
            bytes_received,
            clamped,
            iterations,
            steps,
            series: _,
            series_gaps,
            users_requested,
            users_achieved,
            warmup,
            measured,
            elapsed,
            interrupted,
            cut_short,
            aborted,
            dropped,
            busiest_thread,
            max_rss_bytes,
            no_free_port,
            too_many_files,
            no_free_port_since,
            too_many_files_since,
            clock_jump_nanos,
            run_delay,
            heartbeat,
            withheld,
            ledger: _,
        } = other;
        self.trends.add(trends);
        for (status, count) in by_status {
            add(self.by_status.entry(*status).or_default(), *count);
        }
        for (failure, count) in by_failure {
            add(self.by_failure.entry(*failure).or_default(), *count);
        }
        for (mine, theirs) in [
            (&mut self.requests, requests),
            (&mut self.failed, failed),
            (&mut self.bytes_sent, bytes_sent),
            (&mut self.bytes_received, bytes_received),
            (&mut self.clamped, clamped),
            (&mut self.iterations, iterations),
            (&mut self.series_gaps, series_gaps),
            (&mut self.aborted, aborted),
            (&mut self.dropped, dropped),
            (&mut self.no_free_port, no_free_port),
            (&mut self.too_many_files, too_many_files),
        ] {
            add(mine, *theirs);
        }
        for (mine, theirs) in [
            (&mut self.no_free_port_since, no_free_port_since),
            (&mut self.too_many_files_since, too_many_files_since),
        ] {
            *mine = mine.iter().chain(theirs).min().copied();
        }
        self.add_steps(steps);
        self.users_requested = self.users_requested.saturating_add(*users_requested);
        // The peaks of two machines may not have met in one moment, so their sum is an upper bound.
        self.users_achieved = self.users_achieved.saturating_add(*users_achieved);
        self.warmup = self.warmup.max(*warmup);
        self.measured = self.measured.max(*measured);
        self.elapsed = self.elapsed.max(*elapsed);
        self.interrupted |= interrupted;
        self.cut_short |= cut_short;
        self.run_delay = self.run_delay.into_iter().chain(*run_delay).reduce(f64::max);
        self.heartbeat.add(heartbeat).expect("histograms of equal bounds, as decoded");
        self.withheld = self.withheld.worst(*withheld);
        self.busiest_thread = self.busiest_thread.max(*busiest_thread);
        self.max_rss_bytes = self.max_rss_bytes.max(*max_rss_bytes);
        if clock_jump_nanos.unsigned_abs() > self.clock_jump_nanos.unsigned_abs() {
            self.clock_jump_nanos = *clock_jump_nanos;
        }
    }
}

impl Recording {
    /// All machines have the same plan, and so the same steps and checks.
    fn add_steps(&mut self, steps: &[StepRecording]) {
        if self.steps.is_empty() {
            self.steps = steps.to_vec();
            return;
        }
        for (mine, theirs) in self.steps.iter_mut().zip(steps) {
            add(&mut mine.requests, theirs.requests);
            add(&mut mine.failed, theirs.failed);
            mine.total.add(&theirs.total).expect("histograms of equal bounds, as decoded");
            mine.duration.add(&theirs.duration).expect("histograms of equal bounds, as decoded");
            for (mine, theirs) in mine.checks.iter_mut().zip(&theirs.checks) {
                add(&mut mine.passes, theirs.passes);
                add(&mut mine.fails, theirs.fails);
            }
        }
    }
}

/// Counts from another machine may be anything; ours must not overflow over them.
fn add(mine: &mut u64, theirs: u64) {
    *mine = mine.saturating_add(theirs);
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Fate;
    use super::super::outcome::Failure;
    use super::*;

    fn part(requests: u64, micros: &[u64], fates: &[&[Fate]]) -> Recording {
        let mut part = nothing();
        micros.iter().for_each(|value| part.trends.total.record(*value).unwrap());
        part.requests = requests;
        part.by_status.insert(200, requests);
        part.by_failure.insert(Failure::Reset, 1);
        part.users_requested = u32::try_from(fates.len()).unwrap();
        part.measured = Duration::from_secs(requests);
        part.clock_jump_nanos = -i64::try_from(requests).unwrap();
        part.ledger = Ledger::of(fates);
        part
    }

    #[test]
    fn parts_that_travelled_are_the_whole() {
        const A: Fate = Fate::Acknowledged;
        let parts = [part(3, &[10, 20, 59_999_999], &[&[A], &[A, A]]), part(1, &[30], &[&[Fate::Unknown]])];
        let mut travelled: Vec<Recording> = parts
            .iter()
            .map(|part| serde_json::from_str(&serde_json::to_string(part).unwrap()).unwrap())
            .collect();
        let whole = unite(travelled.iter_mut().collect(), Vec::new(), true);
        let mut trends = Trends::new();
        [10, 20, 59_999_999, 30].into_iter().for_each(|value| trends.total.record(value).unwrap());
        assert!(whole.trends.total == trends.total);
        assert_eq!((whole.requests, whole.by_status[&200], whole.by_failure[&Failure::Reset]), (4, 4, 2));
        assert_eq!((whole.users_requested, whole.measured), (3, Duration::from_secs(3)));
        assert_eq!(whole.clock_jump_nanos, -3);
        assert_eq!(whole.ledger, Ledger::of(&[&[A], &[Fate::Unknown], &[A, A]]));
    }

    #[test]
    fn without_all_parts_there_is_no_ledger() {
        let mut parts = [part(3, &[10], &[&[Fate::Acknowledged]])];
        let whole = unite(parts.iter_mut().collect(), Vec::new(), false);
        assert_eq!((whole.requests, whole.ledger.users()), (3, 0));
        assert_eq!(unite(Vec::new(), Vec::new(), false).requests, 0);
    }

    #[test]
    fn counts_beyond_all_bounds_do_not_overflow() {
        let mut parts = [part(3, &[], &[]), part(1, &[], &[])];
        parts[1].requests = u64::MAX;
        assert_eq!(unite(parts.iter_mut().collect(), Vec::new(), true).requests, u64::MAX);
    }
}
