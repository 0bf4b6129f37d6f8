//! Why pods are not ready: the reasons of their containers, of the scheduler and of volumes, what was logged, and the
//! events; each with what to do about it where that is known.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ContainerStatus, Event, PersistentVolumeClaim, Pod};
use kube::api::{ListParams, LogParams};

use super::connect::Cluster;
use super::kinds::{EVENT, Kind, POD, VOLUME_CLAIM};

/// Lines of a log that are shown.
const LOG_LINES: i64 = 15;
const LOG_BYTES: i64 = 64 << 10;
/// Events of each object that are shown, the newest.
const EVENTS: usize = 5;
/// Pods that are looked at: many mostly fail for one reason.
const PODS: usize = 10;

/// One thing that is wrong with a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) text: String,
    pub(super) help: Option<String>,
    /// The container whose log says more, and whether it is the one of before its restart.
    log: Option<(String, bool)>,
}

/// What no waiting mends: an image that could not be pulled more than once, or never can be.
pub(super) fn hopeless(pod: &Pod) -> Option<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let reasons = ["ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"];
    statuses(pod).find_map(|status| {
        let (reason, _) = waits(status)?;
        let image = &status.image;
        reasons.contains(&reason).then(|| format!("Pod {name} cannot pull the image {image} ({reason})"))
    })
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.iter();
    status.flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
    })
}

/// Why a container waits.
fn waits(status: &ContainerStatus) -> Option<(&str, &str)> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    Some((waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or_default()))
}

/// What is wrong with a pod; pure.
pub(super) fn diagnose(pod: &Pod) -> Vec<Finding> {
    let mut findings: Vec<_> = unschedulable(pod).into_iter().collect();
    for status in statuses(pod) {
        findings.extend(container(pod, status));
    }
    findings
}

fn unschedulable(pod: &Pod) -> Option<Finding> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|one| one.type_ == "PodScheduled" && one.status == "False")?;
    let message = condition.message.as_deref().unwrap_or_default();
    let help = if message.contains("free ports") {
        format!(
            "{} on the node is taken by another process or pod: free it (`ss -ltnp` on the node tells whose it is), or \
             choose another with deploy.kubernetes.port, or do without the node's network with deploy.kubernetes.path: \
             nodeport",
            ports(pod)
        )
    } else if message.contains("Insufficient") {
        "no node has what the pods request: request less (deploy.kubernetes.cpu and memory), or add a node"
            .to_owned()
    } else if message.contains("unbound") || message.contains("volume") {
        "its volume is not there: see the claims below; deploy.kubernetes.storage.class names another class"
            .to_owned()
    } else if message.contains("affinity") || message.contains("selector") || message.contains("taint") {
        "no node fits: see deploy.kubernetes.node_selector, and the nodes' labels and taints with `kubectl describe nodes`"
            .to_owned()
    } else {
        "`kubectl describe nodes` tells what the nodes have".to_owned()
    };
    Some(Finding { text: format!("is on no node: {message}"), help: Some(help), log: None })
}

