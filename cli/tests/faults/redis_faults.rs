//! Redis without memory, without its consumer group, and emptied.

use std::time::Duration;

use scalekit_service::testing::checker::Violation;

use crate::deployment::{Deployment, SLOW, eventually};

/// Most commands a second of a service at rest; a loop that spins makes thousands.
const RESTING: f64 = 200.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_without_memory_refuses_evicts_nothing_and_drains() {
    let mut deployment = Deployment::start(SLOW);
    let load = deployment.load("full");
    deployment.hands.accepts(100).await;
    let _: () = deployment.redis(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    deployment.hands.sees(503, 50).await;
    deployment.start_fast_worker();
    eventually("what waits drains all the same", async || {
        (deployment.waiting().await == (0, 0)).then_some(())
    })
    .await;
    let evicted: String = deployment.redis(&["INFO", "stats"]).await;
    assert!(evicted.contains("evicted_keys:0\r\n"), "{evicted}");
    let _: () = deployment.redis(&["CONFIG", "SET", "maxmemory", "0"]).await;
    deployment.hands.accepts(50).await;
    load.stop().await;
    deployment.expect_no_violation().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_destroyed_under_load_is_made_anew_from_the_start() {
    let mut deployment = Deployment::start(SLOW);
    let load = deployment.load("group");
    for _ in 0..3 {
        deployment.hands.accepts(60).await;
        destroy_group(&deployment).await;
    }
    deployment.hands.accepts(60).await;
    load.stop().await;
    deployment.start_fast_worker();
    deployment.expect_no_violation().await;
    destroy_group(&deployment).await;
    expect_rest(&deployment).await;
}

async fn destroy_group(deployment: &Deployment) {
    for stream in deployment.streams("journal").await {
        let _: i64 = deployment.redis(&["XGROUP", "DESTROY", &stream, "workers"]).await;
    }
}

/// An emptied Redis is a loss that nobody can mend. The checker must say so, and the service must go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_redis_is_a_loss_that_is_found_and_not_a_storm() {
    let mut deployment = Deployment::start(SLOW);
    let load = deployment.load("flush");
    eventually("a backlog", async || (deployment.waiting().await.0 > 100).then_some(())).await;
    let _: () = deployment.redis(&["FLUSHALL"]).await;
    deployment.hands.accepts(100).await;
    load.stop().await;
    deployment.start_fast_worker();
    let violations = deployment.judge(Duration::from_secs(60)).await;
    let lost = violations.iter().filter(|violation| matches!(violation, Violation::Lost { .. })).count();
    assert!(lost > 10, "{violations:#.2000?}");
    let left = violations.iter().any(|violation| matches!(violation, Violation::Undrained { .. }));
    assert!(!left, "what came after it is stored");
    let _: () = deployment.redis(&["FLUSHALL"]).await;
    expect_rest(&deployment).await;
}

/// No hot loop: counts what the service asks of Redis when there is nothing to do.
async fn expect_rest(deployment: &Deployment) {
    const WATCHED: Duration = Duration::from_secs(2);
    let before = commands(deployment).await;
    tokio::time::sleep(WATCHED).await;
    let rate = (commands(deployment).await - before) as f64 / WATCHED.as_secs_f64();
    assert!(rate < RESTING, "{rate} commands a second at rest");
}

async fn commands(deployment: &Deployment) -> u64 {
    let text: String = deployment.redis(&["INFO", "commandstats"]).await;
    let calls =
        text.lines().filter_map(|line| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok());
    calls.sum()
}
