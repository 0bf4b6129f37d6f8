//! The plan: tables of decisions, and what holds for all of them.

use nix::errno::Errno;
use proptest::prelude::*;

use super::*;
use crate::host::decide::joined;
use crate::host::tests::{FakeHost, machine, namespace_of, reasons};
use crate::profile::{Formulas, HugePagesSpec, PortSet, Sysctl, Wanted};

fn numbers(key: &str, now: &str, wanted: &[u64], exact: bool, allow_lower: bool) -> Decision {
    let wanted = if exact { Resolved::Equals(wanted.to_vec()) } else { Resolved::AtLeast(wanted.to_vec()) };
    decide(key, now, &wanted, allow_lower)
}

#[test]
fn values_are_raised_and_not_lowered() {
    const MAX: &str = "net.core.somaxconn";
    const RMEM: &str = "net.ipv4.tcp_rmem";
    const RANGE: &str = "net.ipv4.ip_local_port_range";
    for (key, now, wanted, exact, allow_lower, expected) in [
        (MAX, "4096", &[20_000][..], false, false, Ok("20000")),
        (MAX, "20000", &[20_000], false, false, Err("already")),
        (MAX, "65535", &[20_000], false, false, Err("kept-higher")),
        (MAX, "65535", &[20_000], false, true, Err("kept-higher")),
        (MAX, "65535", &[20_000], true, false, Err("kept-higher")),
        (MAX, "65535", &[20_000], true, true, Ok("20000")),
        // Neither direction of a mode is a loss.
        ("net.ipv4.tcp_tw_reuse", "2", &[1], true, false, Ok("1")),
        ("vm.swappiness", "60", &[10], true, false, Ok("10")),
        ("vm.swappiness", "60", &[10], false, false, Err("kept-higher")),
        // Nor is it of a key that nobody knows, where the profile says `equals`.
        ("net.ipv4.tcp_sack", "1", &[0], true, false, Ok("0")),
        ("net.ipv4.tcp_sack", "1", &[0], false, false, Err("kept-higher")),
        // Each value for itself.
        (RMEM, "4096 131072 33554432", &[8192, 87_380, 16_777_216], false, false, Ok("8192 131072 33554432")),
        (RMEM, "4096 131072 33554432", &[4096, 87_380, 16_777_216], false, false, Err("kept-higher")),
        (RMEM, "4096 131072 33554432", &[4096], false, false, Err("refused")),
        (RANGE, "32768 60999", &[10_240, 65_535], false, false, Ok("10240 65535")),
        (RANGE, "1024 61000", &[10_240, 65_535], false, false, Ok("1024 65535")),
        (RANGE, "1024 65535", &[10_240, 60_000], false, false, Err("kept-higher")),
        (RANGE, "1024 65535", &[10_240, 60_000], true, true, Ok("10240 60000")),
        (RANGE, "1024 65535", &[60_000, 10_240], true, true, Err("refused")),
        ("net.ipv4.tcp_fin_timeout", "60", &[15], true, true, Err("refused")),
        ("net.ipv4.tcp_max_tw_buckets", "131072", &[8192], true, true, Err("refused")),
    ] {
        let decision = numbers(key, now, wanted, exact, allow_lower);
        let found = match &decision {
            Decision::Change(value) => Ok(value.as_str()),
            Decision::Stay(status) => Err(status.name()),
        };
        assert_eq!(found, expected, "{key} {now} {wanted:?} {exact} {allow_lower}");
    }
}

#[test]
fn reserved_ports_grow() {
    let wanted = Resolved::Includes(PortSet::parse("6379,30000-32767").unwrap());
    let key = "net.ipv4.ip_local_reserved_ports";
    assert_eq!(decide(key, "", &wanted, false), Decision::Change("6379,30000-32767".to_owned()));
    assert_eq!(
        decide(key, "80,32000-40000", &wanted, false),
        Decision::Change("80,6379,30000-40000".to_owned())
    );
    assert_eq!(decide(key, "1-65535", &wanted, false), Decision::Stay(Status::Already));
}

fn sysctl(key: &str, at_least: &str, optional: bool) -> Sysctl {
    let formulas = at_least.split(' ').map(|text| text.parse().unwrap()).collect();
    let wanted = Wanted::AtLeast(Formulas(formulas));
    Sysctl { key: key.to_owned(), wanted, optional, reasons: reasons(), location: "file:1:1".to_owned() }
}

