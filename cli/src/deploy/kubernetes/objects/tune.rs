//! Kernel settings of the nodes: `scalekit tune`, privileged, as a Job or on each node. Pods on the node's network cannot
//! set `net.*` themselves, so there is no other way. Nothing is undone when a pod ends: others may rely on it by then.
//! The journal for `scalekit tune rollback` stays on the node.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, HostPathVolumeSource, PodSecurityContext, PodSpec, SecurityContext, Toleration,
    Volume,
};
use serde_json::json;

use super::common::{
    config_volume, container, metadata, mount, pod, resources, selector, strings, template, user,
};
use super::config::{short_hash, yaml};
use super::images;
use crate::deploy::kubernetes::ObjectsError;
use crate::deploy::kubernetes::labels::name_of;
use crate::profile::Profile;

const COMPONENT: &str = "tune";
const FILE: &str = "host.yaml";
const PROFILE_DIR: &str = "/etc/scalekit";
/// Where root's journal is on every host.
const STATE_DIR: &str = "/var/lib/scalekit";
const MIB: u64 = 1 << 20;

/// The host's part of the profile, for as many users as the profile is for.
fn text(profile: &Profile) -> Result<String, ObjectsError> {
    let mut host = serde_json::to_value(&profile.host)
        .map_err(|error| ObjectsError::Form(format!("the profile: {error}")))?;
    host["users"] = json!(profile.users());
    yaml(&json!({ "description": profile.description, "host": host }))
}

pub(super) fn config(profile: &Profile) -> Result<ConfigMap, ObjectsError> {
    Ok(ConfigMap {
        metadata: metadata(profile, COMPONENT),
        data: Some(BTreeMap::from([(FILE.to_owned(), text(profile)?)])),
        ..ConfigMap::default()
    })
}

/// Once, on the node that the scheduler takes. A Job's pods can never change, so another profile is another Job.
pub(super) fn job(profile: &Profile) -> Result<Job, ObjectsError> {
    let sum = short_hash(&format!("{}{}", text(profile)?, images::scalekit(profile)));
    let mut metadata = metadata(profile, COMPONENT);
    metadata.name = Some(format!("{}-{}", name_of(profile, COMPONENT), &sum[..8]));
    let spec = PodSpec {
        containers: vec![tuning(profile)],
        restart_policy: Some("Never".to_owned()),
        ..privileged(profile)
    };
    Ok(Job {
        metadata,
        spec: Some(JobSpec {
            backoff_limit: Some(2),
            active_deadline_seconds: Some(300),
            template: template(profile, COMPONENT, Some(sum), spec),
            ..JobSpec::default()
        }),
        status: None,
    })
}

/// On each node, and on those that come later: tuned first, then there is nothing left to do.
pub(super) fn daemon_set(profile: &Profile) -> Result<DaemonSet, ObjectsError> {
    let sum = short_hash(&text(profile)?);
    let mut pause =
        Container { resources: Some(resources("5m", "50m", 16 * MIB)), ..container("done", images::PAUSE) };
    if let Some(context) = &mut pause.security_context {
        let nobody = user(images::SERVICE_USER, false);
        context.run_as_non_root = Some(true);
        context.run_as_user = nobody.run_as_user;
        context.seccomp_profile = nobody.seccomp_profile;
    }
    let spec = PodSpec {
        init_containers: Some(vec![tuning(profile)]),
        containers: vec![pause],
        tolerations: Some(vec![Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() }]),
        ..privileged(profile)
    };
    Ok(DaemonSet {
        metadata: metadata(profile, COMPONENT),
        spec: Some(DaemonSetSpec {
            revision_history_limit: Some(3),
            selector: selector(profile, COMPONENT),
            template: template(profile, COMPONENT, Some(sum), spec),
            ..DaemonSetSpec::default()
        }),
        status: None,
    })
}

/// In the node's namespaces of network and processes: by process 1 the tool tells that the network is the host's.
fn privileged(profile: &Profile) -> PodSpec {
    let state =
        HostPathVolumeSource { path: STATE_DIR.to_owned(), type_: Some("DirectoryOrCreate".to_owned()) };
    PodSpec {
        host_network: Some(true),
        host_pid: Some(true),
        dns_policy: Some("ClusterFirstWithHostNet".to_owned()),
        security_context: Some(PodSecurityContext::default()),
        volumes: Some(vec![
            config_volume("profile", name_of(profile, COMPONENT)),
            Volume { name: "state".to_owned(), host_path: Some(state), ..Volume::default() },
        ]),
        ..pod(profile)
    }
}

fn tuning(profile: &Profile) -> Container {
    let mut args = strings(["tune", "--yes", "--profile"]);
    args.push(format!("{PROFILE_DIR}/{FILE}"));
    Container {
        args: Some(args),
        resources: Some(resources("50m", "500m", 64 * MIB)),
        // All of it is needed: /proc/sys is read-only for everybody else.
        security_context: Some(SecurityContext {
            privileged: Some(true),
            run_as_user: Some(0),
            run_as_non_root: Some(false),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![mount("profile", PROFILE_DIR, true), mount("state", STATE_DIR, false)]),
        ..container(COMPONENT, images::scalekit(profile))
    }
}
