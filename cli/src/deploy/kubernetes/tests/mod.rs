//! The objects as a whole: read back, and held against the profile.

mod files;
mod pitfalls;
mod schemas;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PodSpec, Secret, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::DynamicObject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::kustomize::{base_profile, key, overlays, value, variants};
use super::labels::VERSION;
use super::*;
use crate::profile::{Layer, Profile, Servers, TrafficPath, load};

fn credentials() -> Credentials {
    Credentials::generate().unwrap()
}

fn material(credentials: Credentials) -> Material {
    Material { credentials, servers: Servers::default(), files: BTreeMap::new() }
}

fn all(profile: &Profile) -> Vec<DynamicObject> {
    objects(profile, &material(credentials())).unwrap()
}

fn documents(text: &str) -> Vec<Value> {
    let objects = text.split("---\n").filter(|part| part.lines().any(|line| !line.starts_with('#')));
    objects.map(|part| serde_yaml::from_str(part).unwrap()).collect()
}

fn find<T: DeserializeOwned>(profile: &Profile, kind: &str, component: &str) -> T {
    let name = name_of(profile, component);
    let objects = all(profile);
    let object = objects.iter().find(|object| key(object) == (kind.to_owned(), name.clone()));
    serde_json::from_value(value(object.unwrap_or_else(|| panic!("no {kind} {name}")))).unwrap()
}

/// The pods of an object that makes some.
fn pod_spec(object: &DynamicObject) -> Option<PodSpec> {
    let spec = object.data.pointer("/spec/template/spec")?;
    Some(serde_json::from_value(spec.clone()).unwrap())
}

fn retyped<T: DeserializeOwned + Serialize>(value: &Value) -> Value {
    serde_json::to_value(serde_json::from_value::<T>(value.clone()).unwrap()).unwrap()
}

#[test]
fn each_document_reads_back_as_the_typed_object_that_it_was() {
    let mut kinds = BTreeSet::new();
    for (variant, profile) in variants() {
        let objects = all(&profile);
        for object in &objects {
            // A field that the type does not know would be lost on the way.
            let text = render::document(object).unwrap();
            let read: Value = serde_yaml::from_str(&text).unwrap();
            assert_eq!(read, value(object), "{variant}");
            let (kind, name) = key(object);
            let typed = match kind.as_str() {
                "Namespace" => retyped::<Namespace>(&read),
                "Secret" => retyped::<Secret>(&read),
                "ConfigMap" => retyped::<ConfigMap>(&read),
                "Service" => retyped::<Service>(&read),
                "Deployment" => retyped::<Deployment>(&read),
                "StatefulSet" => retyped::<StatefulSet>(&read),
                "DaemonSet" => retyped::<DaemonSet>(&read),
                "Job" => retyped::<Job>(&read),
                "NetworkPolicy" => retyped::<NetworkPolicy>(&read),
                "PodDisruptionBudget" => retyped::<PodDisruptionBudget>(&read),
                "Ingress" => retyped::<Ingress>(&read),
                // No type of Kubernetes' own.
                "ServiceMonitor" => read.clone(),
                other => panic!("{other} has no check"),
            };
            assert_eq!(typed, read, "{variant}: {kind} {name}");
            kinds.insert(kind);
        }
        let names: BTreeSet<_> = objects.iter().map(key).collect();
        assert_eq!(names.len(), objects.len(), "{variant}: two objects of one name");
    }
    assert_eq!(kinds.len(), 12, "{kinds:?}");
}

#[test]
fn every_object_is_found_by_its_labels_but_the_namespace_which_others_may_share() {
    for (variant, profile) in variants() {
        for object in all(&profile) {
            let labels = object.metadata.labels.clone().unwrap();
            let (kind, name) = key(&object);
            assert_eq!(labels[MANAGED_BY], "scalekit", "{variant}: {name}");
            assert_eq!(labels.contains_key(INSTANCE), kind != "Namespace", "{variant}: {name}");
            if kind != "Namespace" {
                assert_eq!(object.metadata.namespace.as_deref(), Some("assessment"));
                assert!(name.starts_with(&instance(&profile)) && name.len() <= 52, "{variant}: {name}");
            }
            // Neither a selector nor the template of a volume can ever change.
            for pointer in ["/spec/selector", "/spec/volumeClaimTemplates"] {
                let fixed = object.data.pointer(pointer).map(Value::to_string).unwrap_or_default();
                assert!(!fixed.contains(VERSION), "{variant}: {kind} {name}: {fixed}");
            }
        }
    }
}

#[test]
fn a_pod_reads_the_very_profile_that_was_deployed() {
    let folder = tempfile::tempdir().unwrap();
    for (variant, profile) in variants() {
        let config: ConfigMap = find(&profile, "ConfigMap", "profile");
        let file = folder.path().join("profile.yaml");
        fs::write(&file, &config.data.unwrap()["profile.yaml"]).unwrap();
        let read = load(file.to_str().unwrap(), Layer::default())
            .unwrap_or_else(|error| panic!("{variant}: {error}"))
            .deploy;
        let sent = &profile.deploy;
        assert_eq!(read.listen.to_string(), "0.0.0.0:8080", "{variant}");
        assert_eq!((read.backend, read.mode), (sent.backend, sent.mode), "{variant}");
        assert_eq!((&read.limits, &read.worker, read.shards), (&sent.limits, &sent.worker, sent.shards));
        assert_eq!(read.durability, sent.durability);
        assert_eq!(read.database_iops_per_s, sent.database_iops_per_s);
        assert_eq!(read.tokens_file.is_some(), sent.tokens_file.is_some(), "{variant}");
        assert_eq!(read.redis_url, None, "{variant}: it is in a Secret");
    }
}

