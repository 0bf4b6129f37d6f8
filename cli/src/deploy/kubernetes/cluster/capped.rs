//! The cap on the disk of a cluster's MongoDB: what the container that set it, and put it to the test, left as its message.

use k8s_openapi::api::core::v1::Pod;

use super::status::pods;
use super::{Cluster, ClusterError};
use crate::deploy::cap::Facts;
use crate::profile::Profile;

/// Of the init container; the objects are made with it.
const CAP_CONTAINER: &str = "cap";

/// What the probe found when the database's pod last started; `None` where nothing capped it.
///
/// # Errors
/// The pods cannot be listed.
pub(crate) async fn cap(cluster: &Cluster, profile: &Profile) -> Result<Option<Facts>, ClusterError> {
    Ok(pods(cluster, profile).await?.iter().find_map(of_pod))
}

pub(super) fn of_pod(pod: &Pod) -> Option<Facts> {
    let statuses = pod.status.as_ref()?.init_container_statuses.as_ref()?;
    let status = statuses.iter().find(|status| status.name == CAP_CONTAINER)?;
    let state = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    // A container that is started once more has its message in the state of before.
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    [state, last].into_iter().flatten().find_map(|ended| serde_json::from_str(ended.message.as_deref()?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(containers: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "status": { "initContainerStatuses": containers } })).unwrap()
    }

    #[test]
    fn the_message_of_the_container_is_the_cap() {
        let facts = Facts {
            iops_per_s: 100,
            group: "/host/cgroup/kubepods.slice".into(),
            directory: "/data/db".into(),
            devices: vec!["8:0".into()],
            capped_per_s: 98.5,
            uncapped_per_s: 2_000.0,
            problem: None,
        };
        let ended = |message: String| json!({ "terminated": { "exitCode": 0, "message": message } });
        let status = |name: &str, state: serde_json::Value, last: serde_json::Value| {
            let image = json!({ "image": "i", "imageID": "", "ready": true, "restartCount": 0 });
            let mut status = json!({ "name": name, "state": state, "lastState": last });
            status.as_object_mut().unwrap().extend(image.as_object().unwrap().clone());
            status
        };
        let text = || serde_json::to_string(&facts).unwrap();
        let none = || json!({});
        for (containers, expected) in [
            (json!([status("other", ended("x".into()), none()), status("cap", ended(text()), none())]), true),
            (json!([status("cap", json!({ "waiting": {} }), ended(text()))]), true),
            (json!([status("other", ended(text()), none())]), false),
            (json!([status("cap", ended("panicked".into()), none())]), false),
            (json!([status("cap", json!({ "running": {} }), none())]), false),
            (json!([]), false),
        ] {
            assert_eq!(of_pod(&pod(&containers)), expected.then(|| facts.clone()), "{containers}");
        }
        assert_eq!(of_pod(&Pod::default()), None);
    }
}
