//! The cluster's controllers, scheduler and kubelet, as far as a client sees them, and how they fail.

use std::time::Duration;

use serde_json::{Value, json};

use super::world::{Key, World, bump_generation};

/// How the pods of a component do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// Ready so long after they were made.
    Healthy(Duration),
    /// Runs and does not end, as pods of a Job may.
    Serving,
    ImagePull,
    PortTaken,
    NoMemory,
    /// Its claim is bound to no volume.
    Unbound,
    Crash,
}

/// Until a controller looks at what was changed: the former status stands meanwhile.
const LOOK_AFTER: Duration = Duration::from_millis(150);
const READY_AFTER: Duration = Duration::from_millis(100);
const GONE_AFTER: Duration = Duration::from_millis(100);

pub(super) fn step(world: &mut World) {
    for resource in ["deployments", "statefulsets", "daemonsets", "jobs"] {
        for (key, object) in world.list(resource) {
            workload(world, &key, object);
        }
    }
    // What belongs to something that is gone goes, too.
    for (key, owned) in world.list("pods").into_iter().chain(world.list("secrets")) {
        let owner = &owned["metadata"]["ownerReferences"][0];
        let resource = format!("{}s", owner["kind"].as_str().unwrap_or_default().to_lowercase());
        let is_there = world.get(&resource, &key.1, owner["name"].as_str().unwrap_or_default()).is_some();
        if !owner.is_null() && !is_there {
            world.remove(&key);
        }
    }
}

fn since(world: &mut World, key: &Key, generation: i64) -> Duration {
    world.seen.entry((key.clone(), generation)).or_insert_with(std::time::Instant::now).elapsed()
}

fn pods_of(world: &World, key: &Key) -> Vec<(Key, Value)> {
    let kind = key.0.trim_end_matches('s');
    let mut pods = world.list("pods");
    pods.retain(|(pod, object)| {
        let owner = &object["metadata"]["ownerReferences"][0];
        let is_kind = owner["kind"].as_str().is_some_and(|it| it.to_lowercase() == kind);
        pod.1 == key.1 && is_kind && owner["name"] == key.2.as_str()
    });
    pods
}

fn workload(world: &mut World, key: &Key, mut object: Value) {
    if !object["metadata"]["deletionTimestamp"].is_null() {
        if since(world, key, -1) >= GONE_AFTER {
            for (pod, _) in pods_of(world, key) {
                world.remove(&pod);
            }
            world.remove(key);
            world.seen.retain(|(seen, _), _| seen != key);
            world.stages.remove(key);
        }
        return;
    }
    let generation = object["metadata"]["generation"].as_i64().unwrap();
    let age = since(world, key, generation);
    if age < LOOK_AFTER {
        return;
    }
    let component = object["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap_or_default();
    let conduct = world.conduct.get(component).copied().unwrap_or(Conduct::Healthy(READY_AFTER));
    let is_ready = match conduct {
        Conduct::Healthy(after) => age >= LOOK_AFTER + after,
        conduct => conduct == Conduct::Serving,
    };
    let stage = if is_ready { 2 } else { 1 };
    let now = format!("{generation}.{stage}.{conduct:?}");
    if world.stages.get(key) == Some(&now) {
        return;
    }
    world.stages.insert(key.clone(), now);
    make_pods(world, key, &object, conduct, is_ready);
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
    let ready = if is_ready { wanted } else { 0 };
    object["status"] = match key.0.as_str() {
        "deployments" => json!({
            "observedGeneration": generation, "replicas": wanted, "updatedReplicas": wanted,
            "readyReplicas": ready, "availableReplicas": ready,
        }),
        "statefulsets" => json!({
            "observedGeneration": generation, "replicas": wanted, "updatedReplicas": wanted,
            "readyReplicas": ready, "availableReplicas": ready,
            "currentRevision": format!("r{}", if is_ready { generation } else { generation - 1 }),
            "updateRevision": format!("r{generation}"),
        }),
        "daemonsets" => json!({
            "observedGeneration": generation, "desiredNumberScheduled": 1, "currentNumberScheduled": 1,
            "updatedNumberScheduled": 1, "numberMisscheduled": 0,
            "numberReady": i64::from(is_ready), "numberAvailable": i64::from(is_ready),
        }),
        _ if is_ready && conduct != Conduct::Serving => {
            json!({"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]})
        }
        _ => json!({"active": 1}),
    };
    world.put(&key.0, object);
}

fn make_pods(world: &mut World, key: &Key, owner: &Value, conduct: Conduct, is_ready: bool) {
    for (pod, _) in pods_of(world, key) {
        world.remove(&pod);
    }
    let generation = &owner["metadata"]["generation"];
    let count = &owner["spec"][if key.0 == "jobs" { "parallelism" } else { "replicas" }];
    for index in 0..count.as_i64().unwrap_or(1) {
        let name = match key.0.as_str() {
            "statefulsets" => format!("{}-{index}", key.2),
            _ => format!("{}-{generation}-{index}", key.2),
        };
        claims(world, key, owner, &name, conduct);
        let template = &owner["spec"]["template"];
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name, "namespace": key.1, "labels": template["metadata"]["labels"],
                "ownerReferences": [{
                    "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": key.2,
                    "uid": owner["metadata"]["uid"], "controller": true,
                }],
            },
            "spec": template["spec"],
        });
        let is_job = key.0 == "jobs";
        status(&mut pod, conduct, is_ready, is_job);
        for event in events(&pod, conduct) {
            world.put("events", event);
        }
        world.put("pods", pod);
    }
}

