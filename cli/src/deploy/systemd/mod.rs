//! A deployment as units of systemd: what is written where. Pure but for looking at PATH; `install.rs` writes it.

mod install;
mod unit;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::profile::{Backend, DeployMode, Profile, Servers};

use self::unit::{Unit, credential};
use super::planning::{self, roles};
use super::state::{Deployment, Role, UrlFiles};
use super::{DeployError, parts};

pub(crate) use install::{Installed, install, remove};

const UNITS: &str = "/etc/systemd/system";
const FILES: &str = "/etc/scalekit";
const STATE: &str = "/var/lib/scalekit";
/// Ports of what has none of its own, four a deployment, below those that clients get.
const PORTS: u16 = 20_000;
const BLOCKS: u16 = 3_000;
const STOP_SECONDS: u64 = 30;

/// What the record says of a deployment that systemd keeps up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Systemd {
    pub(crate) target: String,
    /// In the order of their start.
    pub(crate) units: Vec<String>,
    pub(crate) files: Vec<PathBuf>,
    /// Below it is what it has stored.
    pub(crate) state: PathBuf,
    /// What the probe of the cap on its MongoDB's disk found at its last start; `None`: it has no cap.
    #[serde(default)]
    pub(crate) cap: Option<PathBuf>,
}

/// A file that is to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileText {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    /// Only root may read it.
    pub(crate) is_secret: bool,
}

/// All of a deployment.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub(crate) files: Vec<FileText>,
    pub(crate) deployment: Deployment,
}

/// What `deploy --systemd` is given.
pub(crate) struct SystemdRequest<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) servers: &'a Servers,
    /// Of the record.
    pub(crate) dir: &'a Path,
    /// This program.
    pub(crate) binary: &'a Path,
}

/// Gone with the boot, as the cap is.
fn cap_file(name: &str) -> PathBuf {
    Path::new("/run").join(format!("scalekit-{name}-cap.json"))
}

/// The name of unit, user and directories: what all three take, and another for each profile.
fn plain(profile: &str) -> String {
    let plain: String = profile
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    // A user's name has at most 31 characters.
    if plain == profile && plain.len() <= 22 {
        return plain;
    }
    format!(
        "{}-{:08x}",
        plain.get(..13.min(plain.len())).unwrap_or_default(),
        crc32fast::hash(profile.as_bytes())
    )
}

/// # Errors
/// A program that is missing, or an address that nobody could find again.
pub(crate) fn render(request: &SystemdRequest<'_>) -> Result<Rendered, DeployError> {
    let SystemdRequest { profile, servers, dir, .. } = request;
    let deploy = &profile.deploy;
    if deploy.listen.port() == 0 {
        return Err(DeployError::Systemd(format!(
            "deploy.listen is {}, any free port, which is another one after each start of the host: name one, such as \
             --listen {}:8080",
            deploy.listen,
            deploy.listen.ip()
        )));
    }
    let name = plain(&profile.name);
    let mut rendering = Rendering {
        request,
        target: format!("scalekit-{name}.target"),
        port: PORTS
            + 4 * u16::try_from(crc32fast::hash(name.as_bytes()) % u32::from(BLOCKS)).unwrap_or_default(),
        files: Vec::new(),
        units: Vec::new(),
        name,
    };
    let urls = rendering.backends()?;
    let starts_mongod = urls.database.is_some();
    let mut reported = Vec::new();
    for role in roles(deploy) {
        reported.insert(0, rendering.service(role, &urls)?);
    }
    let Rendering { name, target, mut files, units, .. } = rendering;
    let description = format!("scalekit {}: all of it", profile.name);
    let text = |path: PathBuf, text: String| FileText { path, text, is_secret: false };
    files.push(text(Path::new(UNITS).join(&target), unit::target(&name, &description, &units)));
    let user = format!(
        "# The user of the deployment {0}.\nu scalekit-{name} - \"scalekit {0}\" {STATE}/{name} -\n",
        profile.name.replace('"', "'")
    );
    files.push(text(format!("/etc/sysusers.d/scalekit-{name}.conf").into(), user));
    let state = Path::new(STATE).join(&name);
    let database = match deploy.backend {
        Backend::Embedded => Some(parts::embedded_files(&state)),
        Backend::RedisMongo => servers.mongo.is_none().then(|| parts::mongod_files(&state)),
    };
    let deployment = Deployment {
        profile: profile.name.clone(),
        dir: dir.to_path_buf(),
        roles: reported,
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
        database: deploy.database_device.clone().or(database),
        cap: None,
        supervisor: None,
        systemd: Some(Systemd {
            target,
            units,
            files: files.iter().map(|file| file.path.clone()).collect(),
            state,
            cap: (deploy.cap.iops_per_s.is_some() && starts_mongod).then(|| cap_file(&name)),
        }),
        processes: Vec::new(),
    };
    Ok(Rendered { files, deployment })
}

