//! From a profile to the processes of its deployment. What is there already stays where it is: ports, and the cap.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::profile::{Backend, DatabaseCap, Deploy, DeployMode, Profile};

use super::DeployError;
use super::cap::{Cap, CapRequest, Which};
use super::local::Request;
use super::parts::{self, Urls};
use super::plan::{Part, Plan};
use super::process::ProcessSpec;
use super::readiness::Readiness;
use super::state::{Deployment, UrlFiles, create_dir, write_private};

/// What only the worker and the database's governor go by.
const OF_WORKER: [&str; 3] = ["worker", "database_ops", "database_iops"];
/// What only the API goes by.
const OF_API: [&str; 1] = ["limits"];
/// What none of the processes goes by.
const OF_NOBODY: [&str; 5] = ["target", "ready_timeout", "drain_timeout", "cap", "listen"];

/// Makes directories, the profile's file and the cap; starts nothing. `before`: what is deployed there by now.
///
/// # Errors
/// A program that is missing, a directory or file that cannot be written, no port, a cap that cannot be.
pub(super) async fn plan(request: &Request<'_>, before: Option<&Deployment>) -> Result<Plan, DeployError> {
    let Request { profile, dir, binary, servers, .. } = request;
    let deploy = &profile.deploy;
    create_dir(dir)?;
    let profile_file = write_profile(profile, dir)?;
    let mut urls = Urls {
        redis: servers.redis.clone(),
        cache: servers.cache.clone(),
        mongo: servers.mongo.clone(),
        database: None,
    };
    let mut planned = Vec::new();
    if deploy.backend == Backend::RedisMongo {
        planned = backends(request, before, &mut urls)?;
    } else {
        urls = Urls::default();
    }
    let scheme = if deploy.tls.is_some() { "https" } else { "http" };
    let worker_name = parts::worker_name(&profile.name);
    for name in roles(deploy) {
        let spec = parts::service(name, binary, dir, deploy, &urls, &profile_file, &worker_name);
        let readiness = Readiness::File { path: parts::ready_file(dir, name), scheme: scheme.to_owned() };
        let reads = reads(name, binary, deploy);
        planned.push(Part { spec, readiness, reads });
    }
    // Last, since it has to be given back if anything fails after it.
    let cap = match planned.iter_mut().find(|part| part.name() == "mongod") {
        Some(mongod) => {
            let cap = cap(request, None, &parts::mongod_files(dir), before).await?;
            mongod.spec.group = cap.as_ref().map(|cap| cap.group.clone());
            cap
        }
        None => match (&deploy.cap.group, &deploy.cap.directory) {
            (Some(group), Some(directory)) => cap(request, Some(group), directory, before).await?,
            _ => None,
        },
    };
    let database = urls.database.clone();
    let deployment = Deployment {
        profile: profile.name.clone(),
        dir: dir.to_path_buf(),
        roles: Vec::new(),
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
        cap,
        database: deploy.database_device.clone().or_else(|| match deploy.backend {
            Backend::Embedded => Some(parts::embedded_files(dir)),
            Backend::RedisMongo => database,
        }),
        supervisor: None,
        systemd: None,
        processes: Vec::new(),
    };
    Ok(Plan { id: fastrand::u64(..), deployment, parts: planned, ready_timeout: deploy.ready_timeout })
}

/// Processes of the service, in the order of their start.
pub(super) fn roles(deploy: &Deploy) -> &'static [&'static str] {
    match deploy.backend {
        Backend::Embedded => &["service"],
        Backend::RedisMongo if deploy.mode == DeployMode::Direct => &["api"],
        Backend::RedisMongo => &["worker", "api"],
    }
}

/// Redis and MongoDB where no URL names them: programs found on PATH.
fn backends(
    request: &Request<'_>,
    before: Option<&Deployment>,
    urls: &mut Urls,
) -> Result<Vec<Part>, DeployError> {
    let (dir, deploy) = (request.dir, &request.profile.deploy);
    let redis = (urls.redis.is_none() && deploy.mode != DeployMode::Direct)
        .then(|| parts::find("redis-server", "Debian: apt-get install redis-server", "--redis-url"))
        .transpose()?;
    let mongod = (urls.mongo.is_none())
        .then(|| parts::find("mongod", "see mongodb.com/docs/manual/installation", "--mongo-url"))
        .transpose()?;
    let port = |name: &str| {
        let known =
            before.and_then(|before| before.processes.iter().find(|process| process.identity.name == name));
        let kept = known.and_then(|process| {
            let port = process.part.readiness.port()?;
            // Of one that has ended, somebody else may have taken it.
            (process.identity.is_alive() || parts::is_free(port)).then_some(port)
        });
        kept.map_or_else(parts::free_port, Ok)
    };
    let mut planned = Vec::new();
    let mut add = |spec: ProcessSpec, readiness| {
        create_dir(&dir.join(&spec.name))?;
        let reads = stamp(&spec.program);
        planned.push(Part { spec, readiness, reads });
        Ok::<_, DeployError>(())
    };
    if let Some(program) = redis {
        let journal = port("redis-journal")?;
        urls.redis = Some(format!("redis://127.0.0.1:{journal}").into());
        let spec = parts::journal_redis(program.clone(), journal, dir, deploy.durability);
        add(spec, Readiness::Redis { port: journal })?;
        if urls.cache.is_none() {
            let cache = port("redis-cache")?;
            urls.cache = Some(format!("redis://127.0.0.1:{cache}").into());
            add(parts::cache_redis(program, cache, dir), Readiness::Redis { port: cache })?;
        }
    }
    if let Some(program) = mongod {
        let port = port("mongod")?;
        urls.mongo = Some(format!("mongodb://127.0.0.1:{port}").into());
        urls.database = Some(parts::mongod_files(dir));
        add(parts::mongod(program, port, dir), Readiness::Mongo { port })?;
    }
    Ok(planned)
}

