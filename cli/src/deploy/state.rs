//! What is deployed, on disk, so that a later command finds it.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use scalekit_service::authorities::Authorities;
use scalekit_service::server_url::{self, ServerUrl};
use serde::{Deserialize, Serialize};

use super::DeployError;
use super::cap::Cap;
use super::process::{self, Identity};

/// A process of the service that answers `/v1/stats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Role {
    /// `service`, `api` or `worker`.
    pub(crate) name: String,
    /// `http://ADDRESS`
    pub(crate) url: String,
}

/// One deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Deployment {
    pub(crate) profile: String,
    pub(crate) dir: PathBuf,
    /// The API first.
    pub(crate) roles: Vec<Role>,
    /// Where the audit finds the documents; `None` for the embedded store.
    #[serde(default, serialize_with = "server_url::expose_to")]
    pub(crate) mongo_url: Option<ServerUrl>,
    pub(crate) mongo_database: String,
    /// Where journal and cache are; `None` for the embedded ones, and in records of before there was this.
    #[serde(default, serialize_with = "server_url::expose_to")]
    pub(crate) redis_url: Option<ServerUrl>,
    #[serde(default, serialize_with = "server_url::expose_to")]
    pub(crate) cache_url: Option<ServerUrl>,
    /// The files that URLs came from: those URLs are in no record.
    #[serde(default)]
    pub(crate) files: UrlFiles,
    /// Where the database's device is read: its files, a device or a control group of this host, if that is known.
    #[serde(default)]
    pub(crate) database: Option<PathBuf>,
    /// On the database's disk.
    #[serde(default)]
    pub(crate) cap: Option<Cap>,
    /// In the order of their start.
    pub(crate) processes: Vec<Identity>,
}

/// Files with what is needed to reach Redis and MongoDB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UrlFiles {
    pub(crate) redis: Option<PathBuf>,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) mongo: Option<PathBuf>,
    /// Of authorities.
    pub(crate) authorities: Option<PathBuf>,
}

impl Deployment {
    /// Without the URLs that files hold.
    fn written(&self) -> Self {
        let mut written = self.clone();
        for (url, file) in written.urls() {
            if file.is_some() {
                *url = None;
            }
        }
        written
    }

    /// With them. A file that is gone is no obstacle to ending what runs.
    fn read_files(&mut self) {
        for (url, file) in self.urls() {
            match file.as_deref().map(ServerUrl::read) {
                Some(Ok(read)) => *url = Some(read),
                Some(Err(problem)) => tracing::warn!("{problem}"),
                None => {}
            }
        }
    }

    fn urls(&mut self) -> [(&mut Option<ServerUrl>, &mut Option<PathBuf>); 3] {
        let files = &mut self.files;
        [
            (&mut self.redis_url, &mut files.redis),
            (&mut self.cache_url, &mut files.cache),
            (&mut self.mongo_url, &mut files.mongo),
        ]
    }

    /// Whom Redis and MongoDB are trusted by.
    pub(crate) fn authorities(&self) -> Option<Authorities> {
        let read = self.files.authorities.as_deref().map(Authorities::read)?;
        read.inspect_err(|problem| tracing::warn!("{problem}")).ok()
    }

    pub(crate) fn api_url(&self) -> &str {
        self.roles.first().map_or("", |role| &role.url)
    }

    /// Ends its processes, those first that depend on the others; goes on after one that cannot be ended.
    ///
    /// # Errors
    /// A process that cannot be ended.
    pub(crate) async fn stop(&self, grace: Duration) -> Result<(), DeployError> {
        let mut result = Ok(());
        for identity in self.processes.iter().rev() {
            result = result.and(process::stop(identity, grace).await);
        }
        match &self.cap {
            Some(cap) => result.and(cap.release().await.map_err(DeployError::from)),
            None => result,
        }
    }
}

/// Where deployments are recorded: `scalekit` below the user's state directory.
#[derive(Clone, Debug)]
pub(crate) struct StateDir(PathBuf);

impl StateDir {
    /// By the XDG base directory rules.
    ///
    /// # Errors
    /// When the environment does not say where.
    pub(crate) fn of_user() -> Result<Self, DeployError> {
        let set = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
        Ok(Self(base.ok_or(DeployError::NoHome)?.join("scalekit")))
    }

