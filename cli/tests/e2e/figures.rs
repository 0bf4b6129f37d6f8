//! A run of `scalekit bench` against a server of the tests, and the figures of its report.

use std::fs;

use serde_json::Value;

use crate::sandbox::{Output, SCALEKIT, Sandbox, wait_for};

/// The figures of one report.
pub(crate) struct Figures(Value);

/// The flags of a run: users, think time and duration. There is no warm-up unless a flag asks for one.
pub(crate) fn crowd(vus: u32, think: &'static str, duration: &'static str) -> Vec<String> {
    let vus = vus.to_string();
    ["--vus", &vus, "--think", think, "--duration", duration].map(str::to_owned).into()
}

/// Loads a URL. Whether the run passes is not the point: it ends with a report, and that is read.
#[track_caller]
pub(crate) fn bench(url: &str, flags: &[String]) -> Figures {
    let sandbox = Sandbox::new();
    let output = sandbox.scalekit(&command(&sandbox, url, flags));
    Figures::of(&sandbox, output)
}

/// The same, and the most anonymous memory that the program was seen to have, in bytes. What it reads from files, most
/// of which is its own code, is as much as the page cache happens to map, and no memory that it takes.
#[track_caller]
pub(crate) fn bench_watched(url: &str, flags: &[String]) -> (Figures, u64) {
    let sandbox = Sandbox::new();
    let mut run = sandbox.start(sandbox.command(&command(&sandbox, url, flags)));
    let mut most = 0;
    wait_for("the end of a run", || {
        most = most.max(anonymous_bytes(run.pid()).unwrap_or(0));
        run.has_ended().then_some(())
    });
    assert!(most > 0, "the kernel does not tell RssAnon, or the run took no time");
    (Figures::of(&sandbox, run.wait()), most)
}

/// proc_pid_status(5), since Linux 4.5. `None` of a process that has ended and is not reaped, and of one that is still
/// on its way through execve(2): for that moment, which lasts while other threads hold the lock of the tests' memory
/// map, its memory is that of the tests, though `spawn` has returned. Its `exe` tells whose it is.
fn anonymous_bytes(pid: i32) -> Option<u64> {
    let program = fs::canonicalize(SCALEKIT).unwrap();
    if fs::read_link(format!("/proc/{pid}/exe")).ok()? != program {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024)
}

/// The arguments of such a run.
pub(crate) fn command(sandbox: &Sandbox, url: &str, flags: &[String]) -> Vec<String> {
    // One generator thread, whatever the machine: the servers take a core, too.
    let profile = sandbox.profile("accuracy", "load: {threads: 1}");
    [&["bench", "-p", &profile, "--url", url].map(str::to_owned)[..], flags].concat()
}

impl Figures {
    /// The report of the only run in a sandbox, which may have been judged in any way but must have been made.
    #[track_caller]
    pub(crate) fn of(sandbox: &Sandbox, output: Output) -> Self {
        let ends = [Some(0), Some(99), Some(105), Some(120)];
        assert!(ends.contains(&output.status), "{:?}: {}", output.status, output.stderr);
        Self(sandbox.report())
    }

    pub(crate) fn json(&self) -> &Value {
        &self.0
    }

    /// A statistic of a metric, such as `avg` in ms or `count`.
    #[track_caller]
    pub(crate) fn value(&self, metric: &str, statistic: &str) -> f64 {
        let values = &self.0["metrics"][metric]["values"];
        values[statistic].as_f64().unwrap_or_else(|| panic!("no {statistic} of {metric}: {values}"))
    }

    /// A counter, exact.
    #[track_caller]
    pub(crate) fn counter(&self, metric: &str) -> u64 {
        let count = self.value(metric, "count");
        assert!(count >= 0.0 && count.fract() == 0.0, "{metric}: {count}");
        count as u64
    }

    /// Requests that ended in this class.
    pub(crate) fn outcome(&self, name: &str) -> u64 {
        self.outcomes().iter().filter(|(class, _)| class == name).map(|(_, count)| count).sum()
    }

    /// The classes in which any request ended; an error status is a class of its own, such as `HTTP 500`.
    pub(crate) fn outcomes(&self) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        for class in self.0["outcomes"].as_array().unwrap() {
            let (name, count) = (class["name"].as_str().unwrap(), class["count"].as_u64().unwrap());
            if count == 0 {
                continue;
            }
            match class["statuses"].as_object().unwrap().keys().next() {
                Some(status) if name != "ok" => found.push((format!("HTTP {status}"), count)),
                _ => found.push((name.to_owned(), count)),
            }
        }
        found
    }

    /// Any percentile of a trend, in ms: the upper end of the bucket that holds it.
    #[track_caller]
    pub(crate) fn percentile(&self, metric: &str, percent: f64) -> f64 {
        let buckets = self.buckets(metric);
        let samples: u64 = buckets.iter().map(|(_, count)| count).sum();
        let rank = ((percent * samples as f64 / 100.0).ceil() as u64).clamp(1, samples);
        let mut seen = 0;
        let mut holding = buckets.iter().skip_while(|(_, count)| {
            seen += count;
            seen < rank
        });
        holding.next().unwrap().0
    }

    /// Samples of a trend from `low` (inclusive) to `high` ms.
    #[track_caller]
    pub(crate) fn samples_within(&self, metric: &str, low: f64, high: f64) -> u64 {
        self.buckets(metric).iter().filter(|(ms, _)| (low..high).contains(ms)).map(|(_, count)| count).sum()
    }

    /// What all samples of a trend add up to, in ms: at least and at most. They are rounded to a microsecond, and then
    /// to three digits: a bucket is a thousandth wide.
    #[track_caller]
    pub(crate) fn sum(&self, metric: &str) -> (f64, f64) {
        let buckets = self.buckets(metric);
        let sum = |of: fn(f64) -> f64| buckets.iter().map(|(ms, count)| of(*ms) * *count as f64).sum();
        (sum(|ms| 0.999 * ms - 0.0015), sum(|ms| ms + 0.0005))
    }

    /// `(upper end in ms, samples)`, ascending.
    #[track_caller]
    fn buckets(&self, metric: &str) -> Vec<(f64, u64)> {
        let buckets = self.0["metrics"][metric]["distribution"].as_array();
        let buckets = buckets.filter(|buckets| !buckets.is_empty());
        let buckets = buckets.unwrap_or_else(|| panic!("{metric} has no samples"));
        let pair = |bucket: &Value| (bucket[0].as_f64().unwrap() / 1000.0, bucket[1].as_u64().unwrap());
        buckets.iter().map(pair).collect()
    }
}
