//! What was full, the likeliest cause first; what nobody knows; and whose host was looked at.

use super::{MOST_LISTED, Page};
use crate::report::figures::{millis, percent};
use crate::report::model::{Chosen, Counters, Evidence, Finding, Report};

impl Page {
    pub(super) fn findings(&mut self, report: &Report) {
        if report.findings.is_empty() && report.counters.is_none() {
            return;
        }
        self.section("FINDINGS");
        let knee = report.counters.as_ref().and_then(|counters| counters.knee);
        if let Some(knee) = knee {
            self.line(&format!(
                "    p(99) rose at {} s, from {} to {}",
                knee.at_s,
                millis(knee.baseline_ms),
                millis(knee.p99_ms)
            ));
        }
        let is_of_counters = |finding: &&Finding| finding.evidence.is_some();
        if report.counters.is_some() && !report.findings.iter().any(|finding| is_of_counters(&finding)) {
            self.line("    No saturated resource found");
        }
        for finding in report.findings.iter().take(MOST_LISTED) {
            self.finding(finding);
        }
        if let Some(left) = report.findings.len().checked_sub(MOST_LISTED).filter(|left| *left > 0) {
            self.line(&format!("    {left} more are in report.json"));
        }
        if let Some(counters) = &report.counters {
            self.sampled(counters);
        }
    }

    fn finding(&mut self, finding: &Finding) {
        let Some(evidence) = &finding.evidence else {
            self.line(&format!("    {}: {}", finding.id, finding.message));
            self.line(&format!("      → {}", finding.advice));
            return;
        };
        let likely = if evidence.before_knee == Some(true) { "likely cause: " } else { "" };
        self.line(&format!("    {likely}{}", finding.message));
        self.line(&format!("      → {}{}", finding.advice, settings(evidence)));
    }

    fn sampled(&mut self, counters: &Counters) {
        if !counters.unknown.is_empty() {
            let unknown: Vec<String> = counters
                .unknown
                .iter()
                .map(|unknown| format!("{} ({})", unknown.resource, unknown.counters.join(", ")))
                .collect();
            self.line(&format!("    unknown: {}", unknown.join(", ")));
        }
        for problem in counters.problems.iter().take(MOST_LISTED) {
            self.line(&format!("    note: {problem}"));
        }
        let process = &counters.process;
        let name = process.name.as_deref().unwrap_or("ended");
        let note = if process.chosen == Chosen::Generator { "note: " } else { "" };
        self.line(&format!(
            "    {note}sampled: process {} ({name}), {}; it took {} of a core",
            process.pid,
            process.why,
            percent(counters.cost_share)
        ));
    }
}

/// ` [tune: KEYS; deployment: KEYS]`
fn settings(evidence: &Evidence) -> String {
    let named = [("tune", &evidence.tune), ("deployment", &evidence.deploy)];
    let parts: Vec<String> = named
        .into_iter()
        .filter(|(_, keys)| !keys.is_empty())
        .map(|(what, keys)| format!("{what}: {}", keys.join(", ")))
        .collect();
    if parts.is_empty() { String::new() } else { format!(" [{}]", parts.join("; ")) }
}
