//! Groups of both versions, on trees as the kernel shows them.

use std::path::Path;

use proptest::prelude::*;

use super::*;

fn read(root: &Root, pid: u32) -> Cgroups {
    let places = Places::default().moved(root, pid).map(|text| Places::find(root, text));
    Cgroups::read(root, &places.unwrap_or_default())
}

#[test]
fn version_2_is_read_up_to_the_mount() {
    let (_dir, root) = Root::of(&[
        ("proc/7/cgroup", "0::/pod/app\n"),
        ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"),
        (
            "sys/fs/cgroup/pod/app/cpu.stat",
            "usage_usec 9\nnr_periods 40\nnr_throttled 30\nthrottled_usec 2500\n",
        ),
        ("sys/fs/cgroup/pod/app/cpu.max", "50000 100000\n"),
        (
            "sys/fs/cgroup/pod/cpu.stat",
            "usage_usec 9\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\nnr_bursts 0\n",
        ),
        ("sys/fs/cgroup/pod/cpu.max", "max 100000\n"),
        ("sys/fs/cgroup/cpu.stat", "usage_usec 9\nuser_usec 5\nsystem_usec 4\n"),
        ("sys/fs/cgroup/pod/app/memory.current", "4096\n"),
        ("sys/fs/cgroup/pod/app/memory.max", "max\n"),
        (
            "sys/fs/cgroup/pod/app/memory.events",
            "low 0\nhigh 1\nmax 2\noom 0\noom_kill 3\noom_group_kill 0\n",
        ),
        ("sys/fs/cgroup/pod/app/memory.pressure", "some avg10=0.00 total=5\nfull avg10=2.00 total=4\n"),
        (
            "sys/fs/cgroup/pod/app/io.stat",
            "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n7:0 \n8:0 rios=1 wios=1\n",
        ),
        ("sys/fs/cgroup/pod/app/io.max", "254:0 rbps=max wbps=max riops=max wiops=100\n"),
    ]);
    let found = read(&root, 7);
    assert_eq!(found.is_cpu_limited, Some(true));
    let directories: Vec<&Path> = found.cpu.iter().map(|cpu| cpu.group.directory.as_path()).collect();
    let expected = ["/sys/fs/cgroup/pod/app", "/sys/fs/cgroup/pod", "/sys/fs/cgroup"].map(Path::new);
    assert_eq!(directories, expected);
    let own = &found.cpu[0];
    assert_eq!(
        (own.quota_cores, own.periods, own.throttled, own.throttled_us),
        (Some(0.5), Some(40), Some(30), Some(2500))
    );
    assert_eq!((found.cpu[1].quota_cores, found.cpu[1].throttled), (None, Some(0)));
    assert_eq!(found.cpu[2].periods, None, "the root has no quota");
    let memory = &found.memory[0];
    assert_eq!((memory.current, memory.max), (Some(4096), None));
    assert_eq!((memory.high_events, memory.max_events, memory.oom_kills), (Some(1), Some(2), Some(3)));
    assert_eq!(memory.stall.total_us, Some(4));
    assert_eq!(found.memory.len(), 1, "groups without the controller are left out");
    let devices = &found.io[0].devices;
    assert_eq!(
        devices[0],
        CgroupDevice {
            device: "254:0".to_owned(),
            reads: Some(3),
            writes: Some(4),
            max_reads_per_s: None,
            max_writes_per_s: Some(100),
        }
    );
    assert_eq!(devices.len(), 2);
}

