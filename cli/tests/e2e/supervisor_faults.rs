//! A supervisor that is killed, commands at the same time, and disks that take nothing. With the embedded backend, which
//! is one process.

use std::fs;
use std::io;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sandbox::{SCALEKIT, Sandbox, is_running, wait_for};
use crate::web;

fn url(sandbox: &Sandbox, name: &str) -> String {
    sandbox.deployment(name)["roles"][0]["url"].as_str().unwrap().to_owned()
}

fn end(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_for("the end of a process", || (!is_running(pid)).then_some(()));
}

#[test]
fn what_a_killed_supervisor_leaves_serves_on_and_is_taken_over() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("orphaned", "");
    sandbox.scalekit(&["deploy", "-p", &profile]).expect(0);
    let (url, before) = (url(&sandbox, "orphaned"), sandbox.process("orphaned", "service"));
    sandbox.end_supervisor("orphaned");
    assert_eq!(web::request(&url, "PUT", "/v1/things/a", "{}").0, 202);
    sandbox.scalekit(&["deploy", "status", "-p", &profile]).expect(1).prints(&[
        "service        up",
        "supervisor     DOWN",
        "deploy -p",
        "takes over",
    ]);
    let again = sandbox.scalekit(&["deploy", "-p", &profile]).expect(0);
    again.prints(&["nothing to change", "a new one has taken over"]);
    assert_eq!(sandbox.process("orphaned", "service"), before);
    sandbox.scalekit(&["deploy", "status", "-p", &profile]).expect(0);
    // It is not its child, and is kept up all the same.
    end(before);
    wait_for("the service", || {
        (sandbox.scalekit(&["deploy", "status", "-p", &profile]).status == Some(0)).then_some(())
    });
    assert_ne!(sandbox.process("orphaned", "service"), before);
    assert_eq!(web::request(&url, "GET", "/v1/things/a", "").0, 200);
    // What ended meanwhile comes back, too.
    sandbox.end_supervisor("orphaned");
    end(sandbox.process("orphaned", "service"));
    sandbox.scalekit(&["deploy", "status", "-p", &profile]).expect(1).prints(&["service        DOWN"]);
    sandbox.scalekit(&["deploy", "-p", &profile]).expect(0);
    assert_eq!(web::request(&url, "GET", "/v1/things/a", "").0, 200);
    // Ended without a supervisor, dead or alive.
    sandbox.end_supervisor("orphaned");
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    sandbox.expect_clean();
    sandbox.scalekit(&["deploy", "-p", &profile]).expect(0);
    sandbox.end_supervisor("orphaned");
    end(sandbox.process("orphaned", "service"));
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    sandbox.scalekit(&["deploy", "status", "-p", &profile]).expect(1).says(&["nothing is deployed"]);
    sandbox.expect_clean();
}

#[test]
fn two_commands_at_once_are_told_apart() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("busy", "");
    let dir = sandbox.state().join("deployments/busy");
    fs::create_dir_all(&dir).unwrap();
    let lock = fs::File::create(dir.join("command.lock")).unwrap();
    lock.try_lock().unwrap();
    sandbox
        .scalekit(&["deploy", "-p", &profile])
        .expect(1)
        .says(&["at work on this deployment", "command.lock"]);
    drop(lock);
    sandbox.scalekit(&["deploy", "-p", &profile]).expect(0);
    let dir = dir.to_str().unwrap();
    sandbox.scalekit(&["supervise", "--dir", dir]).expect(1).says(&["at work", "supervisor.lock"]);
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    sandbox.expect_clean();
}

