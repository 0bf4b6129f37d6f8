//! What a plan would change, as a unified diff of YAML, without secrets and without what the cluster keeps for itself.

use std::fmt::Write as _;

use kube::core::DynamicObject;
use serde_json::Value;
use similar::TextDiff;

use super::error::ClusterError;
use super::kinds::{self, SECRET};
use super::plan::{self, Change, Plan};

/// Lines around each change.
const CONTEXT: usize = 3;

/// Empty if nothing would change.
///
/// # Errors
/// An object that cannot be written, which would be a flaw of this program.
pub(crate) fn diff(plan: &Plan) -> Result<String, ClusterError> {
    let mut text = String::new();
    for step in plan.steps.iter().filter(|step| step.change != Change::Same) {
        let live = step.live.as_ref().map(plan::essence);
        let new = plan::essence(step.outcome.as_ref().unwrap_or(&step.wanted));
        one(&mut text, &title(step.kind.kind, &step.wanted), live, Some(new), step.kind == SECRET)?;
    }
    for (kind, object) in &plan.unwanted {
        one(&mut text, &title(kind.kind, object), Some(plan::essence(object)), None, *kind == SECRET)?;
    }
    Ok(text)
}

fn title(kind: &str, object: &DynamicObject) -> String {
    match &object.metadata.namespace {
        Some(namespace) => format!("{namespace}/{kind}/{}", kinds::name(object)),
        None => format!("{kind}/{}", kinds::name(object)),
    }
}

fn one(
    text: &mut String,
    title: &str,
    mut live: Option<Value>,
    mut new: Option<Value>,
    is_secret: bool,
) -> Result<(), ClusterError> {
    if is_secret {
        mask(live.as_mut(), new.as_mut());
    }
    let yaml = |value: Option<&Value>| {
        value.map_or(Ok(String::new()), |value| {
            serde_yaml::to_string(value).map_err(|error| ClusterError::Api {
                what: format!("write {title} as YAML"),
                message: error.to_string(),
            })
        })
    };
    let (before, after) = (yaml(live.as_ref())?, yaml(new.as_ref())?);
    let name = |side: &str, is_there: bool| match is_there {
        true => format!("{side}/{title}"),
        false => "/dev/null".to_owned(),
    };
    let (from, to) = (name("live", live.is_some()), name("wanted", new.is_some()));
    let diff = TextDiff::from_lines(&before, &after);
    let _ = write!(text, "{}", diff.unified_diff().context_radius(CONTEXT).header(&from, &to));
    Ok(())
}

/// Values become stars that tell only whether they differ.
fn mask(mut live: Option<&mut Value>, mut new: Option<&mut Value>) {
    for field in ["data", "stringData"] {
        let before = live.as_deref().map(|secret| secret[field].clone()).unwrap_or_default();
        let after = new.as_deref().map(|secret| secret[field].clone()).unwrap_or_default();
        let stars = |key: &str, mine: &'static str| match before.get(key) == after.get(key) {
            true => Value::from("***"),
            false => Value::from(mine),
        };
        for (secret, words) in [(live.as_deref_mut(), "*** (before)"), (new.as_deref_mut(), "*** (after)")] {
            let values = secret.and_then(|secret| secret.get_mut(field)).and_then(Value::as_object_mut);
            for (key, value) in values.into_iter().flatten() {
                *value = stars(key, words);
            }
        }
    }
    // A hint of kubectl's that repeats the whole object.
    for secret in [live, new].into_iter().flatten() {
        if let Some(annotations) = secret.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
        {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_shows_that_it_differs_and_never_what_it_holds() {
        let secret = |password: &str| {
            json!({
                "kind": "Secret",
                "metadata": {"annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": format!("has {password}")
                }},
                "data": {"password": password, "user": "c2FtZQ=="},
            })
        };
        let mut text = String::new();
        one(&mut text, "ns/Secret/a", Some(secret("b2xk")), Some(secret("bmV3")), true).unwrap();
        assert!(
            text.contains("-  password: '*** (before)'") && text.contains("+  password: '*** (after)'"),
            "{text}"
        );
        assert!(text.contains("  user: '***'"), "{text}");
        for hidden in ["b2xk", "bmV3", "c2FtZQ"] {
            assert!(!text.contains(hidden), "{text}");
        }
    }

    #[test]
    fn what_comes_and_goes_is_compared_with_nothing() {
        let mut text = String::new();
        one(&mut text, "ns/Service/a", None, Some(json!({"kind": "Service"})), false).unwrap();
        one(&mut text, "ns/Service/b", Some(json!({"kind": "Service"})), None, false).unwrap();
        for line in [
            "--- /dev/null",
            "+++ wanted/ns/Service/a",
            "+kind: Service",
            "--- live/ns/Service/b",
            "-kind: Service",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }
}
