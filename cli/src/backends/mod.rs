//! Redis and MongoDB as their own counters show them: read once ([`read`]), or once a second while something else goes
//! on ([`Watch`]).
//!
//! Parsers are pure, and what a server does not tell is `None`: unknown, never zero. Only this module connects. Each
//! read takes a few seconds at most, and no message holds a password.

mod mongo;
mod reading;
mod redis;
mod watch;

use scalekit_service::authorities::Authorities;
use scalekit_service::redis_link;
use scalekit_service::server_url::ServerUrl;

pub(crate) use self::mongo::MongoFacts;
pub(crate) use self::reading::{Readings, Source, check_mongo_url, read};
pub(crate) use self::redis::{Durability, RedisFacts};
pub(crate) use self::watch::Watch;

/// The name of a Redis that is only a cache.
pub(crate) const CACHE: &str = "cache";

/// One Redis, by URL.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RedisUrl {
    /// What it is for, where there are several: `journal`, `cache`.
    pub(crate) name: Option<&'static str>,
    pub(crate) url: ServerUrl,
    /// Whom a server with TLS is trusted by; `None`: the public authorities.
    pub(crate) authorities: Option<Authorities>,
}

/// MongoDB, by URL.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct MongoUrl {
    pub(crate) url: ServerUrl,
    pub(crate) authorities: Option<Authorities>,
}

impl RedisUrl {
    /// The instances of a deployment. Where journal and cache are one server, it is read once and has no name.
    ///
    /// # Errors
    /// A URL that is none; its credentials are not repeated.
    pub(crate) fn of(
        journal: Option<&ServerUrl>,
        cache: Option<&ServerUrl>,
        authorities: Option<&Authorities>,
    ) -> Result<Vec<Self>, String> {
        let one = |name, url: &ServerUrl| {
            redis_link::client(url, authorities)?;
            Ok::<_, String>(Self { name, url: url.clone(), authorities: authorities.cloned() })
        };
        match (journal, cache) {
            (Some(journal), Some(cache)) if journal != cache => {
                Ok(vec![one(Some("journal"), journal)?, one(Some(CACHE), cache)?])
            }
            (Some(journal), _) => Ok(vec![one(None, journal)?]),
            (None, Some(cache)) => Ok(vec![one(Some(CACHE), cache)?]),
            (None, None) => Ok(Vec::new()),
        }
    }

    /// `redis.used_memory`, with the instance in brackets where there are several.
    pub(crate) fn figure(name: Option<&str>, figure: &str) -> String {
        name.map_or_else(|| format!("redis.{figure}"), |name| format!("redis.{figure}[{name}]"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_named_where_there_are_several() {
        let names = |journal, cache| -> Vec<Option<&str>> {
            RedisUrl::of(journal, cache, None).unwrap().into_iter().map(|url| url.name).collect()
        };
        let (one, other) = ("redis://127.0.0.1:1".into(), "redis://127.0.0.1:2".into());
        let (one, other) = (Some(&one), Some(&other));
        assert_eq!(names(one, other), [Some("journal"), Some("cache")]);
        assert_eq!(names(one, one), [None]);
        assert_eq!(names(one, None), [None]);
        assert_eq!(names(None, one), [Some("cache")]);
        assert_eq!(names(None, None), []);
        assert_eq!(RedisUrl::figure(None, "max_clients"), "redis.max_clients");
        assert_eq!(RedisUrl::figure(Some("cache"), "max_clients"), "redis.max_clients[cache]");
    }

    #[test]
    fn a_url_that_is_none_is_refused_without_its_password() {
        for url in ["http://u:hunter2@h", "redis//u:hunter2@h", "redis://u:hunter2@h:port", ""] {
            let error = RedisUrl::of(Some(&url.into()), None, None).err().unwrap();
            assert!(error.contains("redis://") && !error.contains("hunter2"), "{url}: {error}");
        }
    }
}
