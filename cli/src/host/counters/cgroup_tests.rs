//! Groups of both versions, on trees as the kernel shows them.

use std::path::Path;

use proptest::prelude::*;

use super::*;

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
    let found = Cgroups::read(&root, 7);
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
    let found = Cgroups::read(&root, 7);
    assert_eq!(found.cpu.len(), 1);
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
    assert_eq!(Cgroups::read(&root, 7), Cgroups::default());
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
