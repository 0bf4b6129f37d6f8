//! Queues, files, ports and tracked connections.

use super::*;
use crate::host::counters::Destination;

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
    let mute = Service { pid: Some(7), processes: 1, listeners: Ok(Vec::new()) };
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
        case.service = Some(Service { pid: None, processes: 1, listeners: Ok(Vec::new()) });
        case.expect("open files of the service", UNKNOWN);
    }
    let several = Service { processes: 4, ..service(16, 0) };
    let mut case = Case { users: 4001, service: Some(several), ..Case::default() };
    case.snapshot.process.open_files = Some(24);
    case.snapshot.process.max_open_files = Some(Limit::At(1024));
    assert!(case.expect("open files of the service", fails(4001)).heuristic);
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
            vec![Destination {
                source,
                destination: ([127, 0, 0, 1], 80).into(),
                time_wait: 0,
                reusable: 0,
                connected,
            }]
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
        case.snapshot.conntrack.is_tracked = loaded;
        case.expect("connection tracking", status);
    }
}
