//! Waits until all workloads of a deployment are as they were asked for, or it is plain that they will not be.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use tokio::time::Instant;

use super::connect::Cluster;
use super::error::ClusterError;
use super::follow::{Follow, Seen};
use super::kinds::{self, Kind, POD, WORKLOADS};
use super::plan::Plan;
use super::ready::{self, Progress};
use super::trouble;

/// How often the interruption is looked at.
const TICK: Duration = Duration::from_millis(100);

type Key = (&'static str, String);

/// Waits until all that the plan has is ready, `patience` at most. `notice` is told what is waited for, when that
/// changes.
///
/// # Errors
/// It is not ready in time, or will not be; the text says what is known of the reasons.
pub(crate) async fn wait(
    cluster: &Cluster,
    plan: &Plan,
    pods: &str,
    patience: Duration,
    stop: &AtomicBool,
    mut notice: impl FnMut(&str),
) -> Result<(), ClusterError> {
    let wanted: Vec<_> = plan.steps.iter().filter(|step| WORKLOADS.contains(&step.kind)).collect();
    let mut waiting: BTreeMap<Key, Progress> = wanted
        .iter()
        .map(|step| (key(step.kind, &step.wanted), Progress::Waiting(NOT_THERE.to_owned())))
        .collect();
    let mut kinds: Vec<Kind> =
        WORKLOADS.into_iter().filter(|kind| wanted.iter().any(|step| step.kind == *kind)).collect();
    if kinds.is_empty() {
        return Ok(());
    }
    kinds.push(POD);
    let mut follow = Follow::start(cluster, &kinds, pods);
    let deadline = Instant::now() + patience;
    let mut told = String::new();
    let problem = loop {
        if stop.load(Ordering::Relaxed) {
            return Err(ClusterError::Interrupted);
        }
        let seen = tokio::select! {
            seen = follow.next() => seen,
            () = tokio::time::sleep(TICK) => {
                if Instant::now() >= deadline {
                    break format!("not ready after {} s (deploy.kubernetes.ready_timeout)", patience.as_secs());
                }
                continue;
            }
        };
        let hopeless = match seen {
            None => return Err(ClusterError::NotReady("nothing is followed any more".to_owned())),
            Some(Seen::Failed(error)) => return Err(error),
            Some(seen) => take(&mut waiting, seen),
        };
        if let Some(why) = hopeless {
            break why;
        }
        if waiting.values().all(|progress| matches!(progress, Progress::Done(_))) {
            return Ok(());
        }
        let failed = waiting.iter().find_map(|((kind, name), progress)| match progress {
            Progress::Failed(why) => Some(format!("{kind} {name} {why}")),
            _ => None,
        });
        if let Some(failed) = failed {
            break failed;
        }
        let now = open(&waiting).join("; ");
        if now != told {
            notice(&now);
            told = now;
        }
        if Instant::now() >= deadline {
            break format!("not ready after {} s (deploy.kubernetes.ready_timeout)", patience.as_secs());
        }
    };
    drop(follow);
    let workloads: Vec<_> =
        wanted.iter().map(|step| (step.kind, kinds::name(&step.wanted).to_owned())).collect();
    // What can be found out; that not all of it can is no other failure.
    let found = trouble::find(cluster, pods, &workloads).await;
    let mut text = format!("the deployment is not ready: {problem}");
    for line in open(&waiting) {
        text.push_str(&format!("\n  {line}"));
    }
    for line in found {
        text.push_str(&format!("\n{line}"));
    }
    text.push_str(
        "\nhelp: what was applied stays, and `scalekit deploy status --target k8s` shows it; mend the cause and deploy \
         again, or remove it with `scalekit deploy down --target k8s`",
    );
    Err(ClusterError::NotReady(text))
}

const NOT_THERE: &str = "is not there yet";

fn key(kind: Kind, object: &DynamicObject) -> Key {
    (kind.kind, kinds::name(object).to_owned())
}

/// What is not done yet.
fn open(waiting: &BTreeMap<Key, Progress>) -> Vec<String> {
    let lines = waiting.iter().filter_map(|((kind, name), progress)| match progress {
        Progress::Waiting(text) | Progress::Failed(text) => Some(format!("{kind} {name}: {text}")),
        Progress::Done(_) => None,
    });
    lines.collect()
}

/// Takes what was seen into account; gives why there is no hope, if so.
fn take(waiting: &mut BTreeMap<Key, Progress>, seen: Seen) -> Option<String> {
    let (kind, objects, is_all) = match seen {
        Seen::All(kind, objects) => (kind, objects, true),
        Seen::Is(kind, object) => (kind, vec![*object], false),
        Seen::Gone(kind, object) => {
            if let Some(progress) = waiting.get_mut(&key(kind, &object)) {
                *progress = Progress::Failed("was removed by somebody else meanwhile".to_owned());
            }
            return None;
        }
        Seen::Failed(_) => return None,
    };
    if kind == POD {
        return objects.iter().find_map(|pod| trouble::hopeless(&pod.clone().try_parse::<Pod>().ok()?));
    }
    if is_all {
        for ((name, _), progress) in waiting.iter_mut() {
            if *name == kind.kind {
                *progress = Progress::Waiting(NOT_THERE.to_owned());
            }
        }
    }
    for object in objects {
        if let Some(progress) = waiting.get_mut(&key(kind, &object)) {
            *progress = ready::progress(kind, &object);
        }
    }
    None
}
