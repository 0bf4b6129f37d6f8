//! Redis and MongoDB as their own counters show them: read once ([`read`]), or once a second while something else goes
//! on ([`Watch`]).
//!
//! Parsers are pure, and what a server does not tell is `None`: unknown, never zero. Only this module connects. Each
//! read takes a few seconds at most, and no message holds a password.

mod mongo;
mod reading;
mod redis;
mod secret;
mod watch;

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
    pub(crate) url: String,
}

impl RedisUrl {
    /// The instances of a deployment. Where journal and cache are one server, it is read once and has no name.
    ///
    /// # Errors
    /// A URL that is none; its credentials are not repeated.
    pub(crate) fn of(journal: Option<&str>, cache: Option<&str>) -> Result<Vec<Self>, String> {
        let one = |name, url: &str| {
            redis::client(url)?;
            Ok::<_, String>(Self { name, url: url.to_owned() })
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
            RedisUrl::of(journal, cache).unwrap().into_iter().map(|url| url.name).collect()
        };
        let (one, other) = (Some("redis://127.0.0.1:1"), Some("redis://127.0.0.1:2"));
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
            let error = RedisUrl::of(Some(url), None).err().unwrap();
            assert!(error.contains("redis://") && !error.contains("hunter2"), "{url}: {error}");
        }
    }
}
