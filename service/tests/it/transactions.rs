//! Transactions: reads and writes in one request.

use serde_json::json;

use crate::harness::{Harness, Kind, on_both};

on_both!(reads_and_writes_in_one_request, the_writes_of_a_request_are_all_or_none);

async fn reads_and_writes_in_one_request(kind: Kind) {
    let harness = Harness::start(kind).await;
    harness.write("PUT", "/v1/items/1", r#"{"n":1}"#).await;
    harness.write("PUT", "/v1/items/2", r#"{"n":2}"#).await;
    harness.write("DELETE", "/v1/items/2", "").await;
    for drained in [false, true] {
        if drained {
            harness.drained().await;
        }
        let body = json!({
            "reads": [
                {"collection": "items", "id": "1"}, {"collection": "items", "id": "2"},
                {"collection": "other", "id": "1"}, {"collection": "items", "id": "1"},
            ],
            "writes": [
                {"collection": "orders", "op": "insert", "document": {"item": 1}},
                {"collection": "stock", "op": "merge", "id": "s", "document": {"left": 4, "note": null}},
                {"collection": "stock", "op": "merge", "id": "s", "document": {"right": 5}},
            ],
        });
        let answer = harness.write("POST", "/v1/transactions", &body.to_string()).await;
        assert_eq!(answer["reads"], json!([{"n": 1}, null, null, {"n": 1}]), "drained: {drained}");
        assert_eq!(answer["durability"], "fsync");
        let status = harness.write_status(answer["write_id"].as_str().unwrap()).await;
        assert!(status["status"] == "accepted" || status["status"] == "stored", "{status}");
        assert_eq!(harness.get("/v1/stock/s").await.expect(200).json(), json!({"left": 4, "right": 5}));
    }
    let reads = r#"{"reads":[{"collection":"items","id":"1"}]}"#;
    let answer = harness.send("POST", "/v1/transactions", reads).await.expect(200).json();
    assert_eq!(answer, json!({"write_id": null, "durability": "fsync", "reads": [{"n": 1}]}));
    harness.drained().await;
    assert_eq!(harness.stored("orders").await.len(), 2);
    assert_eq!(harness.stored("stock").await.len(), 1);
}

async fn the_writes_of_a_request_are_all_or_none(kind: Kind) {
    let harness = Harness::start(kind).await;
    let body = json!({"writes": [
        {"collection": "items", "op": "replace", "id": "1", "document": {}},
        {"collection": "items", "op": "replace", "id": "2", "document": {"_id": 1}},
    ]});
    let refused = harness.send("POST", "/v1/transactions", &body.to_string()).await;
    let refused = refused.expect_problem(422, "a reserved field");
    assert!(refused.text.contains("writes[1]"), "{}", refused.text);
    harness.get("/v1/items/1").await.expect_problem(404, "nothing of it");
    assert_eq!(harness.stats().await.journal.appended, 0);
    // Each of a request's 64 writes is there at once, and stored.
    let writes: Vec<_> = (0..64)
        .map(|n| json!({"collection": format!("c{}", n % 4), "op": "insert", "document": {"n": n}}))
        .collect();
    let body = json!({ "writes": writes }).to_string();
    harness.send_as("tx", "POST", "/v1/transactions", &body).await.expect(202);
    for n in 0..64 {
        let path = format!("/v1/c{}/tx-{n:02}", n % 4);
        assert_eq!(harness.get(&path).await.expect(200).json(), json!({"n": n}), "{path}");
    }
    harness.drained().await;
    for collection in 0..4 {
        assert_eq!(harness.stored(&format!("c{collection}")).await.len(), 16);
    }
}
