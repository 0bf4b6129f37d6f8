//! Processors, memory and disks: what is left, and what was short while watching.

use super::Situation;
use super::row::{Row, Status, Unit, number};
use crate::host::counters::{Series, Snapshot};

/// What the kernel keeps for one end of an idle TCP connection: socket, inode, dentry, file, epoll. (h) Measured as
/// 3.9 KiB of slab on Linux 6.18, 16,000 ends.
const KERNEL_BYTES_PER_END: u64 = 4096;
/// (h) An end with a small request in its queue is charged one page (the same measurement).
const PAGES_PER_END: u64 = 1;
const PAGE_BYTES: u64 = 4096;
/// (h) Waiting for a resource for this share of the time is felt; the thresholds of `host::findings`.
const STALL: f64 = 0.2;
const STEAL: f64 = 0.1;
const BUSY: f64 = 0.9;
/// The kubernetes-mixin's CPUThrottlingHigh.
const THROTTLED: f64 = 0.25;
/// Processor time comes in ticks of 10 ms.
const SHORTEST_S: f64 = 0.5;
/// (h) Of a cap on operations.
const CAPPED: f64 = 0.95;

pub(super) fn rows(situation: &Situation<'_>) -> Vec<Row> {
    let mut rows = cpu_quotas(situation);
    rows.extend(cpu(situation.series));
    rows.push(memory(situation));
    rows.extend(group_memory(situation));
    rows.push(tcp_memory(situation));
    rows.extend(disks(situation));
    rows.extend(pressures(situation.series));
    rows.push(network_backlog(situation));
    rows
}

/// How far a counter came while watching.
fn growth(series: &Series, counter: &str) -> Option<f64> {
    let known = || series.counters.get(counter).into_iter().flat_map(|column| column.values.iter().flatten());
    let (first, last) = (known().next()?, known().next_back()?);
    Some((last - first).max(0.0))
}

/// The growth of a counter as a share of another's.
fn part(series: &Series, counter: &str, of: &str) -> Option<f64> {
    let (grown, whole) = (growth(series, counter)?, growth(series, of)?);
    Some(if whole > 0.0 { grown / whole } else { 0.0 })
}

/// Seconds from the first sample to the last; too few tell nothing.
fn watched_s(series: &Series) -> Option<f64> {
    let (first, last) = (series.at_ms.first()?, series.at_ms.last()?);
    Some(number(last.saturating_sub(*first)) / 1000.0).filter(|seconds| *seconds >= SHORTEST_S)
}

