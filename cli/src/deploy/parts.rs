//! What a deployment consists of: the command lines of its processes. Pure but for looking at PATH.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use scalekit_service::server_url::ServerUrl;

use crate::profile::{Backend, Deploy, Durability};

use super::DeployError;
use super::process::ProcessSpec;

/// The cache may forget; this much it keeps.
const CACHE_MEMORY: &str = "256mb";

/// A program on PATH.
pub(super) fn find(
    program: &'static str,
    package: &'static str,
    flag: &'static str,
) -> Result<PathBuf, DeployError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file())
        .ok_or(DeployError::NotOnPath { program, package, flag })
}

/// A port that is free now. Another process may take it before ours does; ours then says so and ends.
pub(super) fn free_port() -> Result<u16, DeployError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(DeployError::NoPort)?;
    Ok(listener.local_addr().map_err(DeployError::NoPort)?.port())
}

pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// The journal's Redis: nothing is evicted, and what it acknowledges is as durable as the profile says.
pub(super) fn journal_redis(program: PathBuf, port: u16, dir: &Path, durability: Durability) -> ProcessSpec {
    let fsync = match durability {
        Durability::Fsync => "always",
        Durability::Os => "everysec",
    };
    let mut spec = redis(program, "redis-journal", port, dir);
    spec.args.extend(words(&["--appendonly", "yes", "--appendfsync", fsync]));
    spec.args.extend(words(&["--no-appendfsync-on-rewrite", "no", "--maxmemory-policy", "noeviction"]));
    spec
}

/// The cache's Redis, apart from the journal's: an fsync there must not stall reads, and its eviction must not
/// touch the journal.
pub(super) fn cache_redis(program: PathBuf, port: u16, dir: &Path) -> ProcessSpec {
    let mut spec = redis(program, "redis-cache", port, dir);
    spec.args.extend(words(&[
        "--appendonly",
        "no",
        "--maxmemory",
        CACHE_MEMORY,
        "--maxmemory-policy",
        "allkeys-lru",
    ]));
    spec
}

fn redis(program: PathBuf, name: &'static str, port: u16, dir: &Path) -> ProcessSpec {
    let port = port.to_string();
    let mut args =
        words(&["--port", &port, "--bind", "127.0.0.1", "--daemonize", "no", "--save", "", "--dir"]);
    args.push(dir.join(name).into());
    let log = dir.join(name).with_extension("log");
    ProcessSpec { name: name.into(), program, args, listen: None, env: Vec::new(), group: None, log }
}

pub(super) fn mongod(program: PathBuf, port: u16, dir: &Path) -> ProcessSpec {
    let port = port.to_string();
    let mut args = words(&["--port", &port, "--bind_ip", "127.0.0.1", "--dbpath"]);
    args.push(mongod_files(dir).into());
    let log = dir.join("mongod.log");
    ProcessSpec { name: "mongod".into(), program, args, listen: None, env: Vec::new(), group: None, log }
}

/// Of the control group that a MongoDB started here is in: the same for each `deploy` into the same directory, another
/// for each other one.
pub(super) fn group_name(profile: &str, dir: &Path) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = profile.chars().take(40).map(plain).collect();
    format!("scalekit-{name}-{:08x}", crc32fast::hash(dir.as_os_str().as_bytes()))
}

/// Where a MongoDB of the deployment has its files.
pub(super) fn mongod_files(dir: &Path) -> PathBuf {
    dir.join("mongod")
}

/// Where the embedded backend has its files.
pub(super) fn embedded_files(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// Where the backends are, once they are known.
#[derive(Clone, Debug, Default)]
pub(super) struct Urls {
    pub(super) redis: Option<ServerUrl>,
    pub(super) cache: Option<ServerUrl>,
    pub(super) mongo: Option<ServerUrl>,
    /// The database's files, if it was started here.
    pub(super) database: Option<PathBuf>,
}

/// A process of the service itself. It reads the resolved profile from `profile_file`.
pub(super) fn service(
    name: &'static str,
    binary: &Path,
    dir: &Path,
    deploy: &Deploy,
    urls: &Urls,
    profile_file: &Path,
    worker_name: &str,
) -> ProcessSpec {
    let listen = match name {
        "worker" => "127.0.0.1:0".to_owned(),
        _ => deploy.listen.to_string(),
    };
    let mut args = words(&["serve", if name == "service" { "all" } else { name }, "--profile"]);
    args.extend([profile_file.into(), "--ready-file".into(), ready_file(dir, name).into()]);
    args.extend(words(&["--worker-name", worker_name]));
    let bounds_iops = deploy.database_iops_per_s.is_some() && deploy.database_device.is_none();
    if let Some(database) = urls.database.as_ref().filter(|_| bounds_iops) {
        args.extend(["--database-device".into(), database.into()]);
    }
    if deploy.backend == Backend::Embedded {
        args.extend(["--data-dir".into(), embedded_files(dir).into()]);
    }
    let env = [
        ("SCALEKIT_REDIS_URL", &urls.redis, &deploy.redis_url_file),
        ("SCALEKIT_CACHE_URL", &urls.cache, &deploy.cache_url_file),
        ("SCALEKIT_MONGO_URL", &urls.mongo, &deploy.mongo_url_file),
    ];
    // Those of files are read by the process itself, as its profile says.
    let given = |(variable, url, file): (_, &Option<ServerUrl>, &Option<PathBuf>)| {
        let url = url.as_ref().filter(|_| file.is_none())?;
        Some((String::from(variable), url.expose().to_owned()))
    };
    let env = env.into_iter().filter_map(given).collect();
    let log = dir.join(name).with_extension("log");
    ProcessSpec {
        name: name.into(),
        program: binary.to_owned(),
        args,
        listen: Some(listen),
        env,
        group: None,
        log,
    }
}

/// Of this deployment on this host: a worker that comes back under its name takes over at once, and two of one name would
/// be in each other's way.
pub(super) fn worker_name(profile: &str) -> String {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    format!("{profile}-{host}").chars().map(plain).collect()
}

pub(super) fn ready_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(name).with_extension("ready")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Layer, load};

    #[test]
    fn the_device_of_a_mongod_of_the_deployment_is_where_its_files_are() {
        let dir = Path::new("/d");
        let spec = mongod("/bin/mongod".into(), 1, dir);
        let urls = Urls { database: Some(mongod_files(dir)), ..Urls::default() };
        assert!(spec.args.contains(&mongod_files(dir).into()), "{:?}", spec.args);
        let mut deploy = load("redis-mongo", Layer::default()).unwrap().deploy;
        let device = |deploy: &Deploy, urls: &Urls| {
            let args = service("worker", Path::new("/s"), dir, deploy, urls, Path::new("/p"), "w").args;
            let at = args.iter().position(|arg| arg == "--database-device")?;
            Some(args[at + 1].clone())
        };
        assert_eq!(device(&deploy, &urls), None, "nobody wants to know");
        deploy.database_iops_per_s = Some(100);
        assert_eq!(device(&deploy, &urls), Some("/d/mongod".into()));
        assert_eq!(device(&deploy, &Urls::default()), None, "its host and files are unknown");
        deploy.database_device = Some("/dev/sdb".into());
        assert_eq!(device(&deploy, &urls), None, "its own word holds");
    }
}
