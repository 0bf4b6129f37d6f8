//! `scalekit tune` on a real kernel, in network namespaces that the tests make: nothing of the host itself is changed.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::namespace::Namespace;
use crate::sandbox::{Output, SCALEKIT, Sandbox, wait_for};

const WHY: &str = "why: it must be, risk: none, proof: a counter, source: this test";
const SOMAXCONN: &str = "net.core.somaxconn";
const RANGE: &str = "net.ipv4.ip_local_port_range";
const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";
const BUCKETS: &str = "net.ipv4.tcp_max_tw_buckets";

/// A profile of these keys, each with what is wanted of it.
pub(crate) fn profile(sandbox: &Sandbox, keys: &[(&str, &str)]) -> String {
    let lines: String =
        keys.iter().map(|(key, wanted)| format!("    {key}: {{{wanted}, {WHY}}}\n")).collect();
    let file = sandbox.path("tuned.yaml");
    fs::write(&file, format!("host:\n  users: 10000\n  sysctls:\n{lines}")).unwrap();
    file.to_str().unwrap().to_owned()
}

fn statuses(output: &Output) -> Vec<(String, String)> {
    let facts: Value = serde_json::from_str(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let rows = facts["settings"].as_array().unwrap();
    rows.iter().map(|row| (text(&row["key"]), text(&row["status"]["is"]))).collect()
}

fn pair(key: &str, status: &str) -> (String, String) {
    (key.to_owned(), status.to_owned())
}

#[test]
fn a_namespace_is_tuned_verified_and_given_back() {
    let (Some(namespace), sandbox) = (Namespace::new("`scalekit tune`"), Sandbox::new()) else { return };
    let before = [SOMAXCONN, RANGE, BUCKETS].map(|key| namespace.get(key));
    let host = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let wanted = [
        (SOMAXCONN, "at_least: 2 * users + 1"),
        (RANGE, "at_least: [10240, 65535]"),
        (BUCKETS, "at_least: 1"),
        (RESERVED, "includes: '10248-10259,11211,27017-27019,30000-32767'"),
    ];
    let profile = profile(&sandbox, &wanted);
    let scalekit = |args: &[&str]| namespace.scalekit(&sandbox, &[args, &["-p", &profile]].concat());

    scalekit(&["tune", "verify"]).expect(122).prints(&["to change", SOMAXCONN, "20001"]);
    scalekit(&["tune", "--dry-run"]).expect(0).prints(&["why", "risk", "proof", "a counter", "namespace"]);
    scalekit(&["tune"]).expect(1).says(&["nothing was changed", "--yes"]);
    assert_eq!([SOMAXCONN, RANGE, BUCKETS].map(|key| namespace.get(key)), before);

    let applied = scalekit(&["tune", "--yes", "--json"]).expect(0);
    // What is reserved comes before the range is wider.
    let expected = [
        pair(RESERVED, "raised"),
        pair(SOMAXCONN, "raised"),
        pair(RANGE, "raised"),
        pair(BUCKETS, "kept-higher"),
    ];
    assert_eq!(statuses(&applied), expected);
    assert_eq!(
        (namespace.get(SOMAXCONN), namespace.get(RANGE)),
        ("20001".to_owned(), "10240 65535".to_owned())
    );
    assert_eq!(fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap(), host);
    scalekit(&["tune", "verify"]).expect(0);
    let again = scalekit(&["tune", "--yes", "--json"]).expect(0);
    assert_eq!(
        statuses(&again),
        [
            pair(RESERVED, "already"),
            pair(SOMAXCONN, "already"),
            pair(RANGE, "already"),
            pair(BUCKETS, "kept-higher")
        ]
    );

    // From another namespace they are not touched.
    sandbox.scalekit(&["tune", "rollback"]).expect(1).prints(&["other namespace"]);
    assert_eq!(fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap(), host);
    // A dry run, also one that the environment asks for, changes nothing.
    scalekit(&["tune", "rollback", "--dry-run"]).expect(0).prints(&["to restore", SOMAXCONN]);
    let mut command = namespace.command(&sandbox, &["tune", "rollback"]);
    command.env("SCALEKIT_DRY_RUN", "true");
    sandbox.run(command).expect(0).prints(&["to restore", SOMAXCONN]);
    assert_eq!(namespace.get(SOMAXCONN), "20001");
    scalekit(&["tune", "rollback", "--yes"]).expect(0).prints(&["restored", SOMAXCONN, RANGE]);
    assert_eq!(namespace.get(RESERVED), "");
    assert_eq!([SOMAXCONN, RANGE, BUCKETS].map(|key| namespace.get(key)), before);
    scalekit(&["tune", "rollback"]).expect(0).prints(&["nothing to give back"]);
}

#[test]
fn what_cannot_be_done_is_said_with_the_command_that_can() {
    let (Some(namespace), sandbox) = (Namespace::new("`scalekit tune`"), Sandbox::new()) else { return };
    let wanted = [
        ("net.core.netdev_max_backlog", "at_least: 4096000"),
        (SOMAXCONN, "at_least: 20001"),
        ("net.ipv4.tcp_fin_timeout", "equals: 15"),
        ("net.ipv4.no_such_key", "at_least: 1"),
        ("net.ipv4.none_either", "at_least: 1, optional: true"),
        ("net.ipv4.tcp_tw_reuse", "equals: 9"),
    ];
    let profile = profile(&sandbox, &wanted);
    let output = namespace.scalekit(&sandbox, &["tune", "--yes", "--json", "-p", &profile]).expect(1);
    let mut found = statuses(&output);
    found.sort();
    let mut expected = vec![
        pair("net.core.netdev_max_backlog", "not-namespaced-here"),
        pair(SOMAXCONN, "raised"),
        pair("net.ipv4.tcp_fin_timeout", "refused"),
        pair("net.ipv4.no_such_key", "absent"),
        pair("net.ipv4.none_either", "absent"),
        // The kernel says EINVAL.
        pair("net.ipv4.tcp_tw_reuse", "failed"),
    ];
    expected.sort();
    assert_eq!(found, expected);
    let text = namespace.scalekit(&sandbox, &["tune", "verify", "-p", &profile]).expect(122);
    text.prints(&["sysctl -w net.core.netdev_max_backlog='4096000'", "sudo scalekit tune", "FIN_WAIT_2"]);

    // As in a container: the tree is mounted read-only.
    let script = format!(
        "mount -o remount,ro,bind /proc/sys 2>/dev/null || {{ mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys; }} && exec {SCALEKIT} tune --yes -p host-seed"
    );
    let read_only =
        sandbox.run(sandbox.program("ip", &[&namespace.prefix()[1..], &["sh", "-c", &script]].concat()));
    read_only.expect(1).prints(&["read-only", "EROFS", "sysctl -w net.ipv4.tcp_tw_reuse='1'"]);
    assert_eq!(namespace.get("net.ipv4.tcp_tw_reuse"), "2");
}

#[test]
fn a_kill_between_two_writes_leaves_a_journal_that_gives_all_back() {
    let (Some(namespace), sandbox) = (Namespace::new("`scalekit tune`"), Sandbox::new()) else { return };
    let before = namespace.get(SOMAXCONN);
    let profile = profile(&sandbox, &[(SOMAXCONN, "at_least: 20001"), (BUCKETS, "at_least: 200000")]);
    // In place of the second key a pipe: the plan's look at it is answered, the look before the write is not.
    let pipe = sandbox.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let file = format!("/proc/sys/{}", BUCKETS.replace('.', "/"));
    let script = format!("mount --bind {} {file} && exec {SCALEKIT} tune --yes -p {profile}", pipe.display());
    let mut running =
        sandbox.start(sandbox.program("ip", &[&namespace.prefix()[1..], &["sh", "-c", &script]].concat()));
    fs::write(&pipe, "4096\n").unwrap();
    wait_for("the first write", || (namespace.get(SOMAXCONN) == "20001").then_some(()));
    // The read of the second key is what it now waits in.
    running.signal(Signal::SIGKILL);
    assert_eq!(running.wait().status, None);

    let journal = fs::read_to_string(sandbox.state().join("tune/journal.jsonl")).unwrap();
    // The change, and what was read back.
    assert_eq!(journal.lines().count(), 2, "{journal}");
    let output = namespace.scalekit(&sandbox, &["tune", "rollback"]).expect(0);
    output.prints(&["restored", SOMAXCONN]);
    assert_eq!(namespace.get(SOMAXCONN), before);
}

#[test]
fn what_is_persisted_is_written_to_etc_and_taken_back() {
    let (Some(namespace), sandbox) = (Namespace::new("`scalekit tune`"), Sandbox::new()) else { return };
    let profile = profile(&sandbox, &[(SOMAXCONN, "at_least: 20001")]);
    // `ip netns exec` has mounts of its own: this /etc is seen by nobody else.
    let script = format!(
        "mount -t tmpfs tmpfs /etc && mkdir /etc/sysctl.d &&
         {SCALEKIT} tune --yes --persist -p {profile} && cat /etc/sysctl.d/* && {SCALEKIT} tune verify -p {profile} &&
         echo net.core.somaxconn=5 > /etc/sysctl.conf && {{ {SCALEKIT} tune verify -p {profile}; test $? = 122; }} &&
         {SCALEKIT} tune rollback && echo left: && ls -A /etc/sysctl.d"
    );
    let output =
        sandbox.run(sandbox.program("ip", &[&namespace.prefix()[1..], &["sh", "-c", &script]].concat()));
    let output = output.expect(0).prints(&[
        "\nnet.core.somaxconn = 20001\n",
        "/etc/sysctl.conf sets net.core.somaxconn and wins over ours",
        "restored",
    ]);
    assert!(output.stdout.trim_end().ends_with("left:"), "a file is left:\n{}", output.stdout);
    assert!(!std::path::Path::new("/etc/sysctl.d/99-zz-scalekit.conf").exists());
}

#[test]
fn a_value_that_the_kernel_takes_in_part_is_told_and_given_back() {
    const RMEM: &str = "net.ipv4.tcp_rmem";
    let (Some(namespace), sandbox) = (Namespace::new("`scalekit tune`"), Sandbox::new()) else { return };
    let before = namespace.get(RMEM);
    // The last one does not fit into the kernel's 32 bits, and the first two are written before it is looked at.
    let profile = profile(&sandbox, &[(RMEM, "at_least: [8192, 131072, 4294967296]")]);
    let output =
        namespace.scalekit(&sandbox, &["tune", "--yes", "-p", &profile]).expect(1).prints(&["EINVAL"]);
    let after = namespace.get(RMEM);
    assert_eq!(
        after != before,
        output.stdout.contains(&format!("it became {after} all the same")),
        "{}",
        output.stdout
    );
    namespace.scalekit(&sandbox, &["tune", "rollback"]).expect(0);
    assert_eq!(namespace.get(RMEM), before);
}

#[test]
fn limits_for_the_next_login_are_persisted_and_verified() {
    let (Some(namespace), sandbox) = (Namespace::new("`scalekit tune`"), Sandbox::new()) else { return };
    let file = sandbox.path("limits.yaml");
    fs::write(&file, format!("host: {{limits: {{nofile: {{at_least: 700000, {WHY}}}}}}}\n")).unwrap();
    let file = file.display();
    // Without files, a limit is of processes, and this shell's is no failure.
    let script = format!(
        "mount -t tmpfs tmpfs /etc && {SCALEKIT} tune --yes -p {file} && {SCALEKIT} tune --yes --persist -p {file} &&
         {SCALEKIT} tune verify -p {file} && cat /etc/security/limits.d/* &&
         rm /etc/security/limits.d/* && {{ {SCALEKIT} tune verify -p {file}; test $? = 122; }} && echo told"
    );
    let output = sandbox.run(sandbox.program(
        "ip",
        &[&namespace.prefix()[1..], &["prlimit", "--nofile=1024:4096", "sh", "-c", &script]].concat(),
    ));
    output.expect(0).prints(&[
        "of processes",
        "persisted",
        "daemon-reexec",
        "\n* soft nofile 700000\n",
        "told",
    ]);
}

#[test]
fn a_host_wide_change_is_not_given_up_by_a_rollback_from_another_namespace() {
    let (Some(namespace), sandbox) = (Namespace::new("`scalekit tune`"), Sandbox::new()) else { return };
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let first = serde_json::json!({ "id": "net:[1]", "is_first": true, "boot": boot.trim() });
    let line = serde_json::json!({
        "event": "change", "id": 1, "at_ms": 1, "what": "value", "key": "net.core.netdev_max_backlog",
        "prior": "1000", "ours": "4096", "namespace": first, "boot": boot.trim(), "twin": null,
    });
    let journal = sandbox.state().join("tune/journal.jsonl");
    fs::create_dir_all(journal.parent().unwrap()).unwrap();
    fs::write(&journal, format!("{line}\n")).unwrap();
    namespace.scalekit(&sandbox, &["tune", "rollback"]).expect(1).prints(&["other namespace", "net:[1]"]);
    assert_eq!(fs::read_to_string(&journal).unwrap(), format!("{line}\n"), "it stays to be undone");
}

#[test]
fn a_journal_where_others_can_write_changes_nothing() {
    let (Some(namespace), sandbox) = (Namespace::new("`scalekit tune`"), Sandbox::new()) else { return };
    let before = namespace.get(SOMAXCONN);
    let profile = profile(&sandbox, &[(SOMAXCONN, "at_least: 20001")]);
    let shared = sandbox.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    for args in [&["tune", "--yes", "-p", &profile][..], &["tune", "rollback"]] {
        let mut command = namespace.command(&sandbox, args);
        command.env("SCALEKIT_TUNE_STATE", &shared);
        sandbox.run(command).expect(1).says(&["not safe", "written by others"]);
    }
    assert_eq!(namespace.get(SOMAXCONN), before);
}

#[test]
fn who_is_not_the_hosts_root_is_told_where_roots_journal_is() {
    let sandbox = Sandbox::new();
    let mapped = sandbox.run(sandbox.program("unshare", &["--user", "--map-root-user", "true"]));
    if mapped.status != Some(0) {
        eprintln!(
            "SKIPPED: no user namespace can be made here ({}); a rollback in one is NOT tested",
            mapped.stderr.trim()
        );
        return;
    }
    let output =
        sandbox.run(sandbox.program("unshare", &["--user", "--map-root-user", SCALEKIT, "tune", "rollback"]));
    let home = sandbox.state().join("tune/journal.jsonl");
    output
        .expect(0)
        .prints(&["nothing to give back"])
        .says(&["root's changes are in /var/lib/scalekit/tune/journal.jsonl", home.to_str().unwrap()]);
}

#[test]
fn modules_are_loaded_and_unloaded_by_modprobe() {
    let (Some(namespace), sandbox) = (Namespace::new("`scalekit tune`"), Sandbox::new()) else { return };
    let file = sandbox.path("module.yaml");
    fs::write(&file, format!("host: {{modules: {{scalekit_double: {{{WHY}}}}}}}\n")).unwrap();
    // A double of modprobe: it notes how it was called, and a directory in place of /sys/module stands for the kernel.
    let bin = sandbox.path("bin");
    fs::create_dir(&bin).unwrap();
    let double = bin.join("modprobe");
    let note = sandbox.path("modprobe.calls");
    let (file, note_path) = (file.display(), note.display());
    let write = |body: &str| {
        fs::write(&double, format!("#!/bin/sh\necho \"$@\" >> {note_path}\n{body}\n")).unwrap();
        fs::set_permissions(&double, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    write("case $1 in -r) rmdir /sys/module/$3;; *) mkdir /sys/module/$2;; esac");
    let script = format!(
        "mount -t tmpfs tmpfs /sys/module && export PATH={}:$PATH &&
         {SCALEKIT} tune --yes -p {file} && {SCALEKIT} tune verify -p {file} && {SCALEKIT} tune rollback",
        bin.display()
    );
    let run = |script: &str| {
        sandbox.run(sandbox.program("ip", &[&namespace.prefix()[1..], &["sh", "-c", script]].concat()))
    };
    run(&script).expect(0).prints(&["raised", "module scalekit_double", "restored"]);
    assert_eq!(fs::read_to_string(&note).unwrap(), "-- scalekit_double\n-r -- scalekit_double\n");

    // One that is not to be had is no module of the next boot.
    write("echo 'not found in directory' >&2; exit 1");
    let script = format!(
        "mount -t tmpfs tmpfs /etc && export PATH={}:$PATH && {SCALEKIT} tune --yes --persist -p {file}; echo status $? && ls -R /etc",
        bin.display()
    );
    let output =
        run(&script).prints(&["failed", "not found in directory", "  modprobe scalekit_double", "status 1"]);
    assert!(!output.stdout.contains("modules-load"), "{}", output.stdout);
}

#[test]
fn limits_of_a_process_are_raised_and_given_back() {
    let sandbox = Sandbox::new();
    let mut process =
        sandbox.start(sandbox.program("sh", &["-c", "ulimit -Sn 64; echo lowered >&2; exec sleep 600"]));
    process.wait_to_say("lowered");
    let pid = process.pid().to_string();
    let soft = || {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        line.split_whitespace().nth(3).unwrap().to_owned()
    };
    let file = sandbox.path("limits.yaml");
    fs::write(&file, format!("host: {{limits: {{nofile: {{at_least: 64 + 64, {WHY}}}}}}}\n")).unwrap();
    let file = file.to_str().unwrap();
    sandbox.scalekit(&["tune", "verify", "-p", file]).expect(0);
    sandbox.scalekit(&["tune", "verify", "--pid", &pid, "-p", file]).expect(122).prints(&["64", "128"]);
    sandbox
        .scalekit(&["tune", "--yes", "--pid", &pid, "-p", file])
        .expect(0)
        .prints(&["raised", "limit nofile"]);
    assert_eq!(soft(), "128");
    sandbox.scalekit(&["tune", "rollback"]).expect(0).prints(&["restored", "nofile of process"]);
    assert_eq!(soft(), "64");
    process.signal(Signal::SIGKILL);
    process.wait();
}

#[test]
fn on_a_terminal_it_asks() {
    let (Some(namespace), sandbox) = (Namespace::new("`scalekit tune`"), Sandbox::new()) else { return };
    let before = namespace.get(SOMAXCONN);
    let profile = profile(&sandbox, &[(SOMAXCONN, "at_least: 20001")]);
    for (answer, status, after) in [("n", 1, before.as_str()), ("", 1, &before), ("y", 0, "20001")] {
        let script = format!("echo '{answer}' | script -qec '{SCALEKIT} tune -p {profile}' /dev/null");
        let args = [&namespace.prefix()[1..], &["sh", "-c", &script]].concat();
        sandbox.run(sandbox.program("ip", &args)).expect(status).prints(&["change this? [y/N]"]);
        assert_eq!(namespace.get(SOMAXCONN), after, "{answer:?}");
    }
}

#[test]
fn a_profile_that_asks_for_nothing_says_so_and_one_that_is_wrong_says_where() {
    let sandbox = Sandbox::new();
    sandbox.scalekit(&["tune", "--dry-run"]).expect(0).prints(&["asks nothing of the host", "host-10k"]);
    for (keys, line, message) in [
        ([("net.core.somaxconn", "at_least: usres")], "4:", "formula of users"),
        ([("net.core.somaxconn", "at_most: 5")], "4:", "unknown key"),
        ([("net.core.somaxconn", "at_least: 1, equals: 2")], "4:", "one of at_least, equals"),
        ([("net/../core", "at_least: 1")], "4:", "setting's name"),
    ] {
        let file = profile(&sandbox, &keys);
        let place = format!("tuned.yaml:{line}");
        sandbox.scalekit(&["tune", "--dry-run", "-p", &file]).expect(104).says(&[&place, message]);
    }
    for name in ["host-10k", "host-100k", "host-loadgen", "host-seed"] {
        sandbox.scalekit(&["tune", "--dry-run", "-p", name]).expect(0).prints(&["STATUS", "why"]);
    }
}
