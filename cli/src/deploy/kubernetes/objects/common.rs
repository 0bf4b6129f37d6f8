//! What objects of several kinds share.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSetPersistentVolumeClaimRetentionPolicy;
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, ExecAction,
    HTTPGetAction, LocalObjectReference, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
    SecretKeySelector, SecretVolumeSource, SecurityContext, TCPSocketAction, Volume, VolumeMount,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::deploy::kubernetes::labels::{self, APPLICATION, MANAGED_BY, name_of};
use crate::profile::Profile;

const KIB: u64 = 1 << 10;

/// Name, namespace and labels.
pub(super) fn metadata(profile: &Profile, component: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name_of(profile, component)),
        namespace: Some(profile.deploy.kubernetes.namespace.clone()),
        labels: Some(labels::labels(profile, component)),
        ..ObjectMeta::default()
    }
}

pub(super) fn selector(profile: &Profile, component: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(labels::identity(profile, component)), ..LabelSelector::default() }
}

pub(super) fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// Bytes in the largest unit that says them whole.
pub(super) fn bytes(count: u64) -> Quantity {
    for (unit, size) in [("Gi", KIB.pow(3)), ("Mi", KIB.pow(2)), ("Ki", KIB)] {
        if count.is_multiple_of(size) {
            return Quantity(format!("{}{unit}", count / size));
        }
    }
    Quantity(count.to_string())
}

/// Processors from `request` to `limit`, and as much memory as there is: beyond what is requested, a pod is the first to go.
pub(super) fn resources(request: &str, limit: &str, memory: u64) -> ResourceRequirements {
    let of = |cpu: &str| {
        BTreeMap::from([("cpu".to_owned(), Quantity(cpu.to_owned())), ("memory".to_owned(), bytes(memory))])
    };
    ResourceRequirements {
        requests: Some(of(request)),
        limits: Some(of(limit)),
        ..ResourceRequirements::default()
    }
}

/// What the strictest Pod Security level asks of a container.
pub(super) fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(strings(["ALL"])), add: None }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

/// And of a pod: some user that is not root. `volumes`: whether it writes to volumes, which then are its group's.
pub(super) fn user(id: i64, volumes: bool) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(id),
        run_as_group: Some(id),
        fs_group: volumes.then_some(id),
        // Looking at each file of a large volume would take minutes at each start.
        fs_group_change_policy: volumes.then(|| "OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

/// What all pods have: no way to the API server, and no variables about services, which a program that reads
/// `SCALEKIT_*` could take for flags.
pub(super) fn pod(profile: &Profile) -> PodSpec {
    let wanted = &profile.deploy.kubernetes;
    let secret = |name: &String| vec![LocalObjectReference { name: name.clone() }];
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: wanted.image_pull_secret.as_ref().map(secret),
        node_selector: (!wanted.node_selector.is_empty()).then(|| wanted.node_selector.clone()),
        ..PodSpec::default()
    }
}

/// Pods of a component; with another `checksum` they are other pods, and replaced.
pub(super) fn template(
    profile: &Profile,
    component: &str,
    checksum: Option<String>,
    spec: PodSpec,
) -> PodTemplateSpec {
    let annotation = |sum| BTreeMap::from([("scalekit/profile-checksum".to_owned(), sum)]);
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels::labels(profile, component)),
            annotations: checksum.map(annotation),
            ..ObjectMeta::default()
        }),
        spec: Some(spec),
    }
}

/// A volume of the pod's own; its template can never change, so no label of it says a version.
pub(super) fn claim(profile: &Profile, component: &str, size: u64) -> PersistentVolumeClaim {
    let mut labels = labels::identity(profile, component);
    labels.insert(MANAGED_BY.to_owned(), APPLICATION.to_owned());
    PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some(DATA.to_owned()), labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(strings(["ReadWriteOnce"])),
            storage_class_name: profile.deploy.kubernetes.storage.class.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), bytes(size))])),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// Data outlives whatever made it.
pub(super) fn keep_volumes() -> StatefulSetPersistentVolumeClaimRetentionPolicy {
    StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_deleted: Some("Retain".to_owned()),
        when_scaled: Some("Retain".to_owned()),
    }
}

/// Name of the volume of a claim.
pub(super) const DATA: &str = "data";

pub(super) fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

pub(super) fn config_volume(name: &str, config_map: String) -> Volume {
    Volume {
        name: name.to_owned(),
        config_map: Some(ConfigMapVolumeSource { name: config_map, ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    }
}

/// Of a Secret these keys and no others; the pod's group may read them.
pub(super) fn secret_volume(name: &str, secret: String, keys: &[&str]) -> Volume {
    let item = |key: &&str| k8s_openapi::api::core::v1::KeyToPath {
        key: (*key).to_owned(),
        path: (*key).to_owned(),
        mode: None,
    };
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            items: Some(keys.iter().map(item).collect()),
            default_mode: Some(0o440),
            optional: None,
        }),
        ..Volume::default()
    }
}

/// A place for what need not last, of at most so many bytes.
pub(super) fn scratch(name: &str, most: u64) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { size_limit: Some(bytes(most)), medium: None }),
        ..Volume::default()
    }
}

pub(super) fn secret_variable(name: &str, secret: String, key: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector { name: secret, key: key.to_owned(), optional: None }),
            ..EnvVarSource::default()
        }),
    }
}

pub(super) fn variable(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.into()), value_from: None }
}

/// How often a probe asks, how long it waits, and how often in a row it must fail.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    pub(super) period_s: i32,
    pub(super) timeout_s: i32,
    pub(super) failures: i32,
}

impl Pace {
    /// Until a process that starts is given up, after so many seconds.
    pub(super) fn starting(seconds: u64) -> Self {
        let failures = i32::try_from(seconds.div_ceil(2)).unwrap_or(i32::MAX);
        Self { period_s: 2, timeout_s: 5, failures: failures.max(1) }
    }

    fn probe(self) -> Probe {
        Probe {
            period_seconds: Some(self.period_s),
            timeout_seconds: Some(self.timeout_s),
            failure_threshold: Some(self.failures),
            ..Probe::default()
        }
    }

    pub(super) fn http(self, path: &str, port: &str, tls: bool) -> Probe {
        let http_get = HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(port.to_owned()),
            scheme: Some(if tls { "HTTPS" } else { "HTTP" }.to_owned()),
            ..HTTPGetAction::default()
        };
        Probe { http_get: Some(http_get), ..self.probe() }
    }

    pub(super) fn exec(self, command: Vec<String>) -> Probe {
        Probe { exec: Some(ExecAction { command: Some(command) }), ..self.probe() }
    }

    pub(super) fn tcp(self, port: &str) -> Probe {
        let tcp_socket = TCPSocketAction { port: IntOrString::String(port.to_owned()), host: None };
        Probe { tcp_socket: Some(tcp_socket), ..self.probe() }
    }
}

/// A container with an image, under the strictest rules.
pub(super) fn container(name: &str, image: impl Into<String>) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(image.into()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        security_context: Some(restricted()),
        ..Container::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_whole() {
        for (count, expected) in
            [(3 << 30, "3Gi"), (512 << 20, "512Mi"), (1536 << 20, "1536Mi"), (2048, "2Ki"), (1500, "1500")]
        {
            assert_eq!(bytes(count).0, expected);
        }
    }

    #[test]
    fn a_start_may_take_as_long_as_it_may() {
        for (seconds, failures) in [(30, 15), (31, 16), (0, 1)] {
            assert_eq!(Pace::starting(seconds).failures, failures);
        }
    }
}
