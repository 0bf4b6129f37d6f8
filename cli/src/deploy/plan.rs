//! What is to run, and how that differs from what runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::DeployError;
use super::process::ProcessSpec;
use super::readiness::Readiness;
use super::state::{Deployment, write_private};

/// A process of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(super) spec: ProcessSpec,
    pub(super) readiness: Readiness,
    /// What it reads beside, as it was when this was made: only compared, to tell whether it has to be started anew.
    pub(super) reads: String,
}

impl Part {
    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }
}

/// All that a supervisor needs to know. It may hold passwords.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Another for each `deploy`, so that its outcome is not taken for an earlier one's.
    pub(super) id: u64,
    /// What the record says, without processes.
    pub(super) deployment: Deployment,
    /// In the order of their start.
    pub(super) parts: Vec<Part>,
    /// How long each may take to become ready.
    pub(super) ready_timeout: Duration,
}

impl Plan {
    pub(super) fn file(dir: &Path) -> PathBuf {
        dir.join("plan.json")
    }

    pub(super) fn read(dir: &Path) -> Result<Self, DeployError> {
        read(&Self::file(dir))
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), DeployError> {
        // URLs of files are in no record.
        write(&Self::file(dir), &Self { deployment: self.deployment.written(), ..self.clone() })
    }
}

/// What became of a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// The plan's.
    pub(super) id: u64,
    pub(super) changes: Changes,
    /// Why it is not up.
    pub(super) problem: Option<String>,
}

impl Outcome {
    pub(super) fn file(dir: &Path) -> PathBuf {
        dir.join("outcome.json")
    }
}

pub(super) fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, DeployError> {
    let text = fs::read_to_string(path).map_err(DeployError::file("cannot read", path))?;
    serde_json::from_str(&text)
        .map_err(|error| DeployError::Record { path: path.to_owned(), problem: error.to_string() })
}

pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), DeployError> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|error| DeployError::Record { path: path.to_owned(), problem: error.to_string() })?;
    write_private(path, &text)
}

/// Names of processes, by what a new plan means for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Changes {
    pub(crate) unchanged: Vec<String>,
    pub(crate) restarted: Vec<String>,
    pub(crate) started: Vec<String>,
    pub(crate) stopped: Vec<String>,
}

impl Changes {
    /// Both in the order of their start.
    pub(super) fn between(running: &[Part], wanted: &[Part]) -> Self {
        let mut changes = Self::default();
        for part in wanted {
            let names = match running.iter().find(|other| other.name() == part.name()) {
                Some(other) if other == part => &mut changes.unchanged,
                Some(_) => &mut changes.restarted,
                None => &mut changes.started,
            };
            names.push(part.name().to_owned());
        }
        let is_wanted = |name: &str| wanted.iter().any(|part| part.name() == name);
        // Those first that need the others.
        let gone = running.iter().rev().filter(|part| !is_wanted(part.name()));
        changes.stopped = gone.map(|part| part.name().to_owned()).collect();
        changes
    }

    pub(crate) fn is_none(&self) -> bool {
        self.restarted.is_empty() && self.started.is_empty() && self.stopped.is_empty()
    }

    /// `unchanged: mongod; restarted: api`
    pub(crate) fn text(&self) -> String {
        let Self { unchanged, restarted, started, stopped } = self;
        let kinds =
            [("unchanged", unchanged), ("restarted", restarted), ("started", started), ("stopped", stopped)];
        let said = kinds.iter().filter(|(_, names)| !names.is_empty());
        said.map(|(kind, names)| format!("{kind}: {}", names.join(", "))).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, reads: &str) -> Part {
        let spec = ProcessSpec {
            name: name.into(),
            program: "/p".into(),
            args: vec![],
            listen: None,
            env: vec![],
            group: None,
            log: "/l".into(),
        };
        Part { spec, readiness: Readiness::Redis { port: 1 }, reads: reads.into() }
    }

    #[test]
    fn a_plan_changes_only_what_differs() {
        let running = [part("redis", ""), part("worker", "slow"), part("api", "")];
        let same = Changes::between(&running, &running);
        assert!(same.is_none());
        assert_eq!(same.text(), "unchanged: redis, worker, api");
        let changes =
            Changes::between(&running, &[part("redis", ""), part("worker", "fast"), part("cache", "")]);
        assert_eq!(changes.text(), "unchanged: redis; restarted: worker; started: cache; stopped: api");
        assert!(!changes.is_none());
        assert_eq!(Changes::between(&running, &[]).stopped, ["api", "worker", "redis"]);
        assert_eq!(Changes::between(&[], &running).started, ["redis", "worker", "api"]);
    }

    #[test]
    fn each_thing_that_a_process_is_made_of_counts() {
        let before = part("api", "");
        let changed: [fn(&mut Part); 6] = [
            |part| part.spec.program = "/q".into(),
            |part| part.spec.args.push("-x".into()),
            |part| part.spec.env.push(("A".into(), "b".into())),
            |part| part.spec.group = Some("/g".into()),
            |part| part.spec.listen = Some("127.0.0.1:1".into()),
            |part| part.reads = "other".into(),
        ];
        for change in changed {
            let mut after = before.clone();
            change(&mut after);
            assert_eq!(Changes::between(std::slice::from_ref(&before), &[after]).restarted, ["api"]);
        }
    }
}