/// The cap of the profile, if it has one: on this control group, or on one of its own.
async fn cap(
    request: &Request<'_>,
    group: Option<&Path>,
    directory: &Path,
    before: Option<&Deployment>,
) -> Result<Option<Cap>, DeployError> {
    let Request { profile, binary, dir, .. } = request;
    let known = before.and_then(|before| before.cap.as_ref());
    let runs = |name| {
        let mut processes = before.iter().flat_map(|before| &before.processes);
        processes.any(|process| process.identity.name == name && process.identity.is_alive())
    };
    let wanted = profile.deploy.cap.iops_per_s;
    match (known, wanted) {
        (Some(cap), Some(iops_per_s))
            if cap.iops_per_s == iops_per_s && (runs("mongod") || group == Some(&cap.group)) =>
        {
            return Ok(Some(cap.clone()));
        }
        // Its group has processes, and goes with them only.
        (Some(_), _) | (None, Some(_)) if runs("mongod") => return Err(DeployError::CapChanged),
        (Some(cap), _) => {
            if let Err(error) = cap.release().await {
                tracing::warn!("the cap of before: {error}");
            }
        }
        (None, _) => {}
    }
    let Some(iops_per_s) = wanted else { return Ok(None) };
    let name = parts::group_name(&profile.name, dir);
    let group = group.map_or(Which::Own(&name), Which::Given);
    let request = CapRequest { iops_per_s, group, directory, binary };
    Ok(Some(Cap::establish(&request).await?))
}

/// The resolved profile, for the processes of the service. Passwords are not in it; URLs come by environment. Nor is the
/// cap, which is none of their business.
pub(super) fn write_profile(profile: &Profile, dir: &Path) -> Result<PathBuf, DeployError> {
    let path = dir.join("profile.yaml");
    write_private(
        &path,
        &profile_text(profile).map_err(|problem| DeployError::Record { path: path.clone(), problem })?,
    )?;
    Ok(path)
}

pub(super) fn profile_text(profile: &Profile) -> Result<Vec<u8>, String> {
    let mut profile = profile.clone();
    profile.deploy.cap = DatabaseCap::default();
    serde_json::to_vec_pretty(&profile).map_err(|error| error.to_string())
}

/// What a process of the service reads at its start and never again, but for its command line.
pub(super) fn reads(name: &str, binary: &Path, deploy: &Deploy) -> String {
    let mut read = serde_json::to_value(deploy).unwrap_or_default();
    if let Value::Object(keys) = &mut read {
        let others: &[&str] = match name {
            "worker" => &OF_API,
            // In direct mode the API does the worker's work.
            "api" if deploy.mode == DeployMode::WriteBehind => &OF_WORKER,
            _ => &[],
        };
        keys.retain(|key, _| !others.contains(&key.as_str()) && !OF_NOBODY.contains(&key.as_str()));
    }
    let files = [&deploy.redis_url_file, &deploy.cache_url_file, &deploy.mongo_url_file, &deploy.backend_ca];
    let files = files.into_iter().flatten().map(|file| stamp(file));
    [vec![stamp(binary)], files.collect(), vec![read.to_string()]].concat().join("\n")
}

/// Which version of a file it is; its text may be a secret.
fn stamp(file: &Path) -> String {
    match fs::metadata(file) {
        Ok(at) => format!("{}:{}:{}:{}.{}", at.dev(), at.ino(), at.size(), at.mtime(), at.mtime_nsec()),
        Err(error) => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Layer, load};

    #[test]
    fn a_process_is_concerned_by_its_own_keys_only() {
        let mut base = load("redis-mongo", Layer::default()).unwrap().deploy;
        let concerned = |base: &Deploy, change: fn(&mut Deploy)| -> Vec<&str> {
            let mut changed = base.clone();
            change(&mut changed);
            let differs =
                |name: &&str| reads(name, Path::new("/b"), base) != reads(name, Path::new("/b"), &changed);
            ["worker", "api"].into_iter().filter(differs).collect()
        };
        assert_eq!(concerned(&base, |deploy| deploy.worker.batch_max_writes += 1), ["worker"]);
        assert_eq!(concerned(&base, |deploy| deploy.database_ops_per_s += 1), ["worker"]);
        assert_eq!(concerned(&base, |deploy| deploy.limits.max_connections += 1), ["api"]);
        assert_eq!(concerned(&base, |deploy| deploy.shards += 1), ["worker", "api"]);
        assert_eq!(concerned(&base, |deploy| deploy.drain_timeout *= 2), [] as [&str; 0]);
        base.mode = DeployMode::Direct;
        assert_eq!(concerned(&base, |deploy| deploy.database_ops_per_s += 1), ["worker", "api"]);
    }

    #[test]
    fn another_version_of_a_file_with_a_secret_counts_and_its_text_is_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("url");
        fs::write(&file, "redis://:hunter2@h").unwrap();
        let mut deploy = load("redis-mongo", Layer::default()).unwrap().deploy;
        deploy.redis_url_file = Some(file.clone());
        let before = reads("api", Path::new("/b"), &deploy);
        assert!(!before.contains("hunter2"));
        assert_eq!(before, reads("api", Path::new("/b"), &deploy));
        fs::write(&file, "redis://:hunter22@h").unwrap();
        assert_ne!(before, reads("api", Path::new("/b"), &deploy));
    }
}
