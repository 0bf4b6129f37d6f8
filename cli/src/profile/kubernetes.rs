//! How a profile is deployed to a Kubernetes cluster: the domain types, and their bounds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::ProfileError;
use super::kubernetes_layer::{CpuLayer, IngressLayer, KubernetesLayer, MemoryLayer, StorageLayer};
use super::resolve::{GIB, HOUR, MIB, Resolver, SECOND};
use super::setting::Setting;
use super::units::Size;
use super::written;

type Found<T> = Result<T, ProfileError>;

/// How users reach the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum TrafficPath {
    /// On the node's own network: no proxy between user and service.
    Host,
    /// Through a port that each node forwards.
    Nodeport,
    /// Through an ingress controller.
    Ingress,
}

/// How the API gets its processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum CpuClass {
    /// Few requested, many allowed.
    Burstable,
    /// Whole cores, requested and allowed.
    Guaranteed,
}

/// Whether the nodes are tuned by the deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum NodeTuning {
    None,
    /// Once, on one node.
    Job,
    /// On each node, and on those that come later.
    Daemonset,
}

/// Whether Prometheus' operator is told of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum Monitor {
    /// Where the cluster has the operator's kinds.
    Auto,
    Always,
    Never,
}

/// How it is deployed to a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Kubernetes {
    /// `None`: the kubeconfig's current one.
    pub(crate) context: Option<String>,
    pub(crate) namespace: String,
    /// `None`: the profile's name.
    pub(crate) name: Option<String>,
    /// `None`: `scalekit:VERSION` of this program.
    pub(crate) image: Option<String>,
    pub(crate) image_pull_secret: Option<String>,
    pub(crate) path: TrafficPath,
    pub(crate) port: u16,
    /// `None`: the cluster chooses.
    pub(crate) node_port: Option<u16>,
    pub(crate) ingress: Ingress,
    pub(crate) replicas: u16,
    pub(crate) workers: u16,
    pub(crate) cpu: Cpu,
    pub(crate) memory: Memory,
    pub(crate) storage: Storage,
    pub(crate) node_selector: BTreeMap<String, String>,
    /// Networks of the nodes.
    pub(crate) node_cidrs: Vec<String>,
    pub(crate) tune: NodeTuning,
    pub(crate) monitor: Monitor,
    #[serde(serialize_with = "written::span")]
    pub(crate) ready_timeout: Duration,
}

/// The path `ingress`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Ingress {
    /// `None`: any.
    pub(crate) host: Option<String>,
    /// `None`: the cluster's default.
    pub(crate) class: Option<String>,
}

/// Processors of each pod of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Cpu {
    pub(crate) class: CpuClass,
    /// Both in Kubernetes' form: `500m`, `2`.
    pub(crate) request: String,
    pub(crate) limit: String,
    pub(crate) cores: u16,
}

/// Memory of each pod, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    #[serde(serialize_with = "written::size")]
    pub(crate) api: u64,
    #[serde(serialize_with = "written::size")]
    pub(crate) worker: u64,
    #[serde(serialize_with = "written::size")]
    pub(crate) journal: u64,
    #[serde(serialize_with = "written::size")]
    pub(crate) cache: u64,
    #[serde(serialize_with = "written::size")]
    pub(crate) database: u64,
}

/// Volumes, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Storage {
    /// `None`: the cluster's default.
    pub(crate) class: Option<String>,
    #[serde(serialize_with = "written::size")]
    pub(crate) journal: u64,
    #[serde(serialize_with = "written::size")]
    pub(crate) database: u64,
}

impl Memory {
    /// What a Redis with so much memory may hold: the rest is for buffers, and for pages that change while its
    /// append-only file is rewritten.
    pub(crate) fn redis_data(bytes: u64) -> u64 {
        bytes / 4 * 3
    }
}

/// Longest name of a deployment: the objects' names add up to 30 characters, and a label ends at 63.
const MAX_NAME: usize = 30;
const MAX_CIDRS: usize = 64;

/// Thousandths of a processor.
pub(super) fn millis(text: &str) -> Option<u32> {
    let millis = match text.strip_suffix('m') {
        Some(millis) => millis.parse().ok()?,
        None => text.parse::<u32>().ok()?.checked_mul(1000)?,
    };
    (1..=1_024_000).contains(&millis).then_some(millis)
}

