//! The service's profile as its processes in the cluster read it, without passwords.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::backends::Backends;
use super::common::metadata;
use super::secrets::{CACHE_URL, MONGO_URL, REDIS_URL};
use crate::deploy::kubernetes::ObjectsError;
use crate::deploy::kubernetes::material::{BACKEND_CA, TLS_CERT, TLS_KEY, TOKENS};
use crate::profile::Profile;

pub(super) const COMPONENT: &str = "profile";
pub(super) const PROFILE_FILE: &str = "profile.yaml";

/// Where ConfigMap and Secrets are mounted.
pub(super) const PROFILE_DIR: &str = "/etc/scalekit";
pub(super) const CREDENTIALS_DIR: &str = "/run/scalekit/credentials";
pub(super) const FILES_DIR: &str = "/run/scalekit/files";

/// The profile of one process: of this one only what concerns the service, so that another load does not roll pods.
pub(super) fn profile_of_pod(profile: &Profile) -> Result<Value, ObjectsError> {
    let mut deploy = serde_json::to_value(&profile.deploy)
        .map_err(|error| ObjectsError::Form(format!("the profile: {error}")))?;
    let own = &profile.deploy;
    let backends = Backends::of(own);
    let credential = |is_needed: bool, key: &str| match is_needed {
        true => format!("{CREDENTIALS_DIR}/{key}").into(),
        false => Value::Null,
    };
    let file = |is_set: bool, key: &str| match is_set {
        true => format!("{FILES_DIR}/{key}").into(),
        false => Value::Null,
    };
    let changed = [
        // To itself, a process in a pod runs on a host.
        ("target", json!("local")),
        ("listen", json!(format!("0.0.0.0:{}", own.kubernetes.port))),
        ("redis_url", Value::Null),
        ("cache_url", Value::Null),
        ("mongo_url", Value::Null),
        ("redis_url_file", credential(backends.needs_redis, REDIS_URL)),
        ("cache_url_file", credential(backends.needs_redis, CACHE_URL)),
        ("mongo_url_file", credential(backends.needs_mongo, MONGO_URL)),
        ("backend_ca", file(own.backend_ca.is_some(), BACKEND_CA)),
        ("tokens_file", file(own.tokens_file.is_some(), TOKENS)),
        (
            "tls",
            json!({ "cert": file(own.tls.is_some(), TLS_CERT), "key": file(own.tls.is_some(), TLS_KEY) }),
        ),
    ];
    for (key, value) in changed {
        deploy[key] = value;
    }
    if let Some(deploy) = deploy.as_object_mut() {
        // Who makes the pods sees to both.
        deploy.shift_remove("kubernetes");
        deploy.shift_remove("cap");
    }
    // Its users are those of another machine; the bounds that follow from them are among the limits already.
    Ok(json!({ "description": profile.description, "deploy": deploy, "load": { "vus": 1 } }))
}

pub(super) fn config(profile: &Profile) -> Result<ConfigMap, ObjectsError> {
    let text = yaml(&profile_of_pod(profile)?)?;
    Ok(ConfigMap {
        metadata: metadata(profile, COMPONENT),
        data: Some(BTreeMap::from([(PROFILE_FILE.to_owned(), text)])),
        ..ConfigMap::default()
    })
}

/// Pods read their profile once, so they are to be replaced when it changes, and when a server is another one.
pub(super) fn checksum(profile: &Profile) -> Result<String, ObjectsError> {
    let own = &profile.deploy;
    // As text, an address has no password.
    let servers =
        [&own.redis_url, &own.cache_url, &own.mongo_url].map(|url| url.as_ref().map(ToString::to_string));
    let servers = json!(servers);
    let files = json!([own.redis_url_file, own.cache_url_file, own.mongo_url_file]);
    Ok(short_hash(&format!("{}{servers}{files}", profile_of_pod(profile)?)))
}

/// Tells texts apart; no secret may be in them.
pub(super) fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn yaml(value: &Value) -> Result<String, ObjectsError> {
    serde_yaml::to_string(value).map_err(|error| ObjectsError::Form(error.to_string()))
}