fn claims(world: &mut World, key: &Key, owner: &Value, pod: &str, conduct: Conduct) {
    for template in owner["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten() {
        let name = format!("{}-{pod}", template["metadata"]["name"].as_str().unwrap());
        if world.get("persistentvolumeclaims", &key.1, &name).is_some() {
            continue;
        }
        let phase = if conduct == Conduct::Unbound { "Pending" } else { "Bound" };
        let mut claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": key.1, "labels": owner["spec"]["selector"]["matchLabels"]},
            "spec": template["spec"], "status": {"phase": phase},
        });
        bump_generation(&mut claim);
        world.put("persistentvolumeclaims", claim);
        if conduct == Conduct::Unbound {
            let text = "no persistent volumes available for this claim and no storage class is set";
            world.put("events", event(&key.1, "PersistentVolumeClaim", &name, "FailedBinding", text));
        }
    }
}

fn status(pod: &mut Value, conduct: Conduct, is_ready: bool, is_job: bool) {
    let containers = pod["spec"]["containers"].as_array().unwrap().clone();
    let of = |state: Value, last: Value, ready: bool, restarts: u32| -> Value {
        let one = |container: &Value| {
            json!({
                "name": container["name"], "image": container["image"], "imageID": "", "ready": ready,
                "restartCount": restarts, "state": state, "lastState": last,
            })
        };
        containers.iter().map(one).collect()
    };
    let scheduled = |containers: Value, ready: bool, phase: &str| {
        json!({
            "phase": phase, "hostIP": "127.0.0.1", "podIP": "127.0.0.1",
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            "containerStatuses": containers,
        })
    };
    let unscheduled = |message: &str| {
        json!({
            "phase": "Pending",
            "conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            }],
        })
    };
    let waiting = |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
    let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    let state = match conduct {
        Conduct::Healthy(_) if is_job && is_ready => {
            let ended = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
            scheduled(of(ended, json!({}), false, 0), false, "Succeeded")
        }
        Conduct::Healthy(_) | Conduct::Serving => {
            scheduled(of(running, json!({}), is_ready, 0), is_ready, "Running")
        }
        Conduct::ImagePull => {
            let state = waiting("ImagePullBackOff", "Back-off pulling image");
            scheduled(of(state, json!({}), false, 0), false, "Pending")
        }
        Conduct::Crash => {
            let state = waiting("CrashLoopBackOff", "back-off 20s restarting failed container");
            let last = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
            scheduled(of(state, last, false, 4), false, "Running")
        }
        Conduct::PortTaken => unscheduled(
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. preemption: 0/1 nodes \
             are available: 1 No preemption victims found for incoming pod.",
        ),
        Conduct::NoMemory => unscheduled("0/1 nodes are available: 1 Insufficient memory."),
        Conduct::Unbound => {
            unscheduled("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.")
        }
    };
    if !matches!(conduct, Conduct::PortTaken | Conduct::NoMemory | Conduct::Unbound) {
        pod["spec"]["nodeName"] = "node-1".into();
    }
    pod["status"] = state;
}

fn events(pod: &Value, conduct: Conduct) -> Vec<Value> {
    let (reason, text) = match conduct {
        Conduct::Healthy(_) | Conduct::Serving => return Vec::new(),
        Conduct::ImagePull => ("Failed", "Failed to pull image: not found"),
        Conduct::Crash => ("BackOff", "Back-off restarting failed container"),
        Conduct::PortTaken | Conduct::NoMemory | Conduct::Unbound => {
            ("FailedScheduling", pod["status"]["conditions"][0]["message"].as_str().unwrap())
        }
    };
    let meta = &pod["metadata"];
    vec![event(meta["namespace"].as_str().unwrap(), "Pod", meta["name"].as_str().unwrap(), reason, text)]
}

fn event(namespace: &str, kind: &str, name: &str, reason: &str, text: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": reason, "message": text, "count": 3,
        "metadata": {"name": format!("{name}.{}", reason.to_lowercase()), "namespace": namespace},
        "involvedObject": {"kind": kind, "name": name, "namespace": namespace},
        "lastTimestamp": "2026-01-01T00:00:00Z",
    })
}
