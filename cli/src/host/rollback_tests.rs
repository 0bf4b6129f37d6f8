//! Rollback where not all is as it was left: from other namespaces, after a boot, a crash or a refused write.

use std::fs;
use std::path::PathBuf;

use nix::errno::Errno;

use super::apply;
use super::facts::{Machine, Namespace, Processes};
use super::journal::{Journal, What};
use super::rollback::Outcome;
use super::status::Status;
use super::tests::{FakeHost, HERE, SOMAXCONN, SWAP, machine, namespace_of, reasons, row};
use super::values::Key;

#[test]
fn a_value_that_half_applied_is_told_and_given_back() {
    const RMEM: &str = "net.ipv4.tcp_rmem";
    let mut host = FakeHost::new(&[(RMEM, "4096 131072 33554432")]);
    host.refused.push((RMEM, Errno::EINVAL, Some("8192 131072 33554432")));
    let mut rows = [row(RMEM, "4096 131072 33554432", "8192 131072 4294967296")];
    host.apply(&mut rows);
    let Status::Failed { errno } = &rows[0].status else { panic!("{:?}", rows[0].status) };
    assert!(errno.contains("EINVAL") && errno.contains("it became 8192 131072 33554432"), "{errno}");
    host.refused.clear();
    assert_eq!(host.roll_back(HERE), [(RMEM.to_owned(), Outcome::Restored)]);
    assert_eq!(host.get(RMEM), "4096 131072 33554432");
}

#[test]
fn a_crash_before_the_reading_back_keeps_the_change_open() {
    let host = FakeHost::new(&[(SOMAXCONN, "4096")]);
    host.apply(&mut [row(SOMAXCONN, "4096", "70000")]);
    let whole = fs::read_to_string(host.journal_path()).unwrap();
    fs::write(host.journal_path(), whole.split_inclusive('\n').next().unwrap()).unwrap();
    // The kernel made something else of it, which nobody wrote down.
    host.set(SOMAXCONN, "65535");
    let command = format!("sysctl -w {SOMAXCONN}='4096'");
    let unclear = Outcome::Unclear { now: "65535".to_owned(), command };
    assert_eq!(host.roll_back(HERE), [(SOMAXCONN.to_owned(), unclear)]);
    assert_eq!(host.get(SOMAXCONN), "65535");
    host.set(SOMAXCONN, "4096");
    assert_eq!(host.roll_back(HERE), [(SOMAXCONN.to_owned(), Outcome::NothingToDo)]);
    assert!(host.account().open.is_empty());
}

#[test]
fn what_is_not_seen_from_another_namespace_stays_to_be_undone() {
    const BACKLOG: &str = "net.core.netdev_max_backlog";
    let host = FakeHost::new(&[(BACKLOG, "1000"), (SWAP, "60")]);
    host.apply(&mut [row(BACKLOG, "1000", "4096"), row(SWAP, "60", "10")]);
    // A namespace of its own does not have the key.
    let file = host.root.file(&Key::parse(BACKLOG).unwrap());
    fs::remove_file(&file).unwrap();
    let found = host.roll_back("net:[2]");
    assert_eq!(found[0], (SWAP.to_owned(), Outcome::Restored));
    assert!(matches!(found[1].1, Outcome::OtherNamespace { .. }), "{found:?}");
    // Not even in the right one is it given up while that boot lasts.
    assert_eq!(host.roll_back(HERE), [(BACKLOG.to_owned(), Outcome::NotHere)]);
    assert!(!Outcome::NotHere.is_settled());
    fs::write(&file, "4096\n").unwrap();
    assert_eq!(host.roll_back(HERE), [(BACKLOG.to_owned(), Outcome::Restored)]);
    assert_eq!(host.get(BACKLOG), "1000");
}

/// A file of ours for the next boot.
fn persist_line(host: &FakeHost, journal: &mut Journal, line: &str) -> PathBuf {
    let path = host.root.path("etc/sysctl.d/99-zz-scalekit.conf");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let prior = fs::read_to_string(&path).ok();
    fs::write(&path, line).unwrap();
    let file =
        What::File { path: path.clone(), prior, access: None, made: Vec::new(), ours: line.to_owned() };
    journal.change(file).unwrap();
    path
}

