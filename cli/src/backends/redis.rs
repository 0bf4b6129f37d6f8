//! Redis: the text of `INFO` and the settings behind an acknowledged write.
//!
//! <https://redis.io/docs/latest/commands/info/>

use std::collections::HashMap;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, RedisError};

use scalekit_service::redis_link;
use scalekit_service::server_url::ServerUrl;

use super::{CACHE, RedisUrl};
use crate::host::counters::{Figure, Kind};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// `INFO` of a server with many modules and databases is some tens of KiB.
const MAX_INFO_BYTES: usize = 1 << 20;

/// What one server tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RedisFacts {
    pub(crate) connected_clients: Option<u64>,
    pub(crate) max_clients: Option<u64>,
    /// Bytes.
    pub(crate) used_memory: Option<u64>,
    /// Bytes; 0: no limit.
    pub(crate) max_memory: Option<u64>,
    pub(crate) maxmemory_policy: Option<String>,
    pub(crate) is_append_only: Option<bool>,
    /// `always`, `everysec` or `no`; unknown where CONFIG is forbidden.
    pub(crate) appendfsync: Option<String>,
    pub(crate) no_appendfsync_on_rewrite: Option<String>,
    /// Whether the last write to the append-only file went well.
    pub(crate) append_only_works: Option<bool>,
    pub(crate) rejected_connections: Option<u64>,
    /// Only told with an append-only file.
    pub(crate) aof_delayed_fsync: Option<u64>,
    pub(crate) evicted_keys: Option<u64>,
}

/// What an acknowledged write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Not even the server's end.
    Memory,
    /// The server's end.
    Os,
    /// A power cut.
    Fsync,
}

impl RedisFacts {
    /// From `INFO`, `KEY:VALUE` a line, and the answer to `CONFIG GET`. Versions add keys and seldom rename any; Redis
    /// before 7.0 has `maxclients` in its settings only.
    pub(super) fn parse(info: &str, settings: &HashMap<String, String>) -> Self {
        let text = |key: &str| {
            info.lines().find_map(|line| line.trim_end().strip_prefix(key)?.strip_prefix(':')).map(str::trim)
        };
        let number = |key: &str| text(key)?.parse::<u64>().ok();
        let setting = |key: &str| settings.get(key).map(|value| value.trim());
        Self {
            connected_clients: number("connected_clients"),
            max_clients: number("maxclients").or_else(|| setting("maxclients")?.parse().ok()),
            used_memory: number("used_memory"),
            max_memory: number("maxmemory"),
            maxmemory_policy: text("maxmemory_policy").map(str::to_owned),
            is_append_only: number("aof_enabled").map(|enabled| enabled != 0),
            appendfsync: setting("appendfsync").map(str::to_owned),
            no_appendfsync_on_rewrite: setting("no-appendfsync-on-rewrite").map(str::to_owned),
            append_only_works: text("aof_last_write_status").map(|status| status == "ok"),
            rejected_connections: number("rejected_connections"),
            aof_delayed_fsync: number("aof_delayed_fsync"),
            evicted_keys: number("evicted_keys"),
        }
    }

    /// `appendfsync always` flushes before it answers, unless `no-appendfsync-on-rewrite` lets a rewrite suspend that;
    /// the other settings hand over to the operating system. What cannot be read claims the weaker one.
    pub(crate) fn durability(&self) -> Option<Durability> {
        let fsync = self.appendfsync.as_deref() == Some("always");
        let always = self.no_appendfsync_on_rewrite.as_deref() == Some("no");
        Some(match self.is_append_only? {
            false => Durability::Memory,
            true if fsync && always => Durability::Fsync,
            true => Durability::Os,
        })
    }

