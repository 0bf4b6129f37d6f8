//! MongoDB: a replica set of one, with its own users, a cache of a size that is said, and its operations on the device
//! capped where the profile says so.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ContainerPort, ExecAction, HostAlias, Lifecycle, LifecycleHandler, PodSpec,
};
use serde_json::json;

use super::backends::{MONGO, MONGO_PORT, MONGO_USER, REPLICA_SET, mongo_host, mongo_member};
use super::cap;
use super::common::{
    DATA, Pace, claim, config_volume, container, keep_volumes, metadata, mount, pod, resources, scratch,
    secret_variable, secret_volume, selector, strings, template, user, variable,
};
use super::config::{self, short_hash};
use super::images;
use super::secrets::credentials_name;
use super::service;
use crate::deploy::kubernetes::ObjectsError;
use crate::deploy::kubernetes::labels::name_of;
use crate::deploy::kubernetes::material::{MONGO_KEYFILE, MONGO_PASSWORD, MONGO_ROOT_PASSWORD};
use crate::profile::Profile;

pub(super) const DIR: &str = "/data/db";
const KEY_DIR: &str = "/run/mongo";
const SCRIPT_DIR: &str = "/etc/mongo";
const CPU: (&str, &str) = ("500m", "2");
const GIB: u64 = 1 << 30;
/// A journal is replayed within minutes.
const RECOVERY_S: u64 = 600;
/// To write a checkpoint, which a capped device takes its time for.
const GRACE_S: i64 = 120;

/// Run by mongosh at each start, in this order: what is done already stays.
const INIT: &str = include_str!("mongo_init.js");
/// The least rights that the service needs; the same file that administrators are given.
const ROLE: &str = include_str!("../../../../../profiles/mongo-role.js");
/// The database that it names.
const ROLE_DATABASE: &str = "'scalekit'";

/// The scripts. They hold no password.
pub(super) fn scripts(profile: &Profile) -> ConfigMap {
    let database = json!(profile.deploy.mongo_database).to_string();
    ConfigMap {
        metadata: metadata(profile, MONGO),
        data: Some(BTreeMap::from([
            ("init.js".to_owned(), INIT.to_owned()),
            ("role.js".to_owned(), ROLE.replace(ROLE_DATABASE, &database)),
        ])),
        ..ConfigMap::default()
    }
}

pub(super) fn stateful(profile: &Profile) -> Result<StatefulSet, ObjectsError> {
    let wanted = &profile.deploy.kubernetes;
    let credentials = credentials_name(profile);
    let mut containers = vec![mongod(profile)];
    let mut volumes = vec![
        secret_volume("keyfile", credentials, &[MONGO_KEYFILE]),
        config_volume("scripts", name_of(profile, MONGO)),
        scratch("tmp", 256 << 20),
    ];
    let cap = cap::init(profile, DIR);
    if cap.is_some() {
        volumes.push(cap::volume());
    }
    if profile.deploy.database_iops_per_s.is_some() {
        containers.push(reader(profile));
        volumes.extend(service::volumes(profile));
    }
    let mut checksum = short_hash(&format!("{INIT}{ROLE}{}", profile.deploy.mongo_database));
    if containers.len() > 1 {
        checksum.push_str(&config::checksum(profile)?);
    }
    let spec = PodSpec {
        init_containers: cap.map(|cap| vec![cap]),
        containers,
        // The pod's address is published once it runs, which is after the hook that makes the replica set; the hook needs
        // the member's name before.
        host_aliases: Some(vec![HostAlias {
            ip: "127.0.0.1".to_owned(),
            hostnames: Some(vec![mongo_host(profile)]),
        }]),
        security_context: Some(user(images::BACKEND_USER, true)),
        termination_grace_period_seconds: Some(GRACE_S),
        volumes: Some(volumes),
        ..pod(profile)
    };
    Ok(StatefulSet {
        metadata: metadata(profile, MONGO),
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            revision_history_limit: Some(3),
            selector: selector(profile, MONGO),
            service_name: Some(name_of(profile, MONGO)),
            template: template(profile, MONGO, Some(checksum), spec),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: None,
            }),
            volume_claim_templates: Some(vec![claim(profile, MONGO, wanted.storage.database)]),
            persistent_volume_claim_retention_policy: Some(keep_volumes()),
            ..StatefulSetSpec::default()
        }),
        status: None,
    })
}

