//! The namespace: whether it is there, and whether pods of the deployment may be in it.

use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::connect::Cluster;
use super::error::{ClusterError, message};
use super::kinds::{self, Kind, NAMESPACE, POD};
use super::rights;
use crate::deploy::kubernetes::FIELD_MANAGER;

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
const PRIVILEGED: &str = "privileged";

/// What is known of the namespace.
pub(super) enum Place {
    Missing,
    There(Box<DynamicObject>),
    /// Whoever may only work in one namespace may often not ask for it.
    Hidden,
}

pub(super) async fn find(cluster: &Cluster) -> Result<Place, ClusterError> {
    match cluster.get(NAMESPACE, &cluster.namespace).await {
        Ok(None) => Ok(Place::Missing),
        Ok(Some(namespace)) => Ok(Place::There(Box::new(namespace))),
        Err(ClusterError::Forbidden { .. }) => Ok(Place::Hidden),
        Err(error) => Err(error),
    }
}

pub(super) async fn create(cluster: &Cluster, wanted: &DynamicObject) -> Result<(), ClusterError> {
    let (api, params) = (cluster.api(NAMESPACE), PatchParams::apply(FIELD_MANAGER));
    let patch = Patch::Apply(wanted);
    let call = api.patch(&cluster.namespace, &params, &patch);
    cluster.must("create", NAMESPACE, &cluster.namespace, call).await?;
    Ok(())
}

/// Takes back [`create`], before anything was put into it.
pub(super) async fn remove(cluster: &Cluster) -> Result<(), ClusterError> {
    let (api, params) = (cluster.api(NAMESPACE), DeleteParams::default());
    let call = api.delete(&cluster.namespace, &params);
    cluster.must("delete", NAMESPACE, &cluster.namespace, call).await?;
    Ok(())
}

/// Whether the labels of a namespace forbid what pods want, whoever the user is.
///
/// # Errors
/// They do.
pub(super) fn check_labels(
    namespace: &DynamicObject,
    objects: &[(Kind, DynamicObject)],
) -> Result<(), ClusterError> {
    let level = namespace.metadata.labels.as_ref().and_then(|labels| labels.get(ENFORCE));
    let Some(level) = level.filter(|level| *level != PRIVILEGED) else { return Ok(()) };
    let needs: Vec<_> =
        objects.iter().filter_map(|(kind, object)| Some((kind, object, needs(object)?))).collect();
    let Some((kind, object, need)) = needs.first() else { return Ok(()) };
    Err(ClusterError::PodSecurity {
        namespace: kinds::name(namespace).to_owned(),
        needs: format!("{need} of {}", kinds::title(**kind, object)),
        found: format!("its label is {ENFORCE}={level}"),
        other_path: other_path(need),
    })
}

fn other_path(need: &str) -> &'static str {
    match need {
        HOST_NETWORK => "; or do without the node's network: deploy.kubernetes.path: nodeport",
        _ => "",
    }
}

const HOST_NETWORK: &str = "hostNetwork: true";

/// What the level `baseline` forbids, and this object's pods want.
fn needs(object: &DynamicObject) -> Option<&'static str> {
    let spec = object.data.pointer("/spec/template/spec")?;
    if spec["hostNetwork"] == true {
        return Some(HOST_NETWORK);
    }
    if spec["hostPID"] == true || spec["hostIPC"] == true {
        return Some("hostPID or hostIPC: true");
    }
    let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
    if array(&spec["volumes"]).iter().any(|volume| !volume["hostPath"].is_null()) {
        return Some("a hostPath volume");
    }
    let containers = array(&spec["containers"]).into_iter().chain(array(&spec["initContainers"]));
    let mut containers = containers.filter(|one| one["securityContext"]["privileged"] == true);
    containers.next().map(|_| "a privileged container")
}

/// Lets the cluster itself say whether it would take the pods: admission judges pods, not what makes them, so the dry
/// run of a Deployment tells nothing.
///
/// # Errors
/// It would not.
pub(super) async fn check_pods(
    cluster: &Cluster,
    objects: &[(Kind, DynamicObject)],
) -> Result<(), ClusterError> {
    let pods: Vec<_> =
        objects.iter().filter_map(|(kind, object)| Some((*kind, object, pod(object)?))).collect();
    if pods.is_empty() || !rights::has(cluster, ("create", POD)).await? {
        return Ok(());
    }
    let api = cluster.api(POD);
    let params = PostParams { dry_run: true, field_manager: Some(FIELD_MANAGER.to_owned()) };
    for (kind, object, pod) in pods {
        let title = kinds::title(kind, object);
        let answer = cluster.ask(|| format!("try a pod of {title}"), api.create(&params, &pod)).await?;
        let Err(status) = answer else { continue };
        let said = message(&status);
        let need = needs(object).unwrap_or("the settings of its pods");
        if said.contains("violates PodSecurity") {
            return Err(ClusterError::PodSecurity {
                namespace: cluster.namespace.clone(),
                needs: format!("{need} of {title}"),
                found: said,
                other_path: other_path(need),
            });
        }
        if said.contains("admission webhook") || status.is_invalid() {
            return Err(ClusterError::Invalid {
                object: format!("a pod of {title}"),
                message: said,
                help: "see the policies of the cluster; nothing was changed",
            });
        }
        // A full quota, or an account that is just being made, says nothing about what is there later.
    }
    Ok(())
}

fn pod(object: &DynamicObject) -> Option<DynamicObject> {
    let template = object.data.pointer("/spec/template")?;
    let mut spec = template["spec"].clone();
    if spec["restartPolicy"].is_null() {
        spec["restartPolicy"] = json!("Always");
    }
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("{}-try", kinds::name(object)),
            "namespace": object.metadata.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": template["metadata"]["annotations"],
        },
        "spec": spec,
    });
    serde_json::from_value(pod).ok()
}