    /// As named numbers; without a limit on memory there is no figure of it. A cache of its own may be full and evict:
    /// that is what it is for, and so neither goes by the name that a journal's has.
    pub(super) fn figures(&self, name: Option<&str>) -> Vec<Figure> {
        let figure = |key, kind, value| Figure::count(RedisUrl::figure(name, key), kind, value);
        let is_cache = name == Some(CACHE);
        let mut figures = vec![
            figure("connected_clients", Kind::Gauge, self.connected_clients),
            figure("max_clients", Kind::Gauge, self.max_clients),
            figure("used_memory", Kind::Gauge, self.used_memory),
            figure("rejected_connections", Kind::Counter, self.rejected_connections),
            figure("aof_delayed_fsync", Kind::Counter, self.aof_delayed_fsync),
            figure(
                if is_cache { "cache_evicted_keys" } else { "evicted_keys" },
                Kind::Counter,
                self.evicted_keys,
            ),
        ];
        if self.max_memory != Some(0) && !is_cache {
            figures.push(figure("max_memory", Kind::Gauge, self.max_memory));
        }
        figures
    }
}

/// One server, with a connection that is kept and made again when it broke.
pub(super) struct RedisReader {
    pub(super) name: Option<&'static str>,
    /// Without credentials.
    pub(super) address: String,
    url: ServerUrl,
    client: Client,
    connection: Option<MultiplexedConnection>,
    settings: Option<HashMap<String, String>>,
}

impl RedisReader {
    pub(super) fn new(redis: &RedisUrl) -> Result<Self, String> {
        let client = redis_link::client(&redis.url, redis.authorities.as_ref())?;
        let address = client.get_connection_info().addr().to_string();
        let url = redis.url.clone();
        Ok(Self { name: redis.name, address, url, client, connection: None, settings: None })
    }

    /// Asks; in at most a few seconds.
    ///
    /// # Errors
    /// Why there is no answer, without the password.
    pub(super) async fn read(&mut self) -> Result<RedisFacts, String> {
        let result = self.ask().await;
        result.map_err(|error| {
            self.connection = None;
            format!("Redis at {}: {}", self.address, self.url.hide_in(&error.to_string()))
        })
    }

