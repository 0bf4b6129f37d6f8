//! Requests and their answers.

use std::sync::{Arc, Mutex};

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::streams::{log, watch};
use super::world::{World, has_fields, is_selected};
use super::writes::{create, delete, patch};
use super::{TOKEN, forward};

const MAX_BODY: usize = 4 << 20;

pub(super) type Shared = Arc<Mutex<World>>;

/// A request, taken apart.
pub(super) struct Asked {
    pub(super) group: String,
    pub(super) version: String,
    /// `None`: about the cluster.
    pub(super) namespace: Option<String>,
    pub(super) resource: String,
    pub(super) name: Option<String>,
    pub(super) sub: Option<String>,
    pub(super) query: Vec<(String, String)>,
}

impl Asked {
    pub(super) fn query(&self, name: &str) -> &str {
        self.query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    pub(super) fn is_dry(&self) -> bool {
        self.query("dryRun") == "All"
    }

    pub(super) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    pub(super) fn full_resource(&self) -> String {
        match self.group.as_str() {
            "" => self.resource.clone(),
            group => format!("{}.{group}", self.resource),
        }
    }

    pub(super) fn named(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}

pub(super) async fn answer(State(world): State<Shared>, mut request: Request) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    world.lock().unwrap().requests.push(format!("{method} {uri}"));
    let said = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if said != Some(&format!("Bearer {TOKEN}")) {
        return failure(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized", json!({}));
    }
    let path = uri.path();
    if path == "/version" {
        let version = json!({
            "major": "1", "minor": "35", "gitVersion": "v1.35.0", "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
        });
        return reply(StatusCode::OK, &version);
    }
    let query = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let query = query.map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
    let Some(asked) = parse(path, query) else { return discovery(&world.lock().unwrap(), path) };
    if asked.sub.as_deref() == Some("portforward") {
        return forward::upgrade(&world, asked.namespace(), asked.named(), &mut request);
    }
    let body = axum::body::to_bytes(request.into_body(), MAX_BODY).await.unwrap();
    let body: Value = match body.is_empty() {
        true => Value::Null,
        // Server-side apply is YAML, which JSON is, too.
        false => serde_yaml::from_slice(&body).unwrap(),
    };
    if asked.resource == "selfsubjectaccessreviews" {
        return review(&world.lock().unwrap(), body);
    }
    let is_watch = matches!(asked.query("watch"), "true" | "1");
    let verb = match (&method, is_watch) {
        (&Method::GET, true) => "watch",
        (&Method::GET, false) if asked.name.is_none() => "list",
        (&Method::GET, _) => "get",
        (&Method::PATCH, _) => "patch",
        (&Method::POST, _) => "create",
        (&Method::DELETE, _) => "delete",
        _ => {
            return failure(
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                "not in this double",
                json!({}),
            );
        }
    };
    let is_forbidden =
        |world: &World| world.forbidden.iter().any(|(which, what)| *which == verb && *what == asked.resource);
    if is_forbidden(&world.lock().unwrap()) {
        return forbidden(verb, &asked);
    }
    match (verb, asked.sub.as_deref()) {
        ("watch", _) => watch(&world, &asked),
        ("get", Some("log")) => log(&world, &asked),
        ("list", _) => list(&world.lock().unwrap(), &asked),
        ("get", _) => get(&world.lock().unwrap(), &asked),
        ("patch", _) => patch(&mut world.lock().unwrap(), &asked, &body),
        ("create", _) => create(&mut world.lock().unwrap(), &asked, &body),
        _ => delete(&mut world.lock().unwrap(), &asked, &body),
    }
}

fn parse(path: &str, query: Vec<(String, String)>) -> Option<Asked> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let text = |part: &str| Some(part.to_owned());
    let (namespace, resource, name, sub) = match rest {
        [] => return None,
        ["namespaces", namespace, resource] => (text(namespace), *resource, None, None),
        ["namespaces", namespace, resource, name] => (text(namespace), *resource, text(name), None),
        ["namespaces", namespace, resource, name, sub] => (text(namespace), *resource, text(name), text(sub)),
        [resource] => (None, *resource, None, None),
        [resource, name] => (None, *resource, text(name), None),
        _ => return None,
    };
    let (group, version, resource) = (group.to_owned(), version.to_owned(), resource.to_owned());
    Some(Asked { group, version, namespace, resource, name, sub, query })
}

pub(super) fn reply(status: StatusCode, body: &Value) -> Response {
    (status, [("content-type", "application/json")], body.to_string()).into_response()
}

pub(super) fn failure(status: StatusCode, reason: &str, message: &str, details: Value) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": status.as_u16(), "reason": reason, "message": message, "details": details,
    });
    reply(status, &body)
}

fn forbidden(verb: &str, asked: &Asked) -> Response {
    let message = format!(
        "{} {:?} is forbidden: User \"tester\" cannot {verb} resource {:?} in API group {:?} in the namespace {:?}",
        asked.full_resource(),
        asked.named(),
        asked.resource,
        asked.group,
        asked.namespace()
    );
    failure(StatusCode::FORBIDDEN, "Forbidden", &message, json!({}))
}

pub(super) fn not_found(asked: &Asked) -> Response {
    let message = format!("{} {:?} not found", asked.full_resource(), asked.named());
    failure(
        StatusCode::NOT_FOUND,
        "NotFound",
        &message,
        json!({"kind": asked.resource, "name": asked.named()}),
    )
}

fn discovery(world: &World, path: &str) -> Response {
    if path == "/apis/monitoring.coreos.com/v1" && world.has_monitors {
        let body = json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "monitoring.coreos.com/v1",
            "resources": [{
                "name": "servicemonitors", "singularName": "servicemonitor", "namespaced": true,
                "kind": "ServiceMonitor", "verbs": ["get", "list", "patch", "create", "delete"],
            }],
        });
        return reply(StatusCode::OK, &body);
    }
    failure(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource", json!({}))
}

fn review(world: &World, mut body: Value) -> Response {
    let what = &body["spec"]["resourceAttributes"];
    let is_forbidden =
        world.forbidden.iter().any(|(verb, resource)| what["verb"] == *verb && what["resource"] == *resource);
    body["status"] = json!({"allowed": !is_forbidden});
    reply(StatusCode::CREATED, &body)
}

/// Kinds that an operator brings.
pub(super) fn is_known(world: &World, asked: &Asked) -> bool {
    asked.group != "monitoring.coreos.com" || world.has_monitors
}

fn list(world: &World, asked: &Asked) -> Response {
    if !is_known(world, asked) {
        return not_found(asked);
    }
    let items: Vec<Value> = world
        .list(&asked.resource)
        .into_iter()
        .filter(|(key, object)| {
            asked.namespace.as_ref().is_none_or(|namespace| *namespace == key.1)
                && is_selected(object, asked.query("labelSelector"))
                && has_fields(object, asked.query("fieldSelector"))
        })
        .map(|(_, mut object)| {
            // As the API does it: a list says once what its items are.
            let map = object.as_object_mut().unwrap();
            map.remove("kind");
            map.remove("apiVersion");
            object
        })
        .collect();
    let body = json!({
        "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": world.version().to_string()},
        "items": items,
    });
    reply(StatusCode::OK, &body)
}

fn get(world: &World, asked: &Asked) -> Response {
    match world.get(&asked.resource, asked.namespace(), asked.named()) {
        Some(object) => reply(StatusCode::OK, object),
        None => not_found(asked),
    }
}
