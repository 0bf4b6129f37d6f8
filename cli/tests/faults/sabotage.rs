//! Systems broken on purpose. The checker must find what is wrong with each, and nothing wrong with the same one whole;
//! or its silence in the other tests would mean nothing.

use std::time::Duration;

use scalekit_service::testing::checker::Violation;

use crate::deployment::{Deployment, SLOW, eventually};

/// A journal that is not going to empty has this long to do so.
const IMPATIENCE: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);

fn lost(violations: &[Violation]) -> usize {
    violations.iter().filter(|violation| matches!(violation, Violation::Lost { .. })).count()
}

/// 202 before anything is durable: somebody turns the append-only file off under the running service.
async fn early_acknowledgements(sabotaged: bool) -> Vec<Violation> {
    let mut deployment = Deployment::start(SLOW);
    let load = deployment.load("early");
    deployment.hands.accepts(50).await;
    if sabotaged {
        let _: () = deployment.redis(&["CONFIG", "SET", "appendonly", "no"]).await;
    }
    deployment.hands.accepts(100).await;
    deployment.kill_redis();
    deployment.restart_redis();
    deployment.hands.accepts(20).await;
    load.stop().await;
    deployment.start_fast_worker();
    deployment.judge(PATIENCE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledging_early_is_found() {
    let found = early_acknowledgements(true).await;
    assert!(lost(&found) > 10, "{found:#.2000?}");
    assert_eq!(early_acknowledgements(false).await, []);
}

/// A third party keeps the stream short.
async fn trimmed(sabotaged: bool) -> Vec<Violation> {
    let mut deployment = Deployment::start(SLOW);
    let load = deployment.load("trim");
    eventually("a backlog", async || (deployment.waiting().await.0 > 100).then_some(())).await;
    if sabotaged {
        for stream in deployment.streams("journal").await {
            let gone: u64 = deployment.redis(&["XTRIM", &stream, "MAXLEN", "10"]).await;
            assert!(gone > 0);
        }
    }
    deployment.hands.accepts(20).await;
    load.stop().await;
    deployment.start_fast_worker();
    deployment.judge(PATIENCE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimming_the_journal_is_found() {
    let found = trimmed(true).await;
    assert!(lost(&found) > 10, "{found:#.2000?}");
    assert_eq!(trimmed(false).await, []);
}

/// The group begins behind what waits.
async fn group_at_the_end(sabotaged: bool) -> Vec<Violation> {
    let mut deployment = Deployment::start(SLOW);
    let load = deployment.load("group");
    deployment.hands.accepts(20).await;
    deployment.kill_worker();
    deployment.hands.accepts(100).await;
    for stream in deployment.streams("journal").await {
        let _: i64 = deployment.redis(&["XGROUP", "DESTROY", &stream, "workers"]).await;
        let start = if sabotaged { "$" } else { "0" };
        let _: () = deployment.redis(&["XGROUP", "CREATE", &stream, "workers", start]).await;
    }
    deployment.hands.accepts(20).await;
    load.stop().await;
    deployment.start_fast_worker();
    deployment.judge(if sabotaged { IMPATIENCE } else { PATIENCE }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_begins_at_the_end_is_found() {
    let found = group_at_the_end(true).await;
    assert!(lost(&found) > 10, "{found:#.2000?}");
    assert!(
        found.iter().any(|violation| matches!(violation, Violation::Undrained { .. })),
        "{found:#.2000?}"
    );
    assert_eq!(group_at_the_end(false).await, []);
}
