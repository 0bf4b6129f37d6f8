//! The cap on the database's disk: set by the kernel, proven by a probe, watched under the load. With a real database
//! in a real control group; where the machine lets nobody have one, what is not tested is said.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use scalekit_service::device_io::Hierarchy;
use scalekit_service::testing::IoGroup;
use serde_json::Value;

use crate::run::Servers;
use crate::sandbox::{Sandbox, read_json};

/// A program called `mongod` in a directory of its own: the tests' MongoDB-wire server under that name.
pub(crate) fn mongod(sandbox: &Sandbox) -> Option<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap();
    if std::env::split_paths(&path).any(|dir| dir.join("mongod").is_file()) {
        return Some(path);
    }
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/venv/bin/secantusd-py");
    if !server.is_file() {
        return None;
    }
    let bin = sandbox.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\n\
         while [ $# -gt 1 ]; do case $1 in --port) port=$2;; --dbpath) files=$2;; esac; shift 2; done\n\
         exec {} --port \"$port\" --storage-path \"$files\" --sync-on-commit\n",
        server.display()
    );
    let program = bin.join("mongod");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    Some(std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&path))).unwrap())
}

/// Whether this machine lets a group have a limit on the disk of the sandbox.
pub(crate) fn can_cap(sandbox: &Sandbox, what: &str) -> bool {
    let tried = IoGroup::new().and_then(|group| group.limit_writes(&sandbox.path("home"), 1_000_000));
    if let Err(why) = &tried {
        eprintln!("SKIPPED: {why}; {what} is NOT tested");
    }
    tried.is_ok()
}

pub(crate) fn scalekit(sandbox: &Sandbox, path: &std::ffi::OsStr, args: &[&str]) -> Command {
    let mut command = sandbox.command(args);
    command.env("PATH", path);
    command
}

/// The control group that the run had made is gone with it.
fn expect_no_group(report: &Value) {
    let group = report["cap"]["device"]["group"].as_str().unwrap();
    assert!(group.contains("/scalekit-") && !Path::new(group).exists(), "{group}");
}

#[test]
fn a_mongod_of_the_deployment_is_capped_and_the_report_proves_it() {
    let sandbox = Sandbox::new();
    let what = "a cap on a mongod of the deployment";
    let (true, Some(path)) = (can_cap(&sandbox, what), mongod(&sandbox)) else { return };
    let profile = sandbox.profile(
        "capped-run",
        "deploy: {backend: redis-mongo, durability: os, cap: {iops: 100/s, required: true}}\n\
         load: {duration: 6s, vus: 5}\ncriteria: {db_iops: ['max<=220', 'count>0']}\n",
    );
    let run = sandbox.run(scalekit(&sandbox, &path, &["run", "-p", &profile])).expect(0);
    assert!(run.stdout.contains("cap.") && run.stdout.contains("verified "), "{}", run.stdout);
    let report = sandbox.report();
    let cap = &report["cap"];
    assert_eq!((&cap["kind"], &cap["device"]["iops"]), (&"verified".into(), &100.into()), "{cap}");
    let probed = cap["probed_per_s"].as_f64().unwrap();
    assert!((30.0..=112.0).contains(&probed), "{cap}");
    assert!(cap["device"]["uncapped_per_s"].as_f64().unwrap() >= 150.0, "{cap}");
    let series = report["series"].as_array().unwrap();
    let iops = series.iter().filter_map(|second| second["db_iops"].as_u64());
    assert!(iops.clone().count() >= 3, "{series:?}");
    assert_eq!(report["verdict"]["outcome"], "pass");
    expect_no_group(&report);
    sandbox.expect_clean();
}

#[test]
fn a_cap_that_nobody_can_prove_makes_the_run_invalid_only_where_it_is_required() {
    let sandbox = Sandbox::new();
    let (true, Some(path)) = (can_cap(&sandbox, "a cap above the disk's speed"), mongod(&sandbox)) else {
        return;
    };
    for (name, required, status) in [("unproven", true, 120), ("unproven-fine", false, 0)] {
        let profile = sandbox.profile(
            name,
            &format!("deploy: {{backend: redis-mongo, cap: {{iops: 1000000/s, required: {required}}}}}\n"),
        );
        let run = sandbox.run(scalekit(&sandbox, &path, &["run", "-p", &profile])).expect(status);
        assert!(run.stdout.contains("not enforced (asked 1000000/s): without the cap"), "{}", run.stdout);
        let invalid =
            run.stdout.contains("the cap of 1000000 I/O operations a second on the database's disk is not");
        assert_eq!(invalid, required, "{}", run.stdout);
        sandbox.folders().iter().for_each(|folder| expect_no_group(&read_json(&folder.join("report.json"))));
    }
    sandbox.expect_clean();
}

