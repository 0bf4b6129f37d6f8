//! The watch against real servers.

use scalekit_service::testing::{MongoServer, RedisServer, free_port};

use super::*;

fn last(series: &Series, name: &str) -> Option<f64> {
    series.counters.get(name)?.values.iter().rev().copied().flatten().next()
}

#[test]
fn real_servers_are_watched_each_under_its_name() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let journal = RedisServer::start(
        dirs[0].path(),
        &["--appendonly", "yes", "--maxclients", "50", "--maxmemory", "100mb"],
    );
    let cache = RedisServer::start(dirs[1].path(), &["--maxmemory", "100mb"]);
    let mongo = MongoServer::start(dirs[2].path());
    let urls = RedisUrl::of(Some(&journal.url().into()), Some(&cache.url().into()), None).unwrap();
    let watch = Watch::start(urls, Some(MongoUrl { url: mongo.url().into(), authorities: None })).unwrap();
    let series = watch.stop();
    assert_eq!(series.problems, Vec::<String>::new());
    assert!(series.at_ms.len() >= 2 && series.at_ms.is_sorted(), "{:?}", series.at_ms);
    assert!(series.started_unix_ms > 0 && series.duration_ms > 0.0);
    assert_eq!(last(&series, "redis.max_clients[journal]"), Some(50.0));
    assert_eq!(last(&series, "redis.max_memory[journal]"), Some(f64::from(100 << 20)));
    assert!(!series.counters.contains_key("redis.max_memory[cache]"), "a cache may be full");
    assert!(last(&series, "redis.used_memory[journal]") > Some(1000.0));
    assert_eq!(last(&series, "redis.aof_delayed_fsync[journal]"), Some(0.0));
    assert!(last(&series, "mongo.connections_current") >= Some(1.0));
    assert!(series.counters.contains_key("mongo.cache_max_bytes"), "known or not, it has its column");
}

#[test]
fn a_server_that_is_away_is_a_problem_without_a_password_and_never_zero() {
    let (redis, mongo) = (free_port(), free_port());
    let urls =
        RedisUrl::of(Some(&format!("redis://me:hunter2@127.0.0.1:{redis}").into()), None, None).unwrap();
    let mongo_host = format!("127.0.0.1:{mongo}");
    let mongo = format!("mongodb://me:hunter2@{mongo_host}");
    let series = Watch::start(urls, Some(MongoUrl { url: mongo.into(), authorities: None })).unwrap().stop();
    assert!(series.problems.iter().all(|problem| !problem.contains("hunter2")), "{:?}", series.problems);
    // Each way in which a server fails is told once, and a slow machine knows more than one.
    for server in [format!("Redis at 127.0.0.1:{redis}"), format!("MongoDB at {mongo_host}")] {
        assert!(series.problems.iter().any(|problem| problem.starts_with(&server)), "{:?}", series.problems);
    }
    assert_eq!(last(&series, "redis.connected_clients"), None);
    assert_eq!(last(&series, "mongo.connections_current"), None);
}
