//! `scalekit doctor`: what would stop so many users on this host now, and what lifts it.

mod subject;

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use schemars::JsonSchema;
use serde::Serialize;

use self::subject::Subject;
use super::{print, use_color};
use crate::args::{DoctorArgs, Global};
use crate::backends::{self, MongoUrl, RedisUrl};
use crate::checkup::{self, Generator, Paint, Row, Service, Situation, Verdict};
use crate::exit::ExitStatus;
use crate::host::counters::{Deltas, Sampler, Series, Snapshot, snapshot};
use crate::host::limits;
use crate::load;
use crate::profile::{self, Durability, Layer, Profile, ProfileError, flag_error};
use crate::root::Root;

/// A process can come to its end while it is watched, and a watch be left running; a day is longer than any run.
const LONGEST_S: u64 = 86_400;
/// The profile's bound for users.
const MAX_USERS: u64 = 1_000_000;
/// Of [`Facts`]; raised when a field changes its meaning or goes.
const SCHEMA_VERSION: u32 = 1;

/// What `--json` prints.
#[derive(Serialize, JsonSchema)]
struct Facts<'a> {
    /// Version of this form.
    schema_version: u32,
    profile: &'a str,
    /// How many users there are to be room for.
    users: u64,
    /// `null`: the host alone was looked at.
    service: Option<ServiceFacts>,
    /// For how long the counters were watched, in seconds.
    watched_s: f64,
    /// One limit each.
    rows: &'a [Row],
    verdict: &'a Verdict,
    /// What was full while watching, whatever the users.
    watched: String,
    /// What could not be read, why, and what to do.
    notes: &'a [String],
    /// Counters of the host and of Redis and MongoDB, at the first and the last sample.
    counters: Deltas,
    /// Share of one processor that watching took, 0 to 1.
    cost: f64,
}

/// Who was looked at.
#[derive(Serialize, JsonSchema)]
struct ServiceFacts {
    /// `null`: it may not be seen.
    pid: Option<u32>,
    name: Option<String>,
    /// Addresses with port.
    listens_on: Vec<String>,
}

/// Where the servers behind the service are.
struct Servers {
    redis: Vec<RedisUrl>,
    mongo: Option<MongoUrl>,
}

pub(super) fn doctor(global: &Global, args: &DoctorArgs) -> anyhow::Result<ExitStatus> {
    let profile = profile::load(&global.profile, Layer::default())?;
    let users = users(args, &profile)?;
    let root = Root::host();
    let subject = Subject::find(args, &profile, &root)?;
    let servers = Servers::of(args, &profile, &subject)?;
    let pid = subject.service.as_ref().and_then(|service| service.pid).unwrap_or_else(std::process::id);
    let local = subject::servers(&subject, &servers.urls(), &root);
    let seconds = args.seconds.min(LONGEST_S);
    let Watched { now, series, servers: local, backend_series } =
        watch(&root, pid, local, seconds, &servers)?;
    let readings = backends::read(&servers.redis, servers.mongo.as_ref());
    let generator = profile.load.agents.is_empty().then(|| generator(&profile, &subject, &root));
    let is_ours = subject.deployment.is_some();
    let situation = Situation {
        users,
        snapshot: &now,
        series: &series,
        service: subject.service.as_ref(),
        generator: generator.as_ref(),
        backlog: profile.deploy.limits.backlog.into(),
        max_connections: subject.max_connections(),
        wants_fsync: is_ours.then_some(profile.deploy.durability == Durability::Fsync),
        servers: &local,
        backends: &readings,
        backend_series: &backend_series,
    };
    let rows = checkup::rows(&situation);
    let verdict = checkup::verdict(&rows, users);
    let mut notes = subject.notes.clone();
    notes.extend([&series.problems, &backend_series.problems].into_iter().flatten().cloned());
    let facts = Facts {
        schema_version: SCHEMA_VERSION,
        profile: &profile.name,
        users,
        service: subject.service.as_ref().map(|service| service_facts(service, &root)),
        watched_s: series.duration_ms / 1000.0,
        rows: &rows,
        verdict: &verdict,
        watched: checkup::summary(&series),
        notes: &notes,
        counters: series.deltas().into_iter().chain(backend_series.deltas()).collect(),
        cost: series.cost_share() + backend_series.cost_share(),
    };
    if global.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&facts)?))?;
    } else {
        let colored = use_color(global.color, std::io::stdout().is_terminal());
        print(&text(&facts, if colored { Paint::Colored } else { Paint::Plain }))?;
    }
    Ok(if verdict.passes { ExitStatus::Done } else { ExitStatus::CriteriaFailed })
}

fn users(args: &DoctorArgs, profile: &Profile) -> Result<u64, ProfileError> {
    match args.vus {
        None => Ok(profile.users().into()),
        Some(users) if (1..=MAX_USERS).contains(&users) => Ok(users),
        Some(users) => {
            let message = format!("expected 1 to {MAX_USERS} users, found {users}");
            Err(flag_error("--vus", message, "name a number of users in between"))
        }
    }
}

struct Watched {
    now: Snapshot,
    series: Series,
    servers: Vec<checkup::Server>,
    backend_series: Series,
}

