//! What the control groups of a process allow it, and what they did to it: version 2, else 1, else unknown.

use serde::Serialize;

use super::pressure::{Pressure, Stall};
use super::text::{keyed, number};
use crate::cgroup_path::{Group, Version, groups};
use crate::root::Root;

/// The process's own group first, then those above it: a limit of any of them holds for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Cgroups {
    /// Whether any of the groups has a processor quota; `None`: nobody knows.
    pub(crate) is_cpu_limited: Option<bool>,
    pub(crate) cpu: Vec<CgroupCpu>,
    pub(crate) memory: Vec<CgroupMemory>,
    pub(crate) io: Vec<CgroupIo>,
}

/// The processor quota of one group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct CgroupCpu {
    pub(crate) group: Group,
    /// Processors that it may use at once; `None`: no quota, or unknown.
    pub(crate) quota_cores: Option<f64>,
    /// Whether there is a quota.
    pub(crate) is_limited: Option<bool>,
    /// Periods of enforcement so far.
    pub(crate) periods: Option<u64>,
    /// Of these, those in which the quota ran out.
    pub(crate) throttled: Option<u64>,
    /// How long it held processes up, over processors.
    pub(crate) throttled_us: Option<u64>,
}

/// The memory of one group, in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct CgroupMemory {
    pub(crate) group: Group,
    pub(crate) current: Option<u64>,
    /// Of it, the page cache of files (`file` without shared memory), which the kernel takes back when it is needed.
    pub(crate) reclaimable: Option<u64>,
    /// `None`: no limit, or unknown.
    pub(crate) max: Option<u64>,
    /// Times that processes were slowed down at this group's `memory.high`; version 2 only.
    pub(crate) high_events: Option<u64>,
    /// Times that this group's limit was reached (version 1: `memory.failcnt`).
    pub(crate) max_events: Option<u64>,
    /// Processes of this group killed for want of memory; in kernel 5.2 also those of groups below.
    pub(crate) oom_kills: Option<u64>,
    /// All of its processes waited for memory; version 2 only.
    pub(crate) stall: Stall,
}

/// What one group did with block devices.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct CgroupIo {
    pub(crate) group: Group,
    pub(crate) devices: Vec<CgroupDevice>,
    /// All of its processes waited for a device; version 2 only.
    pub(crate) stall: Stall,
}

/// One device under one group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct CgroupDevice {
    /// `MAJOR:MINOR`.
    pub(crate) device: String,
    pub(crate) reads: Option<u64>,
    pub(crate) writes: Option<u64>,
    /// Operations a second that are allowed; `None`: no cap, or unknown.
    pub(crate) max_reads_per_s: Option<u64>,
    pub(crate) max_writes_per_s: Option<u64>,
}

/// Devices kept of all groups together.
const MAX_DEVICES: usize = 16;
/// Version 1 says "no limit" with the largest multiple of a page.
const V1_NO_LIMIT: u64 = 1 << 60;

/// Where a process's groups are. They are kept, so that what they counted can be read when the process is gone, which
/// is when it matters most.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Of `/proc/PID/cgroup`.
    text: String,
    cpu: Vec<Group>,
    memory: Vec<Group>,
    io: Vec<Group>,
}

impl Places {
    /// The text of `/proc/PID/cgroup`, if it is not the one that is known.
    pub(super) fn moved(&self, root: &Root, pid: u32) -> Option<String> {
        root.known(format!("/proc/{pid}/cgroup")).filter(|text| !text.is_empty() && *text != self.text)
    }

    /// `/proc/PID/cgroup` shows paths as the reader's own cgroup namespace sees them, so that the reader's mounts fit
    /// them.
    pub(super) fn find(root: &Root, text: String) -> Self {
        let mounts = root.known("/proc/self/mountinfo").unwrap_or_default();
        let of = |controller| groups(&text, &mounts, controller);
        Self { cpu: of("cpu"), memory: of("memory"), io: of("io"), text }
    }
}

