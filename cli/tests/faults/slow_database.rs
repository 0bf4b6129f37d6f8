//! A database that does not keep up: the backlog is bounded, and what goes beyond is refused.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
