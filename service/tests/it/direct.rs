//! Direct mode: each read and each write in the database, one by one, and an honest word on what became of them.

use scalekit_service::config::{Backend, DirectStore, Role};
use serde_json::json;

use crate::harness::{Harness, Kind, Options, Process, on_both};

on_both!(
    each_read_and_each_write_is_an_operation,
    what_is_answered_is_in_the_database,
    a_failure_midway_says_what_is_stored,
    a_retry_stores_inserts_once,
    there_are_no_dead_letters,
);

/// A service in direct mode, and no Redis.
async fn direct(kind: Kind) -> Harness {
    let mut harness = Harness::without_worker(kind, Options::default()).await;
    let mut config = harness.config(Role::Api, "none");
    config.backend = Backend::Direct(match config.backend {
        Backend::RedisMongo { mongo_url, mongo_database, .. } => {
            DirectStore::Mongo { url: mongo_url, database: mongo_database, authorities: None }
        }
        Backend::Embedded { data_dir } => DirectStore::Embedded { data_dir: data_dir.join("direct") },
        Backend::Direct(_) => unreachable!("the harness does not start that"),
    });
    let process = tokio::task::spawn_blocking(move || Process::start(config)).await.unwrap();
    std::mem::replace(&mut harness.api, process).stop().await;
    if kind == Kind::RedisMongo {
        harness.kill_redis();
    }
    harness
}

