//! The run's clock: nanoseconds of CLOCK_MONOTONIC since the run began.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since the run began. Plain numbers, since each request stamps half a dozen of them.
pub(super) type Nanos = u64;

pub(super) const SECOND: Nanos = 1_000_000_000;

/// Reads CLOCK_MONOTONIC rather than `Instant`, because the timer is armed with the same clock's absolute time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    origin: Nanos,
}

impl Clock {
    /// A clock that reads 0 now.
    pub(super) fn start() -> Self {
        Self { origin: monotonic(ClockId::CLOCK_MONOTONIC) }
    }

    pub(super) fn now(self) -> Nanos {
        monotonic(ClockId::CLOCK_MONOTONIC).saturating_sub(self.origin)
    }

    /// `at` in CLOCK_MONOTONIC's own terms, for an absolute timer.
    pub(super) fn absolute(self, at: Nanos) -> TimeSpec {
        TimeSpec::from_duration(Duration::from_nanos(self.origin.saturating_add(at)))
    }
}

/// CPU time that the calling thread has used so far, user and system.
pub(super) fn thread_cpu_time() -> Nanos {
    monotonic(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn monotonic(clock: ClockId) -> Nanos {
    // Both clocks exist on every Linux, and the destination is valid: no other error is documented.
    let time = clock_gettime(clock).expect("the monotonic and the thread clock exist on Linux");
    nanos(Duration::from(time))
}

/// A duration as nanoseconds; what exceeds 584 years is that.
pub(super) fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
