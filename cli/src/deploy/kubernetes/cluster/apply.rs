//! Carries out a plan, in its order, and names what it did.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::api::{DeleteParams, Patch, Preconditions};
use kube::core::DynamicObject;

use super::connect::Cluster;
use super::error::{Ask, ClusterError};
use super::kinds::{self, Kind};
use super::plan::{self, Change, Plan};

/// For a Job to be gone before it is made anew.
const REPLACE_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);

/// What was done, as `Kind NAME`.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) created: Vec<String>,
    pub(crate) changed: Vec<String>,
    pub(crate) unchanged: Vec<String>,
    pub(crate) removed: Vec<String>,
}

impl Applied {
    pub(crate) fn is_nothing(&self) -> bool {
        self.created.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Applies what differs. `applied` says what was done even if not all could be.
///
/// # Errors
/// The cluster refuses something after all, or the interruption.
pub(crate) async fn apply(
    cluster: &Cluster,
    plan: &Plan,
    stop: &AtomicBool,
    applied: &mut Applied,
) -> Result<(), ClusterError> {
    for step in &plan.steps {
        if stop.load(Ordering::Relaxed) {
            return Err(ClusterError::Interrupted);
        }
        let title = kinds::title(step.kind, &step.wanted);
        match step.change {
            Change::Same => applied.unchanged.push(title),
            Change::Create => {
                put(cluster, step.kind, &step.wanted, plan.force).await?;
                applied.created.push(title);
            }
            Change::Update => {
                put(cluster, step.kind, &step.wanted, plan.force).await?;
                applied.changed.push(title);
            }
            Change::Replace => {
                if let Some(live) = &step.live {
                    delete(cluster, step.kind, live).await?;
                    wait_gone(cluster, step.kind, live, stop).await?;
                }
                put(cluster, step.kind, &step.wanted, plan.force).await?;
                applied.changed.push(title);
            }
        }
    }
    Ok(())
}

/// Removes what is not wanted any more; done once its successors are up.
///
/// # Errors
/// The cluster refuses it.
pub(crate) async fn prune(cluster: &Cluster, plan: &Plan, applied: &mut Applied) -> Result<(), ClusterError> {
    for (kind, object) in &plan.unwanted {
        delete(cluster, *kind, object).await?;
        applied.removed.push(kinds::title(*kind, object));
    }
    Ok(())
}

async fn put(cluster: &Cluster, kind: Kind, wanted: &DynamicObject, force: bool) -> Result<(), ClusterError> {
    let (api, name, resource) = (cluster.api(kind), kinds::name(wanted), kind.full_name());
    let namespace = if kind.namespaced { cluster.namespace.as_str() } else { "" };
    let ask = Ask { verb: "patch", resource: &resource, name, namespace };
    let params = plan::params(force);
    let answer = cluster.ask(|| ask.what(), api.patch(name, &params, &Patch::Apply(wanted))).await?;
    answer.map_err(|status| plan::refused(kind, wanted, true, &status, &ask))?;
    Ok(())
}

/// Asks for the removal of this very object; one that is gone is as good. Its pods go with it.
pub(super) async fn delete(
    cluster: &Cluster,
    kind: Kind,
    object: &DynamicObject,
) -> Result<(), ClusterError> {
    let (api, name) = (cluster.api(kind), kinds::name(object));
    // Somebody else's object of that name is not meant.
    let uid = object.metadata.uid.clone();
    // Its pods first, so that whoever waits for it waits for them.
    let params = DeleteParams::foreground().preconditions(Preconditions { uid, resource_version: None });
    let call = async {
        match api.delete(name, &params).await {
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
            other => other.map(drop),
        }
    };
    cluster.must("delete", kind, name, call).await
}

async fn wait_gone(
    cluster: &Cluster,
    kind: Kind,
    object: &DynamicObject,
    stop: &AtomicBool,
) -> Result<(), ClusterError> {
    let deadline = tokio::time::Instant::now() + REPLACE_PATIENCE;
    while let Some(now) = cluster.get(kind, kinds::name(object)).await? {
        if now.metadata.uid != object.metadata.uid {
            break;
        }
        if stop.load(Ordering::Relaxed) {
            return Err(ClusterError::Interrupted);
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(ClusterError::NotGone {
                left: kinds::title(kind, object),
                seconds: REPLACE_PATIENCE.as_secs(),
                help: "see its finalizers with `kubectl get -o yaml`; then deploy again",
            });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
