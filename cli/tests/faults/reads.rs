//! What clients read when the cache has lost something.

use serde_json::json;
use tokio::task::JoinSet;

use scalekit_service::testing::checker::Change;

use crate::deployment::{Deployment, Options, eventually};
use crate::load::{Answer, fields};
use crate::sandbox::Sandbox;

/// The database is asked once by each process, however many clients want it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_document_that_expires_is_read_once_by_each_process() {
    const CLIENTS: usize = 300;
    const ROUNDS: u64 = 5;
    const READS: &str = "scalekit_store_reads_total";
    let mut deployment = Deployment::start(Options::default());
    let writes = [("own/hot".to_owned(), Change::Replace(fields(json!({ "n": 1 }))))];
    assert_eq!(deployment.hands.settle("hot", &writes).await, Answer::Accepted);
    deployment.expect_no_violation().await;
    let second = deployment.serve("api", "", 0, deployment.direct);
    let urls = [deployment.api().url.clone(), second.url.clone()];
    let client = reqwest::Client::new();
    let mut asked = [0; 2];
    for round in 0..ROUNDS {
        let before = [deployment.api().metric(READS).await, second.metric(READS).await];
        let gone: u64 = deployment.cache(&["DEL", "scalekit:c:own/hot"]).await;
        assert!(gone == 1 || round == 0, "it was cached");
        let mut clients = JoinSet::new();
        for n in 0..CLIENTS {
            let request = client.get(format!("{}/v1/own/hot", urls[n % 2]));
            clients.spawn(async move { request.send().await.unwrap().text().await.unwrap() });
        }
        while let Some(text) = clients.join_next().await {
            assert_eq!(text.unwrap(), r#"{"n":1}"#);
        }
        let after = [deployment.api().metric(READS).await, second.metric(READS).await];
        for process in 0..2 {
            let reads = after[process] - before[process];
            assert!(reads <= 1, "process {process} read it {reads} times");
            asked[process] += reads;
        }
        // A read that has landed is shared for 20 ms more, and would serve the next round.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(asked[0] + asked[1] >= ROUNDS, "somebody has to read it: {asked:?}");
}

/// The process that appended it ended, or did not hear of it, before the cache knew; so the retry has to tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_makes_readable_what_the_first_attempt_did_not() {
    let mut deployment = Deployment::bare(Sandbox::new(), Options::default());
    deployment.start_api(deployment.direct);
    let hands = deployment.hands.clone();
    let changes = [
        ("replace", Change::Replace(fields(json!({ "n": 2 })))),
        ("merge", Change::Merge(fields(json!({ "m": 3 })))),
        ("delete", Change::Delete),
    ];
    let mut retries = Vec::new();
    for (name, change) in changes {
        let key = format!("own/{name}");
        let cached = format!("scalekit:c:{key}");
        let first = [(key.clone(), Change::Replace(fields(json!({ "n": 1 }))))];
        assert_eq!(hands.settle(&format!("{name}-1"), &first).await, Answer::Accepted);
        // As it is when only the journal has the second one.
        let _: bool = deployment.cache(&["COPY", &cached, &format!("before {name}")]).await;
        let (op, second) = (format!("{name}-2"), [(key.clone(), change)]);
        assert_eq!(hands.settle(&op, &second).await, Answer::Accepted);
        retries.push((key, op, second));
    }
    for is_stored in [false, true] {
        if is_stored {
            deployment.start_worker(deployment.direct);
            eventually("all is stored", async || (deployment.waiting().await == (0, 0)).then_some(())).await;
        }
        for (key, op, second) in &retries {
            let name = key.trim_start_matches("own/");
            let (before, cached) = (format!("before {name}"), format!("scalekit:c:{key}"));
            let _: bool = deployment.cache(&["COPY", &before, &cached, "REPLACE"]).await;
            assert_eq!(hands.attempt(op, second).await, Answer::Accepted);
            hands.read(key).await;
        }
    }
    deployment.expect_no_violation().await;
}
