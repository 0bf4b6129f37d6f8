//! Criteria: thresholds in k6's grammar, judged on facts. Pure: no clock, no file, no sibling.
//!
//! A threshold has three outcomes. What cannot be evaluated (no sample, not a number, not measured) has not
//! passed: a gate must not open because nothing was there.

mod abort;
mod grammar;
mod judge;
mod metrics;

pub(crate) use abort::first_to_abort;
pub(crate) use grammar::{Criterion, Operator, Spec, Statistic, parse};
pub(crate) use judge::{AuditFacts, Evaluated, Facts, Judgement, Observed, Outcome, Verdict, judge};
#[cfg(test)]
pub(crate) use metrics::METRICS;
pub(crate) use metrics::{Contains, Kind, definition};

/// An invalid criterion: exit status 104.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{location}: {message}\nhelp: {help}")]
pub(crate) struct CriteriaError {
    /// Where the criterion was written.
    pub(crate) location: String,
    pub(crate) message: String,
    pub(crate) help: String,
}
