//! Requests and their answers.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde_json::{Value, json};

use super::apply::{Conflict, apply};
use super::forward;
use super::world::{World, bump_generation, has_fields, is_selected};

const POLL: Duration = Duration::from_millis(10);
const MAX_BODY: usize = 4 << 20;

type Shared = Arc<Mutex<World>>;

/// A request, taken apart.
struct Asked {
    group: String,
    version: String,
    /// `None`: about the cluster.
    namespace: Option<String>,
    resource: String,
    name: Option<String>,
    sub: Option<String>,
    query: Vec<(String, String)>,
}

impl Asked {
    fn query(&self, name: &str) -> &str {
        self.query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    fn is_dry(&self) -> bool {
        self.query("dryRun") == "All"
    }

    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    fn full_resource(&self) -> String {
        match self.group.as_str() {
            "" => self.resource.clone(),
            group => format!("{}.{group}", self.resource),
        }
    }

    fn named(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}

pub(super) async fn answer(State(world): State<Shared>, mut request: Request) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    world.lock().unwrap().requests.push(format!("{method} {uri}"));
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

fn reply(status: StatusCode, body: &Value) -> Response {
    (status, [("content-type", "application/json")], body.to_string()).into_response()
}

fn failure(status: StatusCode, reason: &str, message: &str, details: Value) -> Response {
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

fn not_found(asked: &Asked) -> Response {
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
fn is_known(world: &World, asked: &Asked) -> bool {
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

fn patch(world: &mut World, asked: &Asked, body: &Value) -> Response {
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

fn create(world: &mut World, asked: &Asked, body: &Value) -> Response {
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

fn delete(world: &mut World, asked: &Asked, body: &Value) -> Response {
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

/// What happened since a version, as it happens.
fn watch(world: &Shared, asked: &Asked) -> Response {
    let from: u64 = asked.query("resourceVersion").parse().unwrap();
    let (forgets, cuts) = {
        let mut world = world.lock().unwrap();
        let (forgets, cuts) = (world.forget_watches > 0, world.cut_watches > 0);
        if forgets {
            world.forget_watches -= 1;
        } else if cuts {
            world.cut_watches -= 1;
        }
        (forgets, cuts)
    };
    if forgets {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410,
            "reason": "Expired", "message": format!("too old resource version: {from}"),
        });
        let line = format!("{}\n", json!({"type": "ERROR", "object": status}));
        return Body::from(line).into_response();
    }
    let seconds: u64 = asked.query("timeoutSeconds").parse().unwrap_or(300);
    let place = Place {
        world: Arc::clone(world),
        resource: asked.resource.clone(),
        namespace: asked.namespace.clone(),
        labels: asked.query("labelSelector").to_owned(),
        from,
        until: Instant::now() + Duration::from_secs(seconds),
        cuts,
        said_bookmark: asked.query("allowWatchBookmarks") != "true",
    };
    Body::from_stream(stream::unfold(place, Place::next)).into_response()
}

struct Place {
    world: Shared,
    resource: String,
    namespace: Option<String>,
    labels: String,
    from: u64,
    until: Instant,
    cuts: bool,
    said_bookmark: bool,
}

impl Place {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            let lines = self.lines();
            if !lines.is_empty() {
                return Some((Ok(lines.into()), self));
            }
            if self.cuts || Instant::now() >= self.until {
                return None;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn lines(&mut self) -> String {
        let world = self.world.lock().unwrap();
        let mut text = String::new();
        for change in world.history.iter().filter(|change| change.version > self.from) {
            let is_meant = change.resource == self.resource
                && self.namespace.as_ref().is_none_or(|namespace| *namespace == change.namespace)
                && is_selected(&change.object, &self.labels);
            if is_meant {
                text.push_str(&format!("{}\n", json!({"type": change.kind, "object": change.object})));
            }
        }
        self.from = world.version();
        if !self.said_bookmark {
            self.said_bookmark = true;
            let object = json!({
                "kind": "Any", "apiVersion": "v1", "metadata": {"resourceVersion": self.from.to_string()},
            });
            text.push_str(&format!("{}\n", json!({"type": "BOOKMARK", "object": object})));
        }
        text
    }
}

/// Each container says who it is, and then a line each tenth of a second.
fn log(world: &Shared, asked: &Asked) -> Response {
    let pod = world.lock().unwrap().get("pods", asked.namespace(), asked.named()).cloned();
    if pod.is_none() {
        return not_found(asked);
    }
    let container = asked.query("container").to_owned();
    let before = if asked.query("previous") == "true" { " of before" } else { "" };
    let lines = format!("early{before}\nline one{before} of {container}\nline two{before} of {container}\n");
    let tail: usize = asked.query("tailLines").parse().unwrap_or(usize::MAX);
    let all: Vec<&str> = lines.lines().collect();
    let text: String = all[all.len().saturating_sub(tail)..].iter().map(|line| format!("{line}\n")).collect();
    if asked.query("follow") != "true" {
        return text.into_response();
    }
    let follow = stream::unfold((0, text), |(number, text)| async move {
        if number > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let next = format!("live {number}\n");
        Some((Ok::<_, Infallible>(Bytes::from(text)), (number + 1, next)))
    });
    Body::from_stream(follow).into_response()
}