#[test]
fn a_database_elsewhere_is_capped_in_its_own_group_and_has_its_limits_back_afterwards() {
    let sandbox = Sandbox::new();
    let what = "a cap on a database that was there before";
    if !can_cap(&sandbox, what) {
        return;
    }
    let (group, servers) = (IoGroup::new().unwrap(), Servers::start());
    group.take(servers.mongo.pid()).unwrap();
    let files = sandbox.path("home");
    let former = "3333333";
    group.limit_writes(&files, former.parse().unwrap()).unwrap();
    let limits = || {
        let file = ["io.max", "blkio.throttle.write_iops_device"];
        let files =
            file.iter().map(|file| fs::read_to_string(group.directory().join(file)).unwrap_or_default());
        files.collect::<String>()
    };
    assert!(limits().contains(former), "{}", limits());
    let profile = sandbox.profile(
        "capped-there",
        &format!(
            "deploy: {{backend: redis-mongo, mongo_url: '{}', cap: {{iops: 90/s, required: true, group: {}, directory: {}}}}}\n\
             load: {{duration: 20s}}\n",
            servers.mongo.url(),
            group.directory().display(),
            files.display()
        ),
    );
    let up = sandbox.scalekit(&["deploy", "-p", &profile]).expect(0);
    assert!(up.stdout.contains("verified"), "{}", up.stdout);
    assert!(limits().contains(" 90") || limits().contains("wiops=90"), "{}", limits());
    let status = sandbox.scalekit(&["deploy", "status", "-p", &profile, "--json"]).expect(0).stdout;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(
        (&status["cap"]["iops_per_s"], &status["cap"]["problem"]),
        (&90.into(), &Value::Null),
        "{status}"
    );
    // Somebody lifts it while the load runs.
    let mut bench = sandbox.start(sandbox.command(&["bench", "-p", &profile]));
    bench.wait_to_say("20");
    group.limit_writes(&files, 1_000_000).unwrap();
    bench.signal(nix::sys::signal::Signal::SIGINT);
    let bench = bench.wait();
    assert_eq!(bench.status, Some(120), "{}{}", bench.stdout, bench.stderr);
    assert!(bench.stdout.contains("are no longer those that were set"), "{}", bench.stdout);
    let status = sandbox.scalekit(&["deploy", "status", "-p", &profile]).expect(1).stdout;
    assert!(status.contains("no longer"), "{status}");
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    assert!(limits().contains(former), "{}", limits());
    sandbox.expect_clean();
    assert!(crate::sandbox::is_running(i32::try_from(servers.mongo.pid()).unwrap()), "it was there before");
}

#[test]
fn what_cannot_be_capped_is_refused_and_nothing_is_left() {
    let sandbox = Sandbox::new();
    let (group, servers) = match IoGroup::new() {
        Ok(group) => (group, Servers::start()),
        Err(why) => return eprintln!("SKIPPED: {why}; a directory on no disk is NOT tested"),
    };
    let deploy = |cap: &str| {
        let profile = sandbox.profile(
            "nowhere",
            &format!(
                "deploy: {{backend: redis-mongo, mongo_url: '{}', cap: {{iops: 100/s, {cap}}}}}\n",
                servers.mongo.url()
            ),
        );
        sandbox.scalekit(&["deploy", "-p", &profile])
    };
    let group = group.directory().display().to_string();
    deploy(&format!("group: {group}, directory: /dev/shm")).expect(1).says(&[
        "/dev/shm",
        "tmpfs",
        "block device",
    ]);
    let home = sandbox.path("home").display().to_string();
    deploy(&format!("group: /tmp, directory: {home}")).expect(1).says(&["/tmp", "no control group"]);
    deploy(&format!("group: {group}")).expect(104).says(&["deploy.cap.directory", "expected a path"]);
    sandbox.expect_clean();
}

