//! Which Redis and MongoDB a deployment has of its own, and where in the cluster they are.

use crate::deploy::kubernetes::labels::{instance, name_of};
use crate::profile::{Backend, Deploy, DeployMode, Profile};

pub(super) const JOURNAL: &str = "journal";
pub(super) const CACHE: &str = "cache";
pub(super) const MONGO: &str = "mongo";

pub(super) const REDIS_PORT: u16 = 6379;
pub(super) const MONGO_PORT: u16 = 27017;
/// Of the replica set, and of the user that the service is.
pub(super) const REPLICA_SET: &str = "rs0";
pub(super) const MONGO_USER: &str = "scalekit-service";

/// What the service needs, and whether it is the deployment's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backends {
    pub(super) needs_redis: bool,
    pub(super) needs_mongo: bool,
    pub(super) own_journal: bool,
    pub(super) own_cache: bool,
    pub(super) own_mongo: bool,
}

impl Backends {
    pub(super) fn of(deploy: &Deploy) -> Self {
        let needs_mongo = deploy.backend == Backend::RedisMongo;
        let needs_redis = needs_mongo && deploy.mode == DeployMode::WriteBehind;
        let outside_redis = deploy.redis_url.is_some() || deploy.redis_url_file.is_some();
        let outside_cache = deploy.cache_url.is_some() || deploy.cache_url_file.is_some();
        let outside_mongo = deploy.mongo_url.is_some() || deploy.mongo_url_file.is_some();
        Self {
            needs_redis,
            needs_mongo,
            own_journal: needs_redis && !outside_redis,
            // With an outside Redis that one is both, as on a host.
            own_cache: needs_redis && !outside_redis && !outside_cache,
            own_mongo: needs_mongo && !outside_mongo,
        }
    }

    pub(super) fn any(self) -> bool {
        self.needs_mongo
    }
}

/// A name that resolves from pods of every namespace, whatever the cluster's domain is.
pub(super) fn host(profile: &Profile, component: &str) -> String {
    format!("{}.{}.svc", name_of(profile, component), profile.deploy.kubernetes.namespace)
}

/// The pod of the only member of the replica set.
pub(super) fn mongo_host(profile: &Profile) -> String {
    format!("{}-{MONGO}-0.{}", instance(profile), host(profile, MONGO))
}

/// Clients are told this name, so it has to be the pod's own.
pub(super) fn mongo_member(profile: &Profile) -> String {
    format!("{}:{MONGO_PORT}", mongo_host(profile))
}

pub(super) fn redis_url(profile: &Profile, component: &str, password: &str) -> String {
    format!("redis://:{password}@{}:{REDIS_PORT}", host(profile, component))
}

pub(super) fn mongo_url(profile: &Profile, password: &str) -> String {
    let database = &profile.deploy.mongo_database;
    let member = mongo_member(profile);
    format!(
        "mongodb://{MONGO_USER}:{password}@{member}/{database}?authSource={database}&replicaSet={REPLICA_SET}"
    )
}