async fn each_read_and_each_write_is_an_operation(kind: Kind) {
    let harness = direct(kind).await;
    for id in 0..5 {
        harness.write("PUT", &format!("/v1/items/{id}"), &json!({ "n": id }).to_string()).await;
    }
    let before = harness.stats().await;
    let reads: Vec<_> = (0..5).map(|id| json!({"collection": "items", "id": id.to_string()})).collect();
    let writes: Vec<_> =
        (0..5).map(|n| json!({"collection": "orders", "op": "insert", "document": {"n": n}})).collect();
    let body = json!({ "reads": reads, "writes": writes }).to_string();
    let answer = harness.write("POST", "/v1/transactions", &body).await;
    assert_eq!(answer["durability"], "database");
    assert_eq!(answer["reads"], json!([{"n": 0}, {"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}]));
    let after = harness.stats().await;
    assert_eq!(after.store.operations - before.store.operations, 10);
    assert_eq!(
        after.store.operations_limit, harness.options.database_ops_per_s,
        "all of them, without a worker"
    );
    assert_eq!(after.journal.accepted_writes - before.journal.accepted_writes, 5);
    assert_eq!(
        (after.mode.as_str(), after.journal.kind.as_str(), after.cache.kind.as_str()),
        ("direct", "none", "none")
    );
    assert_eq!(
        (after.journal.durability.as_str(), after.journal.appended, after.worker),
        ("database", 0, None)
    );
    harness.get("/readyz").await.expect(200);
}

async fn what_is_answered_is_in_the_database(kind: Kind) {
    let harness = direct(kind).await;
    let inserted = harness.write("POST", "/v1/orders", r#"{"n":1}"#).await;
    assert_eq!(inserted["durability"], "database");
    assert_eq!(harness.stored("orders").await.len(), 1);
    // Later writes of one request to one document come after the earlier ones.
    let body = json!({"writes": [
        {"collection": "stock", "op": "replace", "id": "s", "document": {"left": 1, "old": true}},
        {"collection": "stock", "op": "merge", "id": "s", "document": {"left": 4, "old": null}},
        {"collection": "stock", "op": "merge", "id": "s", "document": {"right": 5}},
    ]});
    harness.write("POST", "/v1/transactions", &body.to_string()).await;
    assert_eq!(harness.get("/v1/stock/s").await.expect(200).json(), json!({"left": 4, "right": 5}));
    harness.write("DELETE", "/v1/stock/s", "").await;
    harness.get("/v1/stock/s").await.expect_problem(404, "deleted");
    let status = format!("/v1/writes/{}", inserted["write_id"].as_str().unwrap());
    let refused = harness.get(&status).await.expect_problem(422, "nobody remembers");
    assert!(refused.text.contains("direct mode"), "{}", refused.text);
}

async fn a_failure_midway_says_what_is_stored(kind: Kind) {
    let harness = direct(kind).await;
    harness.write("POST", "/v1/transactions", &insert(&["taken"])).await;
    let failed = harness.send("POST", "/v1/transactions", &insert(&["a", "b", "taken", "c"])).await;
    let failed = failed.expect_problem(500, "two of four");
    for words in ["writes[2]", "exists already", "those before it are"] {
        assert!(failed.text.contains(words), "{}", failed.text);
    }
    let mut ids: Vec<_> = harness.stored("orders").await.into_iter().map(|(id, _)| id).collect();
    ids.sort();
    assert_eq!(ids, ["a", "b", "taken"]);
    let refused = harness.send("POST", "/v1/transactions", &insert(&["taken", "d"])).await;
    let refused = refused.expect_problem(422, "nothing of it");
    assert!(refused.text.contains("nothing is stored"), "{}", refused.text);
    harness.get("/v1/orders/d").await.expect_problem(404, "never tried");
}

fn insert(ids: &[&str]) -> String {
    let one = |id| json!({"collection": "orders", "op": "insert", "id": id, "document": {}});
    json!({ "writes": ids.iter().map(one).collect::<Vec<_>>() }).to_string()
}

async fn a_retry_stores_inserts_once(kind: Kind) {
    let harness = direct(kind).await;
    let body = json!({"writes": [
        {"collection": "orders", "op": "insert", "document": {"n": 1}},
        {"collection": "orders", "op": "insert", "document": {"n": 2}},
    ]});
    for _ in 0..3 {
        harness.send_as("again", "POST", "/v1/transactions", &body.to_string()).await.expect(202);
    }
    let mut stored = harness.stored("orders").await;
    stored.sort();
    let twice = |id: &str| (id.to_owned(), id.to_owned());
    assert_eq!(stored, [twice("again-00"), twice("again-01")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_worker_and_a_journal_that_is_not_empty_are_refused() {
    let harness = Harness::without_worker(Kind::RedisMongo, Options::default()).await;
    let mut config = harness.config(Role::Worker, "w1");
    let dir = tempfile::tempdir().unwrap();
    config.backend = Backend::Direct(DirectStore::Embedded { data_dir: dir.path().to_owned() });
    let error = tokio::task::spawn_blocking(move || Process::try_start(config).err()).await.unwrap();
    assert!(error.as_deref().is_some_and(|error| error.contains("`serve api`")), "{error:?}");

    // A write that no worker stores before the stop: the database does one operation a second, and others are first.
    let (mut config, accepted) = {
        let mut options = harness.options.clone();
        options.database_ops_per_s = 1;
        options.batch.max_writes = 1;
        let harness = Harness::with(Kind::Embedded, options).await;
        for n in 0..50 {
            harness.write("POST", "/v1/orders", &json!({ "n": n }).to_string()).await;
        }
        let config = harness.config(Role::Api, "none");
        let data = match &config.backend {
            Backend::Embedded { data_dir } => data_dir.clone(),
            _ => unreachable!("it is embedded"),
        };
        let copy = dir.path().join("data");
        let status = std::process::Command::new("cp").arg("-r").args([&data, &copy]).status().unwrap();
        assert!(status.success());
        (config, copy)
    };
    config.backend = Backend::Direct(DirectStore::Embedded { data_dir: accepted });
    let error = tokio::task::spawn_blocking(move || Process::try_start(config).err()).await.unwrap();
    assert!(error.as_deref().is_some_and(|error| error.contains("accepted requests wait")), "{error:?}");
}

async fn there_are_no_dead_letters(kind: Kind) {
    let harness = direct(kind).await;
    for (method, path) in [("GET", ""), ("GET", "/1"), ("POST", "/1/replay"), ("DELETE", "/1")] {
        let problem = harness.send(method, &format!("/v1/dead-letters{path}"), "").await;
        assert!(problem.expect_problem(422, method).text.contains("direct mode"));
    }
}
