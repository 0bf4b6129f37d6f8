//! The local target: starts the processes of a deployment in order, each when the one before is ready.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scalekit_service::redis_link::RedisLink;
use scalekit_service::store::Store as _;
use scalekit_service::store::mongo::Mongo;
use tokio::time::{Instant, sleep};

use crate::profile::{Backend, DatabaseCap, DeployMode, Profile, Servers};

use super::DeployError;
use super::cap::{Cap, CapRequest, Which};
use super::parts::{self, Urls};
use super::process::{self, POLL, ProcessSpec, Started};
use super::state::{Deployment, Role, UrlFiles, create_dir, write_private};

/// How long a process may take to finish its work after it was asked to end.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(30);

/// Whether the processes outlive this command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// They end with it, even when it is killed.
    Command,
    /// They stay until `deploy down`.
    Detached,
}

/// What to bring up.
pub(crate) struct Request<'a> {
    pub(crate) profile: &'a Profile,
    /// Where its Redis and MongoDB are, as far as it says.
    pub(crate) servers: &'a Servers,
    /// Of the deployment; created.
    pub(crate) dir: &'a Path,
    /// This program.
    pub(crate) binary: &'a Path,
    pub(crate) lifetime: Lifetime,
    /// Set when the user wants out.
    pub(crate) stop: &'a AtomicBool,
}

/// A deployment that this command started, and must end or leave.
pub(crate) struct Running {
    pub(crate) deployment: Deployment,
    processes: Vec<Started>,
}

impl Running {
    /// Ends all processes, those first that depend on the others; goes on after one that cannot be ended.
    pub(crate) async fn stop(mut self) -> Result<(), DeployError> {
        stop_all(&mut self.processes, self.deployment.cap.as_ref()).await
    }

    /// Leaves them running.
    pub(crate) fn leave(self) -> Deployment {
        self.deployment
    }
}

async fn stop_all(processes: &mut Vec<Started>, cap: Option<&Cap>) -> Result<(), DeployError> {
    let mut result = Ok(());
    while let Some(mut process) = processes.pop() {
        result = result.and(process.stop(STOP_GRACE).await);
    }
    match cap {
        Some(cap) => result.and(cap.release().await.map_err(DeployError::from)),
        None => result,
    }
}

/// Brings everything up, or nothing: after an error, what was started has been ended.
///
/// # Errors
/// The part that did not come up, with the end of its log.
pub(crate) async fn up(request: &Request<'_>) -> Result<Running, DeployError> {
    create_dir(request.dir)?;
    let (mut processes, mut cap) = (Vec::new(), None);
    match bring_up(request, &mut processes, &mut cap).await {
        Ok(deployment) => Ok(Running { deployment: Deployment { cap, ..deployment }, processes }),
        Err(error) => {
            // The first error is the one that tells what to do.
            let _ = stop_all(&mut processes, cap.as_ref()).await;
            Err(error)
        }
    }
}

async fn bring_up(
    request: &Request<'_>,
    processes: &mut Vec<Started>,
    cap: &mut Option<Cap>,
) -> Result<Deployment, DeployError> {
    let Request { profile, dir, binary, .. } = request;
    let deploy = &profile.deploy;
    let mut starting = Starting { request, processes, cap };
    let urls = match deploy.backend {
        Backend::Embedded => Urls::default(),
        Backend::RedisMongo => starting.backends().await?,
    };
    let profile_file = write_profile(profile, dir)?;
    let names: &[&'static str] = match deploy.backend {
        Backend::Embedded => &["service"],
        Backend::RedisMongo if deploy.mode == DeployMode::Direct => &["api"],
        Backend::RedisMongo => &["worker", "api"],
    };
    let scheme = if deploy.tls.is_some() { "https" } else { "http" };
    let mut roles = Vec::new();
    for name in names {
        let spec = parts::service(name, binary, dir, deploy, &urls, &profile_file);
        let address = starting.service(&spec).await?;
        roles.insert(0, Role { name: (*name).into(), url: format!("{scheme}://{address}") });
    }
    let database = urls.database.clone();
    Ok(Deployment {
        profile: profile.name.clone(),
        dir: dir.to_path_buf(),
        roles,
        mongo_url: urls.mongo,
        mongo_database: deploy.mongo_database.clone(),
        redis_url: urls.redis,
        cache_url: urls.cache,
        files: UrlFiles {
            redis: deploy.redis_url_file.clone(),
            cache: deploy.cache_url_file.clone(),
            mongo: deploy.mongo_url_file.clone(),
            authorities: deploy.backend_ca.clone(),
        },
        cap: None,
        database: deploy.database_device.clone().or_else(|| match deploy.backend {
            Backend::Embedded => Some(parts::embedded_files(dir)),
            Backend::RedisMongo => database,
        }),
        processes: processes.iter().map(|process| process.identity.clone()).collect(),
    })
}

/// The resolved profile, for the processes of the service. Passwords are not in it; URLs come by environment. Nor is the
/// cap, which is none of their business.
fn write_profile(profile: &Profile, dir: &Path) -> Result<PathBuf, DeployError> {
    let path = dir.join("profile.yaml");
    let mut profile = profile.clone();
    profile.deploy.cap = DatabaseCap::default();
    let text = serde_json::to_vec_pretty(&profile)
        .map_err(|error| DeployError::Record { path: path.clone(), problem: error.to_string() })?;
    write_private(&path, &text)?;
    Ok(path)
}