fn statuses(host: &Host, fake: &FakeHost, machine: &Machine) -> Vec<(String, String, &'static str)> {
    let rows = plan(host, 10_000, machine, &fake.root, fake).unwrap();
    rows.into_iter().map(|row| (row.key.name(), row.wanted, row.status.name())).collect()
}

fn asks(sysctls: Vec<Sysctl>) -> Host {
    Host { sysctls, ..Host::default() }
}

#[test]
fn what_stands_in_the_way_has_a_name() {
    const BACKLOG: &str = "net.core.netdev_max_backlog";
    const MAX: &str = "net.netfilter.nf_conntrack_max";
    const BUCKETS: &str = "net.netfilter.nf_conntrack_buckets";
    let own = || Machine { namespace: namespace_of("net:[2]", false), ..machine() };
    for (name, values, sysctls, machine, expected) in [
        (
            "formula",
            &[("net.core.somaxconn", "4096")][..],
            vec![sysctl("net.core.somaxconn", "2*users", false)],
            machine(),
            "to change",
        ),
        ("gone", &[], vec![sysctl("net.core.somaxconn", "1", false)], machine(), "absent"),
        ("not of this namespace", &[], vec![sysctl(BACKLOG, "4096", false)], own(), "not-namespaced-here"),
        (
            "unguarded",
            &[("net.ipv4.ip_local_port_range", "32768 60999"), ("net.ipv4.ip_local_reserved_ports", "80")],
            vec![sysctl("net.ipv4.ip_local_port_range", "1024 65535", false)],
            machine(),
            "refused",
        ),
        (
            "lone maximum",
            &[(MAX, "1024"), (BUCKETS, "1024")],
            vec![sysctl(MAX, "262144", false)],
            machine(),
            "refused",
        ),
        (
            "bytes for pages",
            &[("net.ipv4.tcp_mem", "90000 120000 180000")],
            vec![sysctl("net.ipv4.tcp_mem", "10000 87380 16777216", false)],
            machine(),
            "refused",
        ),
        (
            "folklore that is met",
            &[("net.ipv4.tcp_fin_timeout", "60")],
            vec![sysctl("net.ipv4.tcp_fin_timeout", "15", false)],
            machine(),
            "refused",
        ),
        (
            "folklore that is gone",
            &[],
            vec![sysctl("net.ipv4.tcp_tw_recycle", "1", false)],
            machine(),
            "refused",
        ),
    ] {
        let found = statuses(&asks(sysctls), &FakeHost::new(values), &machine);
        assert_eq!(found[0].2, expected, "{name}: {found:?}");
    }
    let buckets = [(MAX, "1024"), (BUCKETS, "1024")];
    let both = asks(vec![sysctl(BUCKETS, "65536", false), sysctl(MAX, "262144", false)]);
    let found = statuses(&both, &FakeHost::new(&buckets), &machine());
    assert!(found.iter().all(|row| row.2 == "to change"), "{found:?}");
    // kube-proxy sets it again.
    let fake = FakeHost::new(&buckets);
    std::fs::create_dir_all(fake.root.path("proc/77")).unwrap();
    std::fs::write(fake.root.path("proc/77/comm"), "kube-proxy\n").unwrap();
    let found = statuses(&both, &fake, &machine());
    assert!(found.iter().all(|row| row.2 == "owned-by-other"), "{found:?}");
    let absent = |optional| Status::Absent { optional, perhaps_elsewhere: false };
    assert!(!absent(true).is_undone() && absent(false).is_undone());
    assert!(
        Status::KeptHigher { equals: true }.is_undone() && !Status::KeptHigher { equals: false }.is_undone()
    );
    // In a namespace that is not the first, what is missing may only be hidden.
    let missing = asks(vec![sysctl("net.ipv4.no_such_key", "1", false)]);
    for (machine, part) in
        [(own(), "or the whole host shares it"), (machine(), "this kernel does not have it")]
    {
        let fake = FakeHost::new(&[]);
        let rows = plan(&missing, 1, &machine, &fake.root, &fake).unwrap();
        assert!(rows[0].status.detail().unwrap().contains(part), "{:?}", rows[0].status);
    }
    let twins = asks(vec![sysctl("vm.dirty_bytes", "1", false), sysctl("vm.dirty_ratio", "1", false)]);
    let found =
        statuses(&twins, &FakeHost::new(&[("vm.dirty_bytes", "0"), ("vm.dirty_ratio", "20")]), &machine());
    assert!(found.iter().all(|row| row.2 == "refused"), "{found:?}");
}

