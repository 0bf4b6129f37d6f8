//! Row logic on situations, in tables.

use proptest::prelude::*;

use super::*;
use crate::backends::{MongoFacts, RedisFacts, Source};
use crate::cgroup_path::{Group, Version};
use crate::host::counters::{CgroupCpu, CgroupDevice, CgroupIo, CgroupMemory, Destination, Kind, Limit};

/// A situation that owns its parts; nothing is known unless a test says so.
#[derive(Default)]
struct Case {
    users: u64,
    snapshot: Snapshot,
    series: Series,
    service: Option<Service>,
    generator: Option<Generator>,
    max_connections: Option<u64>,
    wants_fsync: Option<bool>,
    backends: Readings,
    backend_series: Series,
}

impl Case {
    fn rows(&self) -> Vec<Row> {
        rows(&Situation {
            users: self.users,
            snapshot: &self.snapshot,
            series: &self.series,
            service: self.service.as_ref(),
            generator: self.generator.as_ref(),
            backlog: 16_384,
            max_connections: self.max_connections,
            wants_fsync: self.wants_fsync,
            backends: &self.backends,
            backend_series: &self.backend_series,
        })
    }

    /// The first row of this check.
    #[track_caller]
    fn row(&self, check: &str) -> Row {
        let rows = self.rows();
        let found = rows.iter().find(|row| row.check == check);
        found.unwrap_or_else(|| panic!("no {check} in {rows:?}")).clone()
    }

    #[track_caller]
    fn expect(&self, check: &str, status: Status) -> Row {
        let row = self.row(check);
        assert_eq!(row.status, status, "{row:?}");
        row
    }
}

const OK: Status = Status::Ok;
const WARN: Status = Status::Warn;
const UNKNOWN: Status = Status::Unknown;

fn fails(at_users: u64) -> Status {
    Status::WillFail { at_users }
}

fn group(version: Version) -> Group {
    Group { version, directory: "/g".into() }
}

fn service(backlog: u32, waiting: u32) -> Service {
    let address = ([127, 0, 0, 1], 80).into();
    Service { pid: Some(7), listeners: Ok(vec![Listener { address, waiting, backlog, inode: 1 }]) }
}

fn generator(max_files: Option<u64>) -> Generator {
    Generator {
        max_files,
        other_files: 68,
        ports: None,
        target: Some(80),
        addresses: 1,
        keeps_connections: true,
    }
}

#[test]
fn where_nothing_is_known_nothing_is_ok() {
    for service in [None, Some(Service { pid: None, listeners: Err("hidden".to_owned()) })] {
        let generator = Some(generator(None));
        let case = Case { users: 10, service, generator, ..Case::default() };
        let rows = case.rows();
        assert!(rows.len() > 12 && rows.iter().all(|row| row.status == UNKNOWN), "{rows:?}");
        assert!(rows.iter().all(|row| !row.message.is_empty()), "{rows:?}");
        let verdict = verdict(&rows, 10);
        assert!(
            verdict.passes
                && verdict.summary.starts_with("nothing here stops 10 users; unknown: accept queue")
        );
    }
}

#[test]
fn the_accept_queue_is_as_long_as_the_kernel_has_it() {
    const QUEUE: &str = "net.core.somaxconn";
    for (users, somaxconn, backlog, waiting, status, tune) in [
        (16, Some(4096), 16, 0, OK, &[][..]),
        (17, Some(4096), 16, 0, WARN, &[]),
        (5000, Some(4096), 4096, 0, WARN, &[QUEUE]),
        (5000, Some(4096), 16, 0, WARN, &[QUEUE]),
        (10, Some(4096), 128, 102, OK, &[]),
        (10, Some(4096), 128, 103, WARN, &[]),
        (17, None, 16, 0, WARN, &[QUEUE]),
        (1, Some(4096), 0, 0, WARN, &[]),
    ] {
        let mut case = Case { users, service: Some(service(backlog, waiting)), ..Case::default() };
        case.snapshot.queues.somaxconn = somaxconn;
        let row = case.expect("accept queue", status);
        assert_eq!(row.tune, tune, "{users} {backlog}");
        assert_eq!(row.deploy, ["deploy.limits.backlog"]);
        assert_eq!((row.value, row.limit), (Some(waiting.into()), Some(backlog.into())));
        assert_eq!(row.counter, "listener.waiting[127.0.0.1:80]");
    }
    let mute = Service { pid: Some(7), listeners: Ok(Vec::new()) };
    Case { users: 1, service: Some(mute), ..Case::default() }.expect("accept queue", UNKNOWN);
}

