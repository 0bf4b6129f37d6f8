//! The summary at the end of a run, in the manner of k6's.

mod findings;

use std::fmt::Write as _;

use super::figures::{bytes, count, decimal, gibibytes, millis, percent};
use super::model::{Agent, Cap, CapKind, DeviceCap, Metric, Model, Report, Requested};
use crate::criteria::{Contains, Judgement, Kind, Outcome, Verdict, definition};

/// Names are padded with dots up to this column.
const NAME_WIDTH: usize = 32;
/// The trends in the order in which they are read: what the user felt first, then its parts.
const TRENDS: [&str; 10] = [
    "http_req_total_duration",
    "http_req_duration",
    "http_req_blocked",
    "http_req_connecting",
    "http_req_tls_handshaking",
    "http_req_sending",
    "http_req_waiting",
    "http_req_receiving",
    "iteration_duration",
    "loadgen_lag",
];
/// Below this pause, a second and a half of frozen server does not reach the 99th percentile of 30 s (simulated
/// for 100 and 1,200 users in the closed model).
const SHORT_THINK_MS: f64 = 500.0;
const STATISTICS: [&str; 8] = ["avg", "min", "med", "max", "p(90)", "p(95)", "p(99)", "p(99.9)"];
/// Most examples and findings that are listed; the report has them all.
const MOST_LISTED: usize = 10;

/// The summary; with `color`, marks and verdict in ANSI colours.
pub(crate) fn text(report: &Report, color: bool) -> String {
    let mut page = Page { text: String::new(), color };
    page.head(report);
    if let Some(verdict) = &report.verdict {
        page.thresholds(verdict);
    }
    page.results(report);
    page.steps(report);
    page.agents(&report.agents);
    page.failures(report);
    page.database(report);
    page.findings(report);
    page.verdict(report);
    page.text
}

/// What was asked for: users and their pauses, or a rate.
fn model(requested: &Requested) -> String {
    let users = count(u64::from(requested.vus));
    let mut text = match requested.model {
        Model::Closed => format!("{users} users, {} apart", millis(requested.think_time_ms)),
        Model::Paced => format!("{users} users, each {}", millis(requested.pacing_ms.unwrap_or_default())),
        Model::Open => {
            let rate = count(u64::from(requested.rate_per_s.unwrap_or_default()));
            format!("{rate} iterations/s by at most {users} users")
        }
    };
    if !requested.stages.is_empty() {
        let _ = write!(text, " (stages {})", requested.stages.join(", "));
    }
    if let Some(iterations) = requested.iterations {
        let _ = write!(text, ", {} iterations", count(iterations));
    }
    text
}

#[derive(Clone, Copy)]
enum Ink {
    Green,
    Red,
    Yellow,
}

struct Page {
    text: String,
    color: bool,
}

impl Page {
    fn line(&mut self, line: &str) {
        // Names may come from a foreign file: nothing of it may steer the terminal.
        self.text.extend(line.trim_end().chars().filter(|c| !c.is_control()));
        self.text.push('\n');
    }

    fn section(&mut self, title: &str) {
        let _ = write!(self.text, "\n  █ {title}\n\n");
    }

    /// `  name.......: value`
    fn entry(&mut self, name: &str, value: &str) {
        self.line(&format!("    {name:.<NAME_WIDTH$}: {value}"));
    }

    /// Appends a coloured word to a line that is already clean.
    fn inked(&self, word: &str, ink: Ink) -> String {
        if !self.color {
            return word.to_owned();
        }
        let code = match ink {
            Ink::Green => 32,
            Ink::Red => 31,
            Ink::Yellow => 33,
        };
        format!("\u{1b}[{code}m{word}\u{1b}[0m")
    }

    fn head(&mut self, report: &Report) {
        let (requested, achieved) = (&report.load.requested, &report.load.achieved);
        self.line(&format!("  {} {}  run {}", report.tool.name, report.tool.version, report.run.id));
        self.line(&format!(
            "  profile {}: {}, {}s after {}s of warm-up, {}",
            report.run.profile,
            model(requested),
            decimal(requested.duration_s),
            decimal(requested.warmup_s),
            requested.url
        ));
        if report.server.mode.as_deref() == Some("direct") {
            self.line(
                "  DIRECT mode: each read and each write was a database operation of its own, without journal, cache and \
                 worker",
            );
        }
        self.line(&format!(
            "  achieved: {} users, {} requests/s over {}s",
            count(u64::from(achieved.vus)),
            decimal(achieved.rate),
            decimal(achieved.measured_s)
        ));
        if requested.model == Model::Closed && requested.think_time_ms < SHORT_THINK_MS {
            self.line(
                "  note: users who wait for a frozen server ask nothing meanwhile, and with pauses this short that \
                 hides the freeze from percentiles; --rate or --pacing sees it",
            );
        }
        let host = &report.host;
        self.line(&format!(
            "  host: {} x {}, {}, {} {}",
            host.cores,
            host.cpu_model,
            gibibytes(host.memory_bytes),
            host.os,
            host.kernel
        ));
        if report.run.interrupted {
            self.line("  interrupted: these results are partial");
        }
        if let Some(aborted) = &report.run.aborted {
            self.line(&format!(
                "  ended after {}s by {}: {}; these results are partial",
                decimal(aborted.at_s),
                aborted.metric,
                aborted.expression
            ));
        }
    }

