//! Row logic on situations, in tables.

mod connections;
mod machine;
mod stores;

use proptest::prelude::*;

use super::*;
use crate::host::counters::{Kind, Limit};

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
    servers: Vec<Server>,
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
            servers: &self.servers,
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

fn service(backlog: u32, waiting: u32) -> Service {
    let address = ([127, 0, 0, 1], 80).into();
    Service {
        pid: Some(7),
        processes: 1,
        listeners: Ok(vec![Listener { address, waiting, backlog, drops: None, inodes: vec![1] }]),
    }
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
    for service in [None, Some(Service { pid: None, processes: 1, listeners: Err("hidden".to_owned()) })] {
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