fn cpu_text(text: &str) -> Result<(), String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'm');
    (plain && millis(text).is_some()).then_some(()).ok_or_else(|| "processors such as 500m or 2".to_owned())
}

/// A DNS label (RFC 1123) of at most so many characters.
fn dns_label(text: &str, longest: usize) -> Result<(), String> {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(|byte| edge(*byte)) && bytes.last().is_some_and(|byte| edge(*byte));
    (ends && text.len() <= longest && bytes.iter().all(|byte| edge(*byte) || *byte == b'-'))
        .then_some(())
        .ok_or_else(|| {
            format!("1 to {longest} lower-case letters, digits or `-`, which begin and end with no `-`")
        })
}

/// Labels with dots between them (RFC 1123), as names of objects and hosts are.
fn dns_name(text: &str) -> Result<(), String> {
    (text.len() <= 253 && text.split('.').all(|part| dns_label(part, 63).is_ok()))
        .then_some(())
        .ok_or_else(|| "a name of lower-case letters, digits, `-` and `.`".to_owned())
}

fn image(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@+".contains(c);
    (!text.is_empty() && text.len() <= 512 && text.chars().all(allowed))
        .then_some(())
        .ok_or_else(|| "an image such as registry.example/scalekit:0.1.0".to_owned())
}

fn context(text: &str) -> Result<(), String> {
    (!text.is_empty() && text.len() <= 512 && !text.chars().any(char::is_control))
        .then_some(())
        .ok_or_else(|| "a context's name".to_owned())
}

fn cidr(text: &str) -> Result<(), String> {
    let parsed = text.split_once('/').and_then(|(ip, prefix)| {
        let ip: IpAddr = ip.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        Some(prefix <= if ip.is_ipv4() { 32 } else { 128 })
    });
    (parsed == Some(true)).then_some(()).ok_or_else(|| "a network such as 10.0.0.0/8".to_owned())
}

