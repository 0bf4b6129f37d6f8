//! What objects of several kinds share.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::deploy::kubernetes::labels::{self, name_of};
use crate::profile::Profile;

/// Name, namespace and labels.
pub(super) fn metadata(profile: &Profile, component: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name_of(profile, component)),
        namespace: Some(profile.deploy.kubernetes.namespace.clone()),
        labels: Some(labels::labels(profile, component)),
        ..ObjectMeta::default()
    }
}
