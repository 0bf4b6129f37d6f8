//! The namespace. Several deployments may share it, so it belongs to none: no label of an instance, and the same labels
//! whatever a deployment needs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::deploy::kubernetes::labels::{APPLICATION, MANAGED_BY, NAME};
use crate::profile::Profile;

/// What pods of a namespace may do, by Pod Security Admission. `baseline` forbids the node's network.
pub(super) fn namespace(profile: &Profile) -> Namespace {
    let labels = [
        (NAME, APPLICATION),
        (MANAGED_BY, APPLICATION),
        ("pod-security.kubernetes.io/enforce", "privileged"),
        // Says, at each deployment, which pods need more than the strictest.
        ("pod-security.kubernetes.io/warn", "restricted"),
        ("pod-security.kubernetes.io/audit", "restricted"),
    ];
    let labels: BTreeMap<_, _> =
        labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Namespace {
        metadata: ObjectMeta {
            name: Some(profile.deploy.kubernetes.namespace.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}
