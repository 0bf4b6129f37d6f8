//! The record of a deployment, as its supervisor keeps it: each change is on disk at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::DeployError;
use super::plan::Part;
use super::process::Identity;
use super::state::{Deployment, Member, Role, now_ms, save};

pub(super) struct Board {
    deployment: Mutex<Deployment>,
    /// What is on disk is older.
    is_behind: AtomicBool,
}

impl Board {
    pub(super) fn new(deployment: Deployment) -> Self {
        Self { deployment: Mutex::new(deployment), is_behind: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Deployment> {
        // Each change is whole, so whoever panicked left it usable.
        self.deployment.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&Deployment) -> T) -> T {
        look(&self.lock())
    }

    /// A record that cannot be written, on a full disk, must not end what runs.
    fn change(&self, change: impl FnOnce(&mut Deployment)) {
        if let Err(error) = self.try_change(change) {
            tracing::error!("the record is behind: {error}");
        }
    }

    fn try_change(&self, change: impl FnOnce(&mut Deployment)) -> Result<(), DeployError> {
        let mut deployment = self.lock();
        change(&mut deployment);
        let saved = save(&deployment);
        self.is_behind.store(saved.is_err(), Ordering::Relaxed);
        saved
    }

    /// Writes what could not be written before; the disk may have room by now.
    pub(super) fn catch_up(&self) {
        if self.is_behind.load(Ordering::Relaxed) && self.try_change(|_| ()).is_ok() {
            tracing::info!("the record is up to date again");
        }
    }

    /// Takes over what a new plan says of the whole, and puts processes into its order.
    ///
    /// # Errors
    /// It cannot be written down.
    pub(super) fn plan(&self, planned: &Deployment, parts: &[Part]) -> Result<(), DeployError> {
        self.try_change(|deployment| {
            let place = |name: &str| parts.iter().position(|part| part.name() == name);
            let mut processes = std::mem::take(&mut deployment.processes);
            // Of what is not wanted any more there is a trace as long as it runs.
            processes
                .retain(|process| place(&process.identity.name).is_some() || process.identity.is_alive());
            processes.sort_by_key(|process| place(&process.identity.name));
            let mut roles = std::mem::take(&mut deployment.roles);
            roles.retain(|role| place(&role.name).is_some());
            let supervisor = deployment.supervisor.take();
            *deployment = Deployment { processes, roles, supervisor, ..planned.clone() };
        })
    }

    pub(super) fn started(&self, part: &Part, identity: &Identity) {
        self.change(|deployment| {
            let mut processes = deployment.processes.iter_mut();
            match processes.find(|process| process.identity.name == identity.name) {
                // One that is taken over.
                Some(process) if process.identity == *identity => process.part = part.clone(),
                Some(process) => {
                    // Another part of the same name begins to count anew.
                    let is_same = process.part == *part;
                    let before = std::mem::replace(process, Member::new(part, identity.clone()));
                    if is_same {
                        process.restarts = before.restarts + 1;
                        process.last_exit = before.last_exit;
                    }
                }
                None => deployment.processes.push(Member::new(part, identity.clone())),
            }
        });
    }

    pub(super) fn ready(&self, name: &str, url: Option<String>) {
        self.change(|deployment| {
            if let Some(process) = member(deployment, name) {
                process.is_ready = true;
            }
            let Some(url) = url else { return };
            match deployment.roles.iter_mut().find(|role| role.name == name) {
                Some(role) => role.url = url,
                // The API is started last, and is the first of them.
                None => deployment.roles.insert(0, Role { name: name.to_owned(), url }),
            }
        });
    }

    pub(super) fn ended(&self, name: &str, how: &str) {
        self.change(|deployment| {
            if let Some(process) = member(deployment, name) {
                process.is_ready = false;
                process.last_exit = Some(how.to_owned());
                process.since_ms = now_ms();
            }
        });
    }

    pub(super) fn stopped(&self, name: &str, is_wanted: bool) {
        self.change(|deployment| {
            if is_wanted {
                if let Some(process) = member(deployment, name) {
                    process.is_ready = false;
                    process.since_ms = now_ms();
                }
            } else {
                deployment.processes.retain(|process| process.identity.name != name);
                deployment.roles.retain(|role| role.name != name);
            }
        });
    }

    /// Where a process of the service was the last time.
    pub(super) fn address(&self, name: &str) -> Option<String> {
        self.read(|deployment| {
            let role = deployment.roles.iter().find(|role| role.name == name)?;
            Some(role.url.split_once("://")?.1.to_owned())
        })
    }
}

fn member<'a>(deployment: &'a mut Deployment, name: &str) -> Option<&'a mut Member> {
    deployment.processes.iter_mut().find(|process| process.identity.name == name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::deploy::process::ProcessSpec;
    use crate::deploy::readiness::Readiness;

    fn part(reads: &str) -> Part {
        let spec = ProcessSpec {
            name: "api".into(),
            program: "/p".into(),
            args: vec![],
            listen: None,
            env: vec![],
            group: None,
            log: "/l".into(),
        };
        Part { spec, readiness: Readiness::Redis { port: 1 }, reads: reads.into() }
    }

    fn deployment(dir: &std::path::Path) -> Deployment {
        let text = serde_json::json!({ "profile": "p", "dir": dir, "roles": [], "mongo_database": "d", "processes": [] });
        serde_json::from_value(text).unwrap()
    }

    fn identity(pid: i32) -> Identity {
        Identity { name: "api".into(), pid, start_ticks: 1, log: "/l".into() }
    }

    #[test]
    fn restarts_of_one_part_are_counted_and_those_of_another_begin_anew() {
        let dir = tempfile::tempdir().unwrap();
        let board = Board::new(deployment(dir.path()));
        let restarts = || board.read(|deployment| deployment.processes[0].restarts);
        board.started(&part(""), &identity(1));
        board.ready("api", Some("http://127.0.0.1:80".into()));
        assert_eq!((restarts(), board.address("api").as_deref()), (0, Some("127.0.0.1:80")));
        board.ended("api", "ended by signal 9");
        board.started(&part(""), &identity(2));
        assert_eq!(restarts(), 1);
        board.started(&part(""), &identity(2));
        assert_eq!(restarts(), 1, "taken over");
        board.started(&part("other"), &identity(3));
        assert_eq!(restarts(), 0);
        board.plan(&deployment(dir.path()), &[]).unwrap();
        assert!(board.read(|deployment| deployment.processes.is_empty() && deployment.roles.is_empty()));
    }

    #[test]
    fn a_record_that_could_not_be_written_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("state");
        fs::write(&place, "in the way").unwrap();
        let board = Board::new(deployment(&place));
        board.started(&part(""), &identity(1));
        board.catch_up();
        fs::remove_file(&place).unwrap();
        board.catch_up();
        let text = fs::read_to_string(place.join("deployment.json")).unwrap();
        assert!(text.contains("\"pid\": 1"), "{text}");
    }
}
