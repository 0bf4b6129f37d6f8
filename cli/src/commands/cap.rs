//! The cap on the database's disk: in a line, and `scalekit cap-probe`, the process that puts it to the test.

use anyhow::Context as _;

use super::print;
use crate::args::CapProbeArgs;
use crate::deploy::cap::{self, Cap};
use crate::exit::ExitStatus;

pub(super) fn probe(args: &CapProbeArgs) -> anyhow::Result<ExitStatus> {
    let task = serde_json::from_str(&args.task).context("TASK: expected what `scalekit deploy` writes")?;
    let outcome = cap::probe(&task)?;
    print(&format!("{}\n", serde_json::to_string(&outcome)?))?;
    Ok(ExitStatus::Done)
}

/// A deployment's cap in one line: what the probe says of it, and whether it is still in force.
pub(super) fn line(cap: &Cap) -> String {
    let (asked, verdict) = (cap.iops_per_s, &cap.verdict);
    match cap.problem().or_else(|| verdict.problem.clone()) {
        None => format!(
            "verified {:.0}/s (asked {asked}/s, without it {:.0}/s)",
            verdict.capped_per_s, verdict.uncapped_per_s
        ),
        Some(problem) => format!("not enforced (asked {asked}/s): {problem}"),
    }
}
