//! The objects as YAML documents, for `kubectl apply -f -` and for reading. Without Secrets: a printed password is no
//! secret, and a placeholder applied over a real one would lock the service out.

use std::fmt::Write as _;

use kube::core::DynamicObject;

use super::objects::{self, wants_kind};
use super::{ObjectsError, by_hand, yaml};
use crate::profile::{Monitor, Profile};

/// All documents, always in the same order, after a comment on what is not among them.
///
/// # Errors
/// An object cannot be written, which would be a flaw of this program.
pub(crate) fn render(profile: &Profile) -> Result<String, ObjectsError> {
    let mut text = String::new();
    let secrets = by_hand::commands(profile);
    if !secrets.is_empty() {
        text.push_str(
            "# Secrets are not among these: what is printed is none. `scalekit deploy` makes them; else make them once, when\n\
             # the namespace is there. Pods wait for them.\n#\n",
        );
        for line in secrets.iter().flat_map(|command| command.lines()) {
            let _ = writeln!(text, "#   {line}");
        }
    }
    for object in objects::without_secrets(profile)? {
        if wants_kind(&object) && profile.deploy.kubernetes.monitor == Monitor::Auto {
            text.push_str(
                "# A ServiceMonitor is left out, since not every cluster knows that kind; \
                 deploy.kubernetes.monitor: always prints it.\n",
            );
            continue;
        }
        text.push_str("---\n");
        text.push_str(&document(&object)?);
    }
    Ok(text)
}

/// One object.
pub(super) fn document(object: &DynamicObject) -> Result<String, ObjectsError> {
    let value = serde_json::to_value(object).map_err(|error| ObjectsError::Form(error.to_string()))?;
    Ok(yaml::write(&value))
}
