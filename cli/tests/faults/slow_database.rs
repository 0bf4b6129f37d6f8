//! A database that does not keep up: the backlog is bounded, and what goes beyond is refused.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scalekit_service::device_io::Place;
use scalekit_service::testing::{IoGroup, NO_LIMIT};

use crate::deployment::{Deployment, Options, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_stands_still_bounds_the_backlog_and_recovers() {
    const BOUND: u64 = 60;
    let options = Options { own_mongo: true, backlog_entries: BOUND, ..Options::default() };
    let deployment = Deployment::start(options);
    let load = deployment.load("still");
    deployment.hands.accepts(50).await;
    let mongo = Pid::from_raw(deployment.mongo_pid());
    kill(mongo, Signal::SIGSTOP).unwrap();
    deployment.hands.sees(503, 20).await;
    for _ in 0..20 {
        let (entries, _) = deployment.waiting().await;
        assert!(entries <= BOUND, "{entries} entries wait");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let stats = deployment.api().stats().await.journal;
    // An entry may hold several requests, so the gate, which counts those, may close before the bound is reached.
    let near = BOUND / 2..=BOUND;
    assert!(stats.reachable && near.contains(&stats.backlog_entries), "it is told: {stats:?}");
    kill(mongo, Signal::SIGCONT).unwrap();
    deployment.hands.accepts(200).await;
    load.stop().await;
    deployment.expect_no_violation().await;
    eventually("it is ready again", async || {
        let ready = reqwest::get(format!("{}/readyz", deployment.api().url)).await.unwrap();
        (ready.status() == 200).then_some(())
    })
    .await;
}

/// A real disk that does so many writes a second and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_on_a_slow_disk_bounds_the_backlog_and_loses_nothing() {
    const BOUND: u64 = 60;
    const TIME: Duration = Duration::from_secs(3);
    let disk = std::env::temp_dir();
    let group = IoGroup::new().and_then(|group| group.limit_writes(&disk, NO_LIMIT).map(|()| group));
    let group = match group {
        Ok(group) => group,
        Err(why) => {
            eprintln!("SKIPPED: {why}; a database on a slow disk is NOT tested");
            return;
        }
    };
    let counter = Place::find(group.directory()).unwrap();
    let options = Options { own_mongo: true, batch: 20, backlog_entries: BOUND, ..Options::default() };
    let deployment = Deployment::start(options);
    group.take(deployment.mongo_pid().try_into().unwrap()).unwrap();
    let load = deployment.load("disk");
    deployment.hands.accepts(50).await;
    for limit in [100, 10] {
        group.limit_writes(&disk, limit).unwrap();
        let (before, began) = (counter.read().unwrap().writes, Instant::now());
        while began.elapsed() < TIME {
            let (entries, _) = deployment.waiting().await;
            assert!(entries <= BOUND, "{entries} entries wait at {limit} writes a second");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let writes = (counter.read().unwrap().writes - before) as f64;
        let most = f64::from(limit) * began.elapsed().as_secs_f64();
        // One may be counted that was let through just before.
        assert!(writes <= most * 1.1 + 1.0, "{writes} writes, {most:.0} at {limit} a second");
        assert!(writes >= most * 0.3, "the disk is what holds it up: {writes} writes of {most:.0}");
    }
    deployment.hands.sees(503, 20).await;
    group.limit_writes(&disk, NO_LIMIT).unwrap();
    deployment.hands.accepts(200).await;
    load.stop().await;
    deployment.expect_no_violation().await;
}
