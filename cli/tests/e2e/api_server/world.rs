//! What is in the cluster, and what happened to it.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use super::controllers::Conduct;

/// Resource, namespace (empty: none) and name.
pub(crate) type Key = (String, String, String);

/// Something that happened to an object.
pub(super) struct Change {
    pub(super) version: u64,
    /// As a watch names it.
    pub(super) kind: &'static str,
    pub(super) resource: String,
    pub(super) namespace: String,
    pub(super) object: Value,
}

pub(crate) struct World {
    objects: BTreeMap<Key, Value>,
    version: u64,
    pub(super) history: Vec<Change>,
    /// Verbs on resources that the user may not use.
    pub(crate) forbidden: Vec<(&'static str, &'static str)>,
    /// Applies to this resource are refused by a policy, which no review of rights knows of.
    pub(crate) refuse_applies_of: Option<&'static str>,
    /// How the pods of a component do; healthy, if it is not here.
    pub(crate) conduct: BTreeMap<String, Conduct>,
    /// So many watches are told that their version is forgotten.
    pub(crate) forget_watches: u32,
    /// So many watches end after what they have to say first.
    pub(crate) cut_watches: u32,
    /// Whether Prometheus' operator is there.
    pub(crate) has_monitors: bool,
    /// Where pods are reached, by their name or their component, for forwarded ports.
    pub(crate) forwards: BTreeMap<String, u16>,
    /// All requests, as `VERB PATH?QUERY`.
    pub(crate) requests: Vec<String>,
    /// When a controller first saw this generation of an object.
    pub(super) seen: BTreeMap<(Key, i64), Instant>,
    /// What a controller has done with an object.
    pub(super) stages: BTreeMap<Key, String>,
    next_uid: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self {
            objects: BTreeMap::new(),
            version: 1,
            history: Vec::new(),
            forbidden: Vec::new(),
            refuse_applies_of: None,
            conduct: BTreeMap::new(),
            forget_watches: 0,
            cut_watches: 0,
            has_monitors: false,
            forwards: BTreeMap::new(),
            requests: Vec::new(),
            seen: BTreeMap::new(),
            stages: BTreeMap::new(),
            next_uid: 1,
        };
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]},
        });
        world.put("nodes", node);
        world
    }

    /// A namespace, with labels.
    pub(crate) fn add_namespace(&mut self, name: &str, labels: Value) {
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.put("namespaces", object);
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(resource.to_owned(), namespace.to_owned(), name.to_owned()))
    }

    /// Objects of a resource.
    pub(crate) fn list(&self, resource: &str) -> Vec<(Key, Value)> {
        let of = |key: &&Key| key.0 == resource;
        self.objects.keys().filter(of).map(|key| (key.clone(), self.objects[key].clone())).collect()
    }

    /// Names of all objects of a resource.
    pub(crate) fn names(&self, resource: &str) -> Vec<String> {
        self.list(resource).into_iter().map(|(key, _)| key.2).collect()
    }

    /// Puts an object, as it is, under the next version.
    pub(crate) fn put(&mut self, resource: &str, mut object: Value) {
        self.version += 1;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let key = (resource.to_owned(), namespace.clone(), name);
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", self.next_uid).into();
            object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
            self.next_uid += 1;
        }
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let kind = if self.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        self.history.push(Change {
            version: self.version,
            kind,
            resource: resource.to_owned(),
            namespace,
            object: object.clone(),
        });
        self.objects.insert(key, object);
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        let Some(object) = self.objects.remove(key) else { return };
        self.version += 1;
        let (version, resource, namespace) = (self.version, key.0.clone(), key.1.clone());
        let mut object = object;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        self.history.push(Change { version, kind: "DELETED", resource, namespace, object });
    }

    /// A change by somebody else: `update` gets the object, and its fields at these paths (`/spec/replicas`) are that
    /// manager's from then on.
    pub(crate) fn change_as(&mut self, manager: &str, key: (&str, &str, &str), field: &str, value: Value) {
        let mut object = self.get(key.0, key.1, key.2).unwrap().clone();
        super::apply::update_field(&mut object, manager, field, value);
        bump_generation(&mut object);
        self.put(key.0, object);
    }
}

pub(super) fn bump_generation(object: &mut Value) {
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
    object["metadata"]["generation"] = (generation + 1).into();
}

/// Whether an object has the labels of a selector such as `a=b,c=d`.
pub(super) fn is_selected(object: &Value, selector: &str) -> bool {
    selector.split(',').filter(|part| !part.is_empty()).all(|part| {
        let (name, value) = part.split_once('=').unwrap();
        object["metadata"]["labels"][name] == value
    })
}

/// Whether an object has the fields of a selector such as `involvedObject.name=x`.
pub(super) fn has_fields(object: &Value, selector: &str) -> bool {
    selector.split(',').filter(|part| !part.is_empty()).all(|part| {
        let (path, value) = part.split_once('=').unwrap();
        let found = path.split('.').fold(object, |value, key| &value[key]);
        found == value
    })
}
