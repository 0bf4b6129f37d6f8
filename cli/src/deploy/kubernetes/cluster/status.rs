//! What of a deployment is in the cluster, and how it is.

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::core::DynamicObject;
use serde::Serialize;

use super::capped;
use super::connect::Cluster;
use super::error::ClusterError;
use super::kinds::{self, KINDS, Kind, POD, VOLUME_CLAIM, WORKLOADS};
use super::plan::component;
use super::ready::{self, Progress};
use super::trouble;
use crate::deploy::cap::Facts;
use crate::deploy::kubernetes;
use crate::profile::Profile;

/// One object.
#[derive(Debug, Serialize)]
pub(crate) struct Part {
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    pub(crate) ready: bool,
    /// How it is, in words; empty where an object only is.
    pub(crate) state: String,
}

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    pub(crate) instance: String,
    pub(crate) namespace: String,
    pub(crate) context: String,
    pub(crate) parts: Vec<Part>,
    pub(crate) pods: Vec<Part>,
    /// On the disk of its MongoDB.
    pub(crate) cap: Option<Facts>,
}

impl Status {
    pub(crate) fn is_ready(&self) -> bool {
        // Volumes alone are what a deployment left.
        let runs = |part: &Part| WORKLOADS.iter().any(|kind| kind.kind == part.kind);
        self.parts.iter().any(runs) && self.parts.iter().all(|part| part.ready)
    }
}

/// # Errors
/// The cluster does not answer, or nothing is there.
pub(crate) async fn status(cluster: &Cluster, profile: &Profile) -> Result<Status, ClusterError> {
    let mut parts = Vec::new();
    for (kind, object) in everything(cluster, profile).await? {
        let (ready, state) = state(kind, &object);
        // A bench's agents are no part that anything waits for.
        let ready = ready || component(&object) == Some(kubernetes::AGENTS);
        parts.push(Part { kind: kind.kind, name: kinds::name(&object).to_owned(), ready, state });
    }
    let pods = pods(cluster, profile).await?;
    if parts.is_empty() && pods.is_empty() {
        return Err(nothing(cluster, profile));
    }
    let cap = pods.iter().find_map(capped::of_pod);
    let pods = pods.iter().map(|pod| Part {
        kind: POD.kind,
        name: pod.metadata.name.clone().unwrap_or_default(),
        ready: trouble::is_well(pod),
        state: pod_state(pod),
    });
    Ok(Status {
        instance: kubernetes::instance(profile),
        namespace: cluster.namespace.clone(),
        context: cluster.context.clone(),
        parts,
        pods: pods.collect(),
        cap,
    })
}

pub(super) fn nothing(cluster: &Cluster, profile: &Profile) -> ClusterError {
    ClusterError::Nothing {
        instance: kubernetes::instance(profile),
        namespace: cluster.namespace.clone(),
        context: cluster.context.clone(),
    }
}

/// What pods and their volumes are found by: their makers give them no label of who manages them.
pub(crate) fn pods_selector(profile: &Profile) -> String {
    let (name, instance) = (kubernetes::NAME, kubernetes::INSTANCE);
    format!("{instance}={},{name}=scalekit", kubernetes::instance(profile))
}

/// All objects of a deployment but its pods. Kinds that the user may not see are left out: nothing of them is theirs.
pub(super) async fn everything(
    cluster: &Cluster,
    profile: &Profile,
) -> Result<Vec<(Kind, DynamicObject)>, ClusterError> {
    let (all, of_pods) = (kubernetes::selector(profile), pods_selector(profile));
    let mut found = Vec::new();
    for kind in KINDS {
        let labels = if kind == VOLUME_CLAIM { &of_pods } else { &all };
        match cluster.list(kind, labels).await {
            Ok(objects) => found.extend(objects.into_iter().map(|object| (kind, object))),
            Err(ClusterError::Forbidden { .. }) if !kind.always => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

pub(super) async fn pods(cluster: &Cluster, profile: &Profile) -> Result<Vec<Pod>, ClusterError> {
    let api = cluster.typed::<Pod>();
    let params = ListParams::default().labels(&pods_selector(profile));
    Ok(cluster.must("list", POD, "", api.list(&params)).await?.items)
}

fn state(kind: Kind, object: &DynamicObject) -> (bool, String) {
    if WORKLOADS.contains(&kind) {
        return match ready::progress(kind, object) {
            Progress::Done(text) => (true, text),
            Progress::Waiting(text) | Progress::Failed(text) => (false, text),
        };
    }
    if kind == VOLUME_CLAIM {
        let phase = object.data.pointer("/status/phase").and_then(|phase| phase.as_str());
        return (phase == Some("Bound"), phase.unwrap_or("unknown").to_owned());
    }
    match object.metadata.deletion_timestamp {
        Some(_) => (false, "is being removed".to_owned()),
        None => (true, String::new()),
    }
}

fn pod_state(pod: &Pod) -> String {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let mut words = Vec::new();
    words.extend(node.map(|node| format!("on {node}")));
    words.extend(trouble::diagnose(pod).into_iter().map(|finding| finding.text));
    if words.len() == usize::from(node.is_some()) {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        words.push(phase.unwrap_or("unknown").to_owned());
    }
    words.join(", ")
}
