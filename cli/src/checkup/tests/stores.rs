//! Redis and MongoDB.

use super::*;
use crate::backends::{MongoFacts, RedisFacts, Source};

fn redis(change: impl FnOnce(&mut RedisFacts)) -> RedisFacts {
    let mut facts = RedisFacts {
        connected_clients: Some(10),
        max_clients: Some(100),
        used_memory: Some(1 << 20),
        max_memory: Some(0),
        maxmemory_policy: Some("noeviction".to_owned()),
        is_append_only: Some(true),
        appendfsync: Some("always".to_owned()),
        no_appendfsync_on_rewrite: Some("no".to_owned()),
        append_only_works: Some(true),
        rejected_connections: Some(0),
        aof_delayed_fsync: Some(0),
        evicted_keys: Some(0),
    };
    change(&mut facts);
    facts
}

fn with_redis(name: Option<&'static str>, facts: RedisFacts) -> Case {
    let redis = vec![Source { name, facts: Ok(facts) }];
    Case { users: 1000, backends: Readings { redis, mongo: None }, ..Case::default() }
}

#[test]
fn a_journal_must_not_evict_nor_forget() {
    type Change = fn(&mut RedisFacts);
    let table: &[(&str, Change, Status, &str)] = &[
        ("Redis clients", |_| {}, OK, "10.0%"),
        ("Redis clients", |facts| facts.connected_clients = Some(80), WARN, "80.0%"),
        ("Redis clients", |facts| facts.connected_clients = Some(100), fails(1), "no connection is left"),
        ("Redis clients", |facts| facts.max_clients = None, UNKNOWN, "maxclients"),
        ("Redis memory", |_| {}, OK, "no limit"),
        ("Redis memory", |facts| facts.max_memory = Some(1 << 20), WARN, "refused"),
        ("Redis memory", |facts| facts.max_memory = Some(2 << 20), OK, "50.0%"),
        ("Redis memory", |facts| facts.used_memory = None, UNKNOWN, "used_memory"),
        ("Redis eviction", |_| {}, OK, "noeviction"),
        ("Redis eviction", |facts| facts.maxmemory_policy = Some("allkeys-lru".into()), WARN, "allkeys-lru"),
        ("Redis eviction", |facts| facts.maxmemory_policy = None, UNKNOWN, "maxmemory_policy"),
        ("Redis persistence", |_| {}, OK, "`fsync`"),
        ("Redis persistence", |facts| facts.appendfsync = Some("everysec".into()), WARN, "refuses to start"),
        ("Redis persistence", |facts| facts.is_append_only = Some(false), WARN, "`memory`"),
        ("Redis persistence", |facts| facts.append_only_works = Some(false), WARN, "disk full"),
        ("Redis persistence", |facts| facts.is_append_only = None, UNKNOWN, "aof_enabled"),
    ];
    for (check, change, status, words) in table {
        let case = Case { wants_fsync: Some(true), ..with_redis(None, redis(change)) };
        let row = case.expect(check, *status);
        assert!(row.message.contains(words), "{row:?}");
    }
    let everysec = redis(|facts| facts.appendfsync = Some("everysec".into()));
    let row = with_redis(None, everysec).expect("Redis persistence", OK);
    assert_eq!(row.setting.as_deref(), Some("everysec"));
}

#[test]
fn a_cache_may_evict_and_forget() {
    let lru = redis(|facts| {
        facts.maxmemory_policy = Some("allkeys-lru".into());
        facts.max_memory = Some(1 << 20);
        facts.is_append_only = Some(false);
    });
    let case = with_redis(Some("cache"), lru);
    for check in ["memory", "eviction", "persistence", "clients"] {
        case.expect(&format!("Redis cache {check}"), OK);
    }
    let stubborn = redis(|facts| facts.max_memory = Some(1 << 30));
    with_redis(Some("cache"), stubborn).expect("Redis cache eviction", WARN);
}

#[test]
fn what_grew_on_the_servers_while_watching_is_told() {
    let grew = |name: &str| Series::of(2, &[(name, Kind::Counter, vec![Some(1.0), Some(4.0)])]);
    for (counter, check) in [
        ("redis.rejected_connections", "Redis clients"),
        ("redis.evicted_keys", "Redis memory"),
        ("redis.aof_delayed_fsync", "Redis persistence"),
    ] {
        let case = Case { backend_series: grew(counter), ..with_redis(None, redis(|_| {})) };
        assert!(case.expect(check, WARN).message.contains('3'), "{counter}");
    }
    let facts = MongoFacts { cache_used: Some(1), cache_max: Some(100), ..MongoFacts::default() };
    let backends = Readings { redis: Vec::new(), mongo: Some(Source { name: None, facts: Ok(facts) }) };
    let backend_series = grew("mongo.cache_application_evictions");
    Case { users: 1, backends, backend_series, ..Case::default() }.expect("MongoDB cache", WARN);
}

#[test]
fn mongodb_is_judged_by_what_it_tells() {
    for (current, max, status) in [
        (Some(8), Some(11), OK),
        (Some(8), Some(10), WARN),
        (Some(10), Some(10), fails(1)),
        (Some(8), None, UNKNOWN),
    ] {
        for (used, cache_max, cache) in [
            (Some(94), Some(100), OK),
            (Some(95), Some(100), WARN),
            (None, Some(100), UNKNOWN),
            (Some(1), Some(0), UNKNOWN),
        ] {
            let facts = MongoFacts {
                connections_current: current,
                connections_max: max,
                cache_used: used,
                cache_max,
                cache_application_evictions: None,
            };
            let backends =
                Readings { redis: Vec::new(), mongo: Some(Source { name: None, facts: Ok(facts) }) };
            let case = Case { users: 1000, backends, ..Case::default() };
            case.expect("MongoDB connections", status);
            case.expect("MongoDB cache", cache);
        }
    }
}

#[test]
fn a_server_that_does_not_answer_is_unknown_and_a_full_one_fails() {
    for (why, check, status) in [
        ("Redis at h:1: connection refused", "Redis", UNKNOWN),
        ("Redis at h:1: ERR max number of clients reached", "Redis clients", fails(1)),
    ] {
        let redis = vec![Source { name: None, facts: Err(why.to_owned()) }];
        let mongo = Some(Source { name: None, facts: Err("MongoDB: away".to_owned()) });
        let case = Case { users: 1, backends: Readings { redis, mongo }, ..Case::default() };
        assert!(case.expect(check, status).message.contains(why));
        case.expect("MongoDB connections", UNKNOWN);
        case.expect("MongoDB cache", UNKNOWN);
    }
}
