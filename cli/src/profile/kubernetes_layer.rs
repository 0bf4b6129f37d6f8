//! The cluster's part of a layer, as it is written. The doc comments are the descriptions of the JSON schema.

use schemars::JsonSchema;
use serde::Deserialize;

use super::kubernetes::{CpuClass, Monitor, NodeTuning, TrafficPath};
use super::layer::section;
use super::named::Named;
use super::setting::{Merge, Setting};
use super::units::{Size, Span, Whole};

impl Merge for CpuClass {}
impl Merge for Monitor {}
impl Merge for NodeTuning {}
impl Merge for TrafficPath {}

section! {
    /// How it is deployed to a Kubernetes cluster; nothing of it holds with the target `local`.
    KubernetesLayer {
        /// The kubeconfig's context; its current one, when left out.
        context: String,
        /// The namespace, which is made if it is not there (a DNS label).
        namespace: String,
        /// What the objects' names begin with, so that two deployments can share a namespace (a DNS label, up to 30
        /// characters); the profile's name, when left out.
        name: String,
        /// The image of scalekit; `scalekit:VERSION` of this program, when left out.
        image: String,
        /// Name of a Secret of the namespace that the image is pulled with.
        image_pull_secret: String,
        /// How users reach the API: `host` is the node's own network, `nodeport` a port of all nodes, `ingress` an ingress
        /// controller.
        path: TrafficPath,
        /// Port of the API, on the node with `host` (1024 to 65535); `deploy.listen` is for the target `local`.
        port: Whole,
        /// Port of the nodes, with `nodeport` (30000 to 32767); the cluster chooses, when left out.
        node_port: Whole,
        /// With the path `ingress`.
        ingress: IngressLayer,
        /// Pods of the API (1 to 100); with `host` each has a node to itself.
        replicas: Whole,
        /// Pods of the worker (1 to 64); more than `deploy.shards` stand by.
        workers: Whole,
        /// Processors of each pod of the API.
        cpu: CpuLayer,
        /// Memory of each pod, requested and the limit.
        memory: MemoryLayer,
        /// Volumes.
        storage: StorageLayer,
        /// Labels that a node must have to run any of it; `null` takes an inherited one away.
        node_selector: Named<String>,
        /// Networks that the nodes are in, such as `10.0.0.0/8`: those may reach Redis and MongoDB, since pods on the
        /// node's own network come from there (up to 64).
        node_cidrs: Vec<String>,
        /// Whether `scalekit tune` runs on the nodes, privileged: `none`, once as a `job`, or as a `daemonset` on each node.
        tune: NodeTuning,
        /// Whether a ServiceMonitor of the Prometheus operator is made: `auto` where the cluster knows that kind, `always`
        /// or `never`.
        monitor: Monitor,
        /// How long to wait until all pods are ready, images and volumes included (1s to 1h); `deploy.ready_timeout` is for the
        /// target `local`.
        ready_timeout: Span,
    }
}

section! {
    /// The path `ingress`.
    IngressLayer {
        /// The host name; any, when left out.
        host: String,
        /// The class; the cluster's default, when left out.
        class: String,
    }
}

section! {
    /// Processors of each pod of the API.
    CpuLayer {
        /// `burstable` requests little and may take much; `guaranteed` has whole cores, which a node with the static CPU
        /// manager keeps for it alone.
        class: CpuClass,
        /// With `burstable`: what the scheduler keeps free, such as `500m` or `2`.
        request: String,
        /// With `burstable`: the most it gets, such as `7500m`.
        limit: String,
        /// With `guaranteed`: whole cores (1 to 1024).
        cores: Whole,
    }
}

section! {
    /// Memory of each pod, requested and the limit (64MiB to 1024GiB).
    MemoryLayer {
        /// Each pod of the API, or the one of the embedded backend.
        api: Size,
        /// Each pod of the worker.
        worker: Size,
        /// The journal's Redis. Three quarters hold data, and must take one and a half times
        /// `deploy.limits.max_backlog_bytes`.
        journal: Size,
        /// The cache's Redis, which forgets beyond three quarters of it.
        cache: Size,
        /// MongoDB (at least 1GiB).
        database: Size,
    }
}

section! {
    /// Volumes.
    StorageLayer {
        /// The storage class of all; the cluster's default, when left out.
        class: String,
        /// The journal's append-only file (1GiB to 65536GiB).
        journal: Size,
        /// MongoDB's files, or those of the embedded backend (1GiB to 65536GiB).
        database: Size,
    }
}
