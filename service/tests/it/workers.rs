//! Several workers and shards, batches that follow what the database can take, and one limit for all processes.

use std::time::Duration;

use bson::doc;
use nix::sys::signal::Signal;
use scalekit_service::config::Role;
use scalekit_service::worker::BatchSettings;
use serde_json::json;

use crate::harness::{Harness, Kind, Options, Process, answer, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inserts_of_a_collection_are_one_operation() {
    let mut harness = Harness::without_worker(Kind::RedisMongo, Options::default()).await;
    // Four requests of 60, in two collections.
    for request in 0..4 {
        let writes: Vec<_> = (0..60)
            .map(|n| json!({"collection": format!("c{}", n % 2), "op": "insert", "document": {"n": n, "request": request}}))
            .collect();
        harness.write("POST", "/v1/transactions", &json!({"writes": writes}).to_string()).await;
    }
    harness.start_worker().await;
    harness.drained().await;
    let stats = harness.stats_of(harness.worker.as_ref().unwrap()).await;
    let worker = stats.worker.unwrap();
    assert_eq!((worker.batches, worker.stored, worker.dead), (1, 240, 0), "{worker:?}");
    assert_eq!(stats.store.operations, 3, "one for each collection, after the ping at the start");
    assert_eq!(harness.stored("c0").await.len() + harness.stored("c1").await.len(), 240);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_has_too_much_to_do_gets_smaller_batches() {
    let mut harness =
        Harness::without_worker(Kind::RedisMongo, Options { own_mongo: true, ..Options::default() }).await;
    for n in 0..40 {
        harness.write("PUT", &format!("/v1/things/{n}"), "{}").await;
    }
    // ExceededTimeLimit, twice.
    let point = doc! {
        "configureFailPoint": "failCommand",
        "mode": { "times": 2 },
        "data": { "failCommands": ["update"], "errorCode": 262 },
    };
    harness.mongo_database().await.client().database("admin").run_command(point).await.unwrap();
    harness.start_worker().await;
    harness.drained().await;
    let worker = harness.stats_of(harness.worker.as_ref().unwrap()).await.worker.unwrap();
    assert_eq!((worker.stored, worker.dead, worker.retries), (40, 0, 2), "{worker:?}");
    assert_eq!(worker.batch_limit, 64, "256 was halved twice");
    assert_eq!(worker.shards, 1);
    assert_eq!(harness.stored("things").await.len(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_number_of_shards_is_refused_while_the_service_runs_and_taken_when_it_is_empty() {
    let mut harness = Harness::start(Kind::RedisMongo).await;
    harness.write("PUT", "/v1/things/1", "{}").await;
    harness.drained().await;
    let mut config = harness.config(Role::Worker, "w2");
    config.shards = 5;
    let start = async |config: scalekit_service::config::Config| {
        tokio::task::spawn_blocking(move || Process::try_start(config)).await.unwrap()
    };
    let refused = start(config.clone()).await.err().unwrap();
    assert!(refused.contains("deploy.shards is 5") && refused.contains("dealt out to 1"), "{refused}");
    harness.worker.take().unwrap().stop().await;
    let refused = start(config.clone()).await.err().unwrap();
    assert!(refused.contains("stop them first"), "the API is still there: {refused}");
    // Gone, so that it says goodbye.
    harness.api.ask_to_stop();
    let worker = eventually("it starts once nobody relies on the former number", async || {
        start(config.clone()).await.ok()
    })
    .await;
    eventually("it owns all of them", async || {
        (harness.stats_of(&worker).await.worker.unwrap().shards == 5).then_some(())
    })
    .await;
    // As after a standstill over such a change: it must not go on with what it believes.
    let _: () = harness.redis_command(&["SET", "scalekit:{shards}:count", "7"]).await;
    eventually("the worker ends", async || {
        harness.client.get(worker.url("/healthz")).send().await.is_err().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_miss_say_why_while_the_governor_is_away_and_no_operation_starts() {
    let harness = Harness::start(Kind::RedisMongo).await;
    harness.write("PUT", "/v1/things/1", "{}").await;
    harness.drained().await;
    let before = harness.stats().await.store.operations;
    harness.kill_redis();
    let refused = harness.get("/v1/things/absent").await.expect_problem(503, "nobody counts operations");
    assert!(refused.text.contains("cannot be counted"), "{}", refused.text);
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(harness.stats().await.store.operations, before);
    harness.restart_redis();
    eventually("it reads again", async || {
        (harness.get("/v1/things/absent").await.status == 404).then_some(())
    })
    .await;
    // One that stands still is no better than one that is gone.
    harness.signal_redis(Signal::SIGSTOP);
    harness.get("/v1/things/missing").await.expect_problem(503, "nobody answers");
    harness.signal_redis(Signal::SIGCONT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_several_shards_are_readable_at_once_and_stored_whole() {
    let options = Options { shards: 4, ..Options::default() };
    let mut harness = Harness::without_worker(Kind::RedisMongo, options).await;
    let config = harness.config(Role::Api, "other");
    let other = tokio::task::spawn_blocking(move || Process::start(config)).await.unwrap();
    let insert = |n: usize| json!({"collection": "orders", "op": "insert", "document": {"n": n}});
    let replace =
        |n: usize| json!({"collection": "items", "op": "replace", "id": n.to_string(), "document": {"n": n}});
    let writes: Vec<_> = (0..8).map(insert).chain((0..8).map(replace)).collect();
    let body = json!({ "writes": writes }).to_string();
    let accepted: serde_json::Value =
        harness.send_as("wide", "POST", "/v1/transactions", &body).await.expect(202).json();
    let first = "orders/wide-05".to_owned();
    let write_id = accepted["write_id"].as_str().unwrap();
    assert!(write_id.split('+').count() > 1, "{write_id}");
    assert_eq!(harness.write_status(write_id).await["status"], "accepted");
    let merged = harness.write("PATCH", "/v1/items/3", r#"{"m":1}"#).await;
    for process in [&harness.api, &other] {
        for (path, expected) in
            [("items/3".to_owned(), json!({"n": 3, "m": 1})), (first.clone(), json!({"n": 5}))]
        {
            let read = answer(harness.client.get(process.url(&format!("/v1/{path}")))).await.expect(200);
            assert_eq!(read.json(), expected, "{path}");
        }
    }
    harness.start_worker().await;
    harness.drained().await;
    for id in [write_id, merged["write_id"].as_str().unwrap()] {
        assert_eq!(harness.write_status(id).await["status"], "stored");
    }
    let orders = harness.stored("orders").await;
    assert_eq!(orders.len(), 8);
    assert!(orders.iter().all(|(id, op)| id == op), "{orders:?}");
    assert_eq!(harness.stored("items").await.len(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_has_about_as_many_writes_as_it_may_however_many_share_an_entry() {
    let batch = BatchSettings { max_writes: 120, max_bytes: 4 << 20, linger: Duration::ZERO };
    let options = Options { batch, ..Options::default() };
    let mut harness = Harness::without_worker(Kind::RedisMongo, options).await;
    let insert = json!({"collection": "many", "op": "insert", "document": {}});
    let body = json!({ "writes": vec![insert; 60] }).to_string();
    for _ in 0..20 {
        harness.write("POST", "/v1/transactions", &body).await;
    }
    harness.start_worker().await;
    harness.drained().await;
    let worker = harness.stats_of(harness.worker.as_ref().unwrap()).await.worker.unwrap();
    assert_eq!(worker.stored, 1200);
    // Two requests of 60 each; the first may be alone.
    assert!((10..=11).contains(&worker.batches), "{worker:?}");
}
