//! Limits of Redis and MongoDB, as they tell them.

use super::Situation;
use super::row::{Row, Unit, number};
use crate::backends::{Durability, MongoFacts, RedisFacts, Source};
use crate::host::counters::Series;

/// (h) Connections or memory above this share of what there may be.
const NEARLY: f64 = 0.8;
/// Threads that serve clients begin to evict at this share of the cache (WiredTiger's `eviction_trigger`).
const EVICTION_TRIGGER: f64 = 0.95;

pub(super) fn rows(situation: &Situation<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for redis in &situation.backends.redis {
        rows.extend(of_redis(situation, redis));
    }
    if let Some(mongo) = &situation.backends.mongo {
        rows.extend(of_mongo(situation.backend_series, mongo));
    }
    rows
}

fn of_redis(situation: &Situation<'_>, redis: &Source<RedisFacts>) -> Vec<Row> {
    let server = Server { name: redis.name, series: situation.backend_series };
    let facts = match &redis.facts {
        Ok(facts) => facts,
        Err(why) if why.contains("max number of clients") => {
            return vec![server.clients_row().fails(1, format!("it refuses any other connection: {why}"))];
        }
        Err(why) => return vec![Row { check: server.named(""), ..server.clients_row() }.unknown(why)],
    };
    vec![
        server.clients(facts),
        server.memory(facts),
        server.policy(facts),
        server.persistence(facts, situation.wants_fsync),
    ]
}

struct Server<'a> {
    name: Option<&'static str>,
    series: &'a Series,
}

impl Server<'_> {
    /// `Redis journal memory`
    fn named(&self, check: &str) -> String {
        let words = ["Redis", self.name.unwrap_or_default(), check];
        words.iter().copied().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }

    fn row(&self, check: &str, figure: &str, unit: Unit) -> Row {
        Row::of(&self.named(check), crate::backends::RedisUrl::figure(self.name, figure), unit)
    }

    /// Evicts and forgets, as a cache may. A server without a name has the journal, too.
    fn is_cache(&self) -> bool {
        self.name == Some(crate::backends::CACHE)
    }

    fn grew(&self, figure: &str) -> f64 {
        let counter = crate::backends::RedisUrl::figure(self.name, figure);
        let column = self.series.counters.get(&counter);
        let known = || column.into_iter().flat_map(|column| column.values.iter().flatten());
        known().next().zip(known().next_back()).map_or(0.0, |(first, last)| (last - first).max(0.0))
    }

    fn clients_row(&self) -> Row {
        self.row("clients", "connected_clients", Unit::Count).heuristic().lifted_by(
            &["nofile"],
            &["redis maxclients"],
            "raise maxclients, and the server's limit on files, which cuts it",
        )
    }

    /// A service has a pool: its connections do not grow with the users. So this is a matter of what is left, (h).
    fn clients(&self, facts: &RedisFacts) -> Row {
        let row = self.clients_row().counts(facts.connected_clients, facts.max_clients);
        let rejected = self.grew("rejected_connections");
        match (facts.connected_clients, facts.max_clients) {
            _ if rejected > 0.0 => row.warn(format!("{rejected} connections were refused while watching")),
            (Some(now), Some(max)) if now >= max => row.fails(1, "no connection is left"),
            (Some(now), Some(max)) => {
                let message = format!("{} of the connections are in use", percent(now, max));
                row.warn_if(number(now) >= NEARLY * number(max), message.clone(), message)
            }
            _ => row.unknown("the server does not tell connected_clients or maxclients"),
        }
    }

    /// At `maxmemory` a server without eviction refuses writes, and one with it forgets keys.
    fn memory(&self, facts: &RedisFacts) -> Row {
        let limit = facts.max_memory.filter(|max| *max > 0);
        let row = self
            .row("memory", "used_memory", Unit::Bytes)
            .heuristic()
            .counts(facts.used_memory, limit)
            .lifted_by(
                &[],
                &["redis maxmemory"],
                "raise maxmemory, or bound the backlog (deploy.limits.max_backlog_bytes)",
            );
        let evicted = self.grew("evicted_keys");
        match (facts.used_memory, facts.max_memory) {
            _ if evicted > 0.0 && !self.is_cache() => {
                row.warn(format!("{evicted} keys were evicted while watching: entries may be lost"))
            }
            (None, _) | (_, None) => row.unknown("the server does not tell used_memory or maxmemory"),
            (Some(_), Some(0)) => row.ok("no limit but the host's memory"),
            (Some(used), Some(max)) => {
                let message = format!("{} of maxmemory are in use", percent(used, max));
                let is_nearly = number(used) >= NEARLY * number(max) && !self.is_cache();
                row.warn_if(is_nearly, format!("{message}; at all of it writes are refused"), message)
            }
        }
    }

    /// A journal must not be evicted; the bundled service refuses a server that would.
    fn policy(&self, facts: &RedisFacts) -> Row {
        let limit = facts.max_memory.filter(|max| *max > 0);
        let row = self.row("eviction", "maxmemory_policy", Unit::Count).lifted_by(
            &[],
            &["redis maxmemory-policy"],
            if self.is_cache() {
                "let a cache evict: allkeys-lru"
            } else {
                "set noeviction for the journal, and give the cache a server of its own (--cache-url)"
            },
        );
        let Some(policy) = facts.maxmemory_policy.as_deref() else {
            return row.unknown("the server does not tell maxmemory_policy");
        };
        let row = row.setting(Some(policy));
        let evicts = policy != "noeviction";
        let bound = if limit.is_some() { "" } else { ", as soon as maxmemory is set" };
        match (self.is_cache(), evicts) {
            (false, true) => {
                row.warn(format!("{policy}: entries that nobody has read yet can be evicted{bound}"))
            }
            (false, false) => row.ok(policy.to_owned()),
            (true, false) if limit.is_some() => {
                row.warn(format!("{policy}: a full cache refuses what is new"))
            }
            (true, _) => row.ok(policy.to_owned()),
        }
    }

    /// What an acknowledged write survives.
    fn persistence(&self, facts: &RedisFacts, wants_fsync: Option<bool>) -> Row {
        let row = self.row("persistence", "appendonly", Unit::Count).lifted_by(
            &[],
            &["redis appendonly", "redis appendfsync"],
            "appendonly yes; appendfsync always, with no-appendfsync-on-rewrite no, survives a power cut",
        );
        let Some(durability) = facts.durability() else {
            return row.unknown("the server does not tell aof_enabled");
        };
        let row = row.setting(Some(match (durability, facts.appendfsync.as_deref()) {
            (Durability::Memory, _) => "no",
            (_, fsync) => fsync.unwrap_or("yes"),
        }));
        let fsync = facts.appendfsync.as_deref().unwrap_or("unknown");
        let in_force = match durability {
            Durability::Memory => "appendonly no: durability `memory`".to_owned(),
            Durability::Os => format!("appendonly yes, appendfsync {fsync}: durability `os`"),
            Durability::Fsync => format!("appendonly yes, appendfsync {fsync}: durability `fsync`"),
        };
        let delayed = self.grew("aof_delayed_fsync");
        match durability {
            _ if self.is_cache() => row.ok(format!("{in_force}; a cache needs none")),
            _ if facts.append_only_works == Some(false) && durability != Durability::Memory => {
                row.warn(format!("{in_force}; the last write to the file failed: is the disk full?"))
            }
            Durability::Memory => {
                row.warn(format!("{in_force}: an acknowledged write is lost with the server's process"))
            }
            _ if delayed > 0.0 => {
                row.warn(format!("{in_force}; {delayed} fsyncs were late: the disk is too slow"))
            }
            Durability::Os if wants_fsync == Some(true) => row.warn(format!(
                "{in_force}, and the profile asks for `fsync`, so that its service refuses to start"
            )),
            Durability::Os => row.ok(format!("{in_force}; a power cut can take what came last")),
            Durability::Fsync => row.ok(in_force),
        }
    }
}

