//! Redis: the journal, which may lose nothing, and the cache, which may forget.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec};

use super::backends::{CACHE, JOURNAL, REDIS_PORT};
use super::common::{
    DATA, Pace, claim, container, keep_volumes, metadata, mount, pod, resources, scratch, secret_variable,
    secret_volume, selector, strings, template, user,
};
use super::images;
use super::secrets::{CACHE_AUTH, REDIS_AUTH, credentials_name};
use crate::deploy::kubernetes::labels::name_of;
use crate::deploy::kubernetes::material::{CACHE_PASSWORD, REDIS_PASSWORD};
use crate::profile::{Durability, Memory, Profile};

const DIR: &str = "/data";
const AUTH_DIR: &str = "/run/redis";
/// One thread works, and one or two write files.
const CPU: (&str, &str) = ("250m", "2");
/// Each process of the service has a few connections. Redis raises its own limit of open files for them.
const MAX_CLIENTS: &str = "10000";
/// A file of a gigabyte is read within a minute.
const LOADING_S: u64 = 600;
/// To write what it has not written.
const GRACE_S: i64 = 60;

/// The journal: append-only file on a volume of its own, apart from the database's device; full, it refuses and evicts
/// nothing.
pub(super) fn journal(profile: &Profile) -> StatefulSet {
    let wanted = &profile.deploy.kubernetes;
    let fsync = match profile.deploy.durability {
        Durability::Fsync => "always",
        Durability::Os => "everysec",
    };
    let mut args = common_args(REDIS_AUTH, wanted.memory.journal);
    args.extend(strings(["--maxmemory-policy", "noeviction", "--appendonly", "yes", "--appendfsync", fsync]));
    args.extend(strings(["--no-appendfsync-on-rewrite", "no"]));
    let mut set = stateful(profile, JOURNAL, args, wanted.memory.journal, REDIS_AUTH, REDIS_PASSWORD);
    if let Some(spec) = &mut set.spec {
        spec.volume_claim_templates = Some(vec![claim(profile, JOURNAL, wanted.storage.journal)]);
        spec.persistent_volume_claim_retention_policy = Some(keep_volumes());
    }
    set
}

/// The cache: apart from the journal, so that an fsync stalls no read, and nothing of the journal is evicted.
pub(super) fn cache(profile: &Profile) -> StatefulSet {
    let memory = profile.deploy.kubernetes.memory.cache;
    let mut args = common_args(CACHE_AUTH, memory);
    args.extend(strings(["--maxmemory-policy", "allkeys-lru", "--appendonly", "no"]));
    let mut set = stateful(profile, CACHE, args, memory, CACHE_AUTH, CACHE_PASSWORD);
    if let Some(pod) = set.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()) {
        pod.volumes.get_or_insert_default().push(scratch(DATA, 64 << 20));
    }
    set
}

/// The password is in a file: arguments show in `ps`. Huge pages are off for the process, which is Redis' own default:
/// they would make copies of a rewrite large.
fn common_args(auth: &str, memory: u64) -> Vec<String> {
    let mut args = vec![format!("{AUTH_DIR}/{auth}")];
    args.extend(strings(["--dir", DIR, "--save", "", "--disable-thp", "yes", "--maxclients", MAX_CLIENTS]));
    args.extend(["--maxmemory".to_owned(), Memory::redis_data(memory).to_string()]);
    args
}

fn stateful(
    profile: &Profile,
    component: &str,
    args: Vec<String>,
    memory: u64,
    auth: &str,
    password: &str,
) -> StatefulSet {
    let credentials = credentials_name(profile);
    // While it reads its file it answers with errors: it lives, and is not ready.
    let answers = strings(["redis-cli", "-e", "ping"]);
    let (request, limit) = CPU;
    let redis = Container {
        command: Some(strings(["redis-server"])),
        args: Some(args),
        env: Some(vec![secret_variable("REDISCLI_AUTH", credentials.clone(), password)]),
        ports: Some(vec![ContainerPort {
            name: Some("redis".to_owned()),
            container_port: i32::from(REDIS_PORT),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: Some(resources(request, limit, memory)),
        startup_probe: Some(Pace::starting(LOADING_S).exec(answers.clone())),
        readiness_probe: Some(Pace { period_s: 5, timeout_s: 5, failures: 2 }.exec(answers)),
        liveness_probe: Some(Pace { period_s: 10, timeout_s: 5, failures: 6 }.tcp("redis")),
        volume_mounts: Some(vec![mount(DATA, DIR, false), mount("auth", AUTH_DIR, true)]),
        ..container("redis", images::REDIS)
    };
    let spec = PodSpec {
        containers: vec![redis],
        security_context: Some(user(images::BACKEND_USER, true)),
        termination_grace_period_seconds: Some(GRACE_S),
        volumes: Some(vec![secret_volume("auth", credentials, &[auth])]),
        ..pod(profile)
    };
    StatefulSet {
        metadata: metadata(profile, component),
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            revision_history_limit: Some(3),
            selector: selector(profile, component),
            service_name: Some(name_of(profile, component)),
            template: template(profile, component, None, spec),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: None,
            }),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}
