//! Where Redis and MongoDB are, once the files that say so have been read.

use std::path::Path;

use scalekit_service::authorities::Authorities;
use scalekit_service::server_url::ServerUrl;

use super::error::ProfileError;
use super::types::Deploy;
use super::{flag_error, text};

/// URLs, passwords included, and whom to trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Servers {
    pub(crate) redis: Option<ServerUrl>,
    pub(crate) cache: Option<ServerUrl>,
    pub(crate) mongo: Option<ServerUrl>,
    pub(crate) authorities: Option<Authorities>,
}

impl Deploy {
    /// Reads the files.
    ///
    /// # Errors
    /// One that cannot be read, or holds something else; what it holds is not repeated.
    pub(crate) fn servers(&self) -> Result<Servers, ProfileError> {
        let redis = &["redis", "rediss"][..];
        let mongo = &["mongodb", "mongodb+srv"][..];
        let ca = self.backend_ca.as_deref().map(|file| {
            let help = "name a PEM file of certificate authorities";
            Authorities::read(file)
                .map_err(|problem| flag_error("deploy.backend_ca (--backend-ca)", problem, help))
        });
        Ok(Servers {
            redis: url("redis_url", &self.redis_url, self.redis_url_file.as_deref(), redis)?,
            cache: url("cache_url", &self.cache_url, self.cache_url_file.as_deref(), redis)?,
            mongo: url("mongo_url", &self.mongo_url, self.mongo_url_file.as_deref(), mongo)?,
            authorities: ca.transpose()?,
        })
    }
}

fn url(
    key: &str,
    url: &Option<ServerUrl>,
    file: Option<&Path>,
    schemes: &[&str],
) -> Result<Option<ServerUrl>, ProfileError> {
    let Some(file) = file else { return Ok(url.clone()) };
    let flawed = |problem: String| {
        let key = format!("deploy.{key}_file (--{}-file)", key.replace('_', "-"));
        flag_error(&key, problem, "put the URL, and nothing else, into the file")
    };
    let url = ServerUrl::read(file).map_err(flawed)?;
    text::url(url.expose(), schemes).map_err(|expected| {
        flawed(format!("{} holds another URL than expected: {expected}", file.display()))
    })?;
    Ok(Some(url))
}

#[cfg(test)]
mod tests {
    use super::super::{Layer, load};
    use super::*;

    #[test]
    fn a_url_in_a_file_is_as_good_as_one_in_the_profile_and_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let profile = dir.path().join("x.yaml");
        let servers = || {
            std::fs::write(
                &profile,
                "deploy: {backend: redis-mongo, redis_url_file: secret, mongo_url: 'mongodb://h'}",
            )
            .unwrap();
            let profile = load(profile.to_str().unwrap(), Layer::default()).unwrap();
            assert!(!serde_json::to_string(&profile).unwrap().contains("hunter2"));
            assert!(profile.deploy.redis_url_file.as_deref().is_some_and(Path::is_absolute));
            profile.deploy.servers()
        };
        let secret = dir.path().join("secret");
        assert!(servers().unwrap_err().to_string().contains("--redis-url-file"));
        for text in ["redis://u:hunter2@h extra", "mongodb://u:hunter2@h", "hunter2", ""] {
            std::fs::write(&secret, text).unwrap();
            let error = servers().unwrap_err().to_string();
            assert!(error.contains("redis_url_file") && !error.contains("hunter2"), "{error}");
        }
        std::fs::write(&secret, "rediss://u:hunter2@h:1\n").unwrap();
        let servers = servers().unwrap();
        assert_eq!(servers.redis.as_ref().unwrap().expose(), "rediss://u:hunter2@h:1");
        assert!(!format!("{servers:?}").contains("hunter2"));
    }
}
