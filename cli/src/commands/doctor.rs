//! `scalekit doctor`: watch the host, and one process on it, for a while; say what is full.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use super::print;
use crate::args::{DoctorArgs, Global};
use crate::exit::ExitStatus;
use crate::host::counters::{Deltas, Sampler, Series, Snapshot, snapshot};
use crate::host::findings::{Attribution, Evidence, attribute};
use crate::root::Root;

/// A process can come to its end while it is watched, and a watch be left running; a day is longer than any run.
const LONGEST_S: u64 = 86_400;

/// What `--json` prints.
#[derive(Serialize)]
struct Facts<'a> {
    snapshot: &'a Snapshot,
    attribution: &'a Attribution,
    /// Each counter before and after.
    deltas: Deltas,
    series: &'a Series,
    /// Share of one processor that watching took, 0 to 1.
    cost: f64,
    summary: String,
}

pub(super) fn doctor(global: &Global, args: &DoctorArgs) -> anyhow::Result<ExitStatus> {
    let own = std::process::id();
    let pid = args.pid.unwrap_or(own);
    let root = Root::host();
    anyhow::ensure!(
        std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "process {pid} does not exist; --pid takes the number of one that runs, such as `pidof scalekit` prints"
    );
    let sampler =
        Sampler::start(root.clone(), pid).context("cannot start the thread that reads the counters")?;
    thread::sleep(Duration::from_secs(args.seconds.min(LONGEST_S)));
    let now = snapshot(&root, pid);
    let series = sampler.stop();
    let attribution =
        attribute(Evidence { series: &series, latency: &[], measured_from_ms: 0, disk_cap: None });
    let summary = attribution.summary();
    if global.json {
        let facts = Facts {
            snapshot: &now,
            attribution: &attribution,
            deltas: series.deltas(),
            series: &series,
            cost: series.cost_share(),
            summary,
        };
        print(&format!("{}\n", serde_json::to_string_pretty(&facts)?))?;
    } else {
        print(&text(&attribution, &series, &now))?;
    }
    Ok(ExitStatus::Done)
}

fn text(attribution: &Attribution, series: &Series, now: &Snapshot) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for finding in &attribution.findings {
        let _ = writeln!(text, "{}\n  {}", finding.message, finding.advice);
        let settings: Vec<&str> = finding.tune.iter().chain(&finding.deploy).map(String::as_str).collect();
        if !settings.is_empty() {
            let _ = writeln!(text, "  settings: {}", settings.join(", "));
        }
    }
    if attribution.findings.is_empty() {
        let _ = writeln!(text, "No saturated resource found in {:.0} s", series.duration_ms / 1000.0);
    }
    for unknown in &attribution.unknown {
        let _ = writeln!(text, "unknown: {}: {}", unknown.resource.name(), unknown.counters.join(", "));
    }
    for problem in &now.problems {
        let _ = writeln!(text, "{problem}");
    }
    text
}
