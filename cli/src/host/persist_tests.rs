//! The files for the next boot, written below a root and given back.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;
use crate::host::beaten_by;
use crate::host::facts::Machine;
use crate::host::rollback::{Outcome, rollback};
use crate::host::tests::{machine, reasons};

const SOMAXCONN: &str = "net.core.somaxconn";

fn row(key: &str, status: Status, now: &str, wanted: &str) -> Row {
    Row::of_test(Key::parse(key).unwrap(), status, now, wanted)
}

fn limit(wanted: u64) -> LimitWish {
    LimitWish { resource: Resource::OpenFiles, wanted, own_hard: 0 }
}

fn journal(root: &Root) -> (Journal, crate::host::journal::Account) {
    Journal::open(&root.path("state/journal.jsonl")).unwrap()
}

fn write_all(root: &Root, files: &mut [Persisted]) {
    write(files, true, &mut journal(root).0).unwrap();
    assert!(files.iter().all(|file| !file.status.is_undone()), "{files:?}");
}

fn roll_back(root: &Root) -> Vec<Outcome> {
    let (mut journal, account) = journal(root);
    let undone = rollback(&account, &mut journal, root, &machine(), root).unwrap();
    undone.into_iter().map(|row| row.outcome).collect()
}

fn text(root: &Root, path: &str) -> String {
    fs::read_to_string(root.path(path)).unwrap()
}

/// A host with systemd as its first process.
fn host() -> (tempfile::TempDir, Root) {
    Root::of(&[("proc/1/comm", "systemd\n"), ("etc/os-release", "")])
}

#[test]
fn files_are_whole_and_given_back_with_mode_and_directories() {
    let (_dir, root) = host();
    let rows = [
        row(SOMAXCONN, Status::Raised, "4096", "20000"),
        row("net.ipv4.tcp_rmem", Status::KeptHigher { equals: false }, "9", "5"),
        row("fs.file-max", Status::KeptHigher { equals: true }, "9", "5"),
        row("vm.max_map_count", Status::Refused { reason: "x".to_owned() }, "9", "5"),
        row("transparent_hugepage", Status::Raised, "madvise", "always"),
        row("transparent_hugepage/defrag", Status::Already, "defer+madvise", "defer+madvise"),
    ];
    let old = root.path("etc/sysctl.d/99-zz-scalekit.conf");
    fs::create_dir_all(old.parent().unwrap()).unwrap();
    fs::write(&old, "# older\n").unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).unwrap();
    let mut files = files(&root, &rows, &["nf_conntrack".to_owned()], &[limit(100_000)]);
    assert_eq!(files.len(), 6);
    write_all(&root, &mut files);
    let sysctls = text(&root, "etc/sysctl.d/99-zz-scalekit.conf");
    assert!(
        sysctls.contains("\nnet.core.somaxconn = 20000\n") && sysctls.contains("tcp_rmem = 9\n"),
        "{sysctls}"
    );
    assert!(!sysctls.contains("max_map_count") && !sysctls.contains("file-max"), "{sysctls}");
    let pages = text(&root, "etc/tmpfiles.d/00-scalekit.conf");
    assert!(pages.contains("w /sys/kernel/mm/transparent_hugepage/enabled - - - - always\n"), "{pages}");
    assert!(
        pages.ends_with("w /sys/kernel/mm/transparent_hugepage/defrag - - - - defer+madvise\n"),
        "{pages}"
    );
    assert!(text(&root, "etc/modules-load.d/scalekit.conf").ends_with("\nnf_conntrack\n"));
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(&old), mode(&root.path("etc/modules-load.d/scalekit.conf"))), (0o640, 0o644));
    assert_eq!(mode(&root.path("etc/systemd/system.conf.d")), 0o755);

    assert!(roll_back(&root).iter().all(|outcome| *outcome == Outcome::Restored));
    assert_eq!((fs::read_to_string(&old).unwrap(), mode(&old)), ("# older\n".to_owned(), 0o640));
    assert!(files[1..].iter().all(|file| !file.path.exists()));
    assert!(
        !root.path("etc/systemd").exists() && !root.path("etc/security").exists(),
        "made for nothing else"
    );
    assert!(root.path("etc/sysctl.d").exists(), "was there before");
    assert_eq!(fs::metadata(root.path("state/journal.jsonl")).unwrap().len(), 0, "all is settled");
}

