//! The objects as YAML documents, for `kubectl apply -f -` and for reading. Without Secrets: a printed password is no
//! secret, and a placeholder applied over a real one would lock the service out.

use kube::core::DynamicObject;

use super::ObjectsError;
use super::objects::{self, wants_kind};
use crate::profile::Profile;

pub(crate) fn render(profile: &Profile) -> Result<String, ObjectsError> {
    let objects = objects::without_secrets(profile)?;
    documents(objects.iter().filter(|object| !wants_kind(object)))
}

fn documents<'a>(objects: impl Iterator<Item = &'a DynamicObject>) -> Result<String, ObjectsError> {
    let mut text = String::new();
    for object in objects {
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(object).map_err(|error| ObjectsError::Form(error.to_string()))?);
    }
    Ok(text)
}