/// The name or the value of a label: up to 63 letters, digits, `-`, `_` and `.`.
fn label_part(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn label_key(text: &str) -> Result<(), String> {
    let (prefix, name) = text.rsplit_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    (label_part(name) && prefix.is_none_or(|prefix| dns_name(prefix).is_ok()))
        .then_some(())
        .ok_or_else(|| "a label such as node-role.kubernetes.io/worker".to_owned())
}

fn label_value(text: &str) -> Result<(), String> {
    (text.is_empty() || label_part(text))
        .then_some(())
        .ok_or_else(|| "a label's value: up to 63 letters, digits, `-`, `_` or `.`".to_owned())
}

impl Resolver<'_> {
    pub(super) fn kubernetes(&self, layer: &KubernetesLayer) -> Found<Kubernetes> {
        let key = |key| ["deploy", "kubernetes", key];
        let optional =
            |name: &'static str, setting: &Setting<String>, check: fn(&str) -> Result<(), String>| {
                setting.value().map(|_| self.text(&key(name), setting, check)).transpose()
            };
        let narrow = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        let IngressLayer { host, class } = layer.ingress.value().cloned().unwrap_or_default();
        let ingress_key = |key| ["deploy", "kubernetes", "ingress", key];
        let ingress = |name: &'static str, setting: &Setting<String>| {
            setting.value().map(|_| self.text(&ingress_key(name), setting, dns_name)).transpose()
        };
        Ok(Kubernetes {
            context: optional("context", &layer.context, context)?,
            namespace: self.text(&key("namespace"), &layer.namespace, |text| dns_label(text, 63))?,
            name: optional("name", &layer.name, |text| dns_label(text, MAX_NAME))?,
            image: optional("image", &layer.image, image)?,
            image_pull_secret: optional("image_pull_secret", &layer.image_pull_secret, dns_name)?,
            path: self.required(&key("path"), &layer.path)?,
            port: narrow(self.whole(&key("port"), &layer.port, 1024..=65_535)?),
            node_port: self.optional(&key("node_port"), &layer.node_port, 30_000..=32_767)?.map(narrow),
            ingress: Ingress { host: ingress("host", &host)?, class: ingress("class", &class)? },
            replicas: narrow(self.whole(&key("replicas"), &layer.replicas, 1..=100)?),
            workers: narrow(self.whole(&key("workers"), &layer.workers, 1..=64)?),
            cpu: self.cpu(&layer.cpu.value().cloned().unwrap_or_default())?,
            memory: self.memory(&layer.memory.value().cloned().unwrap_or_default())?,
            storage: self.storage(&layer.storage.value().cloned().unwrap_or_default())?,
            node_selector: self.node_selector(layer)?,
            node_cidrs: self.node_cidrs(&layer.node_cidrs)?,
            tune: self.required(&key("tune"), &layer.tune)?,
            monitor: self.required(&key("monitor"), &layer.monitor)?,
            ready_timeout: self.span(&key("ready_timeout"), &layer.ready_timeout, SECOND..=HOUR)?,
        })
    }

    fn cpu(&self, layer: &CpuLayer) -> Found<Cpu> {
        let key = |key| ["deploy", "kubernetes", "cpu", key];
        let request = self.text(&key("request"), &layer.request, cpu_text)?;
        let limit = self.text(&key("limit"), &layer.limit, cpu_text)?;
        if millis(&request) > millis(&limit) {
            let message = format!("{request} is more than deploy.kubernetes.cpu.limit, {limit}");
            return Err(self.error(&key("request"), message, "request less, or raise the limit"));
        }
        let cores = self.whole(&key("cores"), &layer.cores, 1..=1024)?;
        let cores = u16::try_from(cores).unwrap_or(u16::MAX);
        Ok(Cpu { class: self.required(&key("class"), &layer.class)?, request, limit, cores })
    }

    fn memory(&self, layer: &MemoryLayer) -> Found<Memory> {
        let of = |name: &'static str, setting: &Setting<Size>, least: u64| {
            self.size(&["deploy", "kubernetes", "memory", name], setting, least..=1024 * GIB)
        };
        Ok(Memory {
            api: of("api", &layer.api, 64 * MIB)?,
            worker: of("worker", &layer.worker, 64 * MIB)?,
            journal: of("journal", &layer.journal, 64 * MIB)?,
            cache: of("cache", &layer.cache, 64 * MIB)?,
            database: of("database", &layer.database, GIB)?,
        })
    }

    fn storage(&self, layer: &StorageLayer) -> Found<Storage> {
        let key = |key| ["deploy", "kubernetes", "storage", key];
        let of =
            |name: &'static str, setting: &Setting<Size>| self.size(&key(name), setting, GIB..=65_536 * GIB);
        let class = &layer.class;
        Ok(Storage {
            class: class.value().map(|_| self.text(&key("class"), class, dns_name)).transpose()?,
            journal: of("journal", &layer.journal)?,
            database: of("database", &layer.database)?,
        })
    }

    fn node_selector(&self, layer: &KubernetesLayer) -> Found<BTreeMap<String, String>> {
        let mut labels = BTreeMap::new();
        for (name, value) in layer.node_selector.value().map(|named| &named.0).into_iter().flatten() {
            let path = ["deploy", "kubernetes", "node_selector", name];
            if let Err(expected) = label_key(name) {
                return Err(self.error(&path, format!("expected {expected}"), "correct the label's name"));
            }
            if value.value().is_some() {
                labels.insert(name.clone(), self.text(&path, value, label_value)?);
            }
        }
        Ok(labels)
    }

    fn node_cidrs(&self, setting: &Setting<Vec<String>>) -> Found<Vec<String>> {
        let path = ["deploy", "kubernetes", "node_cidrs"];
        let list = setting.value().cloned().unwrap_or_default();
        if list.len() > MAX_CIDRS {
            let message = format!("expected up to {MAX_CIDRS} networks, found {}", list.len());
            return Err(self.error(&path, message, "name networks that hold several nodes"));
        }
        for text in &list {
            if let Err(expected) = cidr(text) {
                let message = format!("expected {expected}, found {text:?}");
                return Err(self.error(&path, message, "correct the network"));
            }
        }
        Ok(list)
    }
}