#[test]
fn another_load_does_not_replace_pods_and_another_service_does() {
    let checksum = |profile: &Profile| {
        let api: Deployment = find(profile, "Deployment", "api");
        api.spec.unwrap().template.metadata.unwrap().annotations.unwrap()["scalekit/profile-checksum"].clone()
    };
    let base = checksum(&base_profile());
    let mut profile = base_profile();
    profile.load.vus += 1;
    profile.deploy.kubernetes.workers = 2;
    assert_eq!(checksum(&profile), base);
    profile.deploy.worker.linger *= 2;
    assert_ne!(checksum(&profile), base);
    let mut profile = base_profile();
    profile.deploy.mongo_url = Some("mongodb://elsewhere/".to_owned().into());
    assert_ne!(checksum(&profile), base);
}

#[test]
fn secrets_hold_what_pods_mount_and_nothing_else_holds_a_secret() {
    for (variant, profile) in variants() {
        let made = credentials();
        let mut material = material(made.clone());
        material.servers.mongo = profile.deploy.mongo_url.clone();
        for name in ["tokens", "backend-ca.pem"] {
            if variant == "outside" {
                material.files.insert(name, b"content".to_vec());
            }
        }
        let objects = objects(&profile, &material).unwrap();
        let mut data = BTreeMap::new();
        for object in objects.iter().filter(|object| key(object).0 == "Secret") {
            let secret: Secret = serde_json::from_value(value(object)).unwrap();
            data.insert(key(object).1, secret.data.unwrap());
        }
        let mut mounted = 0;
        for spec in objects.iter().filter_map(pod_spec) {
            for secret in spec.volumes.unwrap_or_default().into_iter().filter_map(|volume| volume.secret) {
                let keys = &data[&secret.secret_name.unwrap()];
                for item in secret.items.unwrap() {
                    assert!(keys.contains_key(&item.key), "{variant}: {}", item.key);
                    mounted += 1;
                }
            }
        }
        assert_eq!(mounted > 0, variant != "embedded", "{variant}");
        let public: String = objects
            .iter()
            .filter(|object| key(object).0 != "Secret")
            .map(|object| value(object).to_string())
            .chain([render(&profile).unwrap()])
            .collect();
        for secret in [&made.redis, &made.cache, &made.mongo, &made.mongo_root, &made.mongo_keyfile] {
            assert_eq!(secret.len(), 48);
            assert!(!public.contains(secret.as_str()), "{variant}");
        }
        assert!(!public.contains("hunter2"), "{variant}");
        if variant != "embedded" {
            let name = credentials_name(&profile);
            let secret = Secret {
                metadata: kube::core::ObjectMeta { name: Some(name.clone()), ..Default::default() },
                data: Some(data[&name].clone()),
                ..Secret::default()
            };
            assert!(Credentials::of(&secret).unwrap() == made, "{variant}: they are kept");
        }
    }
}

#[test]
fn a_secret_that_lacks_a_password_is_named_and_not_shown() {
    let secret = |text: &str| Secret {
        metadata: kube::core::ObjectMeta { name: Some("s".to_owned()), ..Default::default() },
        data: Some(BTreeMap::from([(
            "redis-password".to_owned(),
            k8s_openapi::ByteString(text.as_bytes().to_vec()),
        )])),
        ..Secret::default()
    };
    for (text, lacks) in [("", "redis-password"), ("p w", "redis-password"), ("abc", "cache-password")] {
        let error = Credentials::of(&secret(text)).unwrap_err().to_string();
        assert!(error.contains("Secret s") && error.contains(lacks) && !error.contains("p w"), "{error}");
    }
}

#[test]
fn rendering_is_the_same_each_time_and_says_what_is_not_there() {
    for (variant, profile) in variants() {
        let text = render(&profile).unwrap();
        assert_eq!(text, render(&profile).unwrap());
        let documents = documents(&text);
        assert!(documents.iter().all(|document| document["kind"] != "Secret"), "{variant}");
        let has_secrets = variant != "embedded";
        assert_eq!(text.contains("create secret generic"), has_secrets, "{variant}");
        assert_eq!(documents[0]["kind"], "Namespace", "{variant}");
    }
    let mut profile = base_profile();
    for (monitor, is_printed) in
        [(crate::profile::Monitor::Auto, false), (crate::profile::Monitor::Always, true)]
    {
        profile.deploy.kubernetes.monitor = monitor;
        let text = render(&profile).unwrap();
        assert_eq!(text.contains("kind: ServiceMonitor"), is_printed);
        assert_eq!(text.contains("A ServiceMonitor is left out"), !is_printed);
    }
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