/// A group below another one, with its processes ended before it goes.
struct Below(std::path::PathBuf);

impl Drop for Below {
    fn drop(&mut self) {
        let gone = fs::remove_dir(&self.0);
        assert!(gone.is_ok() || std::thread::panicking(), "{}: {gone:?}", self.0.display());
    }
}

#[test]
fn a_cap_is_applied_to_a_group_by_hand_and_to_the_pod_that_the_command_is_in() {
    let sandbox = Sandbox::new();
    if !can_cap(&sandbox, "scalekit cap apply") {
        return;
    }
    let group = IoGroup::new().unwrap();
    let home = sandbox.path("home").display().to_string();
    let directory = group.directory().display().to_string();
    let by_hand = ["cap", "apply", "--iops", "80/s", "--directory", &home, "--group", &directory];
    let said = sandbox.scalekit(&by_hand).expect(0).stdout;
    assert!(said.contains("verified ") && said.contains(&directory), "{said}");

    let root = group.directory().parent().unwrap().display().to_string();
    sandbox
        .scalekit(&["cap", "apply", "--iops", "80/s", "--directory", &home, "--group", &root])
        .expect(1)
        .says(&[&root, "is the root, which everybody is in"]);
    // As a unit of systemd has it.
    let own = format!(
        "{} exec {} cap apply --iops 70/s --directory {home} --own-group --json",
        group.enter(),
        crate::sandbox::SCALEKIT
    );
    let said = sandbox.run(sandbox.program("sh", &["-c", &own])).expect(0).stdout;
    let found: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&found["iops_per_s"], &found["problem"]), (&70.into(), &Value::Null), "{found}");
    assert_eq!(found["group"], directory);

    let uid = "3b6c1d0e-5f2a-4f6c-9a51-0c5d8a8c7e11";
    let below = |name: &str| {
        let path = group.directory().join(name);
        fs::create_dir(&path).unwrap();
        Below(path)
    };
    let pod = below(&format!("kubepods-pod{}.slice", uid.replace('-', "_")));
    let container = below(&format!("kubepods-pod{}.slice/container", uid.replace('-', "_")));
    let result = sandbox.path("result.json").display().to_string();
    let apply = |iops: &str| {
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec {} cap apply --iops {iops} --directory {home} --pod-uid {uid} \
             --cgroup-root {directory} --result-file {result}",
            container.0.display(),
            crate::sandbox::SCALEKIT
        );
        sandbox.run(sandbox.program("sh", &["-c", &script]))
    };
    let applied = apply("60/s");
    let found: Value = serde_json::from_str(&fs::read_to_string(&result).unwrap()).unwrap();
    assert_eq!(
        (&found["iops_per_s"], &found["group"]),
        (&60.into(), &pod.0.to_str().unwrap().into()),
        "{found}"
    );
    let capped = found["capped_per_s"].as_f64().unwrap();
    match group.hierarchy() {
        Hierarchy::V2 => {
            applied.expect(0);
            assert_eq!(found["problem"], Value::Null);
            assert!((15.0..=67.0).contains(&capped), "{found}");
        }
        // There a group's limit does not bind the groups below it, and the probe does not take it for one that does.
        Hierarchy::V1 => {
            applied.expect(120);
            let problem = found["problem"].as_str().unwrap();
            assert!(problem.contains("writes a second through a cap of 60") && capped > 67.0, "{found}");
        }
    }
    // Of a cap that the disk does not reach nobody can tell.
    let unproven = apply("1000000/s").expect(120).stdout;
    assert!(unproven.contains("not enforced (asked 1000000/s): without the cap"), "{unproven}");
    apply("0/s").expect(1).says(&["--iops", "expected a rate of 1/s to 1000000/s"]);
    let nobody = [
        "cap",
        "apply",
        "--iops",
        "9/s",
        "--directory",
        &home,
        "--pod-uid",
        "x",
        "--cgroup-root",
        &directory,
    ];
    sandbox.scalekit(&nobody).expect(1).says(&["no control group of the pod x", "--cgroup-root"]);
    sandbox.scalekit(&nobody[..6]).expect(2).says(&["--group"]);
}
