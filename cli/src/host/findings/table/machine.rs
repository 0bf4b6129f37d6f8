//! The machine and the limits of the process: files, processors, memory, disks.

use super::super::rule::Resource as R;
use super::super::rule::Severity::{Error, Saturation, Utilisation};
use super::super::rule::Test::{Cap, Ends, Part, Rises, Share, Stall};
use super::super::rule::{GIVEN_CAP, Guard, Remedy, Rule, rule};

const FILES: Remedy = (
    &["limits.nofile"],
    &["LimitNOFILE"],
    "raise the service's limit: LimitNOFILE= of its unit, `ulimit -n` of the shell that starts it, or \
     limits.nofile in a profile and `scalekit tune --pid PID` while it runs; up to fs.nr_open",
);
const HOST_FILES: Remedy = (&["fs.file-max"], &[], "raise it, or look for who leaves files open");
const GROUP_MEMORY: Remedy =
    (&[], &["cgroup memory.max"], "raise the group's memory limit, or bound the service's backlog and cache");
/// (h) A group whose page cache fills its limit comes to it all the time, and takes clean pages back at no cost.
const STALLED: Guard = Guard::Stall { counter: "cgroup.memory_stall_us", above: 0.01 };
const GROUP_IO: Remedy = (
    &[],
    &["deploy.worker.batch_max_writes", "cgroup io.max"],
    "the cap is what holds the database: larger batches need fewer operations; keep journal and database \
     on two devices",
);
const DISK: Remedy = (
    &[],
    &["deploy.worker.batch_max_writes"],
    "a faster disk, or fewer operations: larger batches, one device each",
);
const CPU: Remedy =
    (&[], &["deploy.api_threads"], "give the service more or faster cores, or move the load generator away");

/// What fills when the service cannot accept: connections wait in the queues of its listeners.
const QUEUES: &[&str] = &[
    "tcp.listen_overflows",
    "tcp.listen_drops_other",
    "tcp.syn_queue_drops",
    "tcp.syn_queue_cookies",
    "listener.waiting",
];
/// What fills when a quota holds the service up: the kernel counts its tasks as waiting for a processor, too.
const HELD_UP: &[&str] = &[
    "tcp.listen_overflows",
    "tcp.listen_drops_other",
    "tcp.syn_queue_drops",
    "tcp.syn_queue_cookies",
    "listener.waiting",
    "pressure.cpu_some_us",
];

pub(super) const RULES: &[Rule] = &[
    // Whatever else was seen, nobody answers any more; only what the kernel kills for want of memory has a cause of its own.
    rule(R::Process, Error, "process.alive", Ends, "the service's process ended")
        .fills_all_but(&["cgroup.memory_oom_kills"])
        .lifted_by((
            &[],
            &[],
            "look for why in its log, its exit status and the kernel's log; until then nothing else is \
             worth tuning",
        )),
    // (h) Just below all of it: one may be closed at the moment at which they are counted. A service that can open no
    // file cannot accept, so that connections wait in its queues: those are consequences.
    rule(
        R::OpenFiles,
        Saturation,
        "process.open_files",
        Share { of: "process.max_open_files", at: 0.99 },
        "the process stood at its limit on open files, and could not accept connections",
    )
    .fills(QUEUES)
    .lifted_by(FILES),
    // (h)
    rule(
        R::OpenFiles,
        Utilisation,
        "process.open_files",
        Share { of: "process.max_open_files", at: 0.85 },
        "the process came near its limit on open files",
    )
    .lifted_by(FILES),
    // (h) The kernel shows a number that lags behind by some files a processor (`get_nr_files` of fs/file_table.c).
    rule(
        R::OpenFiles,
        Error,
        "files.open",
        Share { of: "files.max", at: 0.99 },
        "the machine stood at its limit on open files, and no process could open another (ENFILE)",
    )
    .fills(QUEUES)
    .lifted_by(HOST_FILES),
    // (h)
    rule(
        R::OpenFiles,
        Utilisation,
        "files.open",
        Share { of: "files.max", at: 0.85 },
        "the machine came near its limit on open files",
    )
    .lifted_by(HOST_FILES),
    // A quarter is the kubernetes-mixin's CPUThrottlingHigh; that it lasts, and over how many periods, is (h): a thread that
    // runs alone for a moment is throttled in one of two periods.
    rule(
        R::CpuQuota,
        Saturation,
        "cgroup.cpu_throttled",
        Part { of: "cgroup.cpu_periods", above: 0.25, for_s: 3.0, least: 5.0 },
        "the CPU quota ran out before the end of its periods",
    )
    .unless_zero("cgroup.cpu_limited")
    .fills(HELD_UP)
    .lifted_by((&[], &["cgroup cpu.max"], "raise or remove the CPU limit, or use fewer threads")),
    // (h)
    rule(
        R::Cpu,
        Saturation,
        "pressure.cpu_some_us",
        Stall { above: 0.2, for_s: 3.0 },
        "tasks waited for a processor",
    )
    // Tasks of a throttled group, or of one whose threads are bound to a few processors, wait on an idle machine, too.
    .only_while(&[Guard::Part { counter: "cpu.busy", of: "cpu.total", above: 0.7 }])
    .lifted_by(CPU),
    // (h)
    rule(
        R::Cpu,
        Saturation,
        "cpu.stolen",
        Part { of: "cpu.total", above: 0.1, for_s: 3.0, least: 0.0 },
        "the hypervisor gave the processors to others",
    )
    .lifted_by((&[], &[], "use a machine of its own, or one without CPU credits")),
    // (h)
    rule(
        R::Cpu,
        Utilisation,
        "cpu.busy",
        Part { of: "cpu.total", above: 0.9, for_s: 3.0, least: 0.0 },
        "the processors were busy",
    )
    .lifted_by(CPU),
    rule(R::Memory, Error, "cgroup.memory_oom_kills", Rises, "processes were killed for want of memory")
        .fills(&["process.alive"])
        .lifted_by(GROUP_MEMORY),
    rule(R::Memory, Saturation, "cgroup.memory_max_events", Rises, "the group's memory limit was reached")
        .only_while(&[
            STALLED,
            // Version 1 counts each page that the page cache has to give up, and does not tell of stalls: there only what
            // was killed is a finding.
            Guard::AtLeast { gauge: "cgroup.version", value: 2.0 },
        ])
        .lifted_by(GROUP_MEMORY),
    rule(
        R::Memory,
        Saturation,
        "cgroup.memory_high_events",
        Rises,
        "processes were slowed down at memory.high",
    )
    .only_while(&[STALLED])
    // Version 1 has no such limit.
    .known_by("cgroup.memory_max_events")
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
    // (h) Version 2 only.
    rule(
        R::Disk,
        Saturation,
        "cgroup.io_stall_us",
        Stall { above: 0.2, for_s: 10.0 },
        "all of the group's tasks waited for a disk",
    )
    .known_by("pressure.io_full_us")
    .lifted_by(DISK),
    // (h) Of the whole machine: one that waits for a journal to be on disk has little else to do, and does its work.
    rule(
        R::Disk,
        Utilisation,
        "pressure.io_full_us",
        Stall { above: 0.2, for_s: 10.0 },
        "all tasks of the machine waited for a disk",
    )
    .lifted_by(DISK),
];
