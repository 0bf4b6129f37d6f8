//! `scalekit deploy --target k8s`, against a double of the API server; the main path against a real cluster, too, where
//! KUBECONFIG_TEST names one.

mod failures;
mod life;
mod load;
mod real;
mod refusals;

use std::process::Command;

use serde_json::Value;

use crate::api_server::ApiServer;
use crate::sandbox::{Output, Running, Sandbox};

const NAMESPACE: &str = "assessment";

/// A double, a profile for it, and a place to run the tool in.
struct Bench {
    sandbox: Sandbox,
    server: ApiServer,
    profile: String,
    kubeconfig: String,
}

/// A deployment with all parts.
fn profile_text() -> String {
    "deploy:
  target: k8s
  backend: redis-mongo
  kubernetes: {ready_timeout: 20s, image: 'registry.test/scalekit:1', cpu: {request: 250m}}
"
    .to_owned()
}

impl Bench {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let server = ApiServer::start();
        let kubeconfig = server.kubeconfig(&sandbox);
        let profile = sandbox.path("shop.yaml").to_str().unwrap().to_owned();
        let bench = Self { sandbox, server, profile, kubeconfig };
        bench.write(&profile_text());
        bench
    }

    /// Another profile of the same name.
    fn write(&self, text: &str) {
        let text = format!("extends: default\ndescription: A deployment of a test.\n{text}");
        std::fs::write(&self.profile, text).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut args = words.to_vec();
        args.extend(["-p", &self.profile]);
        let mut command = self.sandbox.command(&args);
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.sandbox.run(self.command(words))
    }

    fn start(&self, words: &[&str]) -> Running {
        self.sandbox.start(self.command(words))
    }

    /// Facts of a command that prints them.
    fn json(&self, words: &[&str]) -> Value {
        let mut words = words.to_vec();
        words.push("--json");
        serde_json::from_str(&self.run(&words).expect(0).stdout).unwrap()
    }

    fn get(&self, resource: &str, name: &str) -> Value {
        let found = self.server.get(resource, NAMESPACE, name);
        found.unwrap_or_else(|| panic!("no {name} among {:?}", self.server.world().names(resource)))
    }

    /// All that is there but what every cluster has.
    fn leftovers(&self) -> Vec<String> {
        let world = self.server.world();
        let resources = [
            "deployments",
            "statefulsets",
            "daemonsets",
            "jobs",
            "services",
            "ingresses",
            "configmaps",
            "secrets",
            "networkpolicies",
            "poddisruptionbudgets",
            "pods",
            "persistentvolumeclaims",
            "servicemonitors",
        ];
        let of = |resource: &&str| {
            world.names(resource).into_iter().map(|name| format!("{resource}/{name}")).collect::<Vec<_>>()
        };
        resources.iter().flat_map(of).collect()
    }
}

/// Titles in a list of facts.
fn titles(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|title| title.as_str().unwrap()).collect()
}
