//! The bound of the database's device, with the real I/O of a database in a control group of its own.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use scalekit_service::config::{Backend, Config, DirectStore, Role};
use scalekit_service::device_io::Place;
use scalekit_service::testing::IoGroup;
use scalekit_service::worker::BatchSettings;
use serde_json::json;

use crate::harness::{Harness, Kind, Options, Process, config_of, eventually};

/// Device operations within any one second of a time: the most, and on average.
async fn seconds(place: &Place, time: Duration) -> (u64, f64) {
    let mut samples = VecDeque::new();
    let (begin, mut most) = (Instant::now(), 0);
    let first = place.read().unwrap().total();
    let mut last = first;
    while begin.elapsed() < time {
        last = place.read().unwrap().total();
        samples.push_back((Instant::now(), last));
        while samples[0].0.elapsed() > Duration::from_secs(1) {
            samples.pop_front();
        }
        most = most.max(last - samples[0].1);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (most, (last - first) as f64 / begin.elapsed().as_secs_f64())
}

async fn start(config: Config) -> Process {
    tokio::task::spawn_blocking(move || Process::start(config)).await.unwrap()
}

/// Somebody else on the device, who takes all that he can get of it.
struct Neighbour {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Neighbour {
    fn start(group: &IoGroup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("{} exec dd if=/dev/zero of=file bs=4k oflag=dsync status=none", group.enter());
        let child = Command::new("sh").args(["-c", &script]).current_dir(dir.path()).spawn().unwrap();
        Self { child, _dir: dir }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_device_is_kept_at_its_bound_and_what_others_do_on_it_counts() {
    let batch = BatchSettings { max_writes: 5, max_bytes: 1 << 20, linger: Duration::ZERO };
    let options = Options {
        database_ops_per_s: 100,
        database_iops_per_s: Some(80),
        batch,
        own_mongo: true,
        ..Options::default()
    };
    let group = IoGroup::new().and_then(|group| group.count_on(&std::env::temp_dir()).map(|()| group));
    let group = match group {
        Ok(group) => group,
        Err(why) => {
            eprintln!("SKIPPED: {why}; the bound of a real device is NOT tested");
            return;
        }
    };
    // Before its servers are, the group must be empty; so it goes after them.
    let harness = Harness::without_worker(Kind::RedisMongo, options).await;
    group.take(harness.mongo_pid()).unwrap();
    let place = Place::find(group.directory()).unwrap();
    for round in 0..300 {
        let writes: Vec<_> = (0..50)
            .map(|n| json!({"collection": format!("c{}", n % 10), "op": "insert", "document": {"round": round}}))
            .collect();
        let body = json!({"reads": [], "writes": writes}).to_string();
        harness.send("POST", "/v1/transactions", &body).await.expect(202);
    }
    let mut config = harness.config(Role::Worker, "w1");
    config.database_iops_per_s = None;
    let worker = start(config).await;
    eventually("the worker works", async || {
        (harness.stats_of(&worker).await.store.operations > 100).then_some(())
    })
    .await;
    let (_, unbounded) = seconds(&place, Duration::from_secs(2)).await;
    assert!(unbounded > 160.0, "{unbounded} a second do not need a bound of 80");
    let store = harness.stats().await.store;
    assert_eq!((store.operations_limit_by.as_str(), store.operations_limit), ("database_iops_unread", 10));
    worker.stop().await;

    let mut config = harness.config(Role::Worker, "w1");
    config.database_device = Some(group.directory().to_owned());
    let worker = start(config).await;
    eventually("it uses what there is", async || {
        let device = harness.stats_of(&worker).await.store.device.unwrap();
        (device.iops? >= 68.0).then_some(())
    })
    .await;
    let (most, average) = seconds(&place, Duration::from_secs(5)).await;
    assert!(most <= 96 && average <= 82.0, "{most} in a second, {average} on average, and 80 are the bound");
    assert!(average > 50.0, "only {average} of 80 are used");
    for process in [&harness.api, &worker] {
        let store = harness.stats_of(process).await.store;
        assert_eq!(store.operations_limit_by, "database_iops", "{store:?}");
        assert!((10..60).contains(&store.operations_limit) && store.operations_most == 100, "{store:?}");
        let device = store.device.unwrap();
        assert_eq!(device.place.is_some(), std::ptr::eq(process, &worker), "only the worker reads it");
        assert_eq!((device.iops.is_some(), device.iops_bound), (device.place.is_some(), Some(80)));
    }

    let neighbour = Neighbour::start(&group);
    eventually("the neighbour is noticed", async || {
        (harness.stats_of(&worker).await.store.operations_limit == 1).then_some(())
    })
    .await;
    let before = harness.stats_of(&worker).await.store.operations;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let done = harness.stats_of(&worker).await.store.operations - before;
    assert!((2..=5).contains(&done), "{done} operations in three seconds: one each");
    drop(neighbour);
    eventually("all is as before", async || {
        (harness.stats_of(&worker).await.store.operations_limit >= 12).then_some(())
    })
    .await;
    let metrics = harness.client.get(worker.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let shown = metrics.lines().find_map(|line| {
        line.strip_prefix("scalekit_database_device_operations_per_second ")?.parse::<f64>().ok()
    });
    assert!(shown.is_some_and(|shown| shown > 0.0), "{metrics}");
    worker.stop().await;
    drop(harness);
}

/// Why a process does not start.
async fn refused(config: Config) -> String {
    let started = tokio::task::spawn_blocking(move || Process::try_start(config).err()).await.unwrap();
    started.expect("it starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_cannot_be_read_is_told_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = |name: &str| Backend::Embedded { data_dir: dir.path().join(name) };
    for (number, (path, says)) in [
        ("/no/such/device", "No such file"),
        ("/dev/null", "no block device"),
        ("/proc/self", "no block device"),
    ]
    .into_iter()
    .enumerate()
    {
        let options = Options { database_device: Some(PathBuf::from(path)), ..Options::default() };
        let config = config_of(Role::All, embedded(&number.to_string()), &options, "w1");
        let error = refused(config).await;
        for part in ["deploy.database_device", path, says, "expected a block device", "leave it out"] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }
    let options = Options { database_iops_per_s: Some(100), ..Options::default() };
    let mongo = Harness::start(Kind::RedisMongo).await;
    let Backend::RedisMongo { mongo_url: url, mongo_database: database, .. } =
        mongo.config(Role::Api, "w1").backend
    else {
        panic!("it has a MongoDB");
    };
    let direct = Backend::Direct(DirectStore::Mongo { url, database, authorities: None });
    let error = refused(config_of(Role::Api, direct, &options, "w1")).await;
    assert!(error.contains("direct mode") && error.contains("--database-device"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_database_is_read_where_its_files_are() {
    let options = Options { database_iops_per_s: Some(1000), ..Options::default() };
    if let Err(error) = Place::find(Path::new(&std::env::temp_dir())) {
        eprintln!("SKIPPED: {error}; the device of an embedded database is NOT tested");
        return;
    }
    let harness = Harness::with(Kind::Embedded, options).await;
    let device = eventually("it is read", async || {
        let device = harness.stats().await.store.device.unwrap();
        device.iops.is_some().then_some(device)
    })
    .await;
    assert!(device.place.as_ref().is_some_and(|place| place.starts_with("the disk")), "{device:?}");
    harness.write("POST", "/v1/orders", "{}").await;
    harness.drained().await;
    let store = harness.stats().await.store;
    assert!(store.operations > 0 && store.operations_limit >= 1, "{store:?}");
}