#[test]
fn writes_that_are_refused_say_what_to_do() {
    for (errno, is_root, part) in [
        (Errno::EROFS, true, "mounted read-only"),
        (Errno::EACCES, true, "container without privileges"),
        (Errno::EPERM, false, "run it as root"),
    ] {
        let status = refused_write(&errno.into(), is_root);
        assert!(matches!(&status, Status::ReadOnly { remedy, .. } if remedy.contains(part)), "{status:?}");
    }
    assert_eq!(refused_write(&Errno::EINVAL.into(), true).name(), "failed");
}

#[test]
fn huge_pages_are_as_mongod_wants_them() {
    let key = "transparent_hugepage";
    for (mode, mongod, now, expected) in [
        (HugePages::ByMongod, Some(8), "always [madvise] never", ("always", "to change")),
        (HugePages::ByMongod, Some(7), "always [madvise] never", ("never", "to change")),
        (HugePages::ByMongod, Some(7), "always madvise [never]", ("never", "already")),
        (HugePages::ByMongod, None, "[always] madvise never", ("as it is (no mongod here)", "already")),
        (HugePages::Madvise, Some(8), "[always] madvise never", ("madvise", "to change")),
    ] {
        let spec = HugePagesSpec { mode, reasons: reasons() };
        let host = Host { transparent_huge_pages: Some(spec), ..Host::default() };
        let fake = FakeHost::new(&[
            (key, now),
            ("transparent_hugepage/defrag", "always defer defer+madvise [madvise] never"),
            ("transparent_hugepage/khugepaged/max_ptes_none", "511"),
        ]);
        let found = statuses(&host, &fake, &Machine { mongod, ..machine() });
        let row = |name: &str, wanted: &str, status| (format!("{key}{name}"), wanted.to_owned(), status);
        let mut rows = vec![row("", expected.0, expected.1)];
        if expected.0 == "always" {
            rows.push(row("/defrag", "defer+madvise", "to change"));
            rows.push(row("/khugepaged/max_ptes_none", "0", "to change"));
        }
        assert_eq!(found, rows);
    }
}

/// The profiles that ship, on a kernel that rounds up: what is applied is verified afterwards, and persisted as it is.
#[test]
fn each_built_in_profile_is_at_rest_once_it_was_applied() {
    const KEYS: &[(&str, &str)] = &[
        ("net.core.somaxconn", "4096"),
        ("net.core.netdev_max_backlog", "1000"),
        ("net.ipv4.tcp_syncookies", "0"),
        ("net.ipv4.tcp_slow_start_after_idle", "1"),
        ("net.ipv4.ip_local_port_range", "32768 60999"),
        ("net.ipv4.ip_local_reserved_ports", ""),
        ("net.ipv4.tcp_tw_reuse", "2"),
        ("net.ipv4.tcp_max_tw_buckets", "4096"),
        ("net.netfilter.nf_conntrack_buckets", "8192"),
        ("net.netfilter.nf_conntrack_max", "8192"),
        ("vm.overcommit_memory", "0"),
        ("vm.max_map_count", "65530"),
        ("fs.nr_open", "1048576"),
        ("fs.file-max", "100000"),
        ("transparent_hugepage", "always [madvise] never"),
    ];
    for name in ["host-10k", "host-100k", "host-loadgen", "host-seed"] {
        // Pages of 4 KiB, and of 64.
        for multiple in [512, 8192] {
            let host = crate::profile::load(name, crate::profile::Layer::default()).unwrap().host;
            let mut fake = FakeHost::new(KEYS);
            fake.rounded.push(("net.netfilter.nf_conntrack_buckets", multiple));
            let users = u64::from(host.users.unwrap());
            let mut rows = plan(&host, users, &machine(), &fake.root, &fake).unwrap();
            assert!(
                rows.iter().all(|row| !matches!(row.status, Status::Refused { .. } | Status::Absent { .. })),
                "{name}: {rows:?}"
            );
            fake.apply(&mut rows);
            assert!(rows.iter().all(|row| !row.status.is_undone()), "{name}: {rows:?}");
            let again = plan(&host, users, &machine(), &fake.root, &fake).unwrap();
            assert!(again.iter().all(|row| !row.status.is_undone()), "{name}: {again:?}");
            for row in rows.iter().filter(|row| row.status == Status::Raised) {
                assert_eq!(fake.get(&row.key.name()), row.wanted, "what is persisted holds");
            }
        }
    }
}