struct Rendering<'a> {
    request: &'a SystemdRequest<'a>,
    name: String,
    target: String,
    /// The first of its block.
    port: u16,
    files: Vec<FileText>,
    /// In the order of their start.
    units: Vec<String>,
}

impl Rendering<'_> {
    /// Redis and MongoDB where no URL names them.
    fn backends(&mut self) -> Result<parts::Urls, DeployError> {
        let (deploy, servers) = (&self.request.profile.deploy, self.request.servers);
        let mut urls = parts::Urls {
            redis: servers.redis.clone(),
            cache: servers.cache.clone(),
            mongo: servers.mongo.clone(),
            database: None,
        };
        if deploy.backend == Backend::Embedded {
            return Ok(parts::Urls::default());
        }
        let state = Path::new(STATE).join(&self.name);
        if urls.redis.is_none() && deploy.mode != DeployMode::Direct {
            let program = parts::find("redis-server", "Debian: apt-get install redis-server", "--redis-url")?;
            let (journal, cache) = (self.port, self.port + 1);
            self.database(&parts::journal_redis(program.clone(), journal, &state, deploy.durability), &[]);
            urls.redis = Some(format!("redis://127.0.0.1:{journal}").into());
            if urls.cache.is_none() {
                self.database(&parts::cache_redis(program, cache, &state), &[]);
                urls.cache = Some(format!("redis://127.0.0.1:{cache}").into());
            }
        }
        if urls.mongo.is_none() {
            let program = parts::find("mongod", "see mongodb.com/docs/manual/installation", "--mongo-url")?;
            let spec = parts::mongod(program, self.port + 2, &state);
            let files = parts::mongod_files(&state);
            let cap = deploy.cap.iops_per_s.map(|iops| self.cap(iops, &files)).unwrap_or_default();
            self.database(&spec, &cap);
            urls.mongo = Some(format!("mongodb://127.0.0.1:{}", self.port + 2).into());
            urls.database = Some(files);
        }
        Ok(urls)
    }

    /// Lines that cap a unit. systemd itself takes control groups 2 only, and of a volume (LVM, dm-crypt) the wrong device
    /// (systemd#14271), so the unit's own group gets the limit once more, with a probe of it. What that finds stops
    /// nothing: it is for who measures.
    fn cap(&self, iops: u32, files: &Path) -> Vec<String> {
        let (files, result) = (files.display(), cap_file(&self.name));
        vec![
            format!("IOReadIOPSMax={files} {iops}"),
            format!("IOWriteIOPSMax={files} {iops}"),
            // As root, past the hardening.
            format!(
                "ExecStartPost=+{} cap apply --own-group --unproven --iops {iops}/s --directory {files} --result-file {}",
                unit::quoted(&self.request.binary.display().to_string()),
                result.display()
            ),
            "TimeoutStartSec=5min".to_owned(),
        ]
    }

    /// A server that only this host talks to.
    fn database(&mut self, spec: &super::process::ProcessSpec, more: &[String]) {
        let words = spec.args.iter().map(|word| word.to_string_lossy().into_owned());
        let mut lines = vec!["IPAddressDeny=any".to_owned(), "IPAddressAllow=localhost".to_owned()];
        if spec.name != "mongod" {
            // A MongoDB compiles JavaScript.
            lines.push("MemoryDenyWriteExecute=yes".to_owned());
        }
        lines.extend_from_slice(more);
        let text = Unit {
            target: &self.target,
            user: &format!("scalekit-{}", self.name),
            description: &format!("{} of scalekit {}", spec.name, self.request.profile.name),
            after: &[],
            command: std::iter::once(spec.program.display().to_string()).chain(words).collect(),
            state: Some(format!("scalekit/{0} scalekit/{0}/{1}", self.name, spec.name)),
            credentials: Vec::new(),
            stop_seconds: 2 * STOP_SECONDS,
            more: lines,
            version: format!("Of {}", spec.name),
        }
        .text();
        self.add(&spec.name, text);
    }

    /// A process of the service.
    fn service(&mut self, role: &str, urls: &parts::Urls) -> Result<Role, DeployError> {
        let SystemdRequest { profile, binary, .. } = self.request;
        let deploy = &profile.deploy;
        let etc = Path::new(FILES).join(&self.name);
        let profile_file = etc.join("profile.yaml");
        let listen = match role {
            "worker" => format!("127.0.0.1:{}", self.port + 3),
            _ => deploy.listen.to_string(),
        };
        // All URLs come by flags, and what is secret of them as credentials.
        let mut bare = (*profile).clone();
        let keys = &mut bare.deploy;
        (keys.redis_url, keys.cache_url, keys.mongo_url) = (None, None, None);
        (keys.redis_url_file, keys.cache_url_file, keys.mongo_url_file) = (None, None, None);
        (keys.backend_ca, keys.tokens_file, keys.tls) = (None, None, None);
        let text = planning::profile_text(&bare)
            .map_err(|problem| DeployError::Record { path: profile_file.clone(), problem })?;
        let text = String::from_utf8_lossy(&text).into_owned() + "\n";
        let file = FileText { path: profile_file.clone(), text, is_secret: false };
        if !self.files.contains(&file) {
            self.files.push(file);
        }
        let mut command = vec![binary.display().to_string(), "serve".into()];
        command.push(if role == "service" { "all".into() } else { role.into() });
        command.extend([
            "--profile".into(),
            profile_file.display().to_string(),
            "--listen".into(),
            listen.clone(),
        ]);
        command.extend(["--worker-name".into(), parts::worker_name(&profile.name)]);
        let mut credentials = Vec::new();
        let mut secret = |flag: &str, name: &str, file: String| {
            command.extend([flag.into(), credential(name)]);
            credentials.push((name.to_owned(), file));
        };
        let given = [
            ("redis", &urls.redis, &self.request.servers.redis, &deploy.redis_url_file),
            ("cache", &urls.cache, &self.request.servers.cache, &deploy.cache_url_file),
            ("mongo", &urls.mongo, &self.request.servers.mongo, &deploy.mongo_url_file),
        ];
        let mut own = Vec::new();
        for (kind, url, given, file) in given {
            let flag = format!("--{kind}-url");
            match (file, given, url) {
                (Some(file), ..) => {
                    secret(&format!("{flag}-file"), &format!("{kind}-url"), file.display().to_string())
                }
                (None, Some(given), _) => {
                    let path = etc.join(format!("{kind}-url"));
                    secret(&format!("{flag}-file"), &format!("{kind}-url"), path.display().to_string());
                    let file = FileText { path, text: format!("{}\n", given.expose()), is_secret: true };
                    if !self.files.contains(&file) {
                        self.files.push(file);
                    }
                }
                // Of this deployment, and without a password.
                (None, None, Some(url)) => own.extend([flag, url.expose().to_owned()]),
                (None, None, None) => {}
            }
        }
        let files = [
            ("--backend-ca", "backend-ca", deploy.backend_ca.as_ref()),
            ("--token-file", "tokens", deploy.tokens_file.as_ref()),
            ("--tls-cert", "tls-cert", deploy.tls.as_ref().map(|tls| &tls.cert)),
            ("--tls-key", "tls-key", deploy.tls.as_ref().map(|tls| &tls.key)),
        ];
        for (flag, name, file) in files {
            if let Some(file) = file {
                secret(flag, name, file.display().to_string());
            }
        }
        command.extend(own);
        let mut more = vec!["MemoryDenyWriteExecute=yes".to_owned()];
        if deploy.listen.port() < 1024 && role != "worker" {
            more.push("CapabilityBoundingSet=CAP_NET_BIND_SERVICE".into());
            more.push("AmbientCapabilities=CAP_NET_BIND_SERVICE".into());
        }
        let reads_device = deploy.database_device.as_ref().is_some_and(|device| device.starts_with("/dev"));
        if reads_device {
            more.push("PrivateDevices=no".into());
        }
        if let Some(database) = urls
            .database
            .as_ref()
            .filter(|_| deploy.database_iops_per_s.is_some() && deploy.database_device.is_none())
        {
            command.extend(["--database-device".into(), database.display().to_string()]);
        }
        let state = (deploy.backend == Backend::Embedded).then(|| {
            let data = parts::embedded_files(&Path::new(STATE).join(&self.name));
            command.extend(["--data-dir".into(), data.display().to_string()]);
            format!("scalekit/{0} scalekit/{0}/data", self.name)
        });
        let text = Unit {
            target: &self.target,
            user: &format!("scalekit-{}", self.name),
            description: &format!("{role} of scalekit {}", profile.name),
            after: &self.units.clone(),
            command,
            state,
            credentials,
            stop_seconds: deploy.limits.request_timeout.as_secs() + STOP_SECONDS,
            more,
            version: format!("Of {:08x}", crc32fast::hash(planning::reads(role, binary, deploy).as_bytes())),
        }
        .text();
        self.add(role, text);
        let scheme = if deploy.tls.is_some() { "https" } else { "http" };
        Ok(Role { name: role.to_owned(), url: format!("{scheme}://{listen}") })
    }

    fn add(&mut self, part: &str, text: String) {
        let file = format!("scalekit-{}-{part}.service", self.name);
        self.files.push(FileText { path: Path::new(UNITS).join(&file), text, is_secret: false });
        self.units.push(file);
    }
}

#[cfg(test)]
mod tests;
