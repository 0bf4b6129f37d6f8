//! Secrets for those who apply objects without this tool: commands that make them once, with passwords that nobody prints.

use std::fmt::Write as _;

use scalekit_service::server_url::ServerUrl;

use super::material::{BACKEND_CA, Credentials, TLS_CERT, TLS_KEY, TOKENS};
use super::objects;
use crate::profile::{Backend, Profile, Servers};

/// Variables of a shell that stand for the passwords.
pub(super) const VARIABLES: [&str; 5] = ["redis", "cache", "mongo", "root", "keyfile"];

fn variables() -> Credentials {
    let [redis, cache, mongo, mongo_root, mongo_keyfile] = VARIABLES.map(|name| format!("${name}"));
    Credentials { redis, cache, mongo, mongo_root, mongo_keyfile }
}

/// Each key of the Secret with its text, in which the shell puts the passwords.
#[cfg(test)]
pub(super) fn texts(profile: &Profile) -> Vec<(&'static str, String)> {
    objects::credentials(profile, &variables(), &Servers::default())
}

/// Lines for a shell, in which servers outside have the place of their URLs.
pub(super) fn commands(profile: &Profile) -> Vec<String> {
    let deploy = &profile.deploy;
    let namespace = &deploy.kubernetes.namespace;
    let create = |name: String| format!("kubectl -n {namespace} create secret generic {name}");
    let mut lines = Vec::new();
    if deploy.backend == Backend::RedisMongo {
        let outside =
            |is_outside: bool, name: &str| is_outside.then(|| ServerUrl::from(format!("URL-OF-YOUR-{name}")));
        let servers = Servers {
            redis: outside(deploy.redis_url.is_some() || deploy.redis_url_file.is_some(), "REDIS"),
            cache: outside(deploy.cache_url.is_some() || deploy.cache_url_file.is_some(), "CACHE"),
            mongo: outside(deploy.mongo_url.is_some() || deploy.mongo_url_file.is_some(), "MONGODB"),
            authorities: None,
        };
        for name in VARIABLES {
            lines.push(format!("{name}=$(openssl rand -hex 24)"));
        }
        let mut line = create(objects::credentials_name(profile));
        for (key, text) in objects::credentials(profile, &variables(), &servers) {
            let _ = write!(line, " \\\n  --from-literal={key}=\"{text}\"");
        }
        lines.push(line);
    }
    let tls = deploy.tls.as_ref();
    let files = [
        (TOKENS, deploy.tokens_file.as_ref()),
        (TLS_CERT, tls.map(|tls| &tls.cert)),
        (TLS_KEY, tls.map(|tls| &tls.key)),
        (BACKEND_CA, deploy.backend_ca.as_ref()),
    ];
    let files: Vec<_> = files.into_iter().filter_map(|(key, path)| Some((key, path?))).collect();
    if !files.is_empty() {
        let mut line = create(objects::files_name(profile));
        for (key, path) in files {
            let _ = write!(line, " \\\n  --from-file={key}={}", path.display());
        }
        lines.push(line);
    }
    lines
}