    /// The directory of a profile's deployment.
    pub(crate) fn deployment(&self, profile: &str) -> PathBuf {
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
        self.0.join("deployments").join(profile.chars().map(plain).collect::<String>())
    }

    /// The directory of a run's own deployment.
    pub(crate) fn run(&self, run_id: &str) -> PathBuf {
        self.0.join("runs").join(run_id)
    }

    /// The journal of what was changed on the host.
    pub(crate) fn tuning(&self) -> PathBuf {
        self.0.join("tune/journal.jsonl")
    }

    pub(crate) fn record(&self, profile: &str) -> PathBuf {
        self.deployment(profile).join("deployment.json")
    }

    /// The recorded deployment of a profile, alive or not.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub(crate) fn load(&self, profile: &str) -> Result<Option<Deployment>, DeployError> {
        let path = self.record(profile);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(DeployError::File { what: "cannot read", path, source }),
        };
        let deployment = serde_json::from_str(&text).map(|mut deployment: Deployment| {
            deployment.read_files();
            Some(deployment)
        });
        deployment.map_err(|error| DeployError::Record { path, problem: error.to_string() })
    }

    pub(crate) fn save(&self, deployment: &Deployment) -> Result<(), DeployError> {
        let path = self.record(&deployment.profile);
        create_dir(&self.deployment(&deployment.profile))?;
        let text = serde_json::to_vec_pretty(&deployment.written())
            .map_err(|error| DeployError::Record { path: path.clone(), problem: error.to_string() })?;
        write_private(&path, &text)
    }

    pub(crate) fn forget(&self, profile: &str) -> Result<(), DeployError> {
        let path = self.record(profile);
        fs::remove_file(&path).map_err(DeployError::file("cannot remove", path))
    }
}

/// Creates a directory that only its owner can look into: logs and records may tell where databases are.
pub(super) fn create_dir(dir: &Path) -> Result<(), DeployError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(DeployError::file("cannot create the directory", dir))
}

/// Writes a file that only its owner can read, whole or not at all.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), DeployError> {
    let temporary = path.with_extension("new");
    let write = || {
        let mut file =
            fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(DeployError::file("cannot write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_is_found_again_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir(dir.path().to_owned());
        assert_eq!(state.load("my profile").unwrap(), None);
        let deployment = Deployment {
            profile: "my profile".into(),
            dir: dir.path().into(),
            roles: vec![Role { name: "api".into(), url: "http://127.0.0.1:1".into() }],
            mongo_url: Some("mongodb://u:p@h".into()),
            files: UrlFiles::default(),
            mongo_database: "scalekit".into(),
            redis_url: Some("redis://:p@h".into()),
            cache_url: None,
            database: None,
            cap: None,
            processes: vec![],
        };
        state.save(&deployment).unwrap();
        assert_eq!(state.load("my profile").unwrap(), Some(deployment));
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(state.record("my profile")).unwrap());
        assert_eq!(mode & 0o077, 0, "it may hold a password");
        state.forget("my profile").unwrap();
        assert_eq!(state.load("my profile").unwrap(), None);
    }

    #[test]
    fn a_url_from_a_file_is_in_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir(dir.path().to_owned());
        let file = dir.path().join("url");
        fs::write(&file, "redis://u:hunter2@h").unwrap();
        let deployment = Deployment {
            profile: "p".into(),
            dir: dir.path().into(),
            roles: vec![],
            mongo_url: Some("mongodb://h".into()),
            mongo_database: "scalekit".into(),
            redis_url: Some("redis://u:hunter2@h".into()),
            cache_url: None,
            files: UrlFiles { redis: Some(file.clone()), ..UrlFiles::default() },
            database: None,
            cap: None,
            processes: vec![],
        };
        state.save(&deployment).unwrap();
        assert!(!fs::read_to_string(state.record("p")).unwrap().contains("hunter2"));
        assert_eq!(state.load("p").unwrap(), Some(deployment));
        fs::remove_file(file).unwrap();
        assert_eq!(state.load("p").unwrap().unwrap().redis_url, None);
    }

    #[test]
    fn a_broken_record_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir(dir.path().to_owned());
        create_dir(&state.deployment("p")).unwrap();
        fs::write(state.record("p"), "{").unwrap();
        assert!(
            state.load("p").unwrap_err().to_string().contains("deployment.json is not a deployment's record")
        );
    }
}
