//! How many pods may be away when a node is drained. `minAvailable: 1` of one pod would hold every drain up for good, so it
//! is said the other way round. Redis and MongoDB have none: of one pod it would say nothing.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::common::{metadata, selector};
use crate::profile::Profile;

pub(super) fn budget(profile: &Profile, component: &str) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(profile, component),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(profile, component)),
            // One that is broken anyway does not hold a drain up.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