#[test]
fn without_a_service_the_next_listener_is_judged() {
    for (users, somaxconn, status) in [(128, 128, OK), (129, 128, WARN), (20_000, 65_535, WARN)] {
        let mut case = Case { users, ..Case::default() };
        case.snapshot.queues.somaxconn = Some(somaxconn);
        case.expect("accept queue", status);
    }
}

#[test]
fn cookies_keep_half_open_connections_from_being_dropped() {
    for (syncookies, most, status) in [
        (Some(1), Some(8), OK),
        (Some(2), None, WARN),
        (Some(0), Some(99), WARN),
        (Some(0), Some(100), OK),
        (Some(0), None, UNKNOWN),
        (None, Some(100), UNKNOWN),
    ] {
        let mut case = Case { users: 100, ..Case::default() };
        case.snapshot.queues.syncookies = syncookies;
        case.snapshot.queues.max_syn_backlog = most;
        case.expect("half-open connections", status);
    }
}

#[test]
fn files_of_the_service_bound_its_users() {
    for (open, limit, users, status) in [
        (Some(24), Some(Limit::At(1024)), 1001, fails(1001)),
        (Some(24), Some(Limit::At(1024)), 1000, WARN),
        (Some(24), Some(Limit::At(1024)), 800, OK),
        (Some(1024), Some(Limit::At(1024)), 1, fails(1)),
        (Some(2000), Some(Limit::At(1024)), 1, fails(1)),
        (Some(24), Some(Limit::Unlimited), 1_000_000, OK),
        (None, Some(Limit::Unlimited), 1_000_000, OK),
        (None, Some(Limit::At(1024)), 1, UNKNOWN),
        (Some(24), None, 1, UNKNOWN),
    ] {
        let mut case = Case { users, service: Some(service(16, 0)), ..Case::default() };
        case.snapshot.process.open_files = open;
        case.snapshot.process.max_open_files = limit;
        let row = case.expect("open files of the service", status);
        assert_eq!(row.tune, ["nofile"]);
        case.service = Some(Service { pid: None, listeners: Ok(Vec::new()) });
        case.expect("open files of the service", UNKNOWN);
    }
    let case = Case { users: 5, max_connections: Some(4), ..Case::default() };
    case.expect("connections of the service", fails(5));
}

#[test]
fn files_of_generator_and_host_bound_them_too() {
    for (max, users, status) in
        [(Some(1068), 1001, fails(1001)), (Some(1068), 100, OK), (Some(10), 1, fails(1)), (None, 1, UNKNOWN)]
    {
        let case = Case { users, generator: Some(generator(max)), ..Case::default() };
        case.expect("open files of the generator", status);
    }
    // Both ends are on this host if the generator is.
    for (generator, status) in [(None, OK), (Some(generator(None)), fails(51))] {
        let mut case = Case { users: 60, generator, ..Case::default() };
        (case.snapshot.files.open, case.snapshot.files.max) = (Some(100), Some(200));
        case.expect("open files of the host", status);
    }
}

#[test]
fn ports_are_counted_to_one_destination() {
    let ports = |used: Option<u32>| Ports {
        range: (1000, 1999),
        available: 1000,
        destinations: used.map(|connected| {
            let source = [127, 0, 0, 1].into();
            vec![Destination { source, destination: ([127, 0, 0, 1], 80).into(), time_wait: 0, connected }]
        }),
    };
    for (used, addresses, keeps, users, status) in [
        (Some(0), 1, true, 800, OK),
        (Some(0), 1, true, 801, WARN),
        (Some(100), 1, true, 901, fails(901)),
        (Some(100), 2, true, 1000, OK),
        (Some(0), 1, false, 10, WARN),
        (Some(999), 1, false, 10, fails(2)),
        (None, 1, true, 10, UNKNOWN),
    ] {
        let mut generator = generator(None);
        (generator.ports, generator.addresses, generator.keeps_connections) =
            (Some(ports(used)), addresses, keeps);
        let case = Case { users, generator: Some(generator), ..Case::default() };
        let row = case.expect("local ports", status);
        assert_eq!(row.tune, ["net.ipv4.ip_local_port_range"]);
    }
    let elsewhere = Case { users: 1, ..Case::default() };
    assert!(elsewhere.rows().iter().all(|row| row.check != "local ports"), "agents have their own");
}

