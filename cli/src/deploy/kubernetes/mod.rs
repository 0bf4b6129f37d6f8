//! The service in a Kubernetes cluster: which objects it consists of, and how they get there.

mod by_hand;
pub(crate) mod cluster;
mod error;
#[cfg(test)]
mod kustomize;
mod labels;
mod material;
mod objects;
mod render;
#[cfg(test)]
mod tests;
mod yaml;

pub(crate) use error::ObjectsError;
pub(crate) use labels::{COMPONENT, INSTANCE, MANAGED_BY, NAME, instance, name_of, selector};
pub(crate) use material::{Credentials, Material, password};
pub(crate) use objects::{
    AGENT_PORT, AGENTS, agents_job, agents_secret, credentials_name, objects, wants_kind,
};
pub(crate) use render::render;

/// Who owns the fields that are applied.
pub(crate) const FIELD_MANAGER: &str = "scalekit";
