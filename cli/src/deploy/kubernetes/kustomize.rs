//! k8s/: the objects as plain files for `kubectl apply -k`, made of what `scalekit deploy` applies, so that both are the
//! same. Only a test makes them; another one compares.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use kube::core::DynamicObject;
use serde_json::Value;

use super::{by_hand, labels, objects, render, yaml};
use crate::profile::{
    Backend, CpuClass, DeployTarget, Durability, Layer, Monitor, NodeTuning, Profile, TrafficPath, load,
};

const HEADER: &str = "# Made of the same code as `scalekit deploy --target k8s`; UPDATE_K8S=1 cargo test -p scalekit kustomize\n";

/// What the base is: Redis and MongoDB in the cluster, the API on its node's network.
pub(super) fn base_profile() -> Profile {
    let mut layer = Layer::default();
    layer.deploy.section().target = Some(DeployTarget::K8s).into();
    layer.deploy.section().kubernetes.section().name = Some("scalekit".to_owned()).into();
    let mut profile = load("redis-mongo", layer).unwrap();
    profile.deploy.kubernetes.monitor = Monitor::Never;
    profile
}

/// Overlays by name, each with what it is for.
pub(super) fn overlays() -> Vec<(&'static str, &'static str, Profile)> {
    let with = |change: fn(&mut Profile)| {
        let mut profile = base_profile();
        change(&mut profile);
        profile
    };
    vec![
        (
            "nodeport",
            "Through a port that each node forwards, to be compared with the node's own network.",
            with(|profile| profile.deploy.kubernetes.path = TrafficPath::Nodeport),
        ),
        (
            "ingress",
            "Through an ingress controller, to be compared with the node's own network.",
            with(|profile| profile.deploy.kubernetes.path = TrafficPath::Ingress),
        ),
        (
            "guaranteed",
            "Whole cores for the API, which nobody throttles on a node with the static CPU manager.",
            with(|profile| profile.deploy.kubernetes.cpu.class = CpuClass::Guaranteed),
        ),
        (
            "capped",
            "The kernel lets MongoDB do 100 reads and 100 writes a second, or MongoDB does not start.",
            with(|profile| {
                profile.deploy.cap.iops_per_s = Some(100);
                profile.deploy.cap.required = true;
            }),
        ),
        (
            "tuned",
            "Kernel settings of every node, as the profile host-10k has them.",
            with(|profile| {
                profile.host = load("host-10k", Layer::default()).unwrap().host;
                profile.deploy.kubernetes.tune = NodeTuning::Daemonset;
            }),
        ),
        (
            "monitor",
            "For Prometheus' operator.",
            with(|profile| profile.deploy.kubernetes.monitor = Monitor::Always),
        ),
    ]
}

/// What the tests look at beside: variants that k8s/ has no overlay for.
pub(super) fn variants() -> Vec<(&'static str, Profile)> {
    let mut all = vec![("base", base_profile())];
    all.extend(overlays().into_iter().map(|(name, _, profile)| (name, profile)));
    let mut embedded = base_profile();
    embedded.deploy.backend = Backend::Embedded;
    all.push(("embedded", embedded));
    let mut direct = base_profile();
    direct.deploy.mode = crate::profile::DeployMode::Direct;
    all.push(("direct", direct));
    let mut outside = base_profile();
    outside.deploy.redis_url_file = Some("/secrets/redis".into());
    outside.deploy.mongo_url = Some("mongodb://u:hunter2@db.example/".to_owned().into());
    outside.deploy.tokens_file = Some("/secrets/tokens".into());
    outside.deploy.backend_ca = Some("/secrets/ca.pem".into());
    all.push(("outside", outside));
    let mut rest = base_profile();
    rest.deploy.durability = Durability::Os;
    rest.deploy.shards = 4;
    rest.deploy.database_iops_per_s = Some(100);
    let wanted = &mut rest.deploy.kubernetes;
    wanted.workers = 4;
    wanted.replicas = 3;
    wanted.path = TrafficPath::Nodeport;
    wanted.node_port = Some(30_080);
    wanted.tune = NodeTuning::Job;
    wanted.image = Some("registry.example:5000/team/scalekit@sha256:0000000000000000000000000000000000000000000000000000000000000000".to_owned());
    wanted.image_pull_secret = Some("registry".to_owned());
    wanted.storage.class = Some("fast".to_owned());
    wanted.node_selector = BTreeMap::from([("example.com/ssd".to_owned(), "yes".to_owned())]);
    wanted.monitor = Monitor::Always;
    all.push(("everything else", rest));
    all
}

