//! Redis and MongoDB as they fail: killed, refusing, and workers that take over from each other.

use std::time::Duration;

use bson::doc;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Harness, Kind, Options, eventually};
use crate::lifecycle::{assert_stored_once, load};

fn slow() -> Options {
    Options { database_ops_per_s: 5, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_mongodb_refuses_is_a_dead_letter_and_costs_the_others_nothing() {
    let mut harness = Harness::without_worker(Kind::RedisMongo, Options::default()).await;
    let database = harness.mongo_database().await;
    let strict = doc! { "create": "numbers", "validator": { "n": { "$type": "int" } } };
    database.run_command(strict).await.unwrap();
    let mut good = Vec::new();
    for n in 0..20 {
        let accepted = harness.write("PUT", &format!("/v1/numbers/{n}"), &format!(r#"{{"n":{n}}}"#)).await;
        good.push(accepted["write_id"].as_str().unwrap().to_owned());
    }
    let bad = harness.write("PUT", "/v1/numbers/bad", r#"{"n":"seven"}"#).await;
    let bad = bad["write_id"].as_str().unwrap();
    assert_eq!(
        harness.get("/v1/numbers/bad").await.expect(200).text,
        r#"{"n":"seven"}"#,
        "until it is known"
    );
    let body = json!({"writes": [
        {"collection": "numbers", "op": "replace", "id": "half", "document": {"n": 1}},
        {"collection": "numbers", "op": "insert", "document": {"n": "eight"}},
    ]});
    let half = harness.write("POST", "/v1/transactions", &body.to_string()).await;
    harness.start_worker().await;
    harness.drained().await;
    for write_id in &good {
        assert_eq!(harness.write_status(write_id).await["status"], "stored");
    }
    for write_id in [bad, half["write_id"].as_str().unwrap()] {
        let status = harness.write_status(write_id).await;
        assert_eq!(status["status"], "dead");
        assert!(status["reason"].as_str().unwrap().contains("validation"), "{status}");
    }
    harness.get("/v1/numbers/bad").await.expect_problem(404, "it is not in the database");
    assert_eq!(harness.get("/v1/numbers/half").await.expect(200).text, r#"{"n":1}"#);
    assert_eq!(harness.stored("numbers").await.len(), 21);
    assert_eq!(harness.redis_command::<u64>(&["XLEN", "scalekit:{0}:dead"]).await, 2);
    let worker = harness.stats_of(harness.worker.as_ref().unwrap()).await.worker.unwrap();
    assert_eq!((worker.stored, worker.dead), (21, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_over_a_document_that_is_there_is_dead_and_changes_nothing() {
    let harness = Harness::start(Kind::RedisMongo).await;
    let collection = harness.mongo_database().await.collection::<bson::Document>("orders");
    collection.insert_one(doc! { "_id": "k-00", "by": "somebody else" }).await.unwrap();
    let accepted = harness.send_as("k", "POST", "/v1/orders", r#"{"by":"us"}"#).await.expect(202).json();
    let status = eventually("it is settled", async || {
        let status = harness.write_status(accepted["write_id"].as_str().unwrap()).await;
        (status["status"] != "accepted").then_some(status)
    })
    .await;
    assert_eq!(status["status"], "dead");
    assert!(status["reason"].as_str().unwrap().contains("exists already"), "{status}");
    // Until its entry is acknowledged, a moment later, readers see what was accepted.
    eventually("readers see what the database has", async || {
        let read = harness.get("/v1/orders/k-00").await.expect(200).json();
        (read == json!({"by": "somebody else"})).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_under_load_loses_nothing() {
    let harness = Harness::with(Kind::RedisMongo, slow()).await;
    let accepted = load(&harness, "redis", 300, async {
        harness.kill_redis();
        let refused = eventually("writes are refused", async || {
            let answer = harness.send("POST", "/v1/others", "{}").await;
            (answer.status == 503).then_some(answer)
        })
        .await;
        let refused = refused.expect_problem(503, "Redis is away");
        assert!(refused.header("retry-after").parse::<u32>().unwrap() > 0);
        eventually("not ready", async || (harness.get("/readyz").await.status == 503).then_some(())).await;
        harness.get("/healthz").await.expect(200);
        harness.restart_redis();
        eventually("writes are accepted again", async || {
            let answer = harness.send_as("back", "POST", "/v1/orders", "{}").await;
            (answer.status == 202).then_some(())
        })
        .await;
    })
    .await;
    assert_stored_once(&harness, &accepted).await;
    eventually("ready again", async || (harness.get("/readyz").await.status == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_give_up_while_redis_stands_still_do_not_pile_up() {
    let options = Options { max_connections: 4, ..Options::default() };
    let harness = Harness::with(Kind::RedisMongo, options).await;
    harness.signal_redis(Signal::SIGSTOP);
    // What each leaves behind waits for seconds; there is room for eight.
    let refused = eventually("further ones are turned away", async || {
        let request = harness.request(reqwest::Method::POST, "/v1/orders").body("{}");
        let answer = crate::harness::try_answer(request.timeout(Duration::from_millis(100))).await;
        answer.ok().filter(|answer| answer.text.contains("too many requests wait for the journal"))
    })
    .await;
    refused.expect_problem(503, "there is no more room");
    harness.signal_redis(Signal::SIGCONT);
    eventually("writes are accepted again", async || {
        (harness.send("POST", "/v1/orders", "{}").await.status == 202).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mongodb_killed_under_load_loses_nothing() {
    let options = Options { own_mongo: true, ..slow() };
    let harness = Harness::with(Kind::RedisMongo, options).await;
    let accepted = load(&harness, "mongo", 200, async {
        harness.kill_mongo();
        // Writes do not notice; reads of what is not cached do.
        let accepted = harness.write("PUT", "/v1/items/1", r#"{"n":1}"#).await;
        harness.get("/v1/items/1").await.expect(200);
        let refused = harness.get("/v1/items/absent").await.expect_problem(503, "MongoDB is away");
        assert!(!refused.header("retry-after").is_empty());
        harness.get("/readyz").await.expect(200);
        assert_eq!(harness.write_status(accepted["write_id"].as_str().unwrap()).await["status"], "accepted");
        eventually("the worker has noticed", async || {
            let worker = harness.stats_of(harness.worker.as_ref().unwrap()).await.worker.unwrap();
            (worker.retries > 0).then_some(())
        })
        .await;
        harness.restart_mongo();
    })
    .await;
    assert_stored_once(&harness, &accepted).await;
    assert_eq!(harness.stored("items").await.len(), 1);
    let worker = harness.stats_of(harness.worker.as_ref().unwrap()).await.worker.unwrap();
    assert_eq!(worker.dead, 0, "an outage kills no letter");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_does_not_let_us_write_kills_no_letter() {
    let harness = Harness::with(Kind::RedisMongo, Options { own_mongo: true, ..Options::default() }).await;
    // More often than a write that is to blame would be tried.
    let point = doc! {
        "configureFailPoint": "failCommand",
        "mode": { "times": 6 },
        "data": { "failCommands": ["insert"], "errorCode": 13 },
    };
    harness.mongo_database().await.client().database("admin").run_command(point).await.unwrap();
    harness.write("POST", "/v1/orders", r#"{"n":1}"#).await;
    harness.drained().await;
    let worker = harness.stats_of(harness.worker.as_ref().unwrap()).await.worker.unwrap();
    assert_eq!((worker.retries, worker.stored, worker.dead), (6, 1, 0));
    assert_eq!(harness.stored("orders").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_mid_batch_leaves_nothing_behind_and_nothing_twice() {
    let batch = scalekit_service::worker::BatchSettings {
        max_writes: 20,
        max_bytes: 1 << 20,
        linger: Duration::from_millis(20),
    };
    let options = Options { database_ops_per_s: 40, batch, ..Options::default() };
    let mut harness = Harness::with(Kind::RedisMongo, options).await;
    let mut accepted = std::collections::BTreeSet::new();
    for round in 0..5 {
        accepted.extend(load(&harness, &format!("worker{round}"), 100, async {}).await);
        eventually("it holds entries that it has not acknowledged", async || {
            // The first worker makes the group, when it has come to it.
            let pending = ["XPENDING", "scalekit:{0}:journal", "workers"];
            let held: redis::RedisResult<(u64, redis::Value, redis::Value, redis::Value)> =
                harness.try_redis_command(&pending).await;
            held.is_ok_and(|held| held.0 > 0).then_some(())
        })
        .await;
        harness.worker.take().unwrap().kill().await;
        harness.start_worker().await;
    }
    assert_stored_once(&harness, &accepted).await;
    let worker = harness.stats_of(harness.worker.as_ref().unwrap()).await.worker.unwrap();
    assert_eq!(worker.dead, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_workers_one_idles_until_the_other_is_gone() {
    let mut harness = Harness::start(Kind::RedisMongo).await;
    let stored =
        async |process: &crate::harness::Process| harness.stats_of(process).await.worker.unwrap().stored;
    harness.write("PUT", "/v1/items/0", "{}").await;
    harness.drained().await;
    let second = harness.start_another_worker("w2").await;
    for n in 1..10 {
        harness.write("PUT", &format!("/v1/items/{n}"), "{}").await;
        harness.drained().await;
    }
    assert_eq!(stored(harness.worker.as_ref().unwrap()).await, 10);
    assert_eq!(stored(&second).await, 0, "it stands by");
    assert_eq!(harness.client.get(second.url("/readyz")).send().await.unwrap().status(), 200);
    harness.worker.take().unwrap().stop().await;
    for n in 10..20 {
        harness.write("PUT", &format!("/v1/items/{n}"), "{}").await;
    }
    harness.drained().await;
    assert_eq!(harness.stats_of(&second).await.worker.unwrap().stored, 10);
    assert_eq!(harness.stored("items").await.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weaker_redis_than_demanded_stops_the_start() {
    let harness = Harness::start(Kind::RedisMongo).await;
    let _: String = harness.redis_command(&["CONFIG", "SET", "appendfsync", "everysec"]).await;
    let config = harness.config(scalekit_service::config::Role::Api, "w1");
    let start = tokio::task::spawn_blocking(move || crate::harness::Process::try_start(config).err());
    let error = start.await.unwrap().expect("the journal is not what the profile demands");
    assert!(error.contains("`fsync`") && error.contains("`os`") && error.contains("always"), "{error}");
}
