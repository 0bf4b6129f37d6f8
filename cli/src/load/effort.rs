//! What a thread spent on the measured part: processor time, and time it waited for a processor.

use std::time::Duration;

use super::clock::{Nanos, nanos, thread_cpu_time};
use super::withheld::thread_run_delay;
use crate::root::Root;

/// A thread's marks at the start of the measured part, and its shares at the end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Effort {
    mark: Option<Mark>,
    shares: Option<Shares>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Nanos,
    cpu: Nanos,
    run_delay: Option<Duration>,
}

/// Over the time that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Shares {
    /// CPU time, 0 to 1.
    pub(super) busy: f64,
    /// Ready to run, but not running; `None` where the kernel does not tell.
    pub(super) delayed: Option<f64>,
}

impl Effort {
    /// To be called on the thread itself, as are all.
    pub(super) fn begin(&mut self, now: Nanos) {
        if self.mark.is_none() {
            self.mark = Some(Mark { at: now, cpu: thread_cpu_time(), run_delay: run_delay() });
        }
    }

    pub(super) fn end(&mut self, now: Nanos) {
        if self.shares.is_none() {
            self.shares = Some(self.until(now));
        }
    }

    /// The shares at the end, or until `now` if it did not come to that.
    pub(super) fn finish(self, now: Nanos) -> Shares {
        self.shares.unwrap_or_else(|| self.until(now))
    }

    fn until(&self, now: Nanos) -> Shares {
        // Before anything else takes some.
        let cpu = thread_cpu_time();
        let Some(mark) = self.mark.filter(|mark| now > mark.at) else { return Shares::default() };
        let passed = (now - mark.at) as f64;
        let waited = run_delay().zip(mark.run_delay).map(|(now, then)| nanos(now.saturating_sub(then)));
        Shares {
            busy: cpu.saturating_sub(mark.cpu) as f64 / passed,
            delayed: waited.map(|waited| waited as f64 / passed),
        }
    }
}

fn run_delay() -> Option<Duration> {
    thread_run_delay(&Root::host())
}

#[cfg(test)]
mod tests {
    use super::super::clock::Clock;
    use super::*;

    #[test]
    fn shares_are_of_the_time_between_begin_and_end() {
        let clock = Clock::start();
        let mut effort = Effort::default();
        assert_eq!(effort.finish(5), Shares::default(), "nothing was measured");
        effort.begin(clock.now());
        while thread_cpu_time().saturating_sub(effort.mark.unwrap().cpu) < 20_000_000 {
            std::hint::spin_loop();
        }
        effort.end(clock.now());
        let shares = effort.finish(u64::MAX);
        assert!(shares.busy > 0.0 && shares.busy <= 1.01, "{shares:?}");
        assert!(shares.delayed.is_none_or(|delayed| (0.0..=1.01).contains(&delayed)), "{shares:?}");
        // Once begun and once ended, it stays so.
        effort.begin(u64::MAX);
        effort.end(u64::MAX);
        assert_eq!(effort.finish(0), shares);
    }
}
