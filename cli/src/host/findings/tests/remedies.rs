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
    assert!(finding.message.ends_with("rose by 9, between 0.0 s and 39.0 s"), "{}", finding.message);
    assert_eq!(finding.tune, ["net.ipv4.ip_local_port_range"]);
    assert!(finding.advice.contains("--local-ips"), "{}", finding.advice);
}

/// Two listeners, of which the first fills; the other has a long backlog.
fn queues(backlog: f64, somaxconn: Option<f64>, cookies: f64) -> Columns {
    vec![
        ("listener.waiting[0.0.0.0:8080]", Gauge, flat(backlog * 0.7)),
        ("listener.backlog[0.0.0.0:8080]", Gauge, flat(backlog)),
        ("listener.waiting[0.0.0.0:9090]", Gauge, flat(100.0)),
        ("listener.backlog[0.0.0.0:9090]", Gauge, flat(4096.0)),
        ("listener.somaxconn", Gauge, vec![somaxconn; SECONDS]),
        ("tcp.syncookies", Gauge, flat(cookies)),
    ]
}

#[test]
fn of_two_settings_that_bound_a_queue_the_one_that_does_is_named() {
    let (somaxconn, backlog, cookies) =
        ("net.core.somaxconn", "deploy.limits.backlog", "net.ipv4.tcp_syncookies");
    let (short, cut, unknown) =
        (queues(128.0, Some(4096.0), 1.0), queues(128.0, Some(128.0), 1.0), queues(128.0, None, 1.0));
    let rising = |name| (name, Counter, line(3.0, 0.0, 18, 40.0));
    for counter in ["tcp.listen_overflows", "tcp.syn_queue_cookies", "listener.waiting[0.0.0.0:8080]"] {
        for (queues, tune) in [(&short, &[][..]), (&cut, &[somaxconn]), (&unknown, &[somaxconn])] {
            let mut columns = queues.clone();
            columns.retain(|(name, ..)| *name != counter);
            columns.push(if counter.starts_with("listener") {
                (counter, Gauge, turning(1.0, 18, 120.0))
            } else {
                rising(counter)
            });
            let found = judge(&with(columns), &[]);
            let [finding] = &found.findings[..] else { panic!("{counter}: {:#?}", found.findings) };
            assert_eq!((&finding.tune[..], &finding.deploy[..]), (&owned(tune)[..], &owned(&[backlog])[..]));
            assert_eq!(finding.advice.contains("below net.core.somaxconn"), tune.is_empty());
        }
    }
    for (counter, queues, tune, deploy) in [
        ("tcp.syn_queue_drops", queues(128.0, Some(4096.0), 0.0), &[cookies][..], &[backlog][..]),
        ("tcp.syn_queue_drops", queues(128.0, Some(128.0), 0.0), &[somaxconn, cookies], &[backlog]),
        ("tcp.listen_drops_other", cut, &["net.ipv4.tcp_mem"], &[]),
        (
            "tcp.listen_drops_other",
            queues(128.0, Some(128.0), 0.0),
            &["net.ipv4.tcp_max_syn_backlog", cookies],
            &[],
        ),
    ] {
        let found = judge(&with([queues, vec![rising(counter)]].concat()), &[]);
        let [finding] = &found.findings[..] else { panic!("{counter}: {:#?}", found.findings) };
        assert_eq!((&finding.tune, &finding.deploy), (&owned(tune), &owned(deploy)), "{counter}");
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
