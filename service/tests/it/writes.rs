//! Single writes and what a client sees of them.

use std::collections::HashSet;
use std::time::Duration;

use scalekit_service::worker::BatchSettings;
use serde_json::{Value, json};

use crate::harness::{Harness, Kind, Options, eventually, on_both};

on_both!(
    an_insert_is_readable_at_once_and_stored_soon,
    replace_merge_and_delete,
    ids_derive_from_the_operation,
    a_repeated_request_is_one_write,
    a_late_retry_does_not_undo_a_newer_write,
    many_merges_end_as_in_order,
    a_second_insert_of_an_id_is_dead_and_shows_no_more,
);

async fn an_insert_is_readable_at_once_and_stored_soon(kind: Kind) {
    let harness = Harness::start(kind).await;
    let document = r#"{"customer":"Zoë","amount":12.50,"lines":[1,{"a":null}],"big":9007199254740993}"#;
    let accepted = harness.write("POST", "/v1/orders", document).await;
    let (id, write_id) = (accepted["id"].as_str().unwrap(), accepted["write_id"].as_str().unwrap());
    assert_eq!(accepted["durability"], "fsync");
    let path = format!("/v1/orders/{id}");
    let read = harness.get(&path).await.expect(200);
    assert_eq!(read.header("content-type"), "application/json");
    if kind == Kind::Embedded {
        assert_eq!(read.text, document, "the client's own text");
    }
    // With Redis it comes from the journal, whose form is the database's.
    let seen: Value = read.json();
    assert_eq!(seen, serde_json::from_str::<Value>(document).unwrap());
    let before = harness.write_status(write_id).await;
    assert!(before["status"] == "accepted" || before["status"] == "stored", "{before}");
    eventually("the write is stored", async || {
        let status = harness.write_status(write_id).await;
        assert_eq!(status["write_id"], write_id);
        (status["status"] == "stored").then_some(())
    })
    .await;
    assert_eq!(harness.stored("orders").await, [(id.to_owned(), id.to_owned())]);
    let read: Value = harness.get(&path).await.expect(200).json();
    assert_eq!(read, serde_json::from_str::<Value>(document).unwrap(), "the same from the store");
    if kind == Kind::RedisMongo {
        let raw = harness.raw("orders", id).await.unwrap();
        let mut parts = write_id.split('.');
        assert_eq!(parts.next(), Some("0"));
        let ms: i64 = parts.next().unwrap().parse().unwrap();
        let seq: i64 = parts.next().unwrap().parse().unwrap();
        assert_eq!(raw.get_document("_sk").unwrap(), &bson::doc! { "op": id, "v": (ms << 21) + seq });
        assert_eq!(raw.get_str("customer").unwrap(), "Zoë");
    }
}

/// The linger brings both into one batch, so that the database never sees the second one.
async fn a_second_insert_of_an_id_is_dead_and_shows_no_more(kind: Kind) {
    let batch = BatchSettings { linger: Duration::from_secs(1), ..Options::default().batch };
    let harness = Harness::with(kind, Options { batch, ..Options::default() }).await;
    let insert = |n: u32| {
        let write = json!({"collection": "items", "op": "insert", "id": "1", "document": {"n": n}});
        json!({ "writes": [write] }).to_string()
    };
    let first = harness.write("POST", "/v1/transactions", &insert(1)).await;
    let second = harness.write("POST", "/v1/transactions", &insert(2)).await;
    harness.drained().await;
    assert_eq!(harness.write_status(first["write_id"].as_str().unwrap()).await["status"], "stored");
    assert_eq!(harness.write_status(second["write_id"].as_str().unwrap()).await["status"], "dead");
    assert_eq!(harness.get("/v1/items/1").await.expect(200).json(), json!({"n": 1}));
}