impl Cgroups {
    pub(super) fn read(root: &Root, places: &Places) -> Self {
        let cpu: Vec<CgroupCpu> =
            places.cpu.iter().filter_map(|group| CgroupCpu::read(root, group.clone())).collect();
        let memory = places.memory.iter().filter_map(|group| CgroupMemory::read(root, group.clone()));
        let mut io: Vec<CgroupIo> =
            places.io.iter().filter_map(|group| CgroupIo::read(root, group.clone())).collect();
        keep_busiest(&mut io);
        Self { is_cpu_limited: is_any_limited(&cpu), cpu, memory: memory.collect(), io }
    }
}

/// One quota is enough; that there is none is known only if it is known of each group.
fn is_any_limited(groups: &[CgroupCpu]) -> Option<bool> {
    let known = |group: &CgroupCpu| group.is_limited;
    if groups.iter().any(|group| known(group) == Some(true)) {
        return Some(true);
    }
    (!groups.is_empty() && groups.iter().all(|group| known(group).is_some())).then_some(false)
}

/// Leaves the devices that have a cap, then those that did most.
fn keep_busiest(groups: &mut [CgroupIo]) {
    let rank = |device: &CgroupDevice| {
        let has_cap = device.max_reads_per_s.or(device.max_writes_per_s).is_some();
        let operations = device.reads.unwrap_or(0).saturating_add(device.writes.unwrap_or(0));
        (has_cap, operations)
    };
    let mut ranks: Vec<_> = groups.iter().flat_map(|group| &group.devices).map(rank).collect();
    ranks.sort_unstable_by_key(|rank| std::cmp::Reverse(*rank));
    let Some(least) = ranks.get(MAX_DEVICES - 1).copied() else { return };
    let above = ranks.iter().filter(|rank| **rank > least).count();
    // Of those that are alike, the first ones.
    let mut alike = MAX_DEVICES - above;
    for group in groups {
        group.devices.retain(|device| {
            let is_last = rank(device) == least && alike > 0;
            alike -= usize::from(is_last);
            is_last || rank(device) > least
        });
    }
}

fn file(root: &Root, group: &Group, name: &str) -> Option<String> {
    root.known(group.directory.join(name))
}

impl CgroupCpu {
    fn read(root: &Root, group: Group) -> Option<Self> {
        let stat = file(root, &group, "cpu.stat")?;
        let (has_file, quota_cores) = match group.version {
            Version::V2 => {
                let max = file(root, &group, "cpu.max");
                (max.is_some(), max.as_deref().and_then(quota))
            }
            Version::V1 => {
                let value = |name| number::<f64>(&file(root, &group, name)?);
                let quota = value("cpu.cfs_quota_us");
                (quota.is_some(), cores(quota, value("cpu.cfs_period_us")))
            }
        };
        let throttled_us = keyed(&stat, "throttled_usec")
            .or_else(|| keyed(&stat, "throttled_time").map(|nanoseconds| nanoseconds / 1000));
        let (periods, throttled) = (keyed(&stat, "nr_periods"), keyed(&stat, "nr_throttled"));
        // The root, and a group for which the controller is off, have neither periods nor a quota.
        let is_limited = (has_file || periods.is_none()).then_some(quota_cores.is_some());
        Some(Self { group, quota_cores, is_limited, periods, throttled, throttled_us })
    }
}

/// `cpu.max`: quota and period in µs, or `max` for no quota.
fn quota(text: &str) -> Option<f64> {
    cores(number(text), text.split_whitespace().nth(1).and_then(|period| period.parse().ok()))
}

/// Version 1 says no quota with -1.
fn cores(quota_us: Option<f64>, period_us: Option<f64>) -> Option<f64> {
    let (quota, period) = (quota_us?, period_us?);
    (quota > 0.0 && period > 0.0).then(|| quota / period).filter(|cores| cores.is_finite())
}