struct Starting<'a> {
    request: &'a Request<'a>,
    processes: &'a mut Vec<Started>,
    cap: &'a mut Option<Cap>,
}

impl Starting<'_> {
    /// Redis and MongoDB: those that URLs name, and for the rest programs found on PATH.
    async fn backends(&mut self) -> Result<Urls, DeployError> {
        let (dir, deploy) = (self.request.dir, &self.request.profile.deploy);
        let servers = self.request.servers;
        let mut urls = Urls {
            redis: servers.redis.clone(),
            cache: servers.cache.clone(),
            mongo: servers.mongo.clone(),
            database: None,
        };
        // Look for all programs before any is started.
        let redis = (urls.redis.is_none() && deploy.mode != DeployMode::Direct)
            .then(|| parts::find("redis-server", "Debian: apt-get install redis-server", "--redis-url"))
            .transpose()?;
        let mongod = (urls.mongo.is_none())
            .then(|| parts::find("mongod", "see mongodb.com/docs/manual/installation", "--mongo-url"))
            .transpose()?;
        if let Some(program) = redis {
            let port = parts::free_port()?;
            urls.redis = Some(
                self.redis(parts::journal_redis(program.clone(), port, dir, deploy.durability), port)
                    .await?
                    .into(),
            );
            if urls.cache.is_none() {
                let port = parts::free_port()?;
                urls.cache = Some(self.redis(parts::cache_redis(program, port, dir), port).await?.into());
            }
        }
        if let Some(program) = mongod {
            let port = parts::free_port()?;
            let files = parts::mongod_files(dir);
            create_dir(&files)?;
            let group = self.cap(None, &files).await?;
            let spec = ProcessSpec { group, ..parts::mongod(program, port, dir) };
            urls.mongo = Some(self.mongod(spec, port).await?.into());
            urls.database = Some(files);
        } else if let (Some(group), Some(directory)) = (&deploy.cap.group, &deploy.cap.directory) {
            self.cap(Some(group), directory).await?;
        }
        Ok(urls)
    }

    /// The cap of the profile, if it has one: on this control group, or on one of its own, which is given back.
    async fn cap(&mut self, group: Option<&Path>, directory: &Path) -> Result<Option<PathBuf>, DeployError> {
        let Request { profile, binary, dir, .. } = self.request;
        let Some(iops_per_s) = profile.deploy.cap.iops_per_s else { return Ok(None) };
        let name = parts::group_name(&profile.name, dir);
        let group = group.map_or(Which::Own(&name), Which::Given);
        let cap = Cap::establish(&CapRequest { iops_per_s, group, directory, binary }).await?;
        Ok(Some(self.cap.insert(cap).group.clone()))
    }

    async fn redis(&mut self, spec: ProcessSpec, port: u16) -> Result<String, DeployError> {
        create_dir(&self.request.dir.join(spec.name))?;
        let url = format!("redis://127.0.0.1:{port}");
        let link = RedisLink::new(&url).expect("a URL made of a port is well-formed");
        self.start(&spec, || async { link.lease().await.ok().map(drop) }).await?;
        Ok(url)
    }

    async fn mongod(&mut self, spec: ProcessSpec, port: u16) -> Result<String, DeployError> {
        create_dir(&self.request.dir.join(spec.name))?;
        let url = format!("mongodb://127.0.0.1:{port}");
        let answers = || async { Mongo::connect(&url, "admin").await.ok()?.ping().await.ok() };
        self.start(&spec, answers).await?;
        Ok(url)
    }

    /// A process of the service tells its address in its ready file.
    async fn service(&mut self, spec: &ProcessSpec) -> Result<String, DeployError> {
        let file = parts::ready_file(self.request.dir, spec.name);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(DeployError::File { what: "cannot remove", path: file, source: error });
            }
            _ => {}
        }
        self.start(spec, || async { fs::read_to_string(&file).ok() }).await
    }

    /// Starts a process and waits until `ready` gives something.
    async fn start<T, F: Future<Output = Option<T>>>(
        &mut self,
        spec: &ProcessSpec,
        ready: impl Fn() -> F,
    ) -> Result<T, DeployError> {
        let patience = self.request.profile.deploy.ready_timeout;
        let process = process::start(spec, self.request.lifetime == Lifetime::Command)?;
        // Owned by the list from here on, so that it is ended whatever happens.
        self.processes.push(process);
        let process = self.processes.last_mut().expect("pushed just above");
        let deadline = Instant::now() + patience;
        loop {
            if let Ok(Some(ready)) = tokio::time::timeout_at(deadline, ready()).await {
                return Ok(ready);
            }
            if !process.is_alive() {
                return Err(process.ended());
            }
            if self.request.stop.load(Ordering::Relaxed) {
                return Err(DeployError::Interrupted);
            }
            if Instant::now() >= deadline {
                return Err(process.not_ready(patience));
            }
            sleep(POLL).await;
        }
    }
}