/// Why a share of the time is not known: not watched, or not there.
fn unwatched(series: &Series, missing: &str) -> String {
    match watched_s(series) {
        None => "too short a time was watched: --seconds 1".to_owned(),
        Some(_) => missing.to_owned(),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// A group whose quota is used up waits for the next period (`Documentation/scheduler/sched-bwc.rst`).
fn cpu_quotas(situation: &Situation<'_>) -> Vec<Row> {
    let Situation { snapshot, series, .. } = *situation;
    let row = |counter: String| {
        Row::of("CPU quota", counter, Unit::Share).heuristic().lifted_by(
            &[],
            &["cgroup cpu.max"],
            "raise or remove the CPU limit, or use fewer threads",
        )
    };
    let groups = &snapshot.cgroups.cpu;
    if groups.is_empty() || situation.hides_groups().is_some() {
        let why = unseen(situation, "CPU");
        return vec![row("cgroup.cpu_throttled".to_owned()).unknown(why)];
    }
    let limited: Vec<Row> = groups
        .iter()
        .filter_map(|group| {
            let quota = group.quota_cores?;
            let name = group.group.directory.display();
            let counter = format!("cgroup.cpu_throttled[{name}]");
            let share = part(series, &counter, &format!("cgroup.cpu_periods[{name}]"));
            let row = row(counter).values(share, Some(THROTTLED));
            Some(match share {
                None => row.unknown(format!("a quota of {quota} processors, and no count of its periods")),
                Some(share) => {
                    let message = format!(
                        "a quota of {quota} processors held it up in {} of the periods",
                        percent(share)
                    );
                    row.warn_if(share > THROTTLED, message.clone(), message)
                }
            })
        })
        .collect();
    if limited.is_empty() {
        vec![row("cgroup.cpu_quota_cores".to_owned()).ok("no control group that shows here has a quota")]
    } else {
        limited
    }
}

/// Why nothing is known of the groups.
fn unseen(situation: &Situation<'_>, controller: &str) -> String {
    let pid = situation.snapshot.pid;
    let none = || format!("no control group with a controller of {controller} shows for process {pid}");
    situation.hides_groups().unwrap_or_else(none)
}

fn cpu(series: &Series) -> Vec<Row> {
    let row = |check, counter, limit, what: &str, lift: (&[&str], &str)| {
        let share = watched_s(series).and_then(|_| part(series, counter, "cpu.total"));
        let row = Row::of(check, counter, Unit::Share).heuristic().values(share, Some(limit)).lifted_by(
            &[],
            lift.0,
            lift.1,
        );
        match share {
            None => row.unknown(unwatched(series, "/proc/stat cannot be read")),
            Some(share) => {
                let message = format!("{what} {} of the time while watching", percent(share));
                row.warn_if(share > limit, message.clone(), message)
            }
        }
    };
    let more: (&[&str], &str) =
        (&["deploy.api_threads"], "give the service more cores, or move the load generator away");
    vec![
        row("CPU", "cpu.busy", BUSY, "the processors were busy", more),
        row(
            "stolen CPU",
            "cpu.stolen",
            STEAL,
            "the hypervisor gave them to others",
            (&[], "use a machine of its own"),
        ),
    ]
}

/// What the kernel needs for the users' connections against what is available, (h): [`KERNEL_BYTES_PER_END`], and
/// [`PAGES_PER_END`] of buffers. What the service itself needs for each user comes on top, and is its own.
fn bytes_per_end() -> u64 {
    KERNEL_BYTES_PER_END + PAGES_PER_END * PAGE_BYTES
}

fn memory(situation: &Situation<'_>) -> Row {
    let memory = &situation.snapshot.memory;
    let row = Row::of("memory", "memory.available", Unit::Bytes)
        .heuristic()
        .counts(memory.available, memory.total)
        .lifted_by(&[], &[], "give the machine more memory, or its services less to hold");
    let Some(available) = memory.available else { return row.unknown("/proc/meminfo cannot be read") };
    let each = bytes_per_end() * situation.ends();
    let what = format!("the kernel takes some {} KiB a user, and the service its own", each / 1024);
    row.room(available, each, situation.users, &what)
}

/// The service's end is charged to its control groups (`Documentation/admin-guide/cgroup-v2.rst`, "sock", "slab").
fn group_memory(situation: &Situation<'_>) -> Vec<Row> {
    let row = |counter: String| {
        Row::of("memory limit", counter, Unit::Bytes).heuristic().lifted_by(
            &[],
            &["cgroup memory.max"],
            "raise the group's limit, or bound the service's backlog and cache",
        )
    };
    let snapshot = situation.snapshot;
    let groups = &snapshot.cgroups.memory;
    if groups.is_empty() || situation.hides_groups().is_some() {
        let why = unseen(situation, "memory");
        return vec![row("cgroup.memory_max".to_owned()).unknown(why)];
    }
    let limited: Vec<Row> = groups
        .iter()
        .filter_map(|group| {
            let max = group.max?;
            let row = row(format!("cgroup.memory[{}]", group.group.directory.display()))
                .counts(group.current, Some(max));
            let each = bytes_per_end();
            Some(match group.current {
                None => row.unknown("what the group uses cannot be read"),
                Some(current) => {
                    let what = format!("the kernel takes some {} KiB a user of it", each / 1024);
                    // A group's page cache grows up to its limit, and is given back for what needs it.
                    let held = current.saturating_sub(group.reclaimable.unwrap_or(0));
                    let row = row.room(max.saturating_sub(held), each, situation.users, &what);
                    match (row.status, group.reclaimable) {
                        (Status::WillFail { .. }, None) => {
                            row.warn("how much of it is page cache, which is given back, cannot be read")
                        }
                        _ => row,
                    }
                }
            })
        })
        .collect();
    if limited.is_empty() {
        vec![row("cgroup.memory_max".to_owned()).ok("no control group that shows here has a limit")]
    } else {
        limited
    }
}

/// Pages of TCP's buffers against the third value of `net.ipv4.tcp_mem`, beyond which sockets get none, (h):
/// [`PAGES_PER_END`]; beyond the second TCP begins to save (ip-sysctl.rst).
fn tcp_memory(situation: &Situation<'_>) -> Row {
    let snapshot = situation.snapshot;
    let row = Row::of("TCP memory", "tcp.memory_pages", Unit::Pages)
        .heuristic()
        .counts(snapshot.sockets.tcp_memory_pages, snapshot.tcp_memory_max_pages)
        .lifted_by(&["net.ipv4.tcp_mem"], &[], "smaller socket buffers (tcp_rmem, tcp_wmem), or more memory");
    let known = (
        snapshot.sockets.tcp_memory_pages,
        snapshot.tcp_memory_pressure_pages,
        snapshot.tcp_memory_max_pages,
    );
    let (Some(used), Some(pressure), Some(max)) = known else {
        return row.unknown(
            "net/sockstat or net.ipv4.tcp_mem (which only the host's own namespace shows) cannot be read",
        );
    };
    let each = PAGES_PER_END * situation.ends();
    let row =
        row.room(max.saturating_sub(used), each, situation.users, &format!("a user takes some {each} pages"));
    match row.status {
        Status::WillFail { .. } => row,
        _ if used >= pressure => row.warn(format!("TCP is under pressure, which begins at {pressure} pages")),
        _ => row,
    }
}

/// Caps of the service's groups, and of those of its servers, which are mostly where the disk is short.
fn disks(situation: &Situation<'_>) -> Vec<Row> {
    let Situation { snapshot, series, .. } = *situation;
    let mut rows = match situation.hides_groups() {
        None => disk_caps("disk cap", snapshot, series),
        Some(why) => vec![disk_cap("disk cap", "cgroup.io_writes").unknown(why)],
    };
    for server in situation.servers {
        let check = format!("disk cap of {}", server.name);
        let own = disk_caps(&check, &server.snapshot, &server.series);
        // Servers of one group, and what is above all of them, are told of once.
        let is_new = |row: &Row| row.limit.is_none() || rows.iter().all(|known| known.counter != row.counter);
        let own: Vec<Row> = own.into_iter().filter(is_new).collect();
        rows.extend(own);
    }
    rows
}

fn disk_cap(check: &str, counter: &str) -> Row {
    Row::of(check, counter, Unit::Rate).heuristic().lifted_by(
        &[],
        &["deploy.worker.batch_max_writes", "cgroup io.max"],
        "larger batches need fewer operations; keep journal and database on two devices",
    )
}

/// A cap that control groups put on a device, against what they did while watching.
fn disk_caps(check: &str, snapshot: &Snapshot, series: &Series) -> Vec<Row> {
    if snapshot.cgroups.io.is_empty() {
        let why = format!("no control group with a controller of I/O shows for process {}", snapshot.pid);
        return vec![disk_cap(check, "cgroup.io_writes").unknown(why)];
    }
    let mut rows = Vec::new();
    for group in &snapshot.cgroups.io {
        for device in &group.devices {
            for (kind, cap) in [("reads", device.max_reads_per_s), ("writes", device.max_writes_per_s)] {
                let Some(cap) = cap else { continue };
                let name = group.group.directory.display();
                let counter = format!("cgroup.io_{kind}[{name} {}]", device.device);
                let rate = growth(series, &counter).zip(watched_s(series)).map(|(grown, time)| grown / time);
                let row = disk_cap(check, &counter).values(rate, Some(number(cap)));
                rows.push(match rate {
                    None => row.unknown(unwatched(series, "the operations cannot be counted")),
                    Some(rate) => {
                        let message =
                            format!("{kind} of {} came to {rate:.0} a second of {cap}", device.device);
                        row.warn_if(rate >= CAPPED * number(cap), message.clone(), message)
                    }
                });
            }
        }
    }
    if rows.is_empty() {
        let fine = "no control group that shows here caps a device";
        rows.push(disk_cap(check, "cgroup.io_writes").ok(fine));
    }
    rows
}

/// For which share of the time tasks waited (`Documentation/accounting/psi.rst`).
fn pressures(series: &Series) -> Vec<Row> {
    let row = |check, counter, what: &str, lift: (&[&str], &[&str], &str)| {
        let share = growth(series, counter).zip(watched_s(series)).map(|(us, seconds)| us / (seconds * 1e6));
        let row = Row::of(check, counter, Unit::Share)
            .heuristic()
            .values(share, Some(STALL))
            .lifted_by(lift.0, lift.1, lift.2);
        match share {
            None => {
                let missing = "/proc/pressure is not there (psi=1 switches it on at boot) or cannot be read";
                row.unknown(unwatched(series, missing))
            }
            Some(share) => {
                let message = format!("{what} {} of the time while watching", percent(share));
                row.warn_if(share > STALL, message.clone(), message)
            }
        }
    };
    vec![
        row(
            "CPU pressure",
            "pressure.cpu_some_us",
            "tasks waited for a processor",
            (&[], &["deploy.api_threads"], "more cores, or move the load generator away"),
        ),
        row(
            "memory pressure",
            "pressure.memory_full_us",
            "all tasks waited for memory",
            (&["vm.swappiness"], &["cgroup memory.max"], "more memory, or less to hold"),
        ),
        row(
            "disk pressure",
            "pressure.io_full_us",
            "all tasks waited for a disk",
            (&[], &["deploy.worker.batch_max_writes"], "a faster disk, or fewer operations"),
        ),
    ]
}

/// Packets that arrived faster than a processor took them (`net/softnet_stat`, second column).
fn network_backlog(situation: &Situation<'_>) -> Row {
    let dropped = growth(situation.series, "softnet.dropped");
    let row = Row::of("network backlog", "softnet.dropped", Unit::Count)
        .counts(None, situation.snapshot.queues.netdev_max_backlog)
        .lifted_by(&["net.core.netdev_max_backlog"], &[], "raise it; with one busy core, spread it (RPS)");
    match dropped {
        None => row.unknown("net/softnet_stat cannot be read"),
        Some(dropped) => {
            let row = Row { value: Some(dropped), ..row };
            row.warn_if(
                dropped > 0.0,
                format!("{dropped} packets were dropped while watching"),
                "no packet was dropped",
            )
        }
    }
}