fn of_mongo(series: &Series, mongo: &Source<MongoFacts>) -> Vec<Row> {
    let connections = Row::of("MongoDB connections", "mongo.connections_current", Unit::Count).lifted_by(
        &["nofile"],
        &["mongod net.maxIncomingConnections"],
        "raise it, and the server's limit on files, which cuts it",
    );
    let cache = Row::of("MongoDB cache", "mongo.cache_used_bytes", Unit::Bytes).heuristic().lifted_by(
        &[],
        &["mongod storage.wiredTiger.engineConfig.cacheSizeGB"],
        "a larger cache, or fewer bytes to write at once (deploy.worker.batch_max_bytes)",
    );
    match &mongo.facts {
        Err(why) => vec![connections.unknown(why), cache.unknown(why)],
        Ok(facts) => vec![of_connections(connections, facts), of_cache(cache, facts, series)],
    }
}

/// A hard limit, but of a pool that does not grow with the users; so what matters is whether any is left, (h).
fn of_connections(row: Row, facts: &MongoFacts) -> Row {
    let row = row.heuristic().counts(facts.connections_current, facts.connections_max);
    match (facts.connections_current, facts.connections_max) {
        (Some(now), Some(max)) if now >= max => row.fails(1, "no connection is left"),
        (Some(now), Some(max)) => {
            let message = format!("{} of the connections are in use", percent(now, max));
            row.warn_if(number(now) >= NEARLY * number(max), message.clone(), message)
        }
        _ => row.unknown("serverStatus does not tell how many connections there may be"),
    }
}

fn of_cache(row: Row, facts: &MongoFacts, series: &Series) -> Row {
    let row = row.counts(facts.cache_used, facts.cache_max);
    let column = series.counters.get("mongo.cache_application_evictions");
    let known = || column.into_iter().flat_map(|column| column.values.iter().flatten());
    let evicted =
        known().next().zip(known().next_back()).map_or(0.0, |(first, last)| (last - first).max(0.0));
    match (facts.cache_used, facts.cache_max) {
        _ if evicted > 0.0 => {
            row.warn(format!("threads that serve clients had to evict {evicted} pages while watching"))
        }
        (Some(used), Some(max)) if max > 0 => {
            let message = format!("{} of the cache are in use", percent(used, max));
            row.warn_if(number(used) >= EVICTION_TRIGGER * number(max), message.clone(), message)
        }
        _ => row.unknown("serverStatus tells nothing of WiredTiger's cache"),
    }
}

fn percent(value: u64, of: u64) -> String {
    format!("{:.1}%", number(value) / number(of.max(1)) * 100.0)
}