#[test]
fn two_deployments_side_by_side_do_not_meet_and_what_they_share_is_said() {
    let sandbox = Sandbox::new();
    let profiles = ["left", "right"].map(|name| sandbox.profile(name, ""));
    for profile in &profiles {
        sandbox.scalekit(&["deploy", "-p", profile]).expect(0);
    }
    let urls = ["left", "right"].map(|name| url(&sandbox, name));
    assert_ne!(urls[0], urls[1]);
    assert_eq!(web::request(&urls[0], "PUT", "/v1/things/a", "{}").0, 202);
    assert_eq!(web::request(&urls[1], "GET", "/v1/things/a", "").0, 404);
    sandbox.scalekit(&["deploy", "down", "-p", &profiles[0]]).expect(0);
    sandbox.scalekit(&["deploy", "status", "-p", &profiles[1]]).expect(0);
    sandbox.scalekit(&["deploy", "down", "-p", &profiles[1]]).expect(0);
    let servers = crate::run::Servers::start();
    let deploy = |name: &str| {
        let profile = sandbox.profile(name, "deploy: {backend: redis-mongo}");
        let urls = [servers.redis.url(), servers.mongo.url()];
        let args = ["deploy", "-p", &profile, "--redis-url", &urls[0], "--mongo-url", &urls[1]];
        (sandbox.scalekit(&args).expect(0), profile)
    };
    let (alone, first) = deploy("one");
    assert!(!alone.stderr.contains("warning"), "{}", alone.stderr);
    let (both, second) = deploy("two");
    both.says(&[
        "`one` has its journal in the same Redis",
        "`one` has its documents in the same MongoDB",
        "mongo_database",
    ]);
    for profile in [first, second] {
        sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    }
    sandbox.expect_clean();
}

#[test]
fn logs_are_followed_until_interrupted() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("followed", "");
    sandbox.scalekit(&["deploy", "-p", &profile]).expect(0);
    let one = sandbox.scalekit(&["deploy", "logs", "service", "-p", &profile]).expect(0).stdout;
    assert!(one.contains("service.log") && !one.contains("supervisor.log"), "{one}");
    let unknown = sandbox.scalekit(&["deploy", "logs", "mongo", "-p", &profile]).expect(1);
    unknown.says(&["no process `mongo`", "service, supervisor"]);
    let follow = ["deploy", "logs", "-f", "-n", "0", "-p", &profile];
    let mut following = sandbox.start(sandbox.command(&follow));
    wait_for("the heads of the logs", || following.printed().contains("supervisor.log").then_some(()));
    end(sandbox.process("followed", "service"));
    wait_for("news of both logs", || {
        let text = following.printed();
        (text.contains("service ended by signal 9") && text.contains("serving")).then_some(())
    });
    // Whoever reads it leaves, and there is no news by which that would show.
    let left = format!("{SCALEKIT} deploy logs -f -n 1 supervisor -p {profile} | head -n 1");
    sandbox.run(sandbox.program("sh", &["-c", &left])).expect(0).prints(&["supervisor.log"]);
    // One that has become too long is put aside, and followed on.
    let log = sandbox.state().join("deployments/followed/service.log");
    let junk = vec![b'\n'; (16 << 20) + 1];
    io::Write::write_all(&mut fs::OpenOptions::new().append(true).open(&log).unwrap(), &junk).unwrap();
    wait_for("a short log", || (fs::metadata(&log).unwrap().len() < 1 << 20).then_some(()));
    assert!(fs::metadata(log.with_extension("log.1")).unwrap().len() > 16 << 20);
    let before = following.printed().matches("serving").count();
    end(sandbox.process("followed", "service"));
    wait_for("news after that", || (following.printed().matches("serving").count() > before).then_some(()));
    following.signal(Signal::SIGINT);
    let output = following.wait().expect(0);
    assert!(output.stdout.contains("==> "), "{}", output.stdout);
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    sandbox.expect_clean();
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("nowhere", "");
    fs::create_dir_all(sandbox.state()).unwrap();
    fs::write(sandbox.state().join("deployments"), "not a directory").unwrap();
    sandbox
        .scalekit(&["deploy", "-p", &profile])
        .expect(1)
        .says(&["cannot create the directory", "deployments/nowhere"]);
    sandbox.expect_clean();
}

