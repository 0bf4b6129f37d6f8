//! Redis and MongoDB, by their own counters, where there are any.

use super::super::rule::Resource as R;
use super::super::rule::Severity::{Error, Saturation, Utilisation};
use super::super::rule::Test::{Rises, Share};
use super::super::rule::{Remedy, Rule, rule};

const REDIS_CLIENTS: Remedy = (
    &["limits.nofile"],
    &["redis maxclients"],
    "raise maxclients, and the open files of redis-server to 32 more than it, which Redis lowers it to; or \
     use fewer and longer connections",
);
const REDIS_MEMORY: Remedy = (
    &[],
    &["redis maxmemory", "deploy.limits.max_backlog_bytes"],
    "raise maxmemory, or bound the backlog; a journal must never evict (maxmemory-policy noeviction)",
);

pub(super) const RULES: &[Rule] = &[
    rule(
        R::RedisConnections,
        Error,
        "redis.rejected_connections",
        Rises,
        "Redis refused connections, there being as many as maxclients",
    )
    .optional()
    .lifted_by(REDIS_CLIENTS),
    // (h)
    rule(
        R::RedisConnections,
        Utilisation,
        "redis.connected_clients",
        Share { of: "redis.max_clients", at: 0.8 },
        "the connections of Redis came near maxclients",
    )
    .optional()
    .lifted_by(REDIS_CLIENTS),
    rule(
        R::Disk,
        Saturation,
        "redis.aof_delayed_fsync",
        Rises,
        "Redis held writes up, since a flush of its append-only file took more than two seconds",
    )
    .optional()
    .lifted_by((
        &[],
        &["redis appendfsync", "redis dir"],
        "give the append-only file a faster disk, or one of its own, away from the database's; appendfsync \
         everysec asks less of it, and a 202 then promises less",
    )),
    rule(
        R::RedisMemory,
        Error,
        "redis.evicted_keys",
        Rises,
        "the Redis that holds the journal evicted keys: accepted writes may be among them",
    )
    .optional()
    .lifted_by(REDIS_MEMORY),
    // (h)
    rule(
        R::RedisMemory,
        Utilisation,
        "redis.used_memory",
        Share { of: "redis.max_memory", at: 0.8 },
        "the memory of Redis came near maxmemory",
    )
    .optional()
    .lifted_by(REDIS_MEMORY),
    // (h)
    rule(
        R::MongoConnections,
        Utilisation,
        "mongo.connections_current",
        Share { of: "mongo.connections_max", at: 0.8 },
        "the connections of MongoDB came near their limit",
    )
    .optional()
    .lifted_by((
        &["limits.nofile"],
        &["mongod net.maxIncomingConnections"],
        "raise net.maxIncomingConnections and the open files of mongod, or use fewer connections \
         (maxPoolSize)",
    )),
    rule(
        R::MongoCache,
        Saturation,
        "mongo.cache_application_evictions",
        Rises,
        "MongoDB's cache was so full that requests had to evict pages themselves",
    )
    .optional()
    .lifted_by(MONGO_CACHE),
    // WiredTiger lets requests evict from 95% on (eviction_trigger).
    rule(
        R::MongoCache,
        Utilisation,
        "mongo.cache_used_bytes",
        Share { of: "mongo.cache_max_bytes", at: 0.95 },
        "MongoDB's cache was full",
    )
    .optional()
    .lifted_by(MONGO_CACHE),
];

const MONGO_CACHE: Remedy = (
    &[],
    &["mongod storage.wiredTiger.engineConfig.cacheSizeGB", "deploy.worker.batch_max_bytes"],
    "raise the cache's size, or give its disk fewer and larger writes, so that pages are clean sooner",
);