    fn thresholds(&mut self, verdict: &Verdict) {
        if verdict.thresholds.is_empty() {
            return;
        }
        self.section("THRESHOLDS");
        for threshold in &verdict.thresholds {
            let (mark, ink) = match threshold.outcome {
                Judgement::Pass => ("✓", Ink::Green),
                Judgement::Fail => ("✗", Ink::Red),
                Judgement::Unevaluated => ("?", Ink::Yellow),
            };
            let statistic =
                threshold.expression.split(['<', '>', '=', '!']).next().unwrap_or_default().trim();
            let observed = threshold.observed.map_or_else(
                || "not measured".to_owned(),
                |value| format!("{statistic}={}", figure(&threshold.metric, statistic, value)),
            );
            let line =
                format!("    {:.<NAME_WIDTH$}: \u{1}'{}' {observed}", threshold.metric, threshold.expression);
            let clean: String = line.chars().filter(|c| !c.is_control() || *c == '\u{1}').collect();
            let mark = format!("{} ", self.inked(mark, ink));
            let line = clean.replacen('\u{1}', &mark, 1).replace('\u{1}', "");
            self.text.push_str(&line);
            self.text.push('\n');
        }
    }

    fn results(&mut self, report: &Report) {
        self.section("TOTAL RESULTS");
        for name in TRENDS {
            if let Some(metric) = report.metrics.get(name).filter(|metric| !metric.values.is_empty()) {
                self.entry(name, &trend(metric));
            }
        }
        let shown_elsewhere =
            ["db_ops", "db_iops", "journal_backlog", "acked_writes", "lost_writes", "duplicated_writes"];
        for (name, metric) in &report.metrics {
            if metric.kind != Kind::Trend && !shown_elsewhere.contains(&name.as_str()) {
                self.entry(name, &plain(name, metric));
            }
        }
    }

    /// Said where there is more than the one request whose figures are above.
    fn steps(&mut self, report: &Report) {
        if report.steps.len() < 2 && report.steps.iter().all(|step| step.checks.is_empty()) {
            return;
        }
        self.section("STEPS");
        for step in &report.steps {
            let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), millis);
            let figures = format!(
                "{} requests, {} failed, med={} p(95)={} p(99)={} max={}",
                count(step.requests),
                count(step.failed),
                ms(step.total_ms_med),
                ms(step.total_ms_p95),
                ms(step.total_ms_p99),
                ms(step.total_ms_max)
            );
            self.entry(&step.name, &figures);
            for check in &step.checks {
                let (mark, ink) = if check.fails == 0 { ("✓", Ink::Green) } else { ("✗", Ink::Red) };
                let of = check.passes + check.fails;
                let name: String = check.name.chars().filter(|c| !c.is_control()).collect();
                let mark = self.inked(mark, ink);
                let _ = writeln!(self.text, "      {mark} {name}: {} of {}", count(check.passes), count(of));
            }
        }
    }

    fn agents(&mut self, agents: &[Agent]) {
        if agents.is_empty() {
            return;
        }
        self.section("AGENTS");
        for agent in agents {
            let name = format!("{} ({})", agent.name, agent.address);
            if let Some(problem) = &agent.problem {
                self.entry(&name, &format!("{} users, failed: {problem}", agent.vus));
                continue;
            }
            let lag = agent.lag_ms_p99.map_or_else(|| "not measured".to_owned(), millis);
            self.entry(
                &name,
                &format!(
                    "{} users, {} requests, {}/s, busiest thread {}, lag p(99)={lag}, clock {}{} ±{}, {}",
                    agent.vus,
                    count(agent.requests),
                    decimal(agent.rate),
                    percent(agent.busiest_thread),
                    if agent.clock_offset_ms < 0.0 { "-" } else { "+" },
                    millis(agent.clock_offset_ms.abs()),
                    millis(agent.clock_uncertainty_ms),
                    bytes(agent.memory_peak_bytes as f64),
                ),
            );
        }
    }

    fn failures(&mut self, report: &Report) {
        let failed: Vec<_> =
            report.outcomes.iter().filter(|class| class.name != "ok" && class.count > 0).collect();
        if failed.is_empty() {
            return;
        }
        self.section("FAILURES");
        for class in failed {
            let statuses: Vec<_> =
                class.statuses.iter().map(|(status, times)| format!("{status}: {}", count(*times))).collect();
            let statuses =
                if statuses.is_empty() { String::new() } else { format!("  ({})", statuses.join(", ")) };
            self.entry(
                &format!("{} {}", class.code, class.name),
                &format!("{}{statuses}", count(class.count)),
            );
        }
    }

    fn database(&mut self, report: &Report) {
        let metrics = &report.metrics;
        let names = ["db_ops", "db_iops", "journal_backlog"];
        let cap = cap(&report.cap);
        if report.audit.is_none() && cap.is_none() && names.iter().all(|name| !metrics.contains_key(*name)) {
            return;
        }
        self.section("DATABASE");
        if let Some(cap) = cap {
            self.entry("cap", &cap);
        }
        for name in names {
            if let Some(metric) = metrics.get(name) {
                self.entry(name, &plain(name, metric));
            }
        }
        let Some(audit) = &report.audit else {
            self.entry("audit", "none was made");
            return;
        };
        let verdict = format!(
            "{} acknowledged, {} stored, {} lost, {} duplicated",
            count(audit.acknowledged),
            count(audit.stored),
            count(audit.lost),
            count(audit.duplicated)
        );
        self.entry("audit", &verdict);
        if audit.unknown > 0 {
            let line = format!("{}, of which {} stored", count(audit.unknown), count(audit.unknown_stored));
            self.entry("  without an answer", &line);
        }
        if audit.refused_stored > 0 {
            self.entry("  refused, yet stored", &count(audit.refused_stored));
        }
        for example in audit.examples.iter().take(MOST_LISTED) {
            self.entry("  example", example);
        }
    }

    fn verdict(&mut self, report: &Report) {
        self.text.push('\n');
        let Some(verdict) = &report.verdict else {
            self.line("  VERDICT: none, the run was not judged");
            return;
        };
        let (word, ink) = match verdict.outcome {
            Outcome::Pass => ("PASS", Ink::Green),
            Outcome::Fail => ("FAIL", Ink::Red),
            Outcome::Invalid => ("INVALID", Ink::Yellow),
        };
        let word = self.inked(word, ink);
        let _ = writeln!(self.text, "  VERDICT: {word}");
        if verdict.outcome == Outcome::Pass && verdict.thresholds.is_empty() {
            self.line("    there were no criteria");
        }
        for reason in &verdict.reasons {
            self.line(&format!("    {reason}"));
        }
    }
}