/// The host, and the servers behind the service, for a while: their processes, and what they tell of themselves.
fn watch(
    root: &Root,
    pid: u32,
    local: Vec<(String, u32)>,
    seconds: u64,
    servers: &Servers,
) -> anyhow::Result<Watched> {
    let cannot = "cannot start a thread that reads counters";
    let sampler = Sampler::start(root.clone(), pid).context(cannot)?;
    let mut samplers = Vec::new();
    for (name, pid) in local {
        samplers.push((name, pid, Sampler::start(root.clone(), pid).context(cannot)?));
    }
    let has_servers = !servers.redis.is_empty() || servers.mongo.is_some();
    let backends = has_servers.then(|| backends::Watch::start(servers.redis.clone(), servers.mongo.clone()));
    let backends = backends.transpose().context(cannot)?;
    thread::sleep(Duration::from_secs(seconds));
    let now = snapshot(root, pid);
    let series = sampler.stop();
    let end = |(name, pid, sampler): (String, u32, Sampler)| checkup::Server {
        name,
        snapshot: snapshot(root, pid),
        series: sampler.stop(),
    };
    let servers = samplers.into_iter().map(end).collect();
    let backend_series = backends.map(backends::Watch::stop).unwrap_or_default();
    Ok(Watched { now, series, servers, backend_series })
}

impl Servers {
    /// Each with the name of what it is.
    fn urls(&self) -> Vec<(&'static str, &str)> {
        let redis = self.redis.iter().map(|redis| match redis.name {
            Some("cache") => ("the Redis of the cache", redis.url.expose()),
            _ => ("Redis", redis.url.expose()),
        });
        redis.chain(self.mongo.as_ref().map(|mongo| ("MongoDB", mongo.url.expose()))).collect()
    }

    /// Those that flags name; else those of the deployment; else those of the profile.
    fn of(args: &DoctorArgs, profile: &Profile, subject: &Subject) -> Result<Self, ProfileError> {
        let known = match &subject.deployment {
            Some(deployed) => profile::Servers {
                redis: deployed.redis_url.clone(),
                cache: deployed.cache_url.clone(),
                mongo: deployed.mongo_url.clone(),
                authorities: deployed.authorities(),
            },
            None => profile.deploy.servers()?,
        };
        // The cache of what is not asked about is none of its business.
        let cache = known.cache.filter(|_| args.redis_url.is_none());
        let redis = args.redis_url.as_ref().or(known.redis.as_ref());
        let cache = args.cache_url.as_ref().or(cache.as_ref());
        let authorities = known.authorities;
        let redis = RedisUrl::of(redis, cache, authorities.as_ref()).map_err(|problem| {
            let flag = if args.redis_url.is_some() { "--redis-url" } else { "deploy.redis_url" };
            flag_error(flag, problem, "write, for example, redis://127.0.0.1:6379")
        })?;
        let flag = if args.mongo_url.is_some() { "--mongo-url" } else { "deploy.mongo_url" };
        let mongo = args.mongo_url.clone().or(known.mongo);
        if let Some(url) = &mongo {
            backends::check_mongo_url(url).map_err(|problem| {
                flag_error(flag, problem, "write, for example, mongodb://127.0.0.1:27017")
            })?;
        }
        Ok(Self { redis, mongo: mongo.map(|url| MongoUrl { url, authorities }) })
    }
}

/// A generator that is started here, as this user: what `scalekit bench` would have.
fn generator(profile: &Profile, subject: &Subject, root: &Root) -> Generator {
    let threads = profile.load.threads.map(|threads| threads as usize);
    let threads = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    Generator {
        max_files: limits::of(0, limits::Resource::OpenFiles).ok().map(|(_, hard)| hard),
        other_files: load::files_beside_users(threads),
        ports: snapshot(root, std::process::id()).ports,
        target: subject.port,
        addresses: profile.load.local_ips.len().max(1) as u64,
        keeps_connections: profile.load.connection_reuse,
    }
}

fn service_facts(service: &Service, root: &Root) -> ServiceFacts {
    ServiceFacts {
        pid: service.pid,
        name: service.pid.and_then(|pid| subject::name(root, pid)),
        listens_on: service.listeners.iter().flatten().map(|found| found.address.to_string()).collect(),
    }
}

fn text(facts: &Facts<'_>, paint: Paint) -> String {
    let who = match &facts.service {
        None => "the host alone".to_owned(),
        Some(ServiceFacts { pid, name, listens_on }) => {
            let pid =
                pid.map_or_else(|| "a process that does not show".to_owned(), |pid| format!("process {pid}"));
            let name = name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
            let on = if listens_on.is_empty() { "" } else { " on " };
            // There may be hundreds.
            format!("{pid}{name}{on}{}", listens_on.iter().take(3).cloned().collect::<Vec<_>>().join(", "))
        }
    };
    let mut text = format!(
        "{} for {} users: {who}; watched for {:.0} s\n\n",
        facts.profile, facts.users, facts.watched_s
    );
    text.push_str(&checkup::text(facts.rows, paint));
    text.push('\n');
    for note in facts.notes {
        text.push_str(&checkup::paragraph(&format!("note: {note}")));
    }
    // Writing to a string cannot fail.
    let _ = writeln!(text, "verdict: {}", facts.verdict.summary);
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_schema_file_is_the_derived_schema() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reports/doctor.schema.json");
        let mut schema = schemars::schema_for!(Facts<'_>);
        schema.insert("title".to_owned(), "scalekit doctor --json".into());
        let derived = format!("{:#}\n", schema.to_value());
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            fs::write(&path, &derived).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(written == derived, "run UPDATE_SCHEMAS=1 cargo test -p scalekit schema");
    }
}
