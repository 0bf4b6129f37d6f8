//! Pods of scalekit's own service: the API, the worker, or both in one.

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment, StatefulSet, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, EnvVarSource, Lifecycle, LifecycleHandler, ObjectFieldSelector,
    PodSpec, ResourceRequirements, SleepAction, TopologySpreadConstraint, Volume,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::backends::Backends;
use super::common::{
    DATA, Pace, claim, config_volume, container, keep_volumes, metadata, mount, pod, resources,
    secret_volume, selector, strings, template, user,
};
use super::config::{self, CREDENTIALS_DIR, FILES_DIR, PROFILE_DIR, PROFILE_FILE, checksum};
use super::images;
use super::secrets::{CACHE_URL, MONGO_URL, REDIS_URL, credentials_name, files_name};
use crate::deploy::kubernetes::ObjectsError;
use crate::deploy::kubernetes::labels::name_of;
use crate::deploy::kubernetes::material::{BACKEND_CA, TLS_CERT, TLS_KEY, TOKENS};
use crate::profile::{Backend, CpuClass, DeployMode, Profile, TrafficPath};

/// Components.
pub(super) const API: &str = "api";
pub(super) const WORKER: &str = "worker";
/// API and worker in one process: the embedded backend.
pub(super) const SERVICE: &str = "service";

/// Of the port, in pods and services.
pub(super) const PORT: &str = "http";
/// Where the embedded backend keeps its files.
const DATA_DIR: &str = "/data";

/// Seconds for those who forward requests to learn that a pod ends.
const FORGOTTEN_S: i64 = 5;
/// Seconds beyond what a process promises to need for its end.
const SPARE_S: i64 = 20;
/// Processors of a worker: it encodes batches and waits.
const WORKER_CPU: (&str, &str) = ("250m", "2");

/// The component that users talk to.
pub(super) fn front(profile: &Profile) -> &'static str {
    if profile.deploy.backend == Backend::Embedded { SERVICE } else { API }
}

pub(super) fn has_worker(profile: &Profile) -> bool {
    profile.deploy.backend == Backend::RedisMongo && profile.deploy.mode == DeployMode::WriteBehind
}

/// Whether pods of the component are on their node's own network.
pub(super) fn is_on_host(profile: &Profile, component: &str) -> bool {
    component != WORKER && profile.deploy.kubernetes.path == TrafficPath::Host
}

/// The API. Where it is on the node's network, a new pod cannot start before the old one has left its port, so there is no
/// surge; elsewhere it is the same, since two of them at once would share the database's operations.
pub(super) fn api(profile: &Profile) -> Result<Deployment, ObjectsError> {
    deployment(profile, API, profile.deploy.kubernetes.replicas)
}

pub(super) fn worker(profile: &Profile) -> Result<Deployment, ObjectsError> {
    deployment(profile, WORKER, profile.deploy.kubernetes.workers)
}

fn deployment(profile: &Profile, component: &str, replicas: u16) -> Result<Deployment, ObjectsError> {
    Ok(Deployment {
        metadata: metadata(profile, component),
        spec: Some(DeploymentSpec {
            replicas: Some(i32::from(replicas)),
            revision_history_limit: Some(3),
            selector: selector(profile, component),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(0)),
                    max_unavailable: Some(IntOrString::Int(1)),
                }),
            }),
            template: template(profile, component, Some(checksum(profile)?), spec(profile, component)),
            ..DeploymentSpec::default()
        }),
        status: None,
    })
}

/// The embedded backend: one pod, whose files outlive it.
pub(super) fn embedded(profile: &Profile) -> Result<StatefulSet, ObjectsError> {
    let mut spec = spec(profile, SERVICE);
    spec.security_context = Some(user(images::SERVICE_USER, true));
    let size = profile.deploy.kubernetes.storage.database;
    Ok(StatefulSet {
        metadata: metadata(profile, SERVICE),
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            revision_history_limit: Some(3),
            selector: selector(profile, SERVICE),
            service_name: Some(name_of(profile, SERVICE)),
            template: template(profile, SERVICE, Some(checksum(profile)?), spec),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: None,
            }),
            volume_claim_templates: Some(vec![claim(profile, SERVICE, size)]),
            persistent_volume_claim_retention_policy: Some(keep_volumes()),
            ..StatefulSetSpec::default()
        }),
        status: None,
    })
}

/// Seconds until a pod that was asked to end is killed. A worker ends with its batch stored or left to its successor; an
/// API with its requests answered, after nobody sends it new ones.
fn grace_s(profile: &Profile) -> i64 {
    let deploy = &profile.deploy;
    let finishing = deploy.limits.request_timeout + deploy.worker.linger;
    i64::try_from(finishing.as_secs() + 1).unwrap_or(i64::MAX / 2) + FORGOTTEN_S + SPARE_S
}