/// What held the database back, and whether that is proven. `None`: nothing did.
fn cap(cap: &Cap) -> Option<String> {
    let governed = cap.limit_per_s.map(|limit| format!("the governor allows {} operations/s", count(limit)));
    let Some(DeviceCap { iops, capped_per_s, uncapped_per_s, problem, .. }) = &cap.device else {
        let governed = governed.filter(|_| cap.kind != CapKind::None)?;
        return Some(format!("simulated ({governed}, nothing caps the disk)"));
    };
    let proof = match problem {
        None => format!("verified {capped_per_s:.0}/s (asked {iops}/s, without it {uncapped_per_s:.0}/s)"),
        Some(problem) => format!("not enforced (asked {iops}/s): {problem}"),
    };
    Some(governed.into_iter().fold(proof, |proof, governed| format!("{proof}; {governed}")))
}

fn trend(metric: &Metric) -> String {
    let values = STATISTICS.iter().filter_map(|statistic| {
        metric.values.get(*statistic).map(|value| format!("{statistic}={:<9}", millis(*value)))
    });
    values.collect::<Vec<_>>().join(" ")
}

/// A metric that is not a trend.
fn plain(name: &str, metric: &Metric) -> String {
    let value = |statistic: &str| metric.values.get(statistic).copied();
    let shown = |statistic: &str| {
        value(statistic).map_or_else(|| "not measured".to_owned(), |value| figure(name, statistic, value))
    };
    let max = || value("max").map(|max| figure(name, "max", max));
    match metric.kind {
        Kind::Counter => {
            let most = max().map_or_else(String::new, |max| format!("  at most {max} in one second"));
            let rate =
                value("rate").map_or_else(String::new, |rate| format!("  {}/s", figure(name, "count", rate)));
            format!("{}{rate}{most}", shown("count"))
        }
        Kind::Gauge => match (value("min"), max()) {
            (Some(min), Some(max)) => {
                format!("{}  min={} max={max}", shown("value"), figure(name, "min", min))
            }
            _ => shown("value"),
        },
        Kind::Rate => match (value("passes"), value("fails")) {
            (Some(passes), Some(fails)) => {
                format!("{}  {} out of {}", shown("rate"), decimal(passes), decimal(passes + fails))
            }
            _ => shown("rate"),
        },
        Kind::Trend => trend(metric),
    }
}

/// One value in its metric's unit.
fn figure(metric: &str, statistic: &str, value: f64) -> String {
    let Some(definition) = definition(metric) else { return decimal(value) };
    let shown = match (definition.contains, definition.kind) {
        (Contains::Time, _) => millis(value),
        (Contains::Data, _) => bytes(value),
        (Contains::Default, Kind::Rate) => percent(value),
        (Contains::Default, _) => decimal(value),
    };
    if statistic == "rate" && definition.kind == Kind::Counter { format!("{shown}/s") } else { shown }
}
