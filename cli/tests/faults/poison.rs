//! One document that the database will never take, in a batch of a thousand.

use scalekit_service::testing::checker::Change;
use serde_json::json;

use crate::deployment::{Deployment, Options, eventually};
use crate::load::{Answer, fields, insert};
use crate::sandbox::Sandbox;

const OTHERS: usize = 999;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_poison_document_in_a_batch_of_a_thousand_costs_itself_only() {
    let mut deployment = Deployment::bare(Sandbox::new(), Options::default());
    deployment.start_api(deployment.direct);
    let hands = deployment.hands.clone();
    // Half of what a document may have, so that two of it are too much.
    let half = "x".repeat(9 << 20);
    let big = [("own/big".to_owned(), Change::Replace(fields(json!({ "a": half }))))];
    assert_eq!(hands.settle("big", &big).await, Answer::Accepted);
    deployment.start_worker(deployment.direct);
    eventually("it is stored", async || (deployment.waiting().await == (0, 0)).then_some(())).await;
    deployment.kill_worker();
    for n in 0..OTHERS {
        if n == OTHERS / 2 {
            let poison = [("own/big".to_owned(), Change::Merge(fields(json!({ "b": half }))))];
            assert_eq!(hands.settle("poison", &poison).await, Answer::Accepted);
        }
        let op = format!("good-{n:03}");
        assert_eq!(hands.settle(&op, &[insert(&op, json!({ "n": n }))]).await, Answer::Accepted);
    }
    deployment.start_worker(deployment.direct);
    deployment.expect_no_violation().await;
    let end = deployment.end(std::time::Duration::ZERO).await;
    assert_eq!(end.dead, ["poison-00"]);
    assert_eq!(end.stored.len(), OTHERS + 1);
    let worker = deployment.worker().stats().await.worker.unwrap();
    assert_eq!((worker.stored, worker.dead), (OTHERS as u64, 1));
    assert!(worker.batches <= 3, "of growing sizes: {worker:?}");
    let letters = deployment.letters().await;
    let [reason] = &letters[..] else { panic!("{letters:?}") };
    assert!(reason.contains("large") || reason.contains("16"), "{reason}");
}
