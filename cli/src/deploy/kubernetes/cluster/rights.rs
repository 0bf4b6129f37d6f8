//! Which of the rights that a deployment needs the user lacks: all of them at once, before anything is changed.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;

use super::connect::Cluster;
use super::error::ClusterError;
use super::kinds::{Kind, POD, WORKLOADS};

/// Asked at a time.
const AT_ONCE: usize = 8;

/// A verb on a kind.
pub(super) type Right = (&'static str, Kind);

/// What it takes to apply objects of these kinds and to wait for them.
pub(super) fn needed(kinds: &[Kind]) -> Vec<Right> {
    let mut rights: Vec<Right> = Vec::new();
    let mut seen = BTreeSet::new();
    for kind in kinds {
        if !seen.insert(kind.full_name()) {
            continue;
        }
        rights.extend(["get", "create", "patch"].map(|verb| (verb, *kind)));
        if kind.namespaced {
            // What is not wanted any more is found and removed.
            rights.extend(["list", "delete"].map(|verb| (verb, *kind)));
        }
        if WORKLOADS.contains(kind) {
            rights.push(("watch", *kind));
        }
    }
    rights.extend(["list", "watch"].map(|verb| (verb, POD)));
    rights
}

/// # Errors
/// At least one is missing; all that are get named.
pub(super) async fn check(cluster: &Cluster, rights: Vec<Right>) -> Result<(), ClusterError> {
    let answers: Vec<_> =
        stream::iter(rights).map(|right| is_missing(cluster, right)).buffered(AT_ONCE).collect().await;
    let mut missing = String::new();
    for answer in answers {
        if let Some((right, reason)) = answer? {
            let (verb, kind) = right;
            let place = match kind.namespaced {
                true => format!(" in the namespace {}", cluster.namespace),
                false => String::new(),
            };
            let _ = write!(missing, "\n  {verb} {}{place}{reason}", kind.full_name());
        }
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(ClusterError::NoRights { context: cluster.context.clone(), missing }),
    }
}

/// And why, where the cluster says so. Where it does not tell, the call itself will.
async fn is_missing(cluster: &Cluster, right: Right) -> Result<Option<(Right, String)>, ClusterError> {
    let (verb, kind) = right;
    let attributes = ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: Some(kind.group.to_owned()),
        resource: Some(kind.plural.to_owned()),
        namespace: kind.namespaced.then(|| cluster.namespace.clone()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let params = PostParams::default();
    let answer = cluster.ask(|| "ask for one's rights".to_owned(), api.create(&params, &review)).await?;
    let Some(status) = answer.ok().and_then(|review| review.status) else { return Ok(None) };
    if status.allowed {
        return Ok(None);
    }
    let reason = status.reason.filter(|reason| !reason.is_empty());
    Ok(Some((right, reason.map(|reason| format!(" ({reason})")).unwrap_or_default())))
}

/// Whether the user has a right; if the cluster does not tell, the call itself will.
pub(super) async fn has(cluster: &Cluster, right: Right) -> Result<bool, ClusterError> {
    Ok(is_missing(cluster, right).await?.is_none())
}