fn spec(profile: &Profile, component: &str) -> PodSpec {
    let on_host = is_on_host(profile, component);
    PodSpec {
        host_network: on_host.then_some(true),
        // Without it, pods on the node's network ask the node's resolver, which knows no services.
        dns_policy: on_host.then(|| "ClusterFirstWithHostNet".to_owned()),
        containers: vec![serving(profile, component)],
        security_context: Some(user(images::SERVICE_USER, true)),
        termination_grace_period_seconds: Some(grace_s(profile)),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(selector(profile, component)),
            ..TopologySpreadConstraint::default()
        }]),
        volumes: Some(volumes(profile)),
        ..pod(profile)
    }
}

/// A process of the service, with nothing of its own but a name.
pub(super) fn serving(profile: &Profile, component: &str) -> Container {
    let deploy = &profile.deploy;
    let (port, tls) = (i32::from(deploy.kubernetes.port), deploy.tls.is_some());
    let role = if component == SERVICE { "all" } else { component };
    let mut args = strings(["serve", role, "--profile"]);
    args.push(format!("{PROFILE_DIR}/{PROFILE_FILE}"));
    let mut mounts = vec![mount("profile", PROFILE_DIR, true)];
    if Backends::of(deploy).any() {
        mounts.push(mount("credentials", CREDENTIALS_DIR, true));
    }
    if !files(profile).is_empty() {
        mounts.push(mount("files", FILES_DIR, true));
    }
    if component == SERVICE {
        args.extend(strings(["--data-dir", DATA_DIR]));
        mounts.push(mount(DATA, DATA_DIR, false));
    }
    // Neither Redis nor MongoDB decides whether the process lives: killing it would mend neither.
    let alive = Pace { period_s: 10, timeout_s: 5, failures: 6 };
    let ready = Pace { period_s: 2, timeout_s: 2, failures: 2 };
    Container {
        args: Some(args),
        env: Some(vec![own_name("SCALEKIT_WORKER_NAME")]),
        ports: Some(vec![ContainerPort {
            name: Some(PORT.to_owned()),
            container_port: port,
            // The API server would set it; so it is no difference at the next apply.
            host_port: is_on_host(profile, component).then_some(port),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: Some(processors(profile, component)),
        startup_probe: Some(
            Pace::starting(deploy.kubernetes.ready_timeout.as_secs()).http("/healthz", PORT, tls),
        ),
        readiness_probe: Some(ready.http("/readyz", PORT, tls)),
        liveness_probe: Some(alive.http("/healthz", PORT, tls)),
        // No shell is in the image, and none is needed.
        lifecycle: (component != WORKER).then(|| Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: FORGOTTEN_S }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        volume_mounts: Some(mounts),
        ..container(component, images::scalekit(profile))
    }
}

/// The pod's name: that of a worker, which no other has.
fn own_name(variable: &str) -> EnvVar {
    let field =
        ObjectFieldSelector { field_path: "metadata.name".to_owned(), api_version: Some("v1".to_owned()) };
    let value_from = Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() });
    EnvVar { name: variable.to_owned(), value: None, value_from }
}

fn processors(profile: &Profile, component: &str) -> ResourceRequirements {
    let wanted = &profile.deploy.kubernetes;
    if component == WORKER {
        let (request, limit) = WORKER_CPU;
        return resources(request, limit, wanted.memory.worker);
    }
    match wanted.cpu.class {
        CpuClass::Burstable => resources(&wanted.cpu.request, &wanted.cpu.limit, wanted.memory.api),
        CpuClass::Guaranteed => {
            let cores = wanted.cpu.cores.to_string();
            resources(&cores, &cores, wanted.memory.api)
        }
    }
}

/// Keys of the Secret with files of the user's.
fn files(profile: &Profile) -> Vec<&'static str> {
    let deploy = &profile.deploy;
    [
        (TOKENS, deploy.tokens_file.is_some()),
        (TLS_CERT, deploy.tls.is_some()),
        (TLS_KEY, deploy.tls.is_some()),
        (BACKEND_CA, deploy.backend_ca.is_some()),
    ]
    .into_iter()
    .filter_map(|(key, is_set)| is_set.then_some(key))
    .collect()
}

/// What `serving` mounts, but for the claim.
pub(super) fn volumes(profile: &Profile) -> Vec<Volume> {
    let backends = Backends::of(&profile.deploy);
    let mut volumes = vec![config_volume("profile", name_of(profile, config::COMPONENT))];
    if backends.any() {
        let urls: &[&str] =
            if backends.needs_redis { &[REDIS_URL, CACHE_URL, MONGO_URL] } else { &[MONGO_URL] };
        volumes.push(secret_volume("credentials", credentials_name(profile), urls));
    }
    let files = files(profile);
    if !files.is_empty() {
        volumes.push(secret_volume("files", files_name(profile), &files));
    }
    volumes
}