#[test]
fn tracked_connections_are_bounded() {
    for (entries, max, loaded, users, status) in [
        (Some(10), Some(110), Some(true), 101, fails(101)),
        (Some(10), Some(110), Some(true), 80, OK),
        (None, None, Some(false), 101, OK),
        (None, None, Some(true), 101, UNKNOWN),
        (None, None, None, 101, UNKNOWN),
    ] {
        let mut case = Case { users, ..Case::default() };
        (case.snapshot.conntrack.entries, case.snapshot.conntrack.max) = (entries, max);
        case.snapshot.queues.has_conntrack = loaded;
        case.expect("connection tracking", status);
    }
}

#[test]
fn memory_of_host_group_and_tcp_is_held_against_what_connections_need() {
    // 8 KiB an end.
    let mut case = Case { users: 1000, ..Case::default() };
    (case.snapshot.memory.available, case.snapshot.memory.total) = (Some(8 << 20), Some(1 << 30));
    assert!(case.expect("memory", WARN).heuristic);
    case.generator = Some(generator(None));
    case.expect("memory", fails(513));
    for (current, max, status) in [
        (Some(1 << 20), Some(9 << 20), WARN),
        (Some(1 << 20), Some(3 << 20), fails(257)),
        (Some(1 << 20), None, OK),
        (None, Some(9 << 20), UNKNOWN),
    ] {
        let (group, stall) = (group(Version::V2), crate::host::counters::Stall::default());
        let memory =
            CgroupMemory { group, current, max, high_events: None, max_events: None, oom_kills: None, stall };
        case.snapshot.cgroups.memory = vec![memory];
        case.expect("memory limit", status);
    }
    for (used, pressure, max, status) in [
        (Some(0), Some(9000), Some(10_000), OK),
        (Some(9500), Some(9000), Some(10_000), WARN),
        (Some(100), Some(900), Some(1000), fails(451)),
        (None, Some(900), Some(1000), UNKNOWN),
        (Some(100), None, None, UNKNOWN),
    ] {
        case.snapshot.sockets.tcp_memory_pages = used;
        (case.snapshot.tcp_memory_pressure_pages, case.snapshot.tcp_memory_max_pages) = (pressure, max);
        case.expect("TCP memory", status);
    }
}

#[test]
fn quotas_and_caps_are_watched() {
    let cpu = |quota_cores| CgroupCpu {
        group: group(Version::V2),
        quota_cores,
        periods: Some(100),
        throttled: Some(0),
        throttled_us: None,
    };
    let throttled = |count: f64| {
        Series::of(
            2,
            &[
                ("cgroup.cpu_periods[/g]", Kind::Counter, vec![Some(0.0), Some(10.0)]),
                ("cgroup.cpu_throttled[/g]", Kind::Counter, vec![Some(0.0), Some(count)]),
            ],
        )
    };
    for (quota, series, status) in [
        (Some(2.0), throttled(2.0), OK),
        (Some(2.0), throttled(3.0), WARN),
        (Some(2.0), Series::default(), UNKNOWN),
        (None, throttled(0.0), OK),
    ] {
        let mut case = Case { users: 1, series, ..Case::default() };
        case.snapshot.cgroups.cpu = vec![cpu(quota)];
        case.expect("CPU quota", status);
        // The groups of this process tell nothing of one that does not show.
        case.service = Some(Service { pid: None, listeners: Ok(Vec::new()) });
        case.expect("CPU quota", UNKNOWN);
    }
    for (cap, writes, status) in [(Some(100), 95.0, WARN), (Some(100), 94.0, OK), (None, 900.0, OK)] {
        let counter = Kind::Counter;
        let series =
            Series::of(2, &[("cgroup.io_writes[/g 8:0]", counter, vec![Some(5.0), Some(5.0 + writes)])]);
        let mut case = Case { users: 1, series, ..Case::default() };
        let device = CgroupDevice { device: "8:0".into(), max_writes_per_s: cap, ..CgroupDevice::default() };
        let stall = crate::host::counters::Stall::default();
        case.snapshot.cgroups.io = vec![CgroupIo { group: group(Version::V1), devices: vec![device], stall }];
        case.expect("disk cap", status);
    }
}