    async fn ask(&mut self) -> Result<RedisFacts, RedisError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECT_TIMEOUT))
                    .set_response_timeout(Some(ANSWER_TIMEOUT));
                self.client.get_multiplexed_async_connection_with_config(&config).await?
            }
        };
        let info: Vec<u8> = ::redis::cmd("INFO").query_async(&mut connection).await?;
        if self.settings.is_none() {
            let mut settings = HashMap::new();
            // One pattern a command: before 7.0 there can be no more. CONFIG may be forbidden, and INFO tells most.
            for pattern in ["*appendfsync*", "maxclients"] {
                let mut get = ::redis::cmd("CONFIG");
                let found: Result<HashMap<String, String>, _> =
                    get.arg("GET").arg(pattern).query_async(&mut connection).await;
                settings.extend(found.unwrap_or_default());
            }
            self.settings = Some(settings);
        }
        self.connection = Some(connection);
        let info = String::from_utf8_lossy(info.get(..MAX_INFO_BYTES).unwrap_or(&info));
        Ok(RedisFacts::parse(&info, self.settings.as_ref().unwrap_or(&HashMap::new())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `INFO` of 3.2, whose clients have no limit there.
    const V3_2: &str = "# Clients\r\nconnected_clients:1\r\nblocked_clients:0\r\n\r\n# Memory\r\nused_memory:822464\r\n\
        used_memory_human:803.19K\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n# Persistence\r\naof_enabled:0\r\n\
        aof_last_write_status:ok\r\n# Stats\r\nrejected_connections:0\r\nevicted_keys:0\r\n";
    const V7_0: &str = "# Clients\r\nconnected_clients:12\r\ncluster_connections:0\r\nmaxclients:10000\r\n\
        client_recent_max_input_buffer:8\r\n# Memory\r\nused_memory:916784\r\nused_memory_human:895.30K\r\n\
        maxmemory:104857600\r\nmaxmemory_human:100.00M\r\nmaxmemory_policy:allkeys-lru\r\n# Persistence\r\n\
        aof_enabled:1\r\naof_last_write_status:err\r\naof_delayed_fsync:3\r\n# Stats\r\n\
        total_connections_received:1\r\nrejected_connections:7\r\nevicted_keys:9\r\nevicted_clients:0\r\n";

    fn settings(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn each_version_is_read() {
        let old = RedisFacts::parse(V3_2, &settings(&[("maxclients", "4064")]));
        assert_eq!((old.connected_clients, old.max_clients), (Some(1), Some(4064)));
        assert_eq!((old.used_memory, old.max_memory), (Some(822_464), Some(0)));
        assert_eq!((old.is_append_only, old.aof_delayed_fsync), (Some(false), None));
        assert_eq!(RedisFacts::parse(V3_2, &settings(&[])).max_clients, None);
        let new = RedisFacts::parse(V7_0, &settings(&[("appendfsync", "always")]));
        let expected = RedisFacts {
            connected_clients: Some(12),
            max_clients: Some(10_000),
            used_memory: Some(916_784),
            max_memory: Some(100 << 20),
            maxmemory_policy: Some("allkeys-lru".to_owned()),
            is_append_only: Some(true),
            appendfsync: Some("always".to_owned()),
            no_appendfsync_on_rewrite: None,
            append_only_works: Some(false),
            rejected_connections: Some(7),
            aof_delayed_fsync: Some(3),
            evicted_keys: Some(9),
        };
        assert_eq!(new, expected);
        assert_eq!(RedisFacts::parse("", &settings(&[])), RedisFacts::default());
    }

    #[test]
    fn no_more_is_claimed_than_the_server_does() {
        for (append_only, fsync, on_rewrite, expected) in [
            (Some(false), Some("always"), Some("no"), Some(Durability::Memory)),
            (Some(true), Some("always"), Some("no"), Some(Durability::Fsync)),
            (Some(true), Some("always"), Some("yes"), Some(Durability::Os)),
            (Some(true), Some("always"), None, Some(Durability::Os)),
            (Some(true), Some("everysec"), Some("no"), Some(Durability::Os)),
            (Some(true), None, None, Some(Durability::Os)),
            (None, Some("always"), Some("no"), None),
        ] {
            let facts = RedisFacts {
                is_append_only: append_only,
                appendfsync: fsync.map(str::to_owned),
                no_appendfsync_on_rewrite: on_rewrite.map(str::to_owned),
                ..RedisFacts::default()
            };
            assert_eq!(facts.durability(), expected, "{facts:?}");
        }
    }

    #[test]
    fn figures_have_the_names_that_rules_know() {
        let facts = RedisFacts::parse(V7_0, &settings(&[]));
        let names: Vec<String> =
            facts.figures(Some("journal")).into_iter().map(|figure| figure.name).collect();
        for name in [
            "redis.connected_clients[journal]",
            "redis.max_clients[journal]",
            "redis.used_memory[journal]",
            "redis.max_memory[journal]",
            "redis.rejected_connections[journal]",
            "redis.aof_delayed_fsync[journal]",
            "redis.evicted_keys[journal]",
        ] {
            assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
        }
        let cache = facts.figures(Some("cache"));
        for name in ["redis.evicted_keys", "redis.max_memory"] {
            assert!(cache.iter().all(|figure| !figure.name.starts_with(name)), "{name}");
        }
        let unlimited = RedisFacts::parse(V3_2, &settings(&[])).figures(None);
        assert!(unlimited.iter().all(|figure| figure.name != "redis.max_memory"));
        assert!(unlimited.iter().any(|figure| figure.name == "redis.used_memory"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,300}", key in "[a-z_]{1,20}", value in ".{0,20}") {
            let found = RedisFacts::parse(&format!("{key}:{value}\n{text}"), &HashMap::new());
            prop_assert!(found.figures(None).len() <= 7);
        }
        #[test]
        fn a_number_is_read_back(value in any::<u64>(), before in "(# ?[a-z]{0,9}\r\n){0,3}") {
            let found = RedisFacts::parse(&format!("{before}used_memory:{value}\r\n"), &HashMap::new());
            prop_assert_eq!(found.used_memory, Some(value));
        }
    }
}