#[test]
fn limits_raise_soft_and_hard_apart_and_lower_neither() {
    for (conf, login, wanted, system, logins) in [
        // What systemd gives: the hard limit stays.
        ("", "", 65_536, Some("65536:524288"), Some("* soft nofile 65536\nroot soft nofile 65536\n")),
        (
            "",
            "",
            600_000,
            Some("600000:600000"),
            Some(
                "* soft nofile 600000\n* hard nofile 600000\nroot soft nofile 600000\nroot hard nofile 600000\n",
            ),
        ),
        ("DefaultLimitNOFILE=70000:infinity", "", 65_536, None, None),
        (
            "DefaultLimitNOFILE=1024:infinity",
            "",
            65_536,
            Some("65536:infinity"),
            Some("* soft nofile 65536\nroot soft nofile 65536\n"),
        ),
        (
            "",
            "* - nofile 100000\nroot - nofile 1000",
            65_536,
            Some("65536:524288"),
            Some("root soft nofile 65536\nroot hard nofile 65536\n"),
        ),
        ("", "", 1024, None, None),
    ] {
        let (_dir, root) = host();
        for (path, text) in [("etc/systemd/system.conf", conf), ("etc/security/limits.conf", login)] {
            fs::create_dir_all(root.path(path).parent().unwrap()).unwrap();
            fs::write(root.path(path), text).unwrap();
        }
        let mut written = files(&root, &[], &[], &[limit(wanted)]);
        let of =
            |kind| written.iter().find(|file| file.kind == kind).map(|file| file.text.replace(HEADER, ""));
        let system = system.map(|pair| format!("[Manager]\nDefaultLimitNOFILE={pair}\n"));
        assert_eq!(
            (of(Kind::System), of(Kind::Logins)),
            (system, logins.map(str::to_owned)),
            "{conf} {login} {wanted}"
        );
        // Once written, nothing is left to write.
        write_all(&root, &mut written);
        let mut again = files(&root, &[], &[], &[limit(wanted)]);
        write_all(&root, &mut again);
        assert!(again.iter().all(|file| file.status == Status::Already), "{again:?}");
    }
    // A login that has more by some other way does not lose it.
    let (_dir, root) = host();
    let wish = LimitWish { own_hard: 1_048_576, ..limit(600_000) };
    let written = files(&root, &[], &[], &[wish]);
    assert!(written.iter().any(|file| file.text.contains("* hard nofile 1048576\n")), "{written:?}");
}

#[test]
fn a_second_profile_adds_to_the_first_and_lowers_nothing() {
    let (_dir, root) = host();
    let raised = |key: &str, value: &str| row(key, Status::Raised, "1", value);
    let mut first = files(
        &root,
        &[raised(SOMAXCONN, "20000"), raised("vm.x", "5")],
        &["tcp_bbr".to_owned()],
        &[limit(200_000)],
    );
    write_all(&root, &mut first);
    let rows = [raised(SOMAXCONN, "10000"), raised("vm.y", "7")];
    let mut second = files(&root, &rows, &["nf_conntrack".to_owned()], &[limit(65_536)]);
    assert_eq!(second[0].kept, ["vm.x = 5"]);
    write_all(&root, &mut second);
    let sysctls = text(&root, "etc/sysctl.d/99-zz-scalekit.conf");
    for line in ["net.core.somaxconn = 20000\n", "vm.x = 5\n", "vm.y = 7\n"] {
        assert!(sysctls.contains(line), "{line} in {sysctls}");
    }
    assert!(text(&root, "etc/modules-load.d/scalekit.conf").ends_with("nf_conntrack\ntcp_bbr\n"));
    assert!(text(&root, "etc/systemd/system.conf.d/99-zz-scalekit.conf").contains("=200000:524288\n"));
    // And both go back, one after the other.
    assert!(roll_back(&root).iter().all(|outcome| *outcome == Outcome::Restored));
    assert!(second.iter().all(|file| !file.path.exists()));
}