#[test]
fn what_was_short_while_watching_is_a_warning() {
    for (check, counter, whole, grown, status) in [
        ("CPU", "cpu.busy", Some("cpu.total"), 91.0, WARN),
        ("CPU", "cpu.busy", Some("cpu.total"), 90.0, OK),
        ("stolen CPU", "cpu.stolen", Some("cpu.total"), 11.0, WARN),
        ("CPU pressure", "pressure.cpu_some_us", None, 300_000.0, WARN),
        ("memory pressure", "pressure.memory_full_us", None, 200_000.0, OK),
        ("disk pressure", "pressure.io_full_us", None, 200_001.0, WARN),
        ("network backlog", "softnet.dropped", None, 1.0, WARN),
        ("network backlog", "softnet.dropped", None, 0.0, OK),
    ] {
        let mut columns = vec![(counter, Kind::Counter, vec![Some(7.0), Some(7.0 + grown)])];
        columns.extend(whole.map(|whole| (whole, Kind::Counter, vec![Some(0.0), Some(100.0)])));
        let case = Case { users: 1, series: Series::of(2, &columns), ..Case::default() };
        case.expect(check, status);
        let same = case.rows().iter().filter(|row| row.counter == counter).count();
        assert_eq!(same, 1, "a finding about {counter} does not repeat its row");
    }
    // What only the findings know has a row of its own.
    let overflows = vec![Some(3.0), Some(5.0)];
    let series = Series::of(2, &[("tcp.listen_overflows", Kind::Counter, overflows)]);
    let case = Case { users: 1, series, service: Some(service(128, 0)), ..Case::default() };
    let rows = case.rows();
    let row = rows.iter().find(|row| row.counter == "tcp.listen_overflows").unwrap();
    assert_eq!((row.status, row.check.as_str()), (WARN, "accept queue"));
    assert_eq!(row.tune, ["net.core.somaxconn"]);
}

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

#[test]
fn the_verdict_names_what_fails_first_and_what_lifts_it() {
    let mut case = Case { users: 5000, service: Some(service(16, 0)), ..Case::default() };
    case.snapshot.process.open_files = Some(24);
    case.snapshot.process.max_open_files = Some(Limit::At(1024));
    (case.snapshot.conntrack.entries, case.snapshot.conntrack.max) = (Some(0), Some(500));
    let verdict = verdict(&case.rows(), 5000);
    assert!(!verdict.passes);
    assert_eq!((verdict.first.as_deref(), verdict.fails_at_users), (Some("connection tracking"), Some(501)));
    let words = "connection tracking will fail at 501 users; lifted by net.netfilter.nf_conntrack_max";
    assert!(verdict.summary.starts_with(words), "{}", verdict.summary);
    assert!(verdict.summary.contains("; 1 warning; unknown: "), "{}", verdict.summary);
    assert_eq!(super::verdict(&[], 1).summary, "nothing here stops 1 user");
}

proptest! {
    /// More of a limit never lowers the number of users, and exactly the users below it fit.
    #[test]
    fn room_is_exact(free in 0_u64..1_000_000, each in 1_u64..9, users in 1_u64..1_000_000) {
        let row = Row::of("x", "x", row::Unit::Count).room(free, each, users, "");
        match row.status {
            Status::WillFail { at_users } => {
                prop_assert!(at_users <= users && at_users * each > free && (at_users - 1) * each <= free);
            }
            status => prop_assert!(users * each <= free && status != Status::Unknown),
        }
    }

    #[test]
    fn any_counters_are_judged_without_a_panic(
        numbers in proptest::collection::vec(proptest::option::of(any::<u64>()), 8), users in 1_u64..=1_000_000,
        backlog in any::<u32>(), waiting in any::<u32>(), values in proptest::collection::vec(any::<f64>(), 2),
    ) {
        let mut case = Case { users, service: Some(service(backlog, waiting)), ..Case::default() };
        case.generator = Some(generator(numbers[0]));
        (case.snapshot.files.open, case.snapshot.files.max) = (numbers[1], numbers[2]);
        (case.snapshot.memory.available, case.snapshot.conntrack.max) = (numbers[3], numbers[4]);
        case.snapshot.conntrack.entries = numbers[5];
        case.snapshot.queues.somaxconn = numbers[6];
        let values: Vec<Option<f64>> = values.into_iter().map(Some).collect();
        case.series = Series::of(2, &[("cpu.busy", Kind::Counter, values.clone()), ("cpu.total", Kind::Counter, values)]);
        let rows = case.rows();
        let verdict = verdict(&rows, users);
        prop_assert_eq!(verdict.passes, verdict.first.is_none());
        prop_assert!(text(&rows, Paint::Plain).lines().all(|line| line.chars().count() <= 100));
    }
}
