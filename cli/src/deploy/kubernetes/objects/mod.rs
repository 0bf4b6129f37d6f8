//! The objects of a deployment, one noun a file: pure functions from a profile.

mod backends;
mod common;
mod config;
mod namespace;
mod secrets;

use k8s_openapi::Resource;
use kube::core::DynamicObject;
use serde::Serialize;

use super::ObjectsError;
use super::material::Material;
use crate::profile::Profile;

pub(crate) use secrets::credentials_name;

/// All objects in the order in which they are applied: what others refer to comes first. Where the cluster lacks a kind
/// that `wants_kind` names, that object is left out.
///
/// # Errors
/// One cannot be written, which would be a flaw of this program.
pub(crate) fn objects(profile: &Profile, material: &Material) -> Result<Vec<DynamicObject>, ObjectsError> {
    let mut all = vec![dynamic(&namespace::namespace(profile))?];
    for secret in secrets::secrets(profile, material) {
        all.push(dynamic(&secret)?);
    }
    all.extend(public(profile)?);
    Ok(all)
}

/// Those without secrets, and without the namespace.
pub(super) fn public(profile: &Profile) -> Result<Vec<DynamicObject>, ObjectsError> {
    Ok(vec![dynamic(&config::config(profile)?)?])
}

/// Whether an object is of a kind that not every cluster knows, and may be left out there.
pub(crate) fn wants_kind(object: &DynamicObject) -> bool {
    object.types.as_ref().is_some_and(|types| types.api_version.starts_with("monitoring.coreos.com/"))
}

fn dynamic<T: Resource + Serialize>(object: &T) -> Result<DynamicObject, ObjectsError> {
    serde_json::to_value(object)
        .and_then(serde_json::from_value)
        .map_err(|error| ObjectsError::Form(format!("{}: {error}", T::KIND)))
}
