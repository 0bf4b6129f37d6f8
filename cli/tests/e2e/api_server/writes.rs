//! Requests that change something, or would.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::answers::{Asked, failure, is_known, not_found, reply};
use super::apply::{Conflict, apply};
use super::world::{World, bump_generation};

pub(super) fn patch(world: &mut World, asked: &Asked, body: &Value) -> Response {
    let manager = asked.query("fieldManager");
    if manager.is_empty() {
        let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
        return failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message, json!({}));
    }
    if !is_known(world, asked) {
        return not_found(asked);
    }
    if let Some(response) = missing_namespace(world, asked) {
        return response;
    }
    if world.refuse_applies_of == Some(asked.resource.as_str()) {
        let message = format!("admission webhook: {} denied by a policy of the test", asked.resource);
        return failure(StatusCode::FORBIDDEN, "Forbidden", &message, json!({}));
    }
    let live = world.get(&asked.resource, asked.namespace(), asked.named()).cloned();
    let mut object = match apply(live.as_ref(), body, manager, asked.query("force") == "true") {
        Ok(object) => object,
        Err(conflicts) => return conflict(asked, &conflicts),
    };
    if let Some(response) = immutable(asked, live.as_ref(), &object) {
        return response;
    }
    defaults(&asked.resource, &mut object);
    let spec = |object: &Value| object["spec"].clone();
    if live.as_ref().is_none_or(|live| spec(live) != spec(&object)) {
        bump_generation(&mut object);
    }
    let status = if live.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    if asked.is_dry() {
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = "of-a-dry-run".into();
        }
        return reply(status, &object);
    }
    if live.as_ref() != Some(&object) {
        world.put(&asked.resource, object);
    }
    get_as(world, asked, status)
}

fn get_as(world: &World, asked: &Asked, status: StatusCode) -> Response {
    reply(status, world.get(&asked.resource, asked.namespace(), asked.named()).unwrap())
}

fn missing_namespace(world: &World, asked: &Asked) -> Option<Response> {
    let namespace = asked.namespace.as_deref()?;
    world.get("namespaces", "", namespace).is_none().then(|| {
        let message = format!("namespaces {namespace:?} not found");
        failure(StatusCode::NOT_FOUND, "NotFound", &message, json!({"kind": "namespaces", "name": namespace}))
    })
}

fn conflict(asked: &Asked, conflicts: &[Conflict]) -> Response {
    let causes: Vec<_> = conflicts
        .iter()
        .map(|one| {
            let message = format!("conflict with {:?} using {}", one.manager, asked.version);
            json!({"reason": "FieldManagerConflict", "message": message, "field": one.field})
        })
        .collect();
    let message = format!("Apply failed with {} conflict(s)", causes.len());
    failure(StatusCode::CONFLICT, "Conflict", &message, json!({"causes": causes}))
}

/// What can never change.
fn immutable(asked: &Asked, live: Option<&Value>, object: &Value) -> Option<Response> {
    let paths: &[&str] = match asked.resource.as_str() {
        "jobs" => &["/spec/template/spec"],
        "statefulsets" => &["/spec/volumeClaimTemplates", "/spec/serviceName", "/spec/selector"],
        "deployments" | "daemonsets" => &["/spec/selector"],
        _ => &[],
    };
    let live = live?;
    let changed = paths.iter().find(|path| live.pointer(path) != object.pointer(path))?;
    let message =
        format!("{} {:?} is invalid: {changed}: field is immutable", asked.full_resource(), asked.named());
    Some(failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", &message, json!({})))
}

/// What the API fills in, so that an object which comes back is more than the one that was sent.
fn defaults(resource: &str, object: &mut Value) {
    let fill = |value: &mut Value, default: Value| {
        if value.is_null() {
            *value = default;
        }
    };
    match resource {
        "deployments" => fill(&mut object["spec"]["progressDeadlineSeconds"], 600.into()),
        "statefulsets" => fill(&mut object["spec"]["podManagementPolicy"], "OrderedReady".into()),
        "services" => {
            fill(&mut object["spec"]["sessionAffinity"], "None".into());
            if object["spec"]["type"] == "NodePort" {
                fill(&mut object["spec"]["ports"][0]["nodePort"], 30_080.into());
            }
        }
        _ => {}
    }
    if let Some(spec) = object.pointer_mut("/spec/template/spec") {
        fill(&mut spec["schedulerName"], "default-scheduler".into());
    }
}

pub(super) fn create(world: &mut World, asked: &Asked, body: &Value) -> Response {
    if let Some(response) = missing_namespace(world, asked) {
        return response;
    }
    if asked.resource == "pods"
        && let Some(response) = admission(world, asked, body)
    {
        return response;
    }
    let name = body["metadata"]["name"].as_str().unwrap();
    if world.get(&asked.resource, asked.namespace(), name).is_some() {
        let message = format!("{} {name:?} already exists", asked.full_resource());
        return failure(StatusCode::CONFLICT, "AlreadyExists", &message, json!({}));
    }
    let mut object = body.clone();
    object["metadata"]["namespace"] = asked.namespace().into();
    bump_generation(&mut object);
    if asked.is_dry() {
        return reply(StatusCode::CREATED, &object);
    }
    world.put(&asked.resource, object);
    reply(StatusCode::CREATED, world.get(&asked.resource, asked.namespace(), name).unwrap())
}

/// Pod Security Admission, at its level `baseline`.
fn admission(world: &World, asked: &Asked, pod: &Value) -> Option<Response> {
    let namespace = world.get("namespaces", "", asked.namespace()).unwrap();
    let level = namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"].as_str();
    let level = level.or(namespace["metadata"]["annotations"]["double/default-level"].as_str())?;
    (level != "privileged" && pod["spec"]["hostNetwork"] == true).then(|| {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let message = format!(
            "pods {name:?} is forbidden: violates PodSecurity \"{level}:latest\": host namespaces (hostNetwork=true)"
        );
        failure(StatusCode::FORBIDDEN, "Forbidden", &message, json!({}))
    })
}

pub(super) fn delete(world: &mut World, asked: &Asked, body: &Value) -> Response {
    let Some(mut object) = world.get(&asked.resource, asked.namespace(), asked.named()).cloned() else {
        return not_found(asked);
    };
    let wanted = &body["preconditions"]["uid"];
    if !wanted.is_null() && *wanted != object["metadata"]["uid"] {
        return failure(StatusCode::CONFLICT, "Conflict", "the UID in the precondition differs", json!({}));
    }
    let is_workload =
        matches!(asked.resource.as_str(), "deployments" | "statefulsets" | "daemonsets" | "jobs");
    if is_workload && body["propagationPolicy"] == "Foreground" {
        object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        object["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
        world.put(&asked.resource, object.clone());
    } else {
        let key = (asked.resource.clone(), asked.namespace().to_owned(), asked.named().to_owned());
        world.remove(&key);
    }
    reply(StatusCode::OK, &object)
}
