//! What an exit status of scalekit means. Scripts and CI rely on these numbers.

use std::process::{ExitCode, Termination};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ExitStatus {
    /// Done; the criteria passed, where there were any.
    Done = 0,
    /// The command itself failed; the message says what, where and what to do.
    Failed = 1,
    /// A criterion failed (k6's number).
    CriteriaFailed = 99,
    /// An invalid profile, criterion or report, found before anything started (k6's number).
    InvalidConfig = 104,
    /// Interrupted; partial results were written and are marked so (k6's number).
    Interrupted = 105,
    /// The measurement is invalid: the generator, the clock or an unenforced cap spoiled it.
    InvalidMeasurement = 120,
    /// A write was acknowledged and is lost or duplicated.
    AuditMismatch = 121,
}

impl Termination for ExitStatus {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}
