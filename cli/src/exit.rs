//! What an exit status of scalekit means. Scripts and CI rely on these numbers.

use std::process::{ExitCode, Termination};

use crate::criteria::{Outcome, Verdict};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ExitStatus {
    /// Done; the criteria passed, where there were any.
    Done = 0,
    /// The command itself failed; the message says what, where and what to do.
    Failed = 1,
    /// The command line cannot be understood (clap's number).
    Usage = 2,
    /// A criterion failed (k6's number); of `doctor`: something will fail at the users that were asked about.
    CriteriaFailed = 99,
    /// An invalid profile, criterion or report, found before anything started (k6's number).
    InvalidConfig = 104,
    /// Interrupted; partial results were written and are marked so (k6's number).
    Interrupted = 105,
    /// The measurement is invalid: the generator, the clock or an unenforced cap spoiled it.
    InvalidMeasurement = 120,
    /// A write was acknowledged and is lost or duplicated.
    AuditMismatch = 121,
    /// The host (`tune verify`) or the cluster (`deploy --diff`) differs from the profile.
    HostDiffers = 122,
}

impl ExitStatus {
    /// What a run's verdict means for the caller. The worst counts: a lost write before a spoiled measurement,
    /// that before a failed criterion, and that before an interruption.
    pub(crate) fn of(verdict: &Verdict) -> Self {
        if verdict.audit_mismatch {
            Self::AuditMismatch
        } else if verdict.outcome == Outcome::Invalid {
            Self::InvalidMeasurement
        } else if verdict.criteria_failed() {
            Self::CriteriaFailed
        } else if verdict.interrupted {
            Self::Interrupted
        } else {
            Self::Done
        }
    }
}

impl Termination for ExitStatus {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criteria::{Evaluated, Judgement};

    #[test]
    fn the_worst_counts() {
        use Outcome::{Fail, Invalid, Pass};
        for (outcome, threshold, audit_mismatch, interrupted, status) in [
            (Pass, Judgement::Pass, false, false, 0),
            (Fail, Judgement::Pass, false, true, 105),
            (Fail, Judgement::Fail, false, true, 99),
            (Fail, Judgement::Fail, false, false, 99),
            (Fail, Judgement::Unevaluated, false, false, 99),
            (Fail, Judgement::Unevaluated, false, true, 105),
            (Invalid, Judgement::Pass, false, false, 120),
            (Invalid, Judgement::Fail, false, true, 120),
            (Fail, Judgement::Pass, true, false, 121),
            (Invalid, Judgement::Fail, true, true, 121),
        ] {
            let threshold = Evaluated {
                metric: "http_reqs".to_owned(),
                expression: "count>0".to_owned(),
                outcome: threshold,
                observed: None,
            };
            let verdict = Verdict {
                outcome,
                reasons: Vec::new(),
                thresholds: vec![threshold],
                audit_mismatch,
                interrupted,
                aborted: false,
            };
            assert_eq!(ExitStatus::of(&verdict) as u8, status, "{verdict:?}");
            // A criterion that ended the run has failed, and the worse still counts.
            let aborted = Verdict { aborted: true, ..verdict };
            let worst = if status >= 120 { status } else { 99 };
            assert_eq!(ExitStatus::of(&aborted) as u8, worst, "{aborted:?}");
        }
    }
}
