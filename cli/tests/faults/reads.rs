//! A hot document that the cache loses: the database is asked once by each process, however many clients want it.

use serde_json::json;
use tokio::task::JoinSet;

use scalekit_service::testing::checker::Change;

use crate::deployment::{Deployment, Options};
use crate::load::{Answer, fields};

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
    }
    assert!(asked[0] + asked[1] >= ROUNDS, "somebody has to read it: {asked:?}");
}
