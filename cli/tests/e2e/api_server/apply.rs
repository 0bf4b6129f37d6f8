//! Server-side apply: who owns which field, what conflicts, and what goes when its owner does not want it any more. Lists
//! whose items have names are maps by name; other lists are one value each, which the API's schema says of most of them.

use serde_json::{Map, Value, json};

type Path = Vec<String>;

/// A field that somebody else has set otherwise.
pub(super) struct Conflict {
    pub(super) field: String,
    pub(super) manager: String,
}

/// `wanted` applied to what is there by a manager.
pub(super) fn apply(
    live: Option<&Value>,
    wanted: &Value,
    manager: &str,
    force: bool,
) -> Result<Value, Vec<Conflict>> {
    let mut object = live.cloned().unwrap_or_else(|| json!({}));
    let mut managers = owners(&object);
    let (mut new, mut conflicts) = (Vec::new(), Vec::new());
    leaves(wanted, &mut Vec::new(), &mut new);
    new.retain(|(path, _)| !is_identity(path));
    for (path, value) in &new {
        for (owner, fields) in managers.iter_mut().filter(|(owner, _)| owner.0 != manager) {
            let overlaps = |field: &Path| field.starts_with(path) || path.starts_with(field);
            if get(&object, path) == Some(value) || !fields.iter().any(overlaps) {
                continue;
            }
            if force {
                fields.retain(|field| !overlaps(field));
            } else {
                conflicts.push(Conflict { field: dotted(path), manager: owner.0.clone() });
            }
        }
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }
    let is_own = |owner: &(String, String)| owner.0 == manager && owner.1 == "Apply";
    let former: Vec<Path> =
        managers.iter().filter(|(owner, _)| is_own(owner)).flat_map(|(_, fields)| fields.clone()).collect();
    let others: Vec<Path> =
        managers.iter().filter(|(owner, _)| !is_own(owner)).flat_map(|(_, fields)| fields.clone()).collect();
    for path in former {
        if !new.iter().any(|(field, _)| *field == path) && !others.contains(&path) {
            remove(&mut object, &path);
        }
    }
    for key in ["apiVersion", "kind"] {
        object[key] = wanted[key].clone();
    }
    for key in ["name", "namespace"].into_iter().filter(|key| !wanted["metadata"][key].is_null()) {
        object["metadata"][key] = wanted["metadata"][key].clone();
    }
    let fields = new.iter().map(|(path, _)| path.clone()).collect();
    for (path, value) in new {
        set(&mut object, &path, value);
    }
    managers.retain(|(owner, fields)| !is_own(owner) && !fields.is_empty());
    managers.push(((manager.to_owned(), "Apply".to_owned()), fields));
    record(&mut object, managers);
    Ok(object)
}

/// Sets a field, as a client that updates does, and makes it that manager's alone.
pub(super) fn update_field(object: &mut Value, manager: &str, field: &str, value: Value) {
    let path: Path = field.split('/').skip(1).map(str::to_owned).collect();
    let mut managers = owners(object);
    for (_, fields) in &mut managers {
        fields.retain(|other| *other != path);
    }
    set(object, &path, value);
    managers.push(((manager.to_owned(), "Update".to_owned()), vec![path]));
    record(object, managers);
}

fn is_identity(path: &Path) -> bool {
    let names: Vec<_> = path.iter().map(String::as_str).collect();
    matches!(names.as_slice(), ["apiVersion" | "kind"] | ["metadata", "name" | "namespace"])
}

/// The fields of a value that are set for themselves.
fn leaves(value: &Value, path: &mut Path, out: &mut Vec<(Path, Value)>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                path.push(key.clone());
                leaves(value, path, out);
                path.pop();
            }
        }
        Value::Array(items) if names(items).is_some() => {
            for (name, item) in names(items).unwrap().into_iter().zip(items) {
                path.push(format!("[{name}]"));
                leaves(item, path, out);
                path.pop();
            }
        }
        value => out.push((path.clone(), value.clone())),
    }
}