#[test]
fn what_was_said_in_other_words_before_goes() {
    let (_dir, root) = host();
    let raised = |key: &str, value: &str| row(key, Status::Raised, "1", value);
    let old =
        [raised("vm.dirty_bytes", "999"), raised("net.nf_conntrack_max", "262144"), raised("vm.x", "5")];
    write_all(&root, &mut files(&root, &old, &[], &[]));
    let new = [raised("vm.dirty_ratio", "10"), raised("net.netfilter.nf_conntrack_max", "800000")];
    let mut second = files(&root, &new, &[], &[]);
    assert_eq!(second[0].kept, ["vm.x = 5"]);
    write_all(&root, &mut second);
    let sysctls = text(&root, "etc/sysctl.d/99-zz-scalekit.conf");
    assert!(!sysctls.contains("dirty_bytes") && !sysctls.contains("262144"), "{sysctls}");
}

#[test]
fn files_are_compared_with_what_is_asked() {
    let (_dir, root) = host();
    let rows = [row(SOMAXCONN, Status::Raised, "4096", "20000")];
    let mut written = files(&root, &rows, &[], &[limit(65_536)]);
    write_all(&root, &mut written);
    let check_again = || {
        let mut found = files(&root, &rows, &[], &[limit(65_536)]);
        check(&mut found, &rows);
        found.iter().map(|file| file.status.name()).collect::<Vec<_>>()
    };
    assert_eq!(check_again(), ["already", "already", "already", "already"]);
    fs::write(root.path("etc/sysctl.d/99-zz-scalekit.conf"), "net.core.somaxconn = 128\n").unwrap();
    fs::remove_file(root.path("etc/systemd/user.conf.d/99-zz-scalekit.conf")).unwrap();
    assert_eq!(check_again(), ["to change", "already", "already", "to change"]);
}

#[test]
fn what_wins_at_boot_is_named() {
    let (_dir, root) = host();
    let rows = [
        row(SOMAXCONN, Status::Raised, "4096", "20000"),
        row("transparent_hugepage", Status::Raised, "madvise", "always"),
    ];
    let ours = files(&root, &rows, &[], &[limit(65_536)]);
    assert_eq!(beaten_by(&root, &ours), [""; 0]);
    for (path, text) in [
        ("etc/sysctl.d/99-zzz.conf", "net/core/somax* = 128\n"),
        ("etc/sysctl.d/10-first.conf", "net.core.somaxconn = 128\n"),
        ("etc/sysctl.d/99-zzy.conf", "net.core.somaxconn=20000\n"),
        // Its place is taken by a file of that name above it.
        ("usr/lib/sysctl.d/99-zzx.conf", "net.core.somaxconn = 1\n"),
        ("etc/sysctl.d/99-zzx.conf", "# nothing\n"),
        ("etc/sysctl.conf", "#net.core.somaxconn=1\n-net.core.somaxconn=2\n"),
        ("etc/security/limits.d/99-zzz.conf", "* - nofile 4096\nmongod - nofile 1\n"),
        ("etc/systemd/system.conf.d/99-zzz.conf", "[Manager]\nDefaultLimitNOFILE=4096\n"),
        ("etc/tmpfiles.d/00-a.conf", "w /sys/kernel/mm/transparent_hugepage/enabled - - - - never\n"),
        ("etc/tmpfiles.d/thp.conf", "w /sys/kernel/mm/transparent_hugepage/enabled - - - - never\n"),
    ] {
        fs::create_dir_all(root.path(path).parent().unwrap()).unwrap();
        fs::write(root.path(path), text).unwrap();
    }
    std::os::unix::fs::symlink("/dev/null", root.path("etc/sysctl.d/99-zzw.conf")).unwrap();
    std::os::unix::fs::symlink("usr/lib", root.path("lib")).unwrap();
    let found = beaten_by(&root, &ours);
    let expected = [
        "etc/security/limits.d/99-zzz.conf sets * soft nofile",
        "etc/sysctl.conf sets net.core.somaxconn",
        "etc/sysctl.d/99-zzz.conf sets net.core.somaxconn",
        "etc/systemd/system.conf.d/99-zzz.conf sets DefaultLimitNOFILE",
        "etc/tmpfiles.d/00-a.conf sets /sys/kernel/mm/transparent_hugepage/enabled",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.ends_with(expected), "{found} {expected}");
    }
}

