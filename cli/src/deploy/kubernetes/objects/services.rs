//! Services: names for pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::backends::{CACHE, JOURNAL, MONGO, MONGO_PORT, REDIS_PORT};
use super::common::metadata;
use super::service::{PORT, WORKER, front};
use crate::deploy::kubernetes::labels;
use crate::profile::{Profile, TrafficPath};

/// The API, for Prometheus and an ingress controller too.
pub(super) fn front_service(profile: &Profile) -> Service {
    let wanted = &profile.deploy.kubernetes;
    let is_node_port = wanted.path == TrafficPath::Nodeport;
    let mut service = service(profile, front(profile), PORT, wanted.port, false);
    if let Some(spec) = &mut service.spec {
        spec.type_ = Some(if is_node_port { "NodePort" } else { "ClusterIP" }.to_owned());
        for port in spec.ports.iter_mut().flatten().filter(|_| is_node_port) {
            port.node_port = wanted.node_port.map(i32::from);
        }
    }
    service
}

/// For Prometheus, and for who looks at the counters.
pub(super) fn worker_service(profile: &Profile) -> Service {
    service(profile, WORKER, PORT, profile.deploy.kubernetes.port, true)
}

pub(super) fn journal_service(profile: &Profile) -> Service {
    service(profile, JOURNAL, "redis", REDIS_PORT, true)
}

pub(super) fn cache_service(profile: &Profile) -> Service {
    service(profile, CACHE, "redis", REDIS_PORT, true)
}

/// A member of a replica set has to be found before it is ready.
pub(super) fn mongo_service(profile: &Profile) -> Service {
    let mut service = service(profile, MONGO, "mongo", MONGO_PORT, true);
    if let Some(spec) = &mut service.spec {
        spec.publish_not_ready_addresses = Some(true);
    }
    service
}

/// `headless`: the name is that of the pods themselves, without a proxy between.
fn service(profile: &Profile, component: &str, port: &str, number: u16, headless: bool) -> Service {
    let selector: BTreeMap<_, _> = labels::identity(profile, component);
    Service {
        metadata: metadata(profile, component),
        spec: Some(ServiceSpec {
            cluster_ip: headless.then(|| "None".to_owned()),
            ports: Some(vec![ServicePort {
                name: Some(port.to_owned()),
                port: i32::from(number),
                target_port: Some(IntOrString::String(port.to_owned())),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            selector: Some(selector),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