/// The ports that it wants of its node.
fn ports(pod: &Pod) -> String {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let ports: BTreeSet<_> = ports.filter_map(|port| port.host_port).map(|port| port.to_string()).collect();
    match ports.len() {
        0 => "a port".to_owned(),
        1 => format!("port {}", ports.into_iter().collect::<String>()),
        _ => format!("one of the ports {}", ports.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

fn container(pod: &Pod, status: &ContainerStatus) -> Option<Finding> {
    let name = &status.name;
    let before = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let ended = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    if let Some((reason, message)) = waits(status) {
        let text = format!("container {name} waits: {reason}{}", after_colon(message));
        return match reason {
            "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
                Some(Finding { text, help: Some(image_help(&status.image)), log: None })
            }
            "CrashLoopBackOff" => {
                let code = before.map(|ended| (ended.exit_code, ended.reason.as_deref().unwrap_or_default()));
                let (text, help) = match code {
                    Some((_, "OOMKilled")) => (
                        format!("{text}; it was killed for want of memory"),
                        "raise its part of deploy.kubernetes.memory".to_owned(),
                    ),
                    Some((code, _)) => (
                        format!("{text}; it ended with status {code}, {} times", status.restart_count),
                        "its last lines say why".to_owned(),
                    ),
                    None => (text, "its last lines say why".to_owned()),
                };
                Some(Finding { text, help: Some(help), log: Some((name.clone(), true)) })
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => Some(Finding {
                text,
                help: Some(
                    "something that it refers to is not there or not allowed; the message names it"
                        .to_owned(),
                ),
                log: None,
            }),
            // On its way, as far as anybody can tell.
            _ => None,
        };
    }
    if let Some(ended) = ended.filter(|ended| ended.exit_code != 0) {
        let reason = ended.reason.as_deref().unwrap_or("Error");
        let text = format!("container {name} ended with status {} ({reason})", ended.exit_code);
        return Some(Finding { text, help: None, log: Some((name.clone(), false)) });
    }
    let is_init = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    let is_init = is_init.map(|status| &status.name).any(|init| init == name);
    let runs = status.state.as_ref().is_some_and(|state| state.running.is_some());
    (runs && !status.ready && !is_init).then(|| Finding {
        text: format!(
            "container {name} runs and is not ready{}",
            match status.restart_count {
                0 => String::new(),
                count => format!(", after {count} restarts"),
            }
        ),
        help: Some("its readiness probe fails; its last lines may say why".to_owned()),
        log: Some((name.clone(), false)),
    })
}

fn after_colon(message: &str) -> String {
    match message {
        "" => String::new(),
        message => format!(": {message}"),
    }
}

fn image_help(image: &str) -> String {
    format!(
        "the nodes cannot pull the image {image}: push it where they can and name it with its registry \
         (deploy.kubernetes.image), name the registry's Secret (deploy.kubernetes.image_pull_secret), or load it into the \
         nodes (`kind load docker-image`, `k3s ctr images import`)"
    )
}

/// All that can be found out about pods and workloads that are not ready, as lines.
pub(super) async fn find(cluster: &Cluster, labels: &str, workloads: &[(Kind, String)]) -> Vec<String> {
    let mut lines = Vec::new();
    let api = cluster.typed::<Pod>();
    let pods = cluster.must("list", POD, "", api.list(&ListParams::default().labels(labels))).await;
    let pods = match pods {
        Ok(pods) => pods.items,
        Err(error) => {
            lines.push(format!("its pods are unknown: {error}"));
            Vec::new()
        }
    };
    let sick = pods.iter().filter(|pod| !is_well(pod)).take(PODS);
    for pod in sick {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let findings = diagnose(pod);
        if findings.is_empty() {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            lines.push(format!("Pod {name} is {}", phase.unwrap_or("unknown")));
        }
        for Finding { text, help, log } in findings {
            lines.push(format!("Pod {name} {text}"));
            if let Some((container, before)) = log {
                lines.extend(log_end(cluster, name, &container, before).await);
            }
            lines.extend(help.map(|help| format!("  help: {help}")));
        }
        lines.extend(events(cluster, "Pod", name).await);
        if owner(pod) == Some("StatefulSet") {
            lines.push(format!(
                "  help: once the cause is mended, `kubectl delete pod {name} -n {}` if it stays: a StatefulSet keeps a pod that \
                 was never ready, even for a newer template",
                cluster.namespace
            ));
        }
    }
    for (kind, name) in workloads {
        lines.extend(events(cluster, kind.kind, name).await);
    }
    lines.extend(claims(cluster, labels).await);
    lines
}

/// The kind of what made a pod.
fn owner(pod: &Pod) -> Option<&str> {
    Some(pod.metadata.owner_references.as_ref()?.first()?.kind.as_str())
}

/// Whether a pod is ready, or has done its work.
pub(super) fn is_well(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let conditions = status.conditions.iter().flatten();
    let is_ready = conditions.filter(|one| one.type_ == "Ready").any(|one| one.status == "True");
    is_ready || status.phase.as_deref() == Some("Succeeded")
}

async fn log_end(cluster: &Cluster, pod: &str, container: &str, previous: bool) -> Vec<String> {
    let params = LogParams {
        container: Some(container.to_owned()),
        previous,
        tail_lines: Some(LOG_LINES),
        limit_bytes: Some(LOG_BYTES),
        ..LogParams::default()
    };
    let api = cluster.typed::<Pod>();
    match cluster.must("get", POD, pod, api.logs(pod, &params)).await {
        Ok(text) if text.trim().is_empty() => vec!["  it logged nothing".to_owned()],
        Ok(text) => {
            let lines = text.lines().map(|line| format!("  | {line}"));
            std::iter::once("  the end of its log:".to_owned()).chain(lines).collect()
        }
        Err(error) => vec![format!("  its log is unknown: {error}")],
    }
}

/// The newest warnings about an object.
async fn events(cluster: &Cluster, kind: &str, name: &str) -> Vec<String> {
    let api = cluster.typed::<Event>();
    let fields = format!("involvedObject.kind={kind},involvedObject.name={name}");
    let listed = cluster.must("list", EVENT, "", api.list(&ListParams::default().fields(&fields))).await;
    // They tell more of what is known already; who may not see them has the rest.
    let mut events = listed.map(|listed| listed.items).unwrap_or_default();
    events.retain(|event| event.type_.as_deref() == Some("Warning"));
    let time = |event: &Event| {
        let last = event.last_timestamp.as_ref().map(|time| time.0.to_string());
        last.or_else(|| event.event_time.as_ref().map(|time| time.0.to_string())).unwrap_or_default()
    };
    events.sort_by_key(time);
    let newest = events.iter().skip(events.len().saturating_sub(EVENTS));
    newest
        .map(|event| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let times = match event.count {
                Some(count) if count > 1 => format!(" ({count} times)"),
                _ => String::new(),
            };
            let message = text(&event.message).replace('\n', " ");
            format!("  event of {kind} {name}: {}: {message}{times}", text(&event.reason))
        })
        .collect()
}

async fn claims(cluster: &Cluster, labels: &str) -> Vec<String> {
    let api = cluster.typed::<PersistentVolumeClaim>();
    let listed =
        cluster.must("list", VOLUME_CLAIM, "", api.list(&ListParams::default().labels(labels))).await;
    let claims = listed.map(|listed| listed.items).unwrap_or_default();
    let mut lines = Vec::new();
    for claim in claims {
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase == Some("Bound") {
            continue;
        }
        let name = claim.metadata.name.unwrap_or_default();
        let class = claim.spec.and_then(|spec| spec.storage_class_name);
        let class =
            class.map_or("the cluster's default class".to_owned(), |class| format!("the class {class}"));
        lines.push(format!("PersistentVolumeClaim {name} is {}, of {class}", phase.unwrap_or("unknown")));
        lines.push(
            "  help: `kubectl get storageclass` lists the classes; name one with deploy.kubernetes.storage.class"
                .to_owned(),
        );
        lines.extend(events(cluster, "PersistentVolumeClaim", &name).await);
    }
    lines
}
