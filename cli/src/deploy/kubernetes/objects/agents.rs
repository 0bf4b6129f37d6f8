//! Pods that make load: an Indexed Job of agents for one bench, spread over the nodes and away from what they load. If
//! nobody removes it, the Job ends and goes by itself.

use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerPort, PodAffinityTerm, PodAntiAffinity, PodSpec, Secret,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::common::{
    Pace, container, metadata, mount, pod, resources, secret_volume, selector, strings, template, user,
};
use super::images;
use super::service::front;
use crate::deploy::kubernetes::labels::name_of;
use crate::profile::Profile;

/// Component of the pods.
pub(crate) const AGENTS: &str = "agents";
/// Where each listens.
pub(crate) const AGENT_PORT: u16 = 7420;
const TOKEN: &str = "token";
const TOKEN_DIR: &str = "/run/scalekit/token";
/// A finished Job that nobody removed.
const FINISHED_S: i32 = 60;
const HOSTNAME: &str = "kubernetes.io/hostname";
const MIB: u64 = 1 << 20;

/// `seconds`: after which the pods are ended, whoever is still there.
pub(crate) fn agents_job(profile: &Profile, count: u16, seconds: i64) -> Job {
    let spec = PodSpec {
        containers: vec![agent(profile)],
        restart_policy: Some("Never".to_owned()),
        security_context: Some(user(images::SERVICE_USER, true)),
        termination_grace_period_seconds: Some(10),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: HOSTNAME.to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(selector(profile, AGENTS)),
            ..TopologySpreadConstraint::default()
        }]),
        // A generator beside the service takes the processors that it measures.
        affinity: Some(Affinity {
            pod_anti_affinity: Some(PodAntiAffinity {
                preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                    weight: 100,
                    pod_affinity_term: PodAffinityTerm {
                        label_selector: Some(selector(profile, front(profile))),
                        topology_key: HOSTNAME.to_owned(),
                        ..PodAffinityTerm::default()
                    },
                }]),
                ..PodAntiAffinity::default()
            }),
            ..Affinity::default()
        }),
        volumes: Some(vec![secret_volume(TOKEN, name_of(profile, AGENTS), &[TOKEN])]),
        // Its node is the scheduler's choice, not the service's.
        node_selector: None,
        ..pod(profile)
    };
    Job {
        metadata: metadata(profile, AGENTS),
        spec: Some(JobSpec {
            completion_mode: Some("Indexed".to_owned()),
            completions: Some(i32::from(count)),
            parallelism: Some(i32::from(count)),
            backoff_limit: Some(0),
            active_deadline_seconds: Some(seconds),
            ttl_seconds_after_finished: Some(FINISHED_S),
            template: template(profile, AGENTS, None, spec),
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn agent(profile: &Profile) -> Container {
    let mut args = strings(["agent", "--listen"]);
    args.extend([format!("0.0.0.0:{AGENT_PORT}"), "--token-file".to_owned(), format!("{TOKEN_DIR}/{TOKEN}")]);
    Container {
        args: Some(args),
        ports: Some(vec![ContainerPort {
            name: Some("agent".to_owned()),
            container_port: i32::from(AGENT_PORT),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        readiness_probe: Some(Pace { period_s: 1, timeout_s: 1, failures: 3 }.tcp("agent")),
        // No limit of processors: a throttled generator measures itself.
        resources: Some({
            let mut wanted = resources("1", "1", 512 * MIB);
            wanted.limits.iter_mut().for_each(|limits| drop(limits.remove("cpu")));
            wanted
        }),
        volume_mounts: Some(vec![mount(TOKEN, TOKEN_DIR, true)]),
        ..container("agent", images::scalekit(profile))
    }
}

/// What the agents know their coordinator by; it goes with the Job of this UID.
pub(crate) fn agents_secret(profile: &Profile, job_uid: &str, token: &str) -> Secret {
    let owner = OwnerReference {
        api_version: "batch/v1".to_owned(),
        kind: "Job".to_owned(),
        name: name_of(profile, AGENTS),
        uid: job_uid.to_owned(),
        ..OwnerReference::default()
    };
    Secret {
        metadata: ObjectMeta { owner_references: Some(vec![owner]), ..metadata(profile, AGENTS) },
        type_: Some("Opaque".to_owned()),
        data: Some([(TOKEN.to_owned(), ByteString(token.as_bytes().to_vec()))].into()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Layer, load};

    #[test]
    fn the_agents_end_by_themselves_and_keep_away_from_the_service() {
        let profile = load("default", Layer::default()).unwrap();
        let spec = agents_job(&profile, 8, 900).spec.unwrap();
        assert_eq!((spec.completions, spec.parallelism, spec.backoff_limit), (Some(8), Some(8), Some(0)));
        assert_eq!(spec.completion_mode.as_deref(), Some("Indexed"));
        assert_eq!((spec.active_deadline_seconds, spec.ttl_seconds_after_finished), (Some(900), Some(60)));
        let pod = spec.template.spec.unwrap();
        assert_eq!(pod.topology_spread_constraints.unwrap()[0].topology_key, HOSTNAME);
        let away = pod.affinity.unwrap().pod_anti_affinity.unwrap();
        let away = &away.preferred_during_scheduling_ignored_during_execution.unwrap()[0].pod_affinity_term;
        let labels = away.label_selector.as_ref().unwrap().match_labels.as_ref().unwrap();
        assert_eq!(labels["app.kubernetes.io/component"], front(&profile));
        assert_eq!(pod.host_network, None, "so that several agents fit on a node");
        let limits = pod.containers[0].resources.as_ref().unwrap().limits.as_ref().unwrap();
        assert!(!limits.contains_key("cpu") && limits.contains_key("memory"), "{limits:?}");
        let secret = agents_secret(&profile, "uid-1", "a-token");
        assert_eq!(secret.metadata.owner_references.unwrap()[0].uid, "uid-1");
    }
}
