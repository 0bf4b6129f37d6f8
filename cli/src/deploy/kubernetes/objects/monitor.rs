//! Prometheus' operator's ServiceMonitor, a kind that only clusters with the operator know.

use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::service::PORT;
use crate::deploy::kubernetes::ObjectsError;
use crate::deploy::kubernetes::labels::{self, APPLICATION, INSTANCE, MANAGED_BY, instance, name_of};
use crate::profile::{DeployMode, Monitor, Profile};

pub(super) const API_VERSION: &str = "monitoring.coreos.com/v1";
const COMPONENT: &str = "monitor";

/// Whether one is asked for. A service that asks for tokens would refuse Prometheus, which has none.
pub(super) fn is_wanted(profile: &Profile) -> bool {
    profile.deploy.kubernetes.monitor != Monitor::Never && profile.deploy.tokens_file.is_none()
}

pub(super) fn monitor(profile: &Profile) -> Result<DynamicObject, ObjectsError> {
    let mut endpoint = json!({ "port": PORT, "path": "/metrics", "interval": "15s" });
    if profile.deploy.tls.is_some() {
        endpoint["scheme"] = "https".into();
        // Pods are asked by their addresses, which no certificate names.
        endpoint["tlsConfig"] = json!({ "insecureSkipVerify": true });
    }
    let components = match profile.deploy.mode {
        DeployMode::WriteBehind => vec!["api", "worker", "service"],
        DeployMode::Direct => vec!["api", "service"],
    };
    let mut selector: Value = json!({
        "matchLabels": { INSTANCE: instance(profile), MANAGED_BY: APPLICATION },
    });
    selector["matchExpressions"] =
        json!([{ "key": labels::COMPONENT, "operator": "In", "values": components }]);
    let object = json!({
        "apiVersion": API_VERSION,
        "kind": "ServiceMonitor",
        "metadata": {
            "name": name_of(profile, COMPONENT),
            "namespace": profile.deploy.kubernetes.namespace,
            "labels": labels::labels(profile, COMPONENT),
        },
        "spec": { "selector": selector, "endpoints": [endpoint] },
    });
    serde_json::from_value(object).map_err(|error| ObjectsError::Form(format!("ServiceMonitor: {error}")))
}