/// Who reads what the database's device does, for all: one more worker, on the volume's host.
fn reader(profile: &Profile) -> Container {
    let mut reader = service::serving(profile, service::WORKER);
    reader.name = "device-reader".to_owned();
    reader.args.get_or_insert_default().extend(strings(["--database-device", DIR]));
    reader.volume_mounts.get_or_insert_default().push(mount(DATA, DIR, true));
    reader
}

/// Half of what is beyond a gigabyte, and a quarter of one at least: MongoDB's own rule, said aloud, since it would go by
/// the node's memory where it sees that.
fn cache_gb(memory: u64) -> String {
    let bytes = (memory.saturating_sub(GIB) / 2).max(GIB / 4);
    // Hundredths, rounded down.
    let hundredths = bytes / (GIB / 100);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn mongod(profile: &Profile) -> Container {
    let wanted = &profile.deploy.kubernetes;
    let credentials = credentials_name(profile);
    // mongod takes no key that a group may read, as a Secret's files for a group are. It becomes the process itself, so
    // that the signal to end reaches it.
    let start = format!(
        "umask 077; cat {KEY_DIR}/{MONGO_KEYFILE} > /tmp/keyfile && exec mongod --dbpath {DIR} --bind_ip_all \
         --port {MONGO_PORT} --replSet {REPLICA_SET} --keyFile /tmp/keyfile --wiredTigerCacheSizeGB {}",
        cache_gb(wanted.memory.database)
    );
    let (request, limit) = CPU;
    Container {
        command: Some(strings(["/bin/sh", "-c"])),
        args: Some(vec![start]),
        env: Some(vec![
            // mongosh writes its log and history there.
            variable("HOME", "/tmp"),
            variable("REPLICA_SET", REPLICA_SET),
            variable("MEMBER", mongo_member(profile)),
            variable("DATABASE", &*profile.deploy.mongo_database),
            variable("SERVICE_USER", MONGO_USER),
            secret_variable("ROOT_PASSWORD", credentials.clone(), MONGO_ROOT_PASSWORD),
            secret_variable("SERVICE_PASSWORD", credentials, MONGO_PASSWORD),
        ]),
        ports: Some(vec![ContainerPort {
            name: Some("mongo".to_owned()),
            container_port: i32::from(MONGO_PORT),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: Some(resources(request, limit, wanted.memory.database)),
        // While it runs, the container is not ready; if it fails, the container is started again.
        lifecycle: Some(Lifecycle {
            post_start: Some(LifecycleHandler {
                exec: Some(ExecAction {
                    command: Some({
                        let file = format!("{SCRIPT_DIR}/init.js");
                        strings(["mongosh", "--quiet", "--nodb", &file])
                    }),
                }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        startup_probe: Some(Pace::starting(RECOVERY_S).tcp("mongo")),
        // It was primary when the hook above ended, and nobody else can become it. Starting mongosh each few seconds to ask
        // would cost more than the answer is worth.
        readiness_probe: Some(Pace { period_s: 5, timeout_s: 5, failures: 3 }.tcp("mongo")),
        liveness_probe: Some(Pace { period_s: 10, timeout_s: 5, failures: 6 }.tcp("mongo")),
        volume_mounts: Some(vec![
            mount(DATA, DIR, false),
            mount("keyfile", KEY_DIR, true),
            mount("scripts", SCRIPT_DIR, true),
            mount("tmp", "/tmp", false),
        ]),
        ..container("mongod", images::MONGO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_mongodbs_own_rule() {
        for (memory, expected) in [(GIB, "0.25"), (2 * GIB, "0.50"), (4 * GIB, "1.50"), (1, "0.25")] {
            assert_eq!(cache_gb(memory), expected);
        }
    }

    #[test]
    fn the_role_is_for_the_profiles_database() {
        let mut profile = crate::profile::load("redis-mongo", crate::profile::Layer::default()).unwrap();
        profile.deploy.mongo_database = "shop".to_owned();
        let scripts = scripts(&profile).data.unwrap();
        let role = &scripts["role.js"];
        assert!(role.contains("db.getSiblingDB(\"shop\")") && !role.contains(ROLE_DATABASE), "{role}");
        assert_eq!(role.matches("\"shop\"").count(), ROLE.matches(ROLE_DATABASE).count());
    }
}
