//! Where the API of a deployment is reached from here: on its node, through a port of the nodes, or through an ingress.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use tokio::net::TcpStream;

use super::connect::Cluster;
use super::error::ClusterError;
use super::kinds::{INGRESS, NODE, SERVICE};
use super::{status, trouble};
use crate::deploy::kubernetes;
use crate::profile::{Kubernetes, Profile, TrafficPath};

/// To tell whether an address is reached at all.
const KNOCK: Duration = Duration::from_secs(3);

/// The API, and pods that have counters.
pub(crate) struct Addresses {
    pub(crate) url: String,
    /// What a user should know about it.
    pub(crate) note: Option<String>,
    /// The component of the API.
    pub(crate) component: String,
    /// Ready pods that are asked one by one: their component and name. The API's are among them if several are behind the
    /// one address, since then it answers for another at each time.
    pub(crate) pods: Vec<(String, String)>,
}

/// Whence the API has to be reached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// This host.
    Here,
    /// Pods of the cluster. From here, it is asked through forwarded ports.
    Pods,
}

/// # Errors
/// Nothing is deployed, no pod of the API is ready, or it is not reached from here.
pub(crate) async fn addresses(
    cluster: &Cluster,
    profile: &Profile,
    from: From,
) -> Result<Addresses, ClusterError> {
    let pods = status::pods(cluster, profile).await?;
    if pods.is_empty() {
        return Err(status::nothing(cluster, profile));
    }
    let ready: Vec<_> = pods.iter().filter(|pod| trouble::is_well(pod)).collect();
    let fronts: Vec<_> =
        ready.iter().filter(|pod| matches!(component(pod), Some("api" | "service"))).copied().collect();
    let Some(front) = fronts.first() else {
        return Err(ClusterError::NoAddress(
            "none of its pods is ready\nhelp: `scalekit deploy status --target k8s` says why".to_owned(),
        ));
    };
    let wanted = &profile.deploy.kubernetes;
    let scheme = if profile.deploy.tls.is_some() { "https" } else { "http" };
    let front_name = kubernetes::name_of(profile, component(front).unwrap_or("api"));
    let mut note = None;
    let url = match wanted.path {
        TrafficPath::Host => {
            if fronts.len() > 1 {
                note = Some(format!(
                    "{} pods of the API are on the nodes' own network and only the first is loaded; deploy.kubernetes.path: \
                     nodeport spreads the load over all",
                    fronts.len()
                ));
            }
            format!("{scheme}://{}", reached(cluster, front, wanted.port, from).await?)
        }
        TrafficPath::Nodeport => {
            let port = node_port(cluster.get(SERVICE, &front_name).await?.as_ref());
            let port = port.ok_or_else(|| {
                ClusterError::NoAddress(format!(
                    "the Service {front_name} has no port on the nodes\nhelp: deploy again with deploy.kubernetes.path: \
                     nodeport"
                ))
            })?;
            format!("{scheme}://{}", reached(cluster, front, port, from).await?)
        }
        TrafficPath::Ingress => ingress(cluster, wanted, &front_name).await?,
    };
    let on_host = wanted.path == TrafficPath::Host;
    let is_asked_alone = from == From::Pods || fronts.len() > 1 && !on_host;
    let asked = ready.iter().filter_map(|pod| {
        let component = component(pod)?;
        let is_front = matches!(component, "api" | "service");
        // On the nodes' network, only one of them is loaded.
        let is_loaded = !on_host || pod.metadata.name == front.metadata.name;
        let is_asked = component == "worker" || is_front && is_asked_alone && is_loaded;
        is_asked.then(|| Some((component.to_owned(), pod.metadata.name.clone()?)))?
    });
    let mut pods: Vec<_> = asked.collect();
    pods.sort();
    Ok(Addresses { url, note, component: component(front).unwrap_or("api").to_owned(), pods })
}

fn component(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(kubernetes::COMPONENT).map(String::as_str)
}

fn node_port(service: Option<&DynamicObject>) -> Option<u16> {
    let port = service?.data.pointer("/spec/ports/0/nodePort")?.as_u64()?;
    u16::try_from(port).ok().filter(|port| *port > 0)
}

/// The first address of the pod's node that answers on the port, with it.
async fn reached(cluster: &Cluster, pod: &Pod, port: u16, from: From) -> Result<String, ClusterError> {
    let own = pod.status.as_ref().and_then(|status| status.host_ip.clone());
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let mut hosts: Vec<String> = own.into_iter().collect();
    // Who may not see nodes has the pod's word.
    if let Ok(Some(node)) = cluster.get(NODE, &node).await {
        hosts.extend(node_addresses(&node));
    }
    let mut tried = BTreeSet::new();
    for host in hosts {
        let address = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        if !tried.insert(address.clone()) {
            continue;
        }
        if from == From::Pods {
            return Ok(address);
        }
        if let Ok(Ok(_)) = tokio::time::timeout(KNOCK, TcpStream::connect(&address)).await {
            return Ok(address);
        }
    }
    let tried = tried.into_iter().collect::<Vec<_>>().join(", ");
    Err(ClusterError::NoAddress(format!(
        "the node {node} is not reached from here (tried {tried})\nhelp: run `scalekit bench` on a machine in the nodes' \
         network, or name a way to it with --url; a forwarded port would measure the API server of Kubernetes instead"
    )))
}

fn node_addresses(node: &DynamicObject) -> Vec<String> {
    let addresses = node.data.pointer("/status/addresses").and_then(|list| list.as_array());
    let of = |kind: &'static str| {
        let found = addresses.into_iter().flatten().filter(move |one| one["type"] == kind);
        found.filter_map(|one| Some(one["address"].as_str()?.to_owned()))
    };
    of("ExternalIP").chain(of("InternalIP")).collect()
}

async fn ingress(cluster: &Cluster, wanted: &Kubernetes, name: &str) -> Result<String, ClusterError> {
    let found = cluster.get(INGRESS, name).await?;
    let entry = found.as_ref().and_then(|ingress| ingress.data.pointer("/status/loadBalancer/ingress/0"));
    let entry = entry.and_then(|entry| entry["hostname"].as_str().or(entry["ip"].as_str()));
    let scheme = match found.as_ref().and_then(|ingress| ingress.data.pointer("/spec/tls")) {
        Some(tls) if tls.as_array().is_some_and(|tls| !tls.is_empty()) => "https",
        _ => "http",
    };
    match wanted.ingress.host.as_deref().or(entry) {
        Some(host) => Ok(format!("{scheme}://{host}")),
        None => Err(ClusterError::NoAddress(format!(
            "the Ingress {name} has no address yet\nhelp: see that an ingress controller runs (`kubectl get \
             ingressclass`), or name the way with --url"
        ))),
    }
}