#[test]
fn version_1_is_read_beside_a_version_2_without_controllers() {
    let (_dir, root) = Root::of(&[
        ("proc/7/cgroup", "9:name=systemd:/\n7:blkio:/db\n4:memory:/app\n1:cpu,cpuacct:/app\n0::/\n"),
        (
            "proc/self/mountinfo",
            "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             38 31 0:35 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        ),
        ("sys/fs/cgroup/unified/cpu.stat", "usage_usec 9\n"),
        ("sys/fs/cgroup/cpu,cpuacct/app/cpu.stat", "nr_periods 4\nnr_throttled 3\nthrottled_time 2500000\n"),
        ("sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us", "200000\n"),
        ("sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us", "100000\n"),
        ("sys/fs/cgroup/memory/app/memory.usage_in_bytes", "4096\n"),
        ("sys/fs/cgroup/memory/app/memory.limit_in_bytes", "9223372036854771712\n"),
        ("sys/fs/cgroup/memory/app/memory.failcnt", "5\n"),
        ("sys/fs/cgroup/memory/app/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        (
            "sys/fs/cgroup/blkio/db/blkio.throttle.io_serviced",
            "254:0 Read 3\n254:0 Write 4\n254:0 Sync 7\n254:0 Total 7\nTotal 7\n",
        ),
        ("sys/fs/cgroup/blkio/db/blkio.throttle.write_iops_device", "254:0 100\n"),
    ]);
    let found = read(&root, 7);
    assert_eq!((found.cpu.len(), found.is_cpu_limited), (1, Some(true)));
    let own = &found.cpu[0];
    assert_eq!(own.group.version, Version::V1);
    assert_eq!((own.quota_cores, own.throttled, own.throttled_us), (Some(2.0), Some(3), Some(2500)));
    let memory = &found.memory[0];
    assert_eq!((memory.max, memory.max_events, memory.oom_kills), (None, Some(5), Some(2)));
    let device = &found.io[0].devices[0];
    assert_eq!((device.reads, device.writes, device.max_writes_per_s), (Some(3), Some(4), Some(100)));
    assert_eq!(device.max_reads_per_s, None);
}

#[test]
fn a_cap_on_a_device_that_did_nothing_is_seen() {
    let idle = |device: &str, reads_cap, writes_cap| CgroupDevice {
        device: device.to_owned(),
        reads: Some(0),
        writes: Some(0),
        max_reads_per_s: reads_cap,
        max_writes_per_s: writes_cap,
    };
    let found = devices_v2("8:0 rios=1 wios=2\n", "8:0 riops=5\n9:0 rbps=max riops=max wiops=100\n");
    assert_eq!((found.len(), &found[1]), (2, &idle("9:0", None, Some(100))));
    let found = devices_v1("8:0 Read 1\n8:0 Write 2\n", "9:0 7\n8:0 5\n", "9:0 100\n");
    assert_eq!((found.len(), &found[1]), (2, &idle("9:0", Some(7), Some(100))));
}

#[test]
fn without_a_group_nothing_is_known() {
    let (_dir, root) = Root::of(&[]);
    assert_eq!(read(&root, 7), Cgroups::default());
}

const MOUNT: &str = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

#[test]
fn whether_there_is_a_quota_is_known_or_not() {
    for (max, stat, expected) in [
        (Some("max 100000\n"), "nr_periods 0\n", Some(false)),
        (Some("50000 100000\n"), "nr_periods 0\n", Some(true)),
        (None, "nr_periods 0\n", None),
        (None, "usage_usec 4\n", Some(false)),
    ] {
        let (_dir, root) = Root::of(&[
            ("proc/7/cgroup", "0::/app\n"),
            ("proc/self/mountinfo", MOUNT),
            ("sys/fs/cgroup/app/cpu.stat", stat),
            // The root of all groups.
            ("sys/fs/cgroup/cpu.stat", "usage_usec 9\n"),
        ]);
        if let Some(max) = max {
            std::fs::write(root.path("sys/fs/cgroup/app/cpu.max"), max).unwrap();
        }
        assert_eq!(read(&root, 7).is_cpu_limited, expected, "{max:?} {stat}");
    }
}

#[test]
fn what_befell_other_groups_is_not_counted_where_the_kernel_tells_them_apart() {
    let (_dir, root) = Root::of(&[
        ("proc/7/cgroup", "0::/pod/app\n"),
        ("proc/self/mountinfo", MOUNT),
        ("sys/fs/cgroup/pod/app/memory.current", "4096\n"),
        ("sys/fs/cgroup/pod/app/memory.events", "high 1\nmax 2\noom_kill 3\n"),
        ("sys/fs/cgroup/pod/memory.current", "8192\n"),
        ("sys/fs/cgroup/pod/memory.events", "high 11\nmax 12\noom_kill 13\n"),
        ("sys/fs/cgroup/pod/memory.events.local", "high 0\nmax 5\noom_kill 0\n"),
    ]);
    let found = read(&root, 7).memory;
    let events = |memory: &CgroupMemory| (memory.high_events, memory.max_events, memory.oom_kills);
    assert_eq!(events(&found[0]), (Some(1), Some(2), Some(3)), "before kernel 5.3");
    assert_eq!(events(&found[1]), (Some(0), Some(5), Some(0)));
}

#[test]
fn devices_with_a_cap_are_kept_then_the_busiest() {
    let device = |at: u64, reads, cap| CgroupDevice {
        device: format!("8:{at}"),
        reads: Some(reads),
        writes: None,
        max_reads_per_s: None,
        max_writes_per_s: cap,
    };
    let group = Group { version: Version::V2, directory: "/a".into() };
    let of = |devices| CgroupIo { group: group.clone(), devices, stall: Stall::default() };
    let mut first: Vec<CgroupDevice> = (0..MAX_DEVICES as u64).map(|at| device(at, 5, None)).collect();
    first[3].reads = Some(9);
    let capped = device(99, 0, Some(100));
    let mut groups = [of(first), of(vec![device(50, 7, None), capped.clone()])];
    keep_busiest(&mut groups);
    assert_eq!(groups.iter().map(|group| group.devices.len()).sum::<usize>(), MAX_DEVICES);
    assert!(groups[0].devices.contains(&device(3, 9, None)));
    assert_eq!(groups[1].devices, [device(50, 7, None), capped]);
    let few = [of(vec![device(1, 0, None)])];
    let mut same = few.clone();
    keep_busiest(&mut same);
    assert_eq!(same, few);
}

#[test]
fn a_quota_is_a_share_of_its_period() {
    for (text, expected) in [
        ("max 100000\n", None),
        ("150000 100000\n", Some(1.5)),
        ("150000", None),
        ("150000 0", None),
        ("-1 100000", None),
        ("", None),
    ] {
        assert_eq!(quota(text), expected, "{text:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(stat in "([0-9:a-z= ]{0,40}\n){0,8}", max in ".{0,80}") {
        prop_assert!(devices_v2(&stat, &max).len() <= stat.lines().count() + max.lines().count());
        prop_assert!(devices_v1(&stat, &max, &stat).len() <= 2 * stat.lines().count() + max.lines().count());
        prop_assert!(quota(&max).is_none_or(|cores| cores > 0.0));
    }
}