#[test]
fn after_a_boot_a_value_is_ours_only_by_a_file_of_ours() {
    for (line, expected, left) in [
        ("net.core.somaxconn = 20000\n", Outcome::Restored, "4096"),
        // Whoever boots with the same value means it.
        ("vm.swappiness = 10\n", Outcome::ChangedByOther { now: "20000".to_owned() }, "20000"),
    ] {
        let host = FakeHost::new(&[(SOMAXCONN, "4096")]);
        let (mut journal, _) = host.journal();
        apply(&mut [row(SOMAXCONN, "4096", "20000")], &machine(), &host, &mut journal).unwrap();
        persist_line(&host, &mut journal, line);
        drop(journal);
        let here = machine();
        let later = Machine {
            namespace: Namespace { boot: "the next".to_owned(), ..here.namespace.clone() },
            ..here
        };
        let found = host.roll_back_on(&later);
        assert_eq!(found[1..], [(SOMAXCONN.to_owned(), expected)], "{line}");
        assert_eq!(host.get(SOMAXCONN), left);
    }
}

#[test]
fn while_a_newer_change_stands_an_older_one_of_the_same_waits() {
    let host = FakeHost::new(&[]);
    let (mut journal, _) = host.journal();
    persist_line(&host, &mut journal, "a = 1\n");
    let path = persist_line(&host, &mut journal, "b = 2\n");
    drop(journal);
    // Not to be read for now, nor to be written.
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    fs::create_dir(&path).unwrap();
    let found = host.roll_back(HERE);
    assert!(matches!(found[0].1, Outcome::Failed { .. }), "{found:?}");
    assert_eq!(found[1].1, Outcome::Waits);
    assert_eq!(host.account().open.len(), 2);
    fs::remove_dir(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    assert!(host.roll_back(HERE).iter().all(|(_, outcome)| *outcome == Outcome::Restored));
    assert!(!path.exists(), "there was no file before the first");
}

#[test]
fn a_namespace_is_known_again_after_a_boot_or_gone_with_it() {
    let later = |id: &str, is_first| Machine {
        namespace: Namespace { boot: "the next".to_owned(), ..namespace_of(id, is_first) },
        ..machine()
    };
    let other = |id: &str| Machine { namespace: namespace_of(id, true), ..machine() };
    for (from_first, there, gone) in [
        // The first one has another number now, and holds the value by a file of /etc.
        (true, later("net:[7]", true), false),
        (false, later("net:[7]", true), true),
        // The same number, after a boot, is another one.
        (false, later("net:[3]", false), true),
        // The same boot, and nothing holds it any more.
        (false, other("net:[1]"), true),
    ] {
        let host = FakeHost::new(&[(SOMAXCONN, "4096")]);
        let (mut journal, _) = host.journal();
        let from = Machine { namespace: namespace_of("net:[3]", from_first), ..machine() };
        apply(&mut [row(SOMAXCONN, "4096", "20000")], &from, &host, &mut journal).unwrap();
        persist_line(&host, &mut journal, "net.core.somaxconn = 20000\n");
        drop(journal);
        let expected = if gone { Outcome::Gone } else { Outcome::Restored };
        let found = host.roll_back_on(&there);
        assert_eq!(found[1..], [(SOMAXCONN.to_owned(), expected)], "{from_first} {there:?}");
        assert_eq!(host.get(SOMAXCONN), if gone { "20000" } else { "4096" });
    }
    // One that is still held is named with the way into it; from within a container nothing is proven.
    let host = FakeHost::new(&[(SOMAXCONN, "4096")]);
    let (mut journal, _) = host.journal();
    let from = Machine { namespace: namespace_of("net:[3]", false), ..machine() };
    apply(&mut [row(SOMAXCONN, "4096", "20000")], &from, &host, &mut journal).unwrap();
    drop(journal);
    let contained =
        Machine { processes: Processes { id: "pid:[9]".to_owned(), is_first: false }, ..other("net:[1]") };
    let open = |enter: Option<&str>| Outcome::OtherNamespace {
        namespace: "net:[3]".to_owned(),
        enter: enter.map(str::to_owned),
    };
    assert_eq!(host.roll_back_on(&contained)[0].1, open(None));
    fs::create_dir_all(host.root.path("proc/self")).unwrap();
    let mount = "40 30 0:4 net:[3] /run/docker/netns/x rw - nsfs nsfs rw\n";
    fs::write(host.root.path("proc/self/mountinfo"), mount).unwrap();
    assert_eq!(host.roll_back_on(&other("net:[1]"))[0].1, open(Some("nsenter --net=/run/docker/netns/x")));
}

#[test]
fn a_process_is_gone_only_where_that_is_proven() {
    let limit = |processes: &str, boot: &str| What::Limit {
        pid: i32::MAX,
        started: 1,
        processes: processes.to_owned(),
        boot: boot.to_owned(),
        resource: "nofile".to_owned(),
        prior: (1, 2),
        ours: (2, 2),
    };
    for (processes, boot, settled) in
        [("pid:[1]", "this boot", true), ("pid:[2]", "this boot", false), ("pid:[2]", "an earlier", true)]
    {
        let host = FakeHost::new(&[]);
        let (mut journal, _) = host.journal();
        journal.change(limit(processes, boot)).unwrap();
        drop(journal);
        let found = host.roll_back(HERE);
        assert_eq!(found[0].1 == Outcome::Gone, settled, "{processes} {boot}: {found:?}");
        assert_eq!(found[0].1.is_settled(), settled);
    }
}

#[test]
fn a_journal_of_any_length_is_read() {
    let host = FakeHost::new(&[(SOMAXCONN, "4096"), (SWAP, "60")]);
    host.apply(&mut [row(SOMAXCONN, "4096", "20000")]);
    // Lines of settled changes, then one that is longer than any, then a change.
    let mut text = fs::read(host.journal_path()).unwrap();
    for id in 10..20_000 {
        text.extend(format!("{{\"event\":\"settled\",\"change\":{id}}}\n").bytes());
    }
    let settled = text.iter().filter(|byte| **byte == b'\n').count();
    text.extend(std::iter::repeat_n(b'x', 9 << 20));
    text.push(b'\n');
    fs::write(host.journal_path(), text).unwrap();
    host.apply(&mut [row(SWAP, "60", "10")]);
    assert_eq!((host.account().open.len(), host.account().damaged), (2, vec![settled + 1]));
    assert!(host.roll_back(HERE).iter().all(|(_, outcome)| *outcome == Outcome::Restored));
    assert!(fs::metadata(host.journal_path()).unwrap().len() > 0, "damage is not hidden");
}

#[test]
fn what_would_be_given_back_is_shown_and_nothing_is() {
    let host = FakeHost::new(&[(SOMAXCONN, "4096"), (SWAP, "60")]);
    host.apply(&mut [row(SOMAXCONN, "4096", "20000"), row(SWAP, "60", "10")]);
    host.set(SWAP, "33");
    let account = host.account();
    let before = (host.writes.borrow().len(), fs::read(host.journal_path()).unwrap());
    let found = super::preview(&account, &host, &machine(), &host.root);
    let outcomes: Vec<_> = found.into_iter().map(|row| row.outcome).collect();
    assert_eq!(outcomes, [Outcome::ChangedByOther { now: "33".to_owned() }, Outcome::ToRestore]);
    assert_eq!((host.writes.borrow().len(), fs::read(host.journal_path()).unwrap()), before);
}

#[test]
fn limits_beyond_reason_are_refused() {
    use crate::profile::{Formulas, Host, Limit, ProcessLimits};
    for (wanted, nr_open, part) in [
        ("5000000", "1073741816", Some("as good as infinity")),
        ("2000000", "1048576", Some("fs.nr_open allows 1048576")),
        ("1", "1048576", None),
    ] {
        let host = FakeHost::new(&[("fs.nr_open", nr_open)]);
        let at_least = Formulas(vec![wanted.parse().unwrap()]);
        let nofile = Some(Limit { at_least, reasons: reasons(), location: String::new() });
        let asked = Host { limits: ProcessLimits { nofile, nproc: None }, ..Host::default() };
        let found = super::limits::plan(&asked, 1, &machine(), &host.root, &[], None).unwrap();
        match part {
            Some(part) => assert!(found[0].row.status.detail().unwrap().contains(part), "{:?}", found[0].row),
            None => assert_eq!(found[0].row.status, Status::Already),
        }
    }
}