/// The state in a small file system of memory, which only this command sees.
#[test]
fn a_full_disk_is_told_and_nothing_is_left_running() {
    let sandbox = Sandbox::new();
    let small = |size: &str, args: &[&str]| -> Command {
        fs::create_dir_all(sandbox.path("state")).unwrap();
        let state = sandbox.path("state").display().to_string();
        let script = format!("mount -t tmpfs -o size={size} none {state} && exec \"$@\"");
        let words = [&["--mount", "sh", "-c", &script, "sh", SCALEKIT], args].concat();
        sandbox.program("unshare", &words)
    };
    if sandbox.run(small("64k", &["--version"])).status != Some(0) {
        eprintln!("SKIPPED: nothing can be mounted here; a full disk under a deployment is NOT tested");
        return;
    }
    let profile = sandbox.profile("full", "");
    // Too small for the plan, for the record, and for the embedded store.
    for size in ["8k", "24k", "64k"] {
        let output = sandbox.run(small(size, &["deploy", "-p", &profile]));
        assert_eq!(output.status, Some(1), "{size}: {output:?}");
        assert!(output.stderr.contains("No space left"), "{size}: {output:?}");
        sandbox.expect_clean();
    }
}

/// It fills up while all runs, and the service dies meanwhile.
#[test]
fn a_disk_that_fills_up_under_a_deployment_is_survived() {
    let sandbox = Sandbox::new();
    // A process that could not write that it is ready is started anew after that time.
    let profile = sandbox.profile("filled", "deploy: {ready_timeout: 5s}");
    let state = sandbox.path("state");
    fs::create_dir_all(&state).unwrap();
    let script = r#"
        mount -t tmpfs -o size=128m none "$STATE" || { echo cannot; exit 0; }
        "$SCALEKIT" deploy -p "$PROFILE" || exit 10
        service=$(sed -n 's/.*"pid": \([0-9]*\),/\1/p' "$STATE/scalekit/deployments/filled/deployment.json" | tail -n 1)
        # Whatever is given back is taken at once.
        touch "$STATE/../filling"
        while [ -e "$STATE/../filling" ]; do cat /dev/zero >>"$STATE/fill" 2>"$STATE/../said"; done &
        until [ -s "$STATE/../said" ]; do sleep 0.1; done
        kill -9 "$service" || exit 11
        sleep 2
        "$SCALEKIT" deploy status -p "$PROFILE" | grep 'supervisor     up' || exit 12
        rm "$STATE/../filling"
        wait
        rm "$STATE/fill"
        tries=0
        until "$SCALEKIT" deploy status -p "$PROFILE"; do
            tries=$((tries + 1)); [ $tries -lt 600 ] || exit 13
            sleep 0.1
        done
        kill -0 "$service" 2>/dev/null && exit 14
        "$SCALEKIT" deploy down -p "$PROFILE"
    "#;
    let mut command = sandbox.program("unshare", &["--mount", "sh", "-c", script]);
    command.env("STATE", &state).env("SCALEKIT", SCALEKIT).env("PROFILE", &profile);
    let output = sandbox.run(command);
    if output.stdout.contains("cannot") || output.stderr.contains("unshare failed") {
        eprintln!(
            "SKIPPED: nothing can be mounted here; a disk that fills up under a deployment is NOT tested"
        );
        return;
    }
    assert_eq!(output.status, Some(0), "{output:?}");
    let filled = fs::read_to_string(sandbox.path("said")).unwrap();
    assert!(filled.contains("No space left"), "{filled}");
    sandbox.expect_clean();
}

#[test]
fn a_redis_that_promises_less_than_the_profile_is_refused_and_nothing_is_left() {
    let sandbox = Sandbox::new();
    let dir = tempfile::tempdir().unwrap();
    let redis = scalekit_service::testing::RedisServer::start(dir.path(), &["--appendonly", "no"]);
    let profile = sandbox.profile("weak", "deploy: {backend: redis-mongo, durability: fsync}");
    let args =
        ["deploy", "-p", &profile, "--redis-url", &redis.url(), "--mongo-url", "mongodb://127.0.0.1:1"];
    sandbox.scalekit(&args).expect(1).says(&["worker ended", "appendonly"]);
    sandbox.expect_clean();
    sandbox.scalekit(&["deploy", "status", "-p", &profile]).expect(1).says(&["nothing is deployed"]);
}
