//! The process itself, by the names that Prometheus's own clients use
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>). Read from `/proc` when it is
//! asked for; what cannot be read is left out.

use std::fmt;
use std::path::Path;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::param::{clock_ticks_per_second, page_size};

/// What `/proc/self` says of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_seconds: f64,
    /// Since the Unix epoch.
    pub start_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub threads: u64,
    pub open_files: u64,
    pub max_files: u64,
}

impl Usage {
    /// Of this process; `None` where there is no `/proc`.
    #[must_use]
    pub fn read() -> Option<Self> {
        let text = |name: &str| std::fs::read_to_string(Path::new("/proc").join(name)).ok();
        let ticks = clock_ticks_per_second() as f64;
        let mut usage = parse_stat(&text("self/stat")?, ticks, page_size() as u64)?;
        usage.start_seconds += boot_seconds(&text("stat")?)?;
        usage.max_files = max_files(&text("self/limits")?)?;
        // The listing is itself an open file.
        usage.open_files = (std::fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1);
        Some(usage)
    }
}

/// `/proc/PID/stat`; the start is still relative to the boot. The fields are counted after the name, which may
/// contain anything (proc_pid_stat(5)).
fn parse_stat(stat: &str, ticks: f64, page: u64) -> Option<Usage> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // The first is field 3 of the manual.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Usage {
        cpu_seconds: (field(14)? + field(15)?) as f64 / ticks,
        threads: field(20)?,
        start_seconds: field(22)? as f64 / ticks,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page,
        ..Usage::default()
    })
}

fn boot_seconds(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The soft limit; as many as fit if there is none.
fn max_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_ascii_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

/// Asks when it is scraped.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(usage) = Usage::read() else { return Ok(()) };
        let seconds = ConstCounter::new(usage.cpu_seconds);
        let cpu = "Processor time of user and system.";
        let described =
            encoder.encode_descriptor("process_cpu", cpu, Some(&Unit::Seconds), seconds.metric_type())?;
        seconds.encode(described)?;
        let seconds = ConstGauge::new(usage.start_seconds);
        let start = "When the process started, since the Unix epoch.";
        let described = encoder.encode_descriptor(
            "process_start_time",
            start,
            Some(&Unit::Seconds),
            seconds.metric_type(),
        )?;
        seconds.encode(described)?;
        for (name, help, unit, value) in [
            ("process_resident_memory", "Resident memory.", Some(&Unit::Bytes), usage.resident_bytes),
            ("process_virtual_memory", "Virtual memory.", Some(&Unit::Bytes), usage.virtual_bytes),
            ("process_open_fds", "Open files and sockets.", None, usage.open_files),
            ("process_max_fds", "Files and sockets that it may open.", None, usage.max_files),
            ("process_threads", "Threads.", None, usage.threads),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_may_hold_anything() {
        let stat = "7 (a) b ( c) S 1 7 7 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 5 0 1000 123456 42 18446744073709551615";
        let usage = parse_stat(stat, 100.0, 4096).unwrap();
        assert_eq!((usage.cpu_seconds, usage.threads, usage.start_seconds), (3.0, 5, 10.0));
        assert_eq!((usage.virtual_bytes, usage.resident_bytes), (123_456, 42 * 4096));
        for broken in ["", "7 (a", "7 (a) S 1"] {
            assert_eq!(parse_stat(broken, 100.0, 4096), None, "{broken}");
        }
    }

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let limits =
            |soft| format!("Limit  Soft Limit\nMax open files            {soft}     524288  files\n");
        assert_eq!(max_files(&limits("1024")), Some(1024));
        assert_eq!(max_files(&limits("unlimited")), Some(u64::MAX));
        assert_eq!(max_files("Max processes 3 3\n"), None);
        assert_eq!(boot_seconds("cpu 1 2\nbtime 1795000000\n"), Some(1_795_000_000.0));
    }

    #[test]
    fn this_process_is_there() {
        let usage = Usage::read().unwrap();
        assert!(usage.resident_bytes > 0 && usage.virtual_bytes > usage.resident_bytes, "{usage:?}");
        assert!(
            usage.open_files > 2 && usage.open_files <= usage.max_files && usage.threads > 0,
            "{usage:?}"
        );
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(usage.start_seconds < now + 60.0 && usage.start_seconds > 0.0, "{usage:?}");
    }
}
