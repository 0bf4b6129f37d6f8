//! Who may reach Redis and MongoDB. Pods on their node's network are no pods to a policy: they come from the node's
//! address, so that is let in where the API is there. The guard that holds everywhere are the passwords.

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::backends::{CACHE, JOURNAL, MONGO, MONGO_PORT, REDIS_PORT};
use super::common::{metadata, selector};
use super::service::{API, WORKER, is_on_host};
use crate::profile::Profile;

pub(super) fn journal_policy(profile: &Profile) -> NetworkPolicy {
    // Redis connects to nobody.
    policy(profile, JOURNAL, REDIS_PORT, &["Ingress", "Egress"])
}

pub(super) fn cache_policy(profile: &Profile) -> NetworkPolicy {
    policy(profile, CACHE, REDIS_PORT, &["Ingress", "Egress"])
}

pub(super) fn mongo_policy(profile: &Profile) -> NetworkPolicy {
    // Beside it runs, where its device is read, one more worker; so it may connect.
    policy(profile, MONGO, MONGO_PORT, &["Ingress"])
}

fn policy(profile: &Profile, component: &str, port: u16, types: &[&str]) -> NetworkPolicy {
    let pods = |selector: LabelSelector| NetworkPolicyPeer {
        pod_selector: Some(selector),
        ..NetworkPolicyPeer::default()
    };
    let mut from: Vec<NetworkPolicyPeer> =
        [API, WORKER, MONGO].into_iter().map(|component| pods(selector(profile, component))).collect();
    if is_on_host(profile, API) {
        from.extend(profile.deploy.kubernetes.node_cidrs.iter().map(|cidr| NetworkPolicyPeer {
            ip_block: Some(IPBlock { cidr: cidr.clone(), except: None }),
            ..NetworkPolicyPeer::default()
        }));
    }
    NetworkPolicy {
        metadata: metadata(profile, component),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(profile, component)),
            policy_types: Some(types.iter().map(|kind| (*kind).to_owned()).collect()),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(from),
                ports: Some(vec![NetworkPolicyPort {
                    port: Some(IntOrString::Int(i32::from(port))),
                    protocol: Some("TCP".to_owned()),
                    end_port: None,
                }]),
            }]),
            ..NetworkPolicySpec::default()
        }),
    }
}
