//! Networks that lose one direction: an answer comes in time, it is true, and the service goes on afterwards.

use std::time::{Duration, Instant};

use scalekit_service::testing::proxy::{Mode, Proxy, Way};
use serde_json::json;

use crate::deployment::{Deployment, Options, Wiring, eventually};
use crate::load::{Answer, insert};
use crate::sandbox::Sandbox;

/// Every write is answered within the profile's `request_timeout` of 6 s, and some more for a machine that is busy.
const DEADLINE: Duration = Duration::from_secs(9);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_between_api_and_redis_is_answered_in_time_and_heals() {
    let mut deployment = Deployment::bare(Sandbox::new(), Options::default());
    let proxy = Proxy::start(deployment.direct.redis).await;
    deployment.start_api(Wiring { redis: proxy.port(), ..deployment.direct });
    deployment.start_worker(deployment.direct);
    let load = deployment.load("cut");
    for (round, way) in [Way::ToServer, Way::ToClient].into_iter().enumerate() {
        deployment.hands.accepts(50).await;
        proxy.set(way, Mode::Hold);
        for n in 0..3 {
            let op = format!("while-cut-{round}-{n}");
            let writes = [insert(&op, json!({ "n": n }))];
            deployment.hands.invoke(&op, &writes);
            let asked = Instant::now();
            let answer = deployment.hands.attempt(&op, &writes).await;
            let took = asked.elapsed();
            // 503 has its Retry-After, or the attempt would have failed.
            assert!(matches!(answer, Answer::Refused(503) | Answer::Open), "{answer:?}");
            assert!(took < DEADLINE, "{way:?}: {answer:?} after {took:?}");
        }
        proxy.set(way, Mode::Forward);
    }
    deployment.hands.accepts(50).await;
    load.stop().await;
    deployment.expect_no_violation().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_between_worker_and_mongodb_delays_and_loses_nothing() {
    let mut deployment = Deployment::bare(Sandbox::new(), Options::default());
    let proxy = Proxy::start(deployment.direct.mongo).await;
    deployment.start_api(deployment.direct);
    deployment.start_worker(Wiring { mongo: proxy.port(), ..deployment.direct });
    let load = deployment.load("cut");
    for way in [Way::ToServer, Way::ToClient] {
        deployment.hands.accepts(50).await;
        proxy.set(way, Mode::Hold);
        deployment.hands.accepts(50).await;
        let behind = deployment.newest().await;
        deployment.hands.accepts(200).await;
        assert!(!deployment.are_gone(&behind).await, "nothing passes {way:?}");
        // Connections that were cut off stay so: routers forget them.
        proxy.cut();
        proxy.set(way, Mode::Forward);
    }
    load.stop().await;
    assert_eq!(deployment.hands.times(503), 0, "clients do not notice");
    deployment.expect_no_violation().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_lost_after_the_append_is_settled_by_a_retry() {
    let mut deployment = Deployment::bare(Sandbox::new(), Options::default());
    let proxy = Proxy::start(deployment.direct.redis).await;
    deployment.start_api(Wiring { redis: proxy.port(), ..deployment.direct });
    let hands = deployment.hands.clone();
    // Redis knows the script from here on; or it would be the answer that it does not which gets lost.
    assert_eq!(hands.settle("first", &[insert("first", json!({}))]).await, Answer::Accepted);
    let before = deployment.waiting().await.0;
    proxy.set(Way::ToClient, Mode::Drop);
    let (key, replace) = ("own/lost", scalekit_service::testing::checker::Change::Replace);
    let writes = [(key.to_owned(), replace(crate::load::fields(json!({ "n": 1 }))))];
    hands.invoke("lost", &writes);
    assert_eq!(hands.attempt("lost", &writes).await, Answer::Open, "nobody can know");
    eventually("it was applied", async || (deployment.waiting().await.0 == before + 1).then_some(())).await;
    proxy.cut();
    proxy.set(Way::ToClient, Mode::Forward);
    let answer = eventually("an answer", async || {
        let answer = hands.attempt("lost", &writes).await;
        (!matches!(answer, Answer::Open | Answer::Refused(503))).then_some(answer)
    })
    .await;
    assert_eq!(answer, Answer::Accepted);
    assert_eq!(deployment.waiting().await.0, before + 1, "there is one entry");
    assert!(deployment.api().stats().await.journal.repeated >= 1);
    // Acknowledged, so it is there to read, though nobody has stored it.
    hands.read(key).await;
    deployment.start_worker(deployment.direct);
    deployment.expect_no_violation().await;
}
