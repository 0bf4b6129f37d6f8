//! Removes a deployment: the API first, so that it takes no more requests, then the workers, which empty the journal,
//! then the rest. Data goes only if that is asked for, and the namespace never: others may live there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::core::DynamicObject;
use tokio::time::Instant;

use super::apply;
use super::connect::Cluster;
use super::error::ClusterError;
use super::kinds::{self, Kind, WORKLOADS};
use super::plan::{component, is_kept};
use super::status;
use crate::profile::Profile;

const POLL: Duration = Duration::from_millis(200);
/// Beyond the longest grace that pods have.
const PATIENCE: Duration = Duration::from_secs(180);

/// What was removed and what stays, as `Kind NAME`.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) removed: Vec<String>,
    pub(crate) kept: Vec<String>,
}

/// # Errors
/// Nothing is there, something cannot be removed or does not go, or the interruption.
pub(crate) async fn down(
    cluster: &Cluster,
    profile: &Profile,
    purge: bool,
    stop: &AtomicBool,
) -> Result<Left, ClusterError> {
    let found = status::everything(cluster, profile).await?;
    let mut left = Left::default();
    let (kept, mut going): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(kind, object)| !purge && is_kept(*kind, object));
    left.kept = kept.iter().map(|(kind, object)| kinds::title(*kind, object)).collect();
    if going.is_empty() && status::pods(cluster, profile).await?.is_empty() {
        // Data alone is nothing to end, but something to purge.
        return Err(status::nothing(cluster, profile));
    }
    going.sort_by_key(|(kind, object)| turn(*kind, object));
    let deadline = Instant::now() + PATIENCE;
    while let Some((kind, first)) = going.first() {
        let now = turn(*kind, first);
        let rest = going.partition_point(|(kind, object)| turn(*kind, object) <= now);
        let batch: Vec<_> = going.drain(..rest).collect();
        for (kind, object) in &batch {
            apply::delete(cluster, *kind, object).await?;
        }
        gone(cluster, &batch, deadline, stop).await?;
        left.removed.extend(batch.iter().map(|(kind, object)| kinds::title(*kind, object)));
    }
    pods_gone(cluster, profile, deadline, stop).await?;
    Ok(left)
}

/// When an object goes.
fn turn(kind: Kind, object: &DynamicObject) -> u8 {
    match (WORKLOADS.contains(&kind), component(object)) {
        (true, Some("api" | "service")) => 0,
        (true, Some("worker")) => 1,
        (true, _) => 2,
        (false, _) => 3,
    }
}

async fn gone(
    cluster: &Cluster,
    batch: &[(Kind, DynamicObject)],
    deadline: Instant,
    stop: &AtomicBool,
) -> Result<(), ClusterError> {
    for (kind, object) in batch {
        loop {
            let now = cluster.get(*kind, kinds::name(object)).await?;
            // One of that name which is made anew is another one.
            if now.is_none_or(|now| now.metadata.uid != object.metadata.uid) {
                break;
            }
            pause(deadline, stop, || kinds::title(*kind, object)).await?;
        }
    }
    Ok(())
}

async fn pods_gone(
    cluster: &Cluster,
    profile: &Profile,
    deadline: Instant,
    stop: &AtomicBool,
) -> Result<(), ClusterError> {
    loop {
        let pods = status::pods(cluster, profile).await?;
        if pods.is_empty() {
            return Ok(());
        }
        let names = || {
            let names =
                pods.iter().map(|pod| format!("Pod {}", pod.metadata.name.as_deref().unwrap_or_default()));
            names.collect::<Vec<_>>().join(", ")
        };
        pause(deadline, stop, names).await?;
    }
}

async fn pause(deadline: Instant, stop: &AtomicBool, left: impl Fn() -> String) -> Result<(), ClusterError> {
    if stop.load(Ordering::Relaxed) {
        return Err(ClusterError::Interrupted);
    }
    if Instant::now() >= deadline {
        return Err(ClusterError::NotGone {
            left: left(),
            seconds: PATIENCE.as_secs(),
            help: "a node that is away keeps its pods: see `kubectl get nodes`, then repeat `down`",
        });
    }
    tokio::time::sleep(POLL).await;
    Ok(())
}
