//! `scalekit cap`: a cap on what a control group does on a disk; and a cap in a line.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, bail};

use super::{control_runtime, print};
use crate::args::{ApplyArgs, CapAction, CapArgs, Global};
use crate::cgroup_path;
use crate::deploy::cap::{self, Cap, CapRequest, Facts, Which};
use crate::exit::ExitStatus;
use crate::profile::Rate;

pub(super) fn cap(global: &Global, args: &CapArgs) -> anyhow::Result<ExitStatus> {
    match &args.action {
        CapAction::Apply(args) => apply(global, args),
        CapAction::Probe { task } => probe(task),
    }
}

fn probe(task: &str) -> anyhow::Result<ExitStatus> {
    let task = serde_json::from_str(task).context("TASK: expected what `scalekit cap apply` writes")?;
    let outcome = cap::probe(&task)?;
    print(&format!("{}\n", serde_json::to_string(&outcome)?))?;
    Ok(ExitStatus::Done)
}

fn apply(global: &Global, args: &ApplyArgs) -> anyhow::Result<ExitStatus> {
    let iops_per_s = iops(&args.iops)?;
    let binary = std::env::current_exe().context("cannot find this program's own file")?;
    let around = match &args.pod_uid {
        Some(uid) => Some(cap::of_pod(&args.cgroup_root, uid)?),
        None if args.own_group => Some(own_group()?),
        None => None,
    };
    let group = match (&around, &args.group) {
        (Some(around), _) => Which::Around(around),
        (None, Some(group)) => Which::Given(group),
        (None, None) => bail!("--group, --pod-uid or --own-group: expected one of them"),
    };
    let request = CapRequest { iops_per_s, group, directory: &args.directory, binary: &binary };
    let cap = control_runtime()?.block_on(Cap::establish(&request))?;
    let facts = cap.facts();
    let text = serde_json::to_string(&facts)?;
    if let Some(file) = &args.result_file {
        fs::write(file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    match global.json {
        true => print(&format!("{text}\n"))?,
        false => print(&format!("{}: {}\n", cap.group.display(), line(&facts)))?,
    }
    Ok(if facts.problem.is_none() || args.unproven {
        ExitStatus::Done
    } else {
        ExitStatus::InvalidMeasurement
    })
}

/// The one that counts this process's I/O.
fn own_group() -> anyhow::Result<PathBuf> {
    let read = |file: &str| fs::read_to_string(file).with_context(|| format!("cannot read {file}"));
    let groups = cgroup_path::groups(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?, "io");
    let own = groups.into_iter().next().context("this process is in no control group that limits I/O")?;
    Ok(own.directory)
}

fn iops(text: &str) -> anyhow::Result<u32> {
    let rate = text.parse::<Rate>().ok().and_then(|Rate(rate)| u32::try_from(rate).ok());
    match rate {
        Some(rate @ 1..=1_000_000) => Ok(rate),
        _ => bail!("--iops: expected a rate of 1/s to 1000000/s, found {text:?}"),
    }
}

/// A cap in one line: what the probe says of it, and whether it is still in force.
pub(super) fn line(cap: &Facts) -> String {
    let Facts { iops_per_s, capped_per_s, uncapped_per_s, .. } = cap;
    match &cap.problem {
        None => {
            format!("verified {capped_per_s:.0}/s (asked {iops_per_s}/s, without it {uncapped_per_s:.0}/s)")
        }
        Some(problem) => format!("not enforced (asked {iops_per_s}/s): {problem}"),
    }
}
