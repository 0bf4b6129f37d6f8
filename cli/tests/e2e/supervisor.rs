//! A deployment that is kept up: what dies comes back with all that was acknowledged, and a second `deploy` changes only
//! what differs. With real Redis and a real MongoDB-wire server.

use std::collections::BTreeMap;
use std::ffi::OsString;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cap::{can_cap, mongod, scalekit};
use crate::sandbox::{Output, Sandbox, is_running, wait_for};
use crate::web;

const ALL: [&str; 5] = ["redis-journal", "redis-cache", "mongod", "worker", "api"];

/// A deployment with databases of its own.
struct Stack {
    sandbox: Sandbox,
    name: &'static str,
    path: OsString,
}

impl Stack {
    /// `None`, said, without a server that can be called mongod.
    fn new(name: &'static str) -> Option<Self> {
        let sandbox = Sandbox::new();
        let Some(path) = mongod(&sandbox) else {
            eprintln!(
                "SKIPPED: no MongoDB server in target/venv (./test installs one); {name} is NOT tested"
            );
            return None;
        };
        let stack = Self { sandbox, name, path };
        stack.change("");
        Some(stack)
    }

    /// Writes the profile.
    fn change(&self, changes: &str) {
        let deploy = format!("deploy:\n  backend: redis-mongo\n{changes}");
        self.sandbox.profile(self.name, &deploy);
    }

    fn run(&self, args: &[&str]) -> Output {
        let profile = self.sandbox.path(&format!("{}.yaml", self.name));
        let args = [args, &["-p", profile.to_str().unwrap()]].concat();
        self.sandbox.run(scalekit(&self.sandbox, &self.path, &args))
    }

    fn pids(&self) -> BTreeMap<&'static str, i32> {
        ALL.into_iter().map(|name| (name, self.sandbox.process(self.name, name))).collect()
    }

    /// Those whose process is another one by now.
    fn replaced(&self, before: &BTreeMap<&'static str, i32>) -> Vec<&'static str> {
        let now = self.pids();
        ALL.into_iter().filter(|name| now[name] != before[name]).collect()
    }

    fn record(&self) -> Value {
        self.sandbox.deployment(self.name)
    }

    fn url(&self) -> String {
        self.record()["roles"][0]["url"].as_str().unwrap().to_owned()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.run(&["deploy", "status", "--json"]).stdout).unwrap()
    }

    fn kill(&self, pid: i32) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        wait_for("the end of a process", || (!is_running(pid)).then_some(()));
    }

    /// Writes until one is accepted.
    fn put(&self, id: &str) {
        wait_for("an accepted write", || {
            let body = format!(r#"{{"id": "{id}"}}"#);
            let (status, _) = web::try_request(&self.url(), "PUT", &format!("/v1/things/{id}"), &body)?;
            (status == 202).then_some(())
        });
    }

    fn expect(&self, id: &str) {
        let mut last = None;
        let found = wait_for("a stored write", || {
            last = web::try_request(&self.url(), "GET", &format!("/v1/things/{id}"), "");
            // A cache or database that is just coming back answers 503.
            last.clone().filter(|(status, _)| *status != 503)
        });
        assert_eq!(found.0, 200, "{id} was acknowledged: {last:?}");
    }
}

#[test]
fn each_part_that_is_killed_comes_back_and_nothing_acknowledged_is_lost() {
    let Some(stack) = Stack::new("killed") else { return };
    stack.run(&["deploy"]).expect(0);
    let (url, ports) = (stack.url(), stack.record()["redis_url"].clone());
    for (round, name) in ALL.into_iter().enumerate() {
        let ids = [format!("{round}-before"), format!("{round}-after")];
        stack.put(&ids[0]);
        let before = stack.pids();
        stack.kill(before[name]);
        let back = wait_for("the part", || {
            let status = stack.status();
            let process =
                status["processes"].as_array().unwrap().iter().find(|process| process["name"] == name);
            process.filter(|process| process["ready"] == true && process["pid"] != before[name]).cloned()
        });
        assert_eq!(
            (&back["restarts"], &back["last_exit"]),
            (&1.into(), &"ended by signal 9".into()),
            "{back}"
        );
        assert_eq!(stack.replaced(&before), [name], "the others run on");
        stack.put(&ids[1]);
    }
    assert_eq!(
        (stack.url(), stack.record()["redis_url"].clone()),
        (url, ports),
        "whoever was told finds it there"
    );
    for round in 0..ALL.len() {
        stack.expect(&format!("{round}-before"));
        stack.expect(&format!("{round}-after"));
    }
    wait_for("everything", || (stack.run(&["deploy", "status"]).status == Some(0)).then_some(()));
    let status = stack.run(&["deploy", "status"]).expect(0).stdout;
    assert!(status.contains("1 restarts (it ended by signal 9)"), "{status}");
    stack
        .run(&["deploy", "logs", "supervisor"])
        .expect(0)
        .prints(&["mongod ended by signal 9", "started again in"]);
    stack.run(&["deploy", "down"]).expect(0);
    let log = stack.sandbox.state().join("deployments/killed/supervisor.log");
    let log = std::fs::read_to_string(log).unwrap();
    let ended: Vec<&str> =
        log.lines().filter_map(|line| line.strip_suffix(" has ended")?.split(' ').next_back()).collect();
    assert_eq!(
        ended,
        ["api", "worker", "mongod", "redis-cache", "redis-journal"],
        "no request meets a half of it"
    );
    stack.sandbox.expect_clean();
}