#[test]
fn a_journal_leads_rollback_to_nothing_but_its_own() {
    let (_dir, root) = host();
    let victim = root.path("etc/passwd");
    fs::write(&victim, "ours").unwrap();
    let (mut held, _) = journal(&root);
    let text = |text: &str| text.to_owned();
    held.change(What::File {
        path: victim.clone(),
        prior: Some(text("root::0:0")),
        access: None,
        made: Vec::new(),
        ours: text("ours"),
    })
    .unwrap();
    for key in ["/etc/passwd", "net/../../etc/passwd", "module ../../x", "kernel"] {
        held.change(What::Value {
            key: text(key),
            prior: text("root::0:0"),
            ours: text("ours"),
            namespace: None,
            boot: machine().namespace.boot,
            twin: None,
        })
        .unwrap();
    }
    drop(held);
    let found = roll_back(&root);
    assert!(
        found.len() == 5 && found.iter().all(|outcome| matches!(outcome, Outcome::Failed { .. })),
        "{found:?}"
    );
    assert_eq!(fs::read_to_string(&victim).unwrap(), "ours");
}

#[test]
fn a_journal_that_others_can_write_or_nobody_can_stops_everything() {
    let (_dir, root) = host();
    drop(journal(&root));
    let path = root.path("state/journal.jsonl");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(Journal::open(&path).unwrap_err().to_string().contains("mode 666"));
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(root.path("elsewhere"), &path).unwrap();
    assert!(Journal::open(&path).is_err(), "a link leads elsewhere");
    // One that takes no line: nothing is changed.
    let full = Machine { is_root: true, ..machine() };
    let (_dir, values) = Root::of(&[("proc/sys/net/core/somaxconn", "4096\n")]);
    let mut rows = [row(SOMAXCONN, Status::Planned, "4096", "20000")];
    let mut journal = Journal::unwritable();
    assert!(crate::host::apply(&mut rows, &full, &values, &mut journal).is_err());
    assert_eq!(text(&values, "proc/sys/net/core/somaxconn"), "4096\n");
    assert_eq!(reasons().why, rows[0].reasons.why);
}

#[test]
fn a_limit_that_no_boot_would_allow_is_not_persisted() {
    use crate::host::limits::{LimitRow, refuse_beyond_boot};
    let row = || row(SOMAXCONN, Status::Raised, "1", "2");
    for (now, sysctl, refused) in [
        ("1048576", None, true),
        // Raised now, but by nothing that lasts.
        ("4194304", None, true),
        ("1048576", Some((Status::Planned, "2097152")), false),
        ("2097152", Some((Status::Raised, "2097152")), false),
        ("2097152", Some((Status::Already, "2097152")), false),
        ("1048576", Some((Status::Clamped { got: "1048576".to_owned() }, "2097152")), true),
    ] {
        let (_dir, root) = Root::of(&[("proc/sys/fs/nr_open", now)]);
        let sysctls: Vec<Row> = sysctl
            .map(|(status, wanted)| Row::of_test(Key::Sysctl("fs.nr_open".to_owned()), status, now, wanted))
            .into_iter()
            .collect();
        let mut limits = [LimitRow { resource: Resource::OpenFiles, wanted: 2_000_000, hard: 0, row: row() }];
        refuse_beyond_boot(&mut limits, &sysctls, &root);
        assert_eq!(matches!(limits[0].row.status, Status::Refused { .. }), refused, "{now} {sysctls:?}");
    }
}