#[test]
fn what_a_setting_depends_on_is_asked_again_before_it_is_written() {
    const RANGE: &str = "net.ipv4.ip_local_port_range";
    const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";
    const BUCKETS: &str = "net.netfilter.nf_conntrack_buckets";
    const MAX: &str = "net.netfilter.nf_conntrack_max";
    let host = crate::profile::load("host-10k", crate::profile::Layer::default()).unwrap().host;
    let sysctls = host
        .sysctls
        .into_iter()
        .filter(|sysctl| [RANGE, RESERVED, BUCKETS, MAX].contains(&sysctl.key.as_str()));
    let host = asks(sysctls.collect());
    let mut fake = FakeHost::new(&[(RANGE, "32768 60999"), (RESERVED, ""), (BUCKETS, "1024"), (MAX, "1024")]);
    let mut rows = plan(&host, 10_000, &machine(), &fake.root, &fake).unwrap();
    assert!(rows.iter().all(|row| row.status == Status::Planned), "{rows:?}");
    let names: Vec<String> = rows.iter().map(|row| row.key.name()).collect();
    let place = |key: &str| names.iter().position(|name| name == key).unwrap();
    assert!(place(RESERVED) < place(RANGE) && place(BUCKETS) < place(MAX), "{names:?}");
    fake.refused.extend([(RESERVED, Errno::EINVAL, None), (BUCKETS, Errno::ENOMEM, None)]);
    fake.apply(&mut rows);
    for key in [RANGE, MAX] {
        assert_eq!(rows[place(key)].status.name(), "refused", "{rows:?}");
    }
    assert_eq!((fake.get(RANGE), fake.get(MAX)), ("32768 60999".to_owned(), "1024".to_owned()));
}

#[test]
fn a_formula_without_a_value_names_its_place() {
    let host = asks(vec![sysctl("net.core.somaxconn", "1/0", false)]);
    let fake = FakeHost::new(&[]);
    let error = plan(&host, 1, &machine(), &fake.root, &fake).unwrap_err().to_string();
    assert!(error.starts_with("file:1:1: host.sysctls.net.core.somaxconn: 1/0 has no value"), "{error}");
}

proptest! {
    /// Without leave nothing that counts capacity ends lower, and a plan that was followed has nothing left to do.
    #[test]
    fn raise_only_and_at_rest_afterwards(
        now in prop::collection::vec(0_u64..100_000, 1..4),
        wanted in prop::collection::vec(0_u64..100_000, 1..4),
        exact: bool,
        allow_lower: bool,
    ) {
        let key = "net.ipv4.tcp_rmem";
        match numbers(key, &joined(&now), &wanted, exact, allow_lower) {
            Decision::Change(value) => {
                let value: Vec<u64> = value.split(' ').map(|word| word.parse().unwrap()).collect();
                prop_assert_ne!(&value, &now);
                prop_assert_eq!(value.len(), now.len());
                if !(exact && allow_lower) {
                    prop_assert!(value.iter().zip(&now).all(|(value, now)| value >= now));
                }
                prop_assert!(value.iter().zip(&wanted).all(|(value, wanted)| value >= wanted));
                let again = numbers(key, &joined(&value), &wanted, exact, allow_lower);
                let is_at_rest = matches!(again, Decision::Stay(Status::Already | Status::KeptHigher { .. }));
                prop_assert!(is_at_rest);
            }
            Decision::Stay(status) => prop_assert!(
                (now.len() == wanted.len()) != matches!(status, Status::Refused { .. }), "{:?}", status
            ),
        }
    }

    #[test]
    fn a_range_only_widens(low in 1_u64..30_000, high in 30_000_u64..65_536, first in 1_u64..30_000, last in 30_000_u64..65_536) {
        let key = "net.ipv4.ip_local_port_range";
        if let Decision::Change(value) = numbers(key, &joined(&[low, high]), &[first, last], false, false) {
            prop_assert_eq!(value, joined(&[low.min(first), high.max(last)]));
        } else {
            prop_assert!(low <= first && high >= last);
        }
    }

    #[test]
    fn no_text_of_the_kernel_panics(now in "\\PC{0,40}", wanted: u64) {
        for key in ["net.core.somaxconn", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports"] {
            let _ = numbers(key, &now, &[wanted, wanted], false, false);
            let _ = decide(key, &now, &Resolved::Includes(PortSet::default()), false);
        }
    }
}