#[test]
fn a_cap_outlives_the_process_that_it_was_made_for() {
    let Some(stack) = Stack::new("capped-again") else { return };
    if !can_cap(&stack.sandbox, "a cap over a restart of mongod") {
        return;
    }
    stack.change("  cap: {iops: 200/s}\n");
    stack.run(&["deploy"]).expect(0);
    let group = stack.status()["cap"]["group"].as_str().unwrap().to_owned();
    let members = || std::fs::read_to_string(format!("{group}/cgroup.procs")).unwrap_or_default();
    let mongod = || stack.sandbox.process("capped-again", "mongod");
    let first = mongod();
    assert!(members().lines().any(|pid| pid == first.to_string()), "{}", members());
    stack.run(&["deploy"]).expect(0).prints(&["nothing to change"]);
    stack.kill(first);
    wait_for("another mongod", || (stack.run(&["deploy", "status"]).status == Some(0)).then_some(()));
    assert_ne!(mongod(), first);
    assert!(members().lines().any(|pid| pid == mongod().to_string()), "{}", members());
    stack.change("  cap: {iops: 300/s}\n");
    stack.run(&["deploy"]).expect(1).says(&["deploy.cap is another one", "deploy down"]);
    stack.run(&["deploy", "status"]).expect(0);
    stack.run(&["deploy", "down"]).expect(0);
    assert!(!std::path::Path::new(&group).exists());
    stack.sandbox.expect_clean();
}

#[test]
fn a_second_deploy_changes_only_what_differs() {
    let Some(stack) = Stack::new("changed") else { return };
    stack.run(&["deploy"]).expect(0).prints(&["is up at"]);
    stack.put("a");
    let again = |changes: &str, said: &str, replaced: &[&str]| {
        stack.change(changes);
        let before = stack.pids();
        stack.run(&["deploy"]).expect(0).prints(&[said]);
        assert_eq!(stack.replaced(&before), replaced, "{changes}");
        stack.run(&["deploy", "status"]).expect(0);
        stack.expect("a");
    };
    again("", "nothing to change", &[]);
    again("load: {vus: 7}\ncriteria: {db_ops: ['max<=4000']}\n", "nothing to change", &[]);
    again("  worker: {linger: 33ms}\n", "restarted: worker", &["worker"]);
    again("  worker: {linger: 33ms}\n  limits: {max_connections: 77}\n", "restarted: api", &["api"]);
    again("  durability: os\n", "restarted: redis-journal, worker, api", &["redis-journal", "worker", "api"]);
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    stack.change(&format!("  durability: os\n  listen: {address}\n  ready_timeout: 20s\n"));
    stack.run(&["deploy"]).expect(1).says(&["api ended", &address, "another process listens there"]);
    let status = stack.run(&["deploy", "status"]).expect(1).stdout;
    assert!(status.contains("mongod         up"), "{status}");
    assert!(!status.contains("api            up"), "{status}");
    drop(taken);
    wait_for("the API, by itself", || (stack.run(&["deploy", "status"]).status == Some(0)).then_some(()));
    stack.expect("a");
    stack.run(&["deploy"]).expect(0).prints(&["nothing to change"]);
    // Another backend: other processes.
    let profile = stack.sandbox.profile("changed", "");
    stack
        .sandbox
        .scalekit(&["deploy", "-p", &profile])
        .expect(0)
        .prints(&["started: service", "stopped: api, worker, mongod, redis-cache, redis-journal"]);
    assert_eq!(stack.record()["processes"].as_array().unwrap().len(), 1);
    stack.run(&["deploy", "down"]).expect(0);
    stack.sandbox.expect_clean();
}
