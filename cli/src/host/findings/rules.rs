//! What counts as full: a threshold for each counter, and what lifts it.
//!
//! Thresholds marked (h) are heuristics; the others are the kernel's own sign that something was refused.

use serde::{Deserialize, Serialize};

/// What there can be too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Resource {
    AcceptQueue,
    SynQueue,
    Ports,
    OpenFiles,
    Conntrack,
    CpuQuota,
    Cpu,
    Memory,
    TcpMemory,
    Disk,
    NetworkBacklog,
}

impl Resource {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AcceptQueue => "accept queue",
            Self::SynQueue => "queue of half-open connections",
            Self::Ports => "local ports",
            Self::OpenFiles => "open files",
            Self::Conntrack => "connection tracking",
            Self::CpuQuota => "CPU quota",
            Self::Cpu => "CPU",
            Self::Memory => "memory",
            Self::TcpMemory => "TCP memory",
            Self::Disk => "disk",
            Self::NetworkBacklog => "network backlog",
        }
    }
}

/// In the order of the USE method: what failed says more than what waited, and that more than what was busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Error,
    Saturation,
    Utilisation,
}

/// When a counter is over its threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Test {
    /// It grew.
    Rises,
    /// A gauge is at this share of another, or above.
    Share { of: &'static str, at: f64 },
    /// It grew by more than this share of another's growth, for so long.
    Part { of: &'static str, above: f64, for_s: f64 },
    /// Microseconds grew by more than this share of the time that passed, for so long.
    Stall { above: f64, for_s: f64 },
    /// It grew by this share of a cap a second, or more, for so long. Without a cap nothing is near it.
    Cap { of: &'static str, at: f64, for_s: f64 },
}

/// One counter's threshold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) resource: Resource,
    pub(super) severity: Severity,
    /// Name of the counter, without brackets.
    pub(super) counter: &'static str,
    pub(super) test: Test,
    /// Another counter that is known whenever this one is, where this one is only there when there is something to
    /// tell.
    pub(super) known_by: Option<&'static str>,
    /// What the counter says.
    pub(super) meaning: &'static str,
    /// Settings of the host and of the deployment that lift it.
    pub(super) tune: &'static [&'static str],
    pub(super) deploy: &'static [&'static str],
    pub(super) advice: &'static str,
}

/// The name under which a cap that the caller knows is looked up.
pub(super) const GIVEN_CAP: &str = "cap.operations_per_s";

const fn rule(
    resource: Resource,
    severity: Severity,
    counter: &'static str,
    test: Test,
    meaning: &'static str,
) -> Rule {
    Rule { resource, severity, counter, test, known_by: None, meaning, tune: &[], deploy: &[], advice: "" }
}

const QUEUE: (&[&str], &[&str], &str) = (
    &["net.core.somaxconn"],
    &["deploy.limits.backlog"],
    "raise the listener's backlog and somaxconn, which cuts it, then restart the listener; if it still fills, the \
     service accepts too slowly",
);
const FILES: (&[&str], &[&str], &str) =
    (&["nofile"], &[], "raise the process's limit (LimitNOFILE=), up to fs.nr_open");
const CONNTRACK: (&[&str], &[&str], &str) = (
    &["net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_buckets"],
    &[],
    "raise both together, or exempt the service's traffic from tracking",
);
const GROUP_MEMORY: (&[&str], &[&str], &str) =
    (&[], &["cgroup memory.max"], "raise the group's memory limit, or bound the service's backlog and cache");
const GROUP_IO: (&[&str], &[&str], &str) = (
    &[],
    &["deploy.worker.batch_max_writes", "cgroup io.max"],
    "the cap is what holds the database: larger batches need fewer operations; keep journal and database on two devices",
);
const CPU: (&[&str], &[&str], &str) =
    (&[], &["deploy.api_threads"], "give the service more or faster cores, or move the load generator away");
const TCP_MEMORY: (&[&str], &[&str], &str) =
    (&["net.ipv4.tcp_mem"], &[], "fewer or smaller socket buffers (tcp_rmem, tcp_wmem), or more memory");