async fn replace_merge_and_delete(kind: Kind) {
    let harness = Harness::start(kind).await;
    let steps = [
        ("PUT", r#"{"a":1,"b":2}"#, Some(json!({"a": 1, "b": 2}))),
        ("PATCH", r#"{"b":null,"c":{"d":null}}"#, Some(json!({"a": 1, "c": {"d": null}}))),
        ("PUT", r#"{"e":5}"#, Some(json!({"e": 5}))),
        ("DELETE", "", None),
        ("PATCH", r#"{"f":6,"g":null}"#, Some(json!({"f": 6}))),
        ("DELETE", "", None),
        ("PUT", r#"{"h":8}"#, Some(json!({"h": 8}))),
    ];
    // Once while the journal has it all, once with each step stored before the next.
    for (id, drained) in [("fast", false), ("slow", true)] {
        let path = format!("/v1/items/{id}");
        harness.get(&path).await.expect_problem(404, "never written");
        for (place, (method, body, expected)) in steps.iter().enumerate() {
            let accepted = harness.write(method, &path, body).await;
            assert_eq!(accepted["id"], id);
            for round in 0..2 {
                let read = harness.get(&path).await;
                let what = format!("{id}, step {place}, round {round}");
                match expected {
                    Some(document) => assert_eq!(read.expect(200).json(), *document, "{what}"),
                    None => drop(read.expect_problem(404, &what)),
                }
                if drained && round == 0 {
                    harness.drained().await;
                }
            }
        }
    }
    harness.drained().await;
    assert_eq!(harness.stored("items").await.len(), 2);
    // What the store has, without any cache: a process that has just started.
    if kind == Kind::RedisMongo {
        let _: String = harness.redis_command(&["FLUSHALL"]).await;
    }
    let harness = harness.restart(true).await;
    for id in ["fast", "slow"] {
        assert_eq!(harness.get(&format!("/v1/items/{id}")).await.expect(200).json(), json!({"h": 8}));
    }
}

async fn ids_derive_from_the_operation(kind: Kind) {
    let harness = Harness::start(kind).await;
    let accepted = harness.send_as("my-key", "POST", "/v1/orders", "{}").await.expect(202).json();
    assert_eq!(accepted["id"], "my-key-00");
    let writes = r#"{"writes":[{"collection":"a","op":"insert","document":{"n":0}},
        {"collection":"b","op":"replace","id":"given","document":{}},
        {"collection":"a","op":"insert","document":{"n":2}}]}"#;
    harness.send_as("tx", "POST", "/v1/transactions", writes).await.expect(202);
    assert_eq!(harness.get("/v1/a/tx-00").await.expect(200).text, r#"{"n":0}"#);
    assert_eq!(harness.get("/v1/a/tx-02").await.expect(200).text, r#"{"n":2}"#);
    harness.drained().await;
    let op = |id: &str, op: &str| (id.to_owned(), op.to_owned());
    assert_eq!(harness.stored("a").await, [op("tx-00", "tx-00"), op("tx-02", "tx-02")]);
    assert_eq!(harness.stored("b").await, [op("given", "tx-01")]);
    // Without a key, ids are ordered by time.
    let mut ids = Vec::new();
    for n in 0..5 {
        let body = format!(r#"{{"n":{n}}}"#);
        ids.push(harness.write("POST", "/v1/c", &body).await["id"].as_str().unwrap().to_owned());
        assert_eq!(harness.get(&format!("/v1/c/{}", ids[n])).await.expect(200).text, body);
    }
    assert!(ids.is_sorted(), "{ids:?}");
    harness.drained().await;
    assert_eq!(harness.stored("c").await, ids.iter().map(|id| op(id, id)).collect::<Vec<_>>());
    assert_eq!(harness.get(&format!("/v1/c/{}", ids[3])).await.expect(200).text, r#"{"n":3}"#);
}

async fn a_repeated_request_is_one_write(kind: Kind) {
    let options = Options { database_ops_per_s: 50, ..Options::default() };
    let harness = Harness::with(kind, options).await;
    let sends = (0..20).map(|_| harness.send_as("once", "POST", "/v1/orders", r#"{"n":1}"#));
    let answers = futures_util::future::join_all(sends).await;
    let write_ids: HashSet<String> = answers
        .into_iter()
        .map(|answer| answer.expect(202).json()["write_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(write_ids.len(), 1, "{write_ids:?}");
    let journal = harness.stats().await.journal;
    assert_eq!((journal.appended, journal.repeated, journal.accepted_writes), (1, 19, 1));
    harness.drained().await;
    assert_eq!(harness.stored("orders").await, [("once-00".to_owned(), "once-00".to_owned())]);
    let again = harness.send_as("once", "POST", "/v1/orders", r#"{"n":1}"#).await.expect(202).json();
    assert!(write_ids.contains(again["write_id"].as_str().unwrap()), "also once it is stored");
    for (path, body) in [("/v1/orders", r#"{"n":2}"#), ("/v1/others", r#"{"n":1}"#)] {
        let other = harness.send_as("once", "POST", path, body).await;
        other.expect_problem(422, "was used for another request");
    }
}

async fn a_late_retry_does_not_undo_a_newer_write(kind: Kind) {
    let harness = Harness::start(kind).await;
    for drained in [false, true] {
        let path = format!("/v1/items/{drained}");
        let key = |n: u8| format!("k{n}-{drained}");
        let first = harness.send_as(&key(1), "PUT", &path, r#"{"is":"A"}"#).await.expect(202).json();
        harness.send_as(&key(2), "PUT", &path, r#"{"is":"B"}"#).await.expect(202);
        if drained {
            harness.drained().await;
        }
        let retried = harness.send_as(&key(1), "PUT", &path, r#"{"is":"A"}"#).await.expect(202).json();
        assert_eq!(retried["write_id"], first["write_id"]);
        assert_eq!(harness.get(&path).await.expect(200).text, r#"{"is":"B"}"#);
        harness.drained().await;
        assert_eq!(harness.get(&path).await.expect(200).text, r#"{"is":"B"}"#);
        let op = format!("{}-00", key(2));
        assert!(harness.stored("items").await.contains(&(drained.to_string(), op)));
    }
}

async fn many_merges_end_as_in_order(kind: Kind) {
    let harness = Harness::start(kind).await;
    let patches: Vec<String> = (0..60).map(|n| format!(r#"{{"f{n}":{n}}}"#)).collect();
    let sends = patches.iter().map(|patch| harness.send("PATCH", "/v1/items/1", patch));
    for answer in futures_util::future::join_all(sends).await {
        answer.expect(202);
    }
    let all = |document: &Value| (0..60).all(|n| document[format!("f{n}")] == n);
    let read = harness.get("/v1/items/1").await.expect(200).json();
    assert!(all(&read), "each was accepted, so each shows: {read}");
    harness.drained().await;
    let harness = harness.restart(true).await;
    if kind == Kind::RedisMongo {
        let _: String = harness.redis_command(&["FLUSHALL"]).await;
    }
    let read = harness.get("/v1/items/1").await.expect(200).json();
    assert!(all(&read), "{read}");
}