fn names(items: &[Value]) -> Option<Vec<&str>> {
    let names: Option<Vec<_>> = items.iter().map(|item| item["name"].as_str()).collect();
    names.filter(|names| !names.is_empty())
}

fn named(segment: &str) -> Option<&str> {
    segment.strip_prefix('[')?.strip_suffix(']')
}

fn get<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, segment| match named(segment) {
        Some(name) => value.as_array()?.iter().find(|item| item["name"] == name),
        None => value.get(segment),
    })
}

fn set(object: &mut Value, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *object = value;
        return;
    };
    match named(first) {
        Some(name) => {
            if !object.is_array() {
                *object = json!([]);
            }
            let items = object.as_array_mut().unwrap();
            let at = items.iter().position(|item| item["name"] == name).unwrap_or_else(|| {
                items.push(json!({ "name": name }));
                items.len() - 1
            });
            set(&mut items[at], rest, value);
        }
        None => {
            if !object.is_object() {
                *object = json!({});
            }
            set(object.as_object_mut().unwrap().entry(first.clone()).or_insert(Value::Null), rest, value);
        }
    }
}

/// And what is empty without it.
fn remove(object: &mut Value, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    match named(first) {
        Some(name) => {
            let Some(items) = object.as_array_mut() else { return };
            let Some(at) = items.iter().position(|item| item["name"] == name) else { return };
            remove(&mut items[at], rest);
            let is_empty = items[at].as_object().is_some_and(|item| item.keys().all(|key| key == "name"));
            if rest == ["name"] || is_empty {
                items.remove(at);
            }
        }
        None => {
            let Some(map) = object.as_object_mut() else { return };
            if rest.is_empty() {
                map.remove(first);
            } else if let Some(value) = map.get_mut(first) {
                remove(value, rest);
                let is_empty = value.as_object().is_some_and(Map::is_empty)
                    || value.as_array().is_some_and(Vec::is_empty);
                if is_empty {
                    map.remove(first);
                }
            }
        }
    }
}

/// As the API names it: `.spec.template.spec.containers[name="api"].image`.
fn dotted(path: &[String]) -> String {
    let segments = path.iter().map(|segment| match named(segment) {
        Some(name) => format!("[name={name:?}]"),
        None => format!(".{segment}"),
    });
    segments.collect()
}

type Owner = (String, String);

/// Managers, how they set fields, and which.
fn owners(object: &Value) -> Vec<(Owner, Vec<Path>)> {
    let list = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list.iter()
        .map(|entry| {
            let mut fields = Vec::new();
            paths(&entry["fieldsV1"], &mut Vec::new(), &mut fields);
            ((text(&entry["manager"]), text(&entry["operation"])), fields)
        })
        .collect()
}

fn record(object: &mut Value, managers: Vec<(Owner, Vec<Path>)>) {
    let api_version = object["apiVersion"].clone();
    let entries = managers.into_iter().filter(|(_, fields)| !fields.is_empty()).map(
        |((manager, operation), fields)| {
            let mut tree = json!({});
            for field in fields {
                let mut at = &mut tree;
                for segment in field {
                    let key = match named(&segment) {
                        Some(name) => format!("k:{}", json!({ "name": name })),
                        None => format!("f:{segment}"),
                    };
                    at = at.as_object_mut().unwrap().entry(key).or_insert_with(|| json!({}));
                }
            }
            json!({
                "manager": manager, "operation": operation, "apiVersion": api_version,
                "fieldsType": "FieldsV1", "fieldsV1": tree,
            })
        },
    );
    object["metadata"]["managedFields"] = entries.collect();
}

fn paths(tree: &Value, path: &mut Path, out: &mut Vec<Path>) {
    let map = tree.as_object().unwrap();
    if map.is_empty() {
        out.push(path.clone());
    }
    for (key, tree) in map {
        let segment = match key.strip_prefix("k:") {
            Some(key) => {
                format!("[{}]", serde_json::from_str::<Value>(key).unwrap()["name"].as_str().unwrap())
            }
            None => key.strip_prefix("f:").unwrap().to_owned(),
        };
        path.push(segment);
        paths(tree, path, out);
        path.pop();
    }
}