/// All files of k8s/, by their paths there.
pub(super) fn files() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let base = base_profile();
    let objects = objects::without_secrets(&base).unwrap();
    let mut by_component: Vec<(String, String)> = Vec::new();
    for object in &objects {
        let component = component(object);
        let document = render::document(object).unwrap();
        match by_component.iter_mut().find(|(known, _)| *known == component) {
            Some((_, text)) => {
                let _ = write!(text, "---\n{document}");
            }
            None => by_component.push((component, format!("{HEADER}{document}"))),
        }
    }
    let names: Vec<String> = by_component.iter().map(|(name, _)| format!("{name}.yaml")).collect();
    for (name, text) in by_component {
        files.insert(format!("base/{name}.yaml"), text);
    }
    files.insert("base/kustomization.yaml".to_owned(), base_kustomization(&base, &names));
    files.insert("base/credentials.sh".to_owned(), credentials_script(&base));
    for (name, purpose, profile) in overlays() {
        overlay(&mut files, name, purpose, &objects, &objects::without_secrets(&profile).unwrap());
    }
    files
}

fn component(object: &DynamicObject) -> String {
    let labels = object.metadata.labels.clone().unwrap_or_default();
    labels.get(labels::COMPONENT).cloned().unwrap_or_else(|| "namespace".to_owned())
}

fn base_kustomization(profile: &Profile, names: &[String]) -> String {
    let mut text = HEADER.to_owned();
    text.push_str(
        "#\n\
         # sh k8s/base/credentials.sh        # once: passwords, which are in no file of the repository\n\
         # kubectl apply -k k8s/base         # or an overlay\n\
         #\n\
         # The image is scalekit:VERSION, built of k8s/Dockerfile; where the nodes pull it from, name that in an overlay:\n\
         # images: [{name: scalekit, newName: registry.example/scalekit}]\n",
    );
    let _ = write!(
        text,
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{}\n\
         secretGenerator:\n- name: {}\n  namespace: {}\n  envs:\n  - credentials.env\n  options:\n    \
         disableNameSuffixHash: true\n    labels:\n",
        names.iter().map(|name| format!("- {name}")).collect::<Vec<_>>().join("\n"),
        objects::credentials_name(profile),
        profile.deploy.kubernetes.namespace,
    );
    for (label, value) in labels::labels(profile, "credentials") {
        let _ = writeln!(text, "      {label}: \"{value}\"");
    }
    text
}

fn credentials_script(profile: &Profile) -> String {
    let mut text = String::from(
        "#!/bin/sh\n\
         # Makes credentials.env, which kustomize makes the Secret of: random passwords, and URLs with them. Once: a MongoDB\n\
         # keeps the users that it was made with. Keep the file as you keep other secrets.\n\
         set -eu\n\
         cd \"$(dirname \"$0\")\"\n\
         if [ -e credentials.env ]; then\n  \
         echo \"credentials.env is there already; a MongoDB that has files needs the passwords in it\" >&2\n  \
         exit 1\n\
         fi\n\
         password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \\n'; }\n",
    );
    for name in by_hand::VARIABLES {
        let _ = writeln!(text, "{name}=$(password)");
    }
    text.push_str("umask 077\ncat > credentials.new <<END\n");
    for (key, value) in by_hand::texts(profile) {
        let _ = writeln!(text, "{key}={value}");
    }
    text.push_str("END\nmv credentials.new credentials.env\n");
    text
}

/// An overlay adds objects that the base lacks, and changes others by JSON patches (RFC 6902).
fn overlay(
    files: &mut BTreeMap<String, String>,
    name: &str,
    purpose: &str,
    base: &[DynamicObject],
    wanted: &[DynamicObject],
) {
    let mut text =
        format!("{HEADER}# {purpose}\napiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n");
    text.push_str("resources:\n- ../../base\n");
    let known = |object: &DynamicObject| base.iter().find(|other| key(other) == key(object));
    let added: Vec<&DynamicObject> = wanted.iter().filter(|object| known(object).is_none()).collect();
    if !added.is_empty() {
        let mut documents = HEADER.to_owned();
        for (index, object) in added.iter().enumerate() {
            documents.push_str(if index == 0 { "" } else { "---\n" });
            documents.push_str(&render::document(object).unwrap());
        }
        text.push_str("- added.yaml\n");
        files.insert(format!("overlays/{name}/added.yaml"), documents);
    }
    let mut patches = Vec::new();
    for object in wanted {
        let Some(before) = known(object) else { continue };
        let patch = json_patch::diff(&value(before), &value(object));
        if !patch.0.is_empty() {
            let (kind, name) = key(object);
            let steps = yaml::write(&serde_json::to_value(&patch).unwrap());
            patches.push(serde_json::json!({ "target": { "kind": kind, "name": name }, "patch": steps }));
        }
    }
    if !patches.is_empty() {
        text.push_str(&yaml::write(&serde_json::json!({ "patches": patches })));
    }
    assert!(
        base.iter().all(|object| wanted.iter().any(|other| key(other) == key(object))),
        "{name}: an overlay takes nothing away"
    );
    files.insert(format!("overlays/{name}/kustomization.yaml"), text);
}

pub(super) fn value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap()
}

/// What an object is told from others by.
pub(super) fn key(object: &DynamicObject) -> (String, String) {
    (object.types.as_ref().unwrap().kind.clone(), object.metadata.name.clone().unwrap())
}
