//! Processes and servers that are killed or asked to end while clients write: nothing acknowledged is lost, nothing is
//! stored twice.

use std::time::Duration;

use scalekit_service::testing::proxy::{Proxy, Way};

use crate::deployment::{Deployment, Options, SLOW, Wiring, eventually};
use crate::sandbox::Sandbox;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_between_storing_and_acknowledging_stores_nothing_twice() {
    let mut deployment = Deployment::bare(Sandbox::new(), Options::default());
    deployment.start_api(deployment.direct);
    let load = deployment.load("ack");
    deployment.hands.accepts(200).await;
    kill_before_the_ack(&mut deployment).await;
    deployment.hands.accepts(50).await;
    load.stop().await;
    deployment.expect_no_violation().await;
    let worker = deployment.worker().stats().await.worker.unwrap();
    assert!(worker.superseded > 0, "what was stored came again: {worker:?}");
}

/// Starts a worker, lets it store a batch, holds its acknowledgement, kills it, and starts another one.
pub(crate) async fn kill_before_the_ack(deployment: &mut Deployment) {
    let proxy = Proxy::start(deployment.direct.redis).await;
    // A script is sent whole the first time, so its text is what comes by.
    let _: String = deployment.redis(&["SCRIPT", "FLUSH"]).await;
    proxy.hold_at(Way::ToServer, b"XACK");
    deployment.start_worker(Wiring { redis: proxy.port(), ..deployment.direct });
    let held = tokio::time::timeout(Duration::from_secs(30), proxy.held(Way::ToServer)).await;
    assert!(held.is_ok(), "it never acknowledged");
    let stats = deployment.worker().stats().await.worker.unwrap();
    assert!(stats.stored + stats.superseded > 0, "{stats:?}");
    assert!(deployment.waiting().await.1 > 0, "the journal was not told");
    deployment.kill_worker();
    drop(proxy);
    deployment.start_worker(deployment.direct);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_killed_with_requests_in_flight_keeps_what_it_acknowledged() {
    let mut deployment = Deployment::start(SLOW);
    let load = deployment.load("api");
    for _ in 0..4 {
        deployment.hands.accepts(60).await;
        deployment.start_api(deployment.direct);
    }
    deployment.hands.accepts(60).await;
    load.stop().await;
    deployment.start_fast_worker();
    deployment.expect_no_violation().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_killed_under_load_keeps_what_it_flushed() {
    let mut deployment = Deployment::start(SLOW);
    let load = deployment.load("redis");
    for _ in 0..3 {
        deployment.hands.accepts(60).await;
        deployment.kill_redis();
        deployment.hands.sees(503, 1).await;
        deployment.restart_redis();
    }
    deployment.hands.accepts(60).await;
    load.stop().await;
    deployment.start_fast_worker();
    deployment.expect_no_violation().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mongodb_killed_under_load_costs_nothing() {
    let mut deployment = Deployment::start(Options { own_mongo: true, ..SLOW });
    let load = deployment.load("mongo");
    for _ in 0..2 {
        deployment.hands.accepts(60).await;
        let before = deployment.worker().stats().await.worker.unwrap();
        deployment.kill_mongo();
        eventually("the worker has noticed", async || {
            (deployment.worker().stats().await.worker.unwrap().retries > before.retries).then_some(())
        })
        .await;
        deployment.restart_mongo();
    }
    deployment.hands.accepts(60).await;
    load.stop().await;
    deployment.start_fast_worker();
    deployment.expect_no_violation().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_asked_to_end_under_load_lose_nothing() {
    let mut deployment = Deployment::start(SLOW);
    let load = deployment.load("term");
    for _ in 0..2 {
        deployment.hands.accepts(60).await;
        deployment.api.take().unwrap().terminate();
        deployment.start_api(deployment.direct);
        deployment.hands.accepts(60).await;
        deployment.worker.take().unwrap().terminate();
        deployment.start_worker(deployment.direct);
    }
    load.stop().await;
    deployment.worker.take().unwrap().terminate();
    deployment.start_fast_worker();
    deployment.expect_no_violation().await;
}