impl Rule {
    const fn lifted_by(
        mut self,
        (tune, deploy, advice): (&'static [&'static str], &'static [&'static str], &'static str),
    ) -> Self {
        (self.tune, self.deploy, self.advice) = (tune, deploy, advice);
        self
    }

    const fn known_by(mut self, counter: &'static str) -> Self {
        self.known_by = Some(counter);
        self
    }
}

use self::Resource as R;
use self::Severity::{Error, Saturation, Utilisation};
use self::Test::{Cap, Part, Rises, Share, Stall};

/// All thresholds.
pub(super) const RULES: &[Rule] = &[
    rule(R::AcceptQueue, Error, "tcp.listen_overflows", Rises, "connections found the accept queue full")
        .lifted_by(QUEUE),
    // (h)
    rule(
        R::AcceptQueue,
        Saturation,
        "listener.waiting",
        Share { of: "listener.backlog", at: 0.8 },
        "connections waited to be accepted",
    )
    .known_by("listener.waiting")
    .lifted_by(QUEUE),
    rule(
        R::SynQueue,
        Error,
        "tcp.syn_queue_drops",
        Rises,
        "SYNs were dropped, too many connections being half open",
    )
    .lifted_by((
        &["net.ipv4.tcp_syncookies", "net.ipv4.tcp_max_syn_backlog"],
        &["deploy.limits.backlog"],
        "leave tcp_syncookies at 1, and raise the listener's backlog, which bounds this queue too",
    )),
    rule(
        R::SynQueue,
        Error,
        "tcp.listen_drops_other",
        Rises,
        "listeners dropped connections for another reason than a full accept queue",
    )
    .lifted_by((
        &["net.core.somaxconn"],
        &["deploy.limits.backlog"],
        "look for memory pressure, and raise the backlog",
    )),
    rule(
        R::SynQueue,
        Saturation,
        "tcp.syn_queue_cookies",
        Rises,
        "SYNs were answered with cookies, too many connections being half open",
    )
    .lifted_by(QUEUE),
    rule(
        R::Ports,
        Error,
        "tcp.time_wait_overflows",
        Rises,
        "TIME_WAITs were cut short, there being too many",
    )
    .lifted_by((
        &["net.ipv4.tcp_max_tw_buckets"],
        &[],
        "keep connections open instead of opening new ones",
    )),
    // (h)
    rule(
        R::Ports,
        Utilisation,
        "ports.used",
        Share { of: "ports.available", at: 0.85 },
        "local ports to one destination were used up",
    )
    .known_by("ports.most_used")
    .lifted_by((
        &["net.ipv4.ip_local_port_range"],
        &[],
        "keep connections open, widen the range, or connect from more addresses",
    )),
    // (h)
    rule(
        R::OpenFiles,
        Utilisation,
        "process.open_files",
        Share { of: "process.max_open_files", at: 0.85 },
        "the process came near its limit on open files",
    )
    .lifted_by(FILES),
    // (h)
    rule(
        R::OpenFiles,
        Utilisation,
        "files.open",
        Share { of: "files.max", at: 0.85 },
        "the machine came near its limit on open files",
    )
    .lifted_by((&["fs.file-max"], &[], "raise it")),
    rule(R::Conntrack, Error, "conntrack.dropped", Rises, "packets were dropped, the table being full")
        .lifted_by(CONNTRACK),
    rule(
        R::Conntrack,
        Error,
        "conntrack.early_dropped",
        Rises,
        "connections were forgotten, the table being full",
    )
    .lifted_by(CONNTRACK),
    // netdata warns here.
    rule(
        R::Conntrack,
        Utilisation,
        "conntrack.entries",
        Share { of: "conntrack.max", at: 0.9 },
        "the table was nearly full",
    )
    .lifted_by(CONNTRACK),
    // The kubernetes-mixin's CPUThrottlingHigh.
    rule(
        R::CpuQuota,
        Saturation,
        "cgroup.cpu_throttled",
        Part { of: "cgroup.cpu_periods", above: 0.25, for_s: 1.0 },
        "the CPU quota ran out before the end of its periods",
    )
    .lifted_by((&[], &["cgroup cpu.max"], "raise or remove the CPU limit, or use fewer threads")),
    // (h)
    rule(
        R::Cpu,
        Saturation,
        "pressure.cpu_some_us",
        Stall { above: 0.2, for_s: 3.0 },
        "tasks waited for a processor",
    )
    .lifted_by(CPU),
    // (h)
    rule(
        R::Cpu,
        Saturation,
        "cpu.stolen",
        Part { of: "cpu.total", above: 0.1, for_s: 3.0 },
        "the hypervisor gave the processors to others",
    )
    .lifted_by((&[], &[], "use a machine of its own, or one without CPU credits")),
    // (h)
    rule(
        R::Cpu,
        Utilisation,
        "cpu.busy",
        Part { of: "cpu.total", above: 0.9, for_s: 3.0 },
        "the processors were busy",
    )
    .lifted_by(CPU),
    rule(R::Memory, Error, "cgroup.memory_oom_kills", Rises, "processes were killed for want of memory")
        .lifted_by(GROUP_MEMORY),
    rule(R::Memory, Saturation, "cgroup.memory_max_events", Rises, "the group's memory limit was reached")
        .lifted_by(GROUP_MEMORY),
    rule(
        R::Memory,
        Saturation,
        "cgroup.memory_high_events",
        Rises,
        "processes were slowed down at memory.high",
    )
    .lifted_by(GROUP_MEMORY),
    // (h)
    rule(
        R::Memory,
        Saturation,
        "pressure.memory_full_us",
        Stall { above: 0.2, for_s: 3.0 },
        "all tasks waited for memory",
    )
    .lifted_by((
        &["vm.swappiness"],
        &["cgroup memory.max"],
        "give the machine more memory, or its services less to hold",
    )),
    rule(R::TcpMemory, Error, "tcp.aborts_on_memory", Rises, "connections were closed for want of memory")
        .lifted_by(TCP_MEMORY),
    rule(R::TcpMemory, Saturation, "tcp.memory_pressures", Rises, "TCP came under memory pressure")
        .lifted_by(TCP_MEMORY),
    // (h)
    rule(
        R::TcpMemory,
        Utilisation,
        "tcp.memory_pages",
        Share { of: "tcp.memory_pressure_pages", at: 0.85 },
        "the memory of TCP came near its limit",
    )
    .lifted_by(TCP_MEMORY),
    // (h)
    rule(
        R::Disk,
        Saturation,
        "cgroup.io_writes",
        Cap { of: "cgroup.io_max_writes_per_s", at: 0.95, for_s: 10.0 },
        "writes came up to the group's cap",
    )
    .lifted_by(GROUP_IO),
    // (h)
    rule(
        R::Disk,
        Saturation,
        "cgroup.io_reads",
        Cap { of: "cgroup.io_max_reads_per_s", at: 0.95, for_s: 10.0 },
        "reads came up to the group's cap",
    )
    .lifted_by(GROUP_IO),
    // (h)
    rule(
        R::Disk,
        Saturation,
        "disk.operations",
        Cap { of: GIVEN_CAP, at: 0.95, for_s: 10.0 },
        "operations came up to the device's cap",
    )
    .lifted_by(GROUP_IO),
    // (h)
    rule(
        R::Disk,
        Saturation,
        "pressure.io_full_us",
        Stall { above: 0.2, for_s: 10.0 },
        "all tasks waited for a disk",
    )
    .lifted_by((
        &[],
        &["deploy.worker.batch_max_writes"],
        "a faster disk, or fewer operations: larger batches, one device each",
    )),
    rule(
        R::NetworkBacklog,
        Error,
        "softnet.dropped",
        Rises,
        "packets were dropped before a processor could take them",
    )
    .lifted_by((
        &["net.core.netdev_max_backlog"],
        &[],
        "raise it; with one queue and one busy core, spread it (RPS)",
    )),
];
