//! The kinds of objects that a deployment may consist of. They are named here, not discovered, so that a user who may only
//! use them is enough, and so that what is left of an earlier version is found.

use kube::core::{DynamicObject, GroupVersionKind, TypeMeta};
use kube::discovery::ApiResource;

/// One kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(crate) kind: &'static str,
    pub(super) plural: &'static str,
    pub(super) namespaced: bool,
    /// Whether every cluster has it.
    pub(super) always: bool,
}

const fn core(kind: &'static str, plural: &'static str) -> Kind {
    Kind { group: "", version: "v1", kind, plural, namespaced: true, always: true }
}

const fn of(group: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind { group, version: "v1", kind, plural, namespaced: true, always: true }
}

pub(super) const NAMESPACE: Kind = Kind { namespaced: false, ..core("Namespace", "namespaces") };
pub(super) const NODE: Kind = Kind { namespaced: false, ..core("Node", "nodes") };
pub(super) const POD: Kind = core("Pod", "pods");
pub(super) const EVENT: Kind = core("Event", "events");
pub(super) const SECRET: Kind = core("Secret", "secrets");
pub(super) const SERVICE: Kind = core("Service", "services");
pub(super) const VOLUME_CLAIM: Kind = core("PersistentVolumeClaim", "persistentvolumeclaims");
pub(super) const DEPLOYMENT: Kind = of("apps", "Deployment", "deployments");
pub(super) const STATEFUL_SET: Kind = of("apps", "StatefulSet", "statefulsets");
pub(super) const DAEMON_SET: Kind = of("apps", "DaemonSet", "daemonsets");
pub(super) const JOB: Kind = of("batch", "Job", "jobs");
pub(super) const INGRESS: Kind = of("networking.k8s.io", "Ingress", "ingresses");

/// What runs pods, and so has to become ready.
pub(super) const WORKLOADS: [Kind; 4] = [DEPLOYMENT, STATEFUL_SET, DAEMON_SET, JOB];

/// All that may be there by our labels, in the namespace.
pub(super) const KINDS: [Kind; 13] = [
    DEPLOYMENT,
    STATEFUL_SET,
    DAEMON_SET,
    JOB,
    SERVICE,
    INGRESS,
    Kind { always: false, ..of("monitoring.coreos.com", "ServiceMonitor", "servicemonitors") },
    of("policy", "PodDisruptionBudget", "poddisruptionbudgets"),
    of("networking.k8s.io", "NetworkPolicy", "networkpolicies"),
    core("ServiceAccount", "serviceaccounts"),
    core("ConfigMap", "configmaps"),
    SECRET,
    VOLUME_CLAIM,
];

impl Kind {
    pub(super) fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    pub(super) fn resource(&self) -> ApiResource {
        ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk(self.group, self.version, self.kind),
            self.plural,
        )
    }

    /// As rights name it: `deployments.apps`.
    pub(super) fn full_name(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }

    pub(super) fn types(&self) -> TypeMeta {
        TypeMeta { api_version: self.api_version(), kind: self.kind.to_owned() }
    }

    /// The kind of an object, if it is one of ours.
    pub(super) fn of(object: &DynamicObject) -> Option<Self> {
        let types = object.types.as_ref()?;
        let is = |kind: &&Kind| kind.kind == types.kind && kind.api_version() == types.api_version;
        KINDS.iter().chain([&NAMESPACE]).find(is).copied()
    }
}

/// `Deployment shop-api`.
pub(super) fn title(kind: Kind, object: &DynamicObject) -> String {
    format!("{} {}", kind.kind, name(object))
}

pub(super) fn name(object: &DynamicObject) -> &str {
    object.metadata.name.as_deref().unwrap_or_default()
}
