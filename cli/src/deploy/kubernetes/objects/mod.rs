//! The objects of a deployment, one noun a file: pure functions from a profile.

mod agents;
mod backends;
mod cap;
mod common;
mod config;
mod disruption;
mod images;
mod ingress;
mod mongo;
mod monitor;
mod namespace;
mod network_policy;
mod redis;
mod secrets;
mod service;
mod services;
mod tune;

use k8s_openapi::Resource;
use kube::core::DynamicObject;
use serde::Serialize;

use super::ObjectsError;
use super::material::Material;
use crate::profile::{Backend, NodeTuning, Profile, TrafficPath};

use backends::Backends;
use service::{API, SERVICE, WORKER};

pub(crate) use agents::{AGENT_PORT, AGENTS, agents_job, agents_secret};
pub(crate) use secrets::credentials_name;
pub(super) use secrets::{credentials, files_name};

/// All objects in the order in which they are applied: what others refer to comes first. Where the cluster lacks a kind
/// that `wants_kind` names, that object is left out.
///
/// # Errors
/// One cannot be written, which would be a flaw of this program.
pub(crate) fn objects(profile: &Profile, material: &Material) -> Result<Vec<DynamicObject>, ObjectsError> {
    let mut all = List::default();
    all.add(&namespace::namespace(profile))?;
    for secret in secrets::secrets(profile, material) {
        all.add(&secret)?;
    }
    all.0.extend(public(profile)?);
    Ok(all.0)
}

/// Those without secrets, the namespace among them.
///
/// # Errors
/// As `objects`.
pub(super) fn without_secrets(profile: &Profile) -> Result<Vec<DynamicObject>, ObjectsError> {
    let mut all = List::default();
    all.add(&namespace::namespace(profile))?;
    all.0.extend(public(profile)?);
    Ok(all.0)
}

/// Configuration, then who may reach what, then what the service stands on, then itself and the ways to it.
fn public(profile: &Profile) -> Result<Vec<DynamicObject>, ObjectsError> {
    let wanted = &profile.deploy.kubernetes;
    let backends = Backends::of(&profile.deploy);
    let has_worker = service::has_worker(profile);
    let is_embedded = profile.deploy.backend == Backend::Embedded;
    let mut all = List::default();

    all.add(&config::config(profile)?)?;
    match wanted.tune {
        NodeTuning::None => {}
        NodeTuning::Job => {
            all.add(&tune::config(profile)?)?;
            all.add(&tune::job(profile)?)?;
        }
        NodeTuning::Daemonset => {
            all.add(&tune::config(profile)?)?;
            all.add(&tune::daemon_set(profile)?)?;
        }
    }
    if backends.own_journal {
        all.add(&network_policy::journal_policy(profile))?;
        all.add(&services::journal_service(profile))?;
        all.add(&redis::journal(profile))?;
    }
    if backends.own_cache {
        all.add(&network_policy::cache_policy(profile))?;
        all.add(&services::cache_service(profile))?;
        all.add(&redis::cache(profile))?;
    }
    if backends.own_mongo {
        all.add(&mongo::scripts(profile))?;
        all.add(&network_policy::mongo_policy(profile))?;
        all.add(&services::mongo_service(profile))?;
        all.add(&mongo::stateful(profile)?)?;
    }
    all.add(&services::front_service(profile))?;
    if is_embedded {
        all.add(&service::embedded(profile)?)?;
        all.add(&disruption::budget(profile, SERVICE))?;
    } else {
        all.add(&service::api(profile)?)?;
        all.add(&disruption::budget(profile, API))?;
    }
    if has_worker {
        all.add(&services::worker_service(profile))?;
        all.add(&service::worker(profile)?)?;
        all.add(&disruption::budget(profile, WORKER))?;
    }
    if wanted.path == TrafficPath::Ingress {
        all.add(&ingress::ingress(profile))?;
    }
    if monitor::is_wanted(profile) {
        all.0.push(monitor::monitor(profile)?);
    }
    Ok(all.0)
}

/// Whether an object is of a kind that not every cluster knows, and may be left out there.
pub(crate) fn wants_kind(object: &DynamicObject) -> bool {
    object.types.as_ref().is_some_and(|types| types.api_version == monitor::API_VERSION)
}

#[derive(Default)]
struct List(Vec<DynamicObject>);

impl List {
    fn add<T: Resource + Serialize>(&mut self, object: &T) -> Result<(), ObjectsError> {
        let object = serde_json::to_value(object)
            .and_then(serde_json::from_value)
            .map_err(|error| ObjectsError::Form(format!("{}: {error}", T::KIND)))?;
        self.0.push(object);
        Ok(())
    }
}
