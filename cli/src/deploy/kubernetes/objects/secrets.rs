//! Passwords, URLs that hold them, and what files of this host hold.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use scalekit_service::server_url::ServerUrl;

use super::backends::{self, Backends};
use super::common::metadata;
use crate::deploy::kubernetes::labels::name_of;
use crate::deploy::kubernetes::material::{
    CACHE_PASSWORD, Credentials, MONGO_KEYFILE, MONGO_PASSWORD, MONGO_ROOT_PASSWORD, Material, REDIS_PASSWORD,
};
use crate::profile::{Profile, Servers};

/// Keys of what is made of the passwords.
pub(super) const REDIS_URL: &str = "redis-url";
pub(super) const CACHE_URL: &str = "cache-url";
pub(super) const MONGO_URL: &str = "mongo-url";
/// Redis reads its password from a file of its configuration: arguments show in `ps`.
pub(super) const REDIS_AUTH: &str = "redis-auth.conf";
pub(super) const CACHE_AUTH: &str = "cache-auth.conf";

/// The Secret with the deployment's passwords, which are made once and kept.
pub(crate) fn credentials_name(profile: &Profile) -> String {
    name_of(profile, "credentials")
}

pub(crate) fn files_name(profile: &Profile) -> String {
    name_of(profile, "files")
}

pub(super) fn secrets(profile: &Profile, material: &Material) -> Vec<Secret> {
    let mut secrets = Vec::new();
    if Backends::of(&profile.deploy).any() {
        let texts = credentials(profile, &material.credentials, &material.servers);
        let bytes = texts.into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes()));
        secrets.push(secret(profile, "credentials", bytes.collect()));
    }
    if !material.files.is_empty() {
        let files = material.files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone()));
        secrets.push(secret(profile, "files", files.collect()));
    }
    secrets
}

/// What the Secret holds: passwords, and what is made of them.
pub(crate) fn credentials(
    profile: &Profile,
    made: &Credentials,
    servers: &Servers,
) -> Vec<(&'static str, String)> {
    let url = |outside: Option<&ServerUrl>, own: String| outside.map_or(own, |url| url.expose().to_owned());
    // Without a cache of its own, an outside journal's Redis is the cache, too.
    let cache = servers.cache.as_ref().or(servers.redis.as_ref());
    vec![
        (REDIS_PASSWORD, made.redis.clone()),
        (CACHE_PASSWORD, made.cache.clone()),
        (MONGO_PASSWORD, made.mongo.clone()),
        (MONGO_ROOT_PASSWORD, made.mongo_root.clone()),
        (MONGO_KEYFILE, made.mongo_keyfile.clone()),
        (REDIS_AUTH, format!("requirepass {}", made.redis)),
        (CACHE_AUTH, format!("requirepass {}", made.cache)),
        (
            REDIS_URL,
            url(servers.redis.as_ref(), backends::redis_url(profile, backends::JOURNAL, &made.redis)),
        ),
        (CACHE_URL, url(cache, backends::redis_url(profile, backends::CACHE, &made.cache))),
        (MONGO_URL, url(servers.mongo.as_ref(), backends::mongo_url(profile, &made.mongo))),
    ]
}

fn secret(profile: &Profile, component: &str, data: BTreeMap<String, Vec<u8>>) -> Secret {
    Secret {
        metadata: metadata(profile, component),
        type_: Some("Opaque".to_owned()),
        data: Some(data.into_iter().map(|(name, bytes)| (name, ByteString(bytes))).collect()),
        ..Secret::default()
    }
}
