//! What is deployed, on disk, so that a later command finds it.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use scalekit_service::authorities::Authorities;
use scalekit_service::server_url::{self, ServerUrl};
use serde::{Deserialize, Serialize};

use super::DeployError;
use super::cap::Cap;
use super::plan::{Outcome, Part, Plan};
use super::process::{self, Identity};
use super::systemd::Systemd;

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
    /// Who starts processes again that end.
    #[serde(default)]
    pub(crate) supervisor: Option<Identity>,
    /// Instead of it, and of processes that are known here.
    #[serde(default)]
    pub(crate) systemd: Option<Systemd>,
    /// In the order of their start.
    pub(crate) processes: Vec<Member>,
}

/// A process of a deployment, and what has become of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// The last process of this name, whether it runs or not.
    #[serde(flatten)]
    pub(crate) identity: Identity,
    pub(super) part: Part,
    pub(crate) is_ready: bool,
    /// Since the deployment of this part.
    pub(crate) restarts: u32,
    pub(crate) last_exit: Option<String>,
    /// When it was started, or ended, Unix milliseconds.
    pub(crate) since_ms: u64,
}

impl Member {
    /// One that was just started.
    pub(super) fn new(part: &Part, identity: Identity) -> Self {
        Self {
            identity,
            part: part.clone(),
            is_ready: false,
            restarts: 0,
            last_exit: None,
            since_ms: now_ms(),
        }
    }
}

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
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
    pub(super) fn written(&self) -> Self {
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

    pub(super) fn record(&self) -> PathBuf {
        record_in(&self.dir)
    }

    /// Whom Redis and MongoDB are trusted by.
    pub(crate) fn authorities(&self) -> Option<Authorities> {
        let read = self.files.authorities.as_deref().map(Authorities::read)?;
        read.inspect_err(|problem| tracing::warn!("{problem}")).ok()
    }

    /// The cap on its database's disk: its own, or that of its unit of systemd.
    pub(crate) fn current_cap(&self) -> Option<Cap> {
        let file = self.systemd.as_ref().and_then(|systemd| systemd.cap.as_deref());
        let read = |file| {
            Cap::read(file).inspect_err(|error| tracing::warn!("the cap: {}: {error}", Path::display(file)))
        };
        self.cap.clone().or_else(|| read(file?).ok())
    }

    pub(crate) fn api_url(&self) -> &str {
        self.roles.first().map_or("", |role| &role.url)
    }

    /// Whether its supervisor runs.
    pub(crate) fn is_supervised(&self) -> bool {
        self.supervisor.as_ref().is_some_and(Identity::is_alive)
    }

    /// Whether any of its processes runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.is_supervised() || self.processes.iter().any(|process| process.identity.is_alive())
    }

    /// Ends its supervisor, which ends the processes, and what that leaves: those first that depend on the others. Goes on
    /// after one that cannot be ended.
    ///
    /// # Errors
    /// A process that cannot be ended.
    pub(crate) async fn stop(&self, grace: Duration) -> Result<(), DeployError> {
        let mut result = Ok(());
        if let Some(supervisor) = &self.supervisor {
            // It waits for each of them in turn, and a little for the kernel.
            let all = grace * (u32::try_from(self.processes.len()).unwrap_or(1) + 1);
            result = process::stop(supervisor, all).await;
        }
        // It may have started another since this was read.
        let latest: Option<Self> = super::plan::read(&self.record()).ok();
        for process in latest.as_ref().unwrap_or(self).processes.iter().rev() {
            result = result.and(process::stop(&process.identity, grace).await);
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
        record_in(&self.deployment(profile))
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
        let mut deployment: Deployment = match serde_json::from_str(&text) {
            Ok(deployment) => deployment,
            Err(error) => return Err(DeployError::Record { path, problem: error.to_string() }),
        };
        if deployment.profile != profile {
            let problem =
                format!("it is of the profile `{}`, whose name takes the same directory", deployment.profile);
            return Err(DeployError::Record { path, problem });
        }
        deployment.read_files();
        Ok(Some(deployment))
    }

    /// All that is recorded and can be read.
    pub(crate) fn all(&self) -> Vec<Deployment> {
        let Ok(entries) = fs::read_dir(self.0.join("deployments")) else { return Vec::new() };
        let records = entries.filter_map(|entry| super::plan::read(&record_in(&entry.ok()?.path())).ok());
        records
            .map(|mut deployment: Deployment| {
                deployment.read_files();
                deployment
            })
            .collect()
    }
}

fn record_in(dir: &Path) -> PathBuf {
    dir.join("deployment.json")
}

/// Writes the record into the deployment's directory.
pub(crate) fn save(deployment: &Deployment) -> Result<(), DeployError> {
    create_dir(&deployment.dir)?;
    super::plan::write(&deployment.record(), &deployment.written())
}

/// Takes away what is known of a deployment; its data and logs stay.
pub(crate) fn forget(dir: &Path) -> Result<(), DeployError> {
    for path in [Outcome::file(dir), Plan::file(dir), record_in(dir)] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(DeployError::File { what: "cannot remove", path, source: error });
            }
            _ => {}
        }
    }
    Ok(())
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
            dir: state.deployment("my profile"),
            roles: vec![Role { name: "api".into(), url: "http://127.0.0.1:1".into() }],
            mongo_url: Some("mongodb://u:p@h".into()),
            files: UrlFiles::default(),
            mongo_database: "scalekit".into(),
            redis_url: Some("redis://:p@h".into()),
            cache_url: None,
            database: None,
            cap: None,
            supervisor: None,
            systemd: None,
            processes: vec![],
        };
        save(&deployment).unwrap();
        assert_eq!(state.load("my profile").unwrap(), Some(deployment));
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(state.record("my profile")).unwrap());
        assert_eq!(mode & 0o077, 0, "it may hold a password");
        // Two names, one directory.
        let other = state.load("my_profile").unwrap_err().to_string();
        assert!(other.contains("`my profile`"), "{other}");
        forget(&state.deployment("my profile")).unwrap();
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
            dir: state.deployment("p"),
            roles: vec![],
            mongo_url: Some("mongodb://h".into()),
            mongo_database: "scalekit".into(),
            redis_url: Some("redis://u:hunter2@h".into()),
            cache_url: None,
            files: UrlFiles { redis: Some(file.clone()), ..UrlFiles::default() },
            database: None,
            cap: None,
            supervisor: None,
            systemd: None,
            processes: vec![],
        };
        save(&deployment).unwrap();
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