impl CgroupMemory {
    fn read(root: &Root, group: Group) -> Option<Self> {
        let text = |name| file(root, &group, name);
        let count = |name| number::<u64>(&text(name)?);
        let stat = text("memory.stat").unwrap_or_default();
        let cached = |inactive, active| Some(keyed(&stat, inactive)?.saturating_add(keyed(&stat, active)?));
        let found = match group.version {
            Version::V2 => {
                // Since kernel 5.2 the second counts what befell groups below too, other services among them; the
                // first is there since 5.3.
                let events =
                    text("memory.events.local").or_else(|| text("memory.events")).unwrap_or_default();
                let stall = text("memory.pressure").as_deref().map(Pressure::parse).unwrap_or_default().full;
                Self {
                    current: count("memory.current"),
                    reclaimable: cached("inactive_file", "active_file"),
                    max: count("memory.max"),
                    high_events: keyed(&events, "high"),
                    max_events: keyed(&events, "max"),
                    oom_kills: keyed(&events, "oom_kill"),
                    stall,
                    group,
                }
            }
            Version::V1 => Self {
                current: count("memory.usage_in_bytes"),
                // Those of the groups below count as well, as in the usage.
                reclaimable: cached("total_inactive_file", "total_active_file"),
                max: count("memory.limit_in_bytes").filter(|max| *max < V1_NO_LIMIT),
                high_events: None,
                max_events: count("memory.failcnt"),
                oom_kills: text("memory.oom_control").and_then(|text| keyed(&text, "oom_kill")),
                stall: Stall::default(),
                group,
            },
        };
        let is_there = found.current.is_some() || found.max_events.is_some();
        is_there.then_some(found)
    }
}

impl CgroupIo {
    fn read(root: &Root, group: Group) -> Option<Self> {
        let text = |name| file(root, &group, name);
        let (devices, stall) = match group.version {
            Version::V2 => {
                let stat = text("io.stat")?;
                let stall = text("io.pressure").as_deref().map(Pressure::parse).unwrap_or_default().full;
                (devices_v2(&stat, &text("io.max").unwrap_or_default()), stall)
            }
            Version::V1 => {
                let served = text("blkio.throttle.io_serviced")?;
                let cap = |name| text(name).unwrap_or_default();
                let reads = cap("blkio.throttle.read_iops_device");
                let writes = cap("blkio.throttle.write_iops_device");
                (devices_v1(&served, &reads, &writes), Stall::default())
            }
        };
        Some(Self { group, devices, stall })
    }
}

/// `MAJOR:MINOR KEY=VALUE…` in both files.
fn devices_v2(stat: &str, max: &str) -> Vec<CgroupDevice> {
    let field = |text: &str, device: &str, key: &str| {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(device))?;
        line.split_whitespace().find_map(|field| field.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
    };
    let names = |text| {
        let lines = str::lines(text).filter(|line| line.contains('='));
        lines.filter_map(|line| line.split_whitespace().next())
    };
    // One that did nothing is not in the counts, and may have a cap all the same.
    let idle = |device: &str| (!names(stat).any(|counted| counted == device)).then_some(0);
    let capped_only = names(max).filter(|device| idle(device).is_some());
    names(stat)
        .chain(capped_only)
        .map(|device| CgroupDevice {
            device: device.to_owned(),
            reads: field(stat, device, "rios").or(idle(device)),
            writes: field(stat, device, "wios").or(idle(device)),
            max_reads_per_s: field(max, device, "riops"),
            max_writes_per_s: field(max, device, "wiops"),
        })
        .collect()
}

/// `MAJOR:MINOR Read N` and `MAJOR:MINOR Write N`; the caps have `MAJOR:MINOR N`.
fn devices_v1(served: &str, max_reads: &str, max_writes: &str) -> Vec<CgroupDevice> {
    let count = |device: &str, kind: &str| {
        served.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let fits = words.next() == Some(device) && words.next() == Some(kind);
            if fits { words.next()?.parse().ok() } else { None }
        })
    };
    let cap = |text: &str, device: &str| {
        text.lines().find_map(|line| number(line.strip_prefix(device)?.strip_prefix([' ', '\t'])?))
    };
    let counted = || served.lines().filter_map(|line| line.split_once(" Read ").map(|(device, _)| device));
    // One that did nothing is not in the counts, and may have a cap all the same.
    let idle = |device: &str| (!counted().any(|known| known == device)).then_some(0);
    let mut capped_only: Vec<&str> = max_reads
        .lines()
        .chain(max_writes.lines())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|device| device.contains(':') && idle(device).is_some())
        .collect();
    capped_only.sort_unstable();
    capped_only.dedup();
    counted()
        .chain(capped_only)
        .map(|device| CgroupDevice {
            device: device.to_owned(),
            reads: count(device, "Read").or(idle(device)),
            writes: count(device, "Write").or(idle(device)),
            max_reads_per_s: cap(max_reads, device),
            max_writes_per_s: cap(max_writes, device),
        })
        .collect()
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
