//! The rules that are not for each host, and what lifts each.

use super::*;

/// The counters of Redis and MongoDB are there when these are.
#[test]
fn stores_are_judged_where_there_are_any() {
    use Severity::{Error, Saturation, Utilisation};
    let share = |name, high, of, limit| vec![(name, Gauge, turning(1.0, 18, high)), (of, Gauge, flat(limit))];
    let rises = |name| vec![(name, Counter, line(0.0, 0.0, 18, 1.0))];
    let (clients, most) = ("redis.connected_clients", "redis.max_clients");
    let (current, connections) = ("mongo.connections_current", "mongo.connections_max");
    for (resource, severity, over, under) in [
        (
            Resource::RedisConnections,
            Utilisation,
            share(clients, 80.0, most, 100.0),
            share(clients, 79.0, most, 100.0),
        ),
        (Resource::RedisConnections, Error, rises("redis.rejected_connections"), Vec::new()),
        (Resource::Disk, Saturation, rises("redis.aof_delayed_fsync"), Vec::new()),
        (Resource::RedisMemory, Error, rises("redis.evicted_keys"), Vec::new()),
        (
            Resource::RedisMemory,
            Utilisation,
            share("redis.used_memory", 81.0, "redis.max_memory", 100.0),
            // maxmemory 0 is no limit, and then there is no gauge.
            vec![("redis.used_memory", Gauge, turning(1.0, 18, 1e12))],
        ),
        (
            Resource::MongoConnections,
            Utilisation,
            share(current, 80.0, connections, 100.0),
            share(current, 9.0, connections, 100.0),
        ),
        (
            Resource::MongoCache,
            Utilisation,
            share("mongo.cache_used_bytes", 95.0, "mongo.cache_max_bytes", 100.0),
            share("mongo.cache_used_bytes", 94.0, "mongo.cache_max_bytes", 100.0),
        ),
        (Resource::MongoCache, Saturation, rises("mongo.cache_application_evictions"), Vec::new()),
    ] {
        let found = judge(&with(over), &latency(Some(KNEE)));
        let [finding] = &found.findings[..] else { panic!("{resource:?}: {:#?}", found.findings) };
        assert_eq!((finding.resource, finding.severity), (resource, severity));
        assert!(!finding.deploy.is_empty() && !finding.advice.is_empty());
        let quiet = judge(&with(under), &latency(Some(KNEE)));
        assert_eq!((quiet.findings, quiet.unknown), (Vec::new(), Vec::new()));
    }
    let silent = judge(&with(vec![("redis.rejected_connections", Counter, vec![None; SECONDS])]), &[]);
    assert_eq!(silent.unknown[0].counters, ["redis.rejected_connections"], "asked, and not answered");
}

#[test]
fn the_file_that_lifts_a_groups_limit_is_named() {
    for (version, file) in [(1.0, "/app/cpu.cfs_quota_us"), (2.0, "/app/cpu.max")] {
        let series = with(vec![
            ("cgroup.cpu_throttled[/app]", Counter, line(3.0, 0.0, 18, 4.0)),
            ("cgroup.version[/app]", Gauge, flat(version)),
        ]);
        assert_eq!(judge(&series, &[]).findings[0].deploy, [file]);
    }
    let io = with(vec![("cgroup.io_writes[/app 254:0]", Counter, line(0.0, 50.0, 18, 96.0))]);
    assert_eq!(judge(&io, &[]).findings[0].deploy, ["deploy.worker.batch_max_writes", "/app/io.max"]);
}

#[test]
fn what_was_counted_once_for_the_whole_run_is_not_dated() {
    let mut ports = vec![None; SECONDS];
    (ports[0], ports[SECONDS - 1]) = (Some(0.0), Some(9.0));
    let found = judge(&with(vec![("generator.no_free_port", Counter, ports)]), &latency(Some(KNEE)));
    let finding = &found.findings[0];
    assert_eq!(finding.before_knee, Some(false), "nobody knows when");
    assert!(finding.message.ends_with("went from 0 to 9, between 0.0 s and 39.0 s"), "{}", finding.message);
    assert_eq!(finding.tune, ["net.ipv4.ip_local_port_range"]);
    assert!(finding.advice.contains("--local-ips"), "{}", finding.advice);
}
