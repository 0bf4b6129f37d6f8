//! `scalekit dlq`: a deployment's dead letters, listed, shown, put back and given up.

use serde_json::{Value, json};

use crate::sandbox::{Sandbox, free_port, wait_for};
use crate::web;

/// Inserts twice under one id, so that the second one dies.
fn conflict(url: &str, collection: &str, id: &str) {
    for n in [1, 2] {
        let write = json!({"collection": collection, "op": "insert", "id": id, "document": {"n": n}});
        let body = json!({ "writes": [write] }).to_string();
        assert_eq!(web::request(url, "POST", "/v1/transactions", &body).0, 202);
    }
    wait_for("an empty journal", || {
        let stats: Value = serde_json::from_str(&web::request(url, "GET", "/v1/stats", "").1).unwrap();
        (stats["journal"]["backlog_entries"] == 0).then_some(())
    });
}

#[test]
fn letters_are_listed_shown_replayed_and_dropped() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("letters", "");
    sandbox.scalekit(&["deploy", "-p", &profile]).expect(0);
    let url = sandbox.deployment("letters")["roles"][0]["url"].as_str().unwrap().to_owned();
    let dlq = |words: &[&str]| sandbox.scalekit(&[&["dlq"], words, &["-p", &profile]].concat());
    dlq(&["list"]).expect(0).prints(&["no dead letters"]);
    for (collection, id) in [("items", "1"), ("items", "2"), ("orders", "3"), ("orders", "4/%")] {
        conflict(&url, collection, id);
    }
    let table =
        dlq(&["list"]).expect(0).prints(&["ID ", "insert orders/3", "exists already", "4 dead letters"]);
    assert_eq!(table.stdout.lines().count(), 6, "{}", table.stdout);
    // By its URL as by its profile.
    let by_url = sandbox.scalekit(&["dlq", "list", "--url", &url]).expect(0);
    assert_eq!(by_url.stdout, table.stdout);
    dlq(&["list", "--limit", "3"]).expect(0).prints(&["3 dead letters, and there are more"]);
    let list = dlq(&["list", "--collection", "orders", "--json"]).expect(0).stdout;
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!((list["letters"].as_array().unwrap().len(), &list["more"]), (2, &json!(false)));
    let id = |n: usize| list["letters"][n]["id"].as_str().unwrap().to_owned();
    let op = list["letters"][1]["op_id"].as_str().unwrap();
    dlq(&["show", op]).expect(0).prints(&[&id(1), "insert orders/4/%", "\"n\": 2", "times      1"]);
    let shown: Value = serde_json::from_str(&dlq(&["show", &id(0), "--json"]).expect(0).stdout).unwrap();
    assert_eq!(shown["document"], json!({"n": 2}));

    // One that is there and one that is not: a part failed, and which and why is said.
    web::request(&url, "DELETE", "/v1/orders/3", "");
    let part = dlq(&["replay", "0.1.0.0.0", &id(0), "--as-new"]).expect(1);
    let part = part.prints(&[&id(0), "replayed as 0."]).says(&["0.1.0.0.0", "404", "no dead letter"]);
    assert!(!part.stderr.contains(&id(0)), "{}", part.stderr);
    assert!(web::request(&url, "GET", "/v1/orders/3", "").1.contains("\"n\":2"));

    dlq(&["drop", &id(1)]).expect(1).says(&["nothing was dropped", "--yes"]);
    dlq(&["drop", &id(1), "--yes"]).expect(0).prints(&["dropped 1 dead letter"]);
    dlq(&["replay", "--all", "--reason", "no such reason"]).expect(0).prints(&["no dead letters"]);
    web::request(&url, "DELETE", "/v1/items/1", "");
    let all = dlq(&["replay", "--all", "--collection", "items", "--reason", "exists", "--json"]).expect(0);
    let all: Value = serde_json::from_str(&all.stdout).unwrap();
    assert_eq!((all["replayed"].as_array().unwrap().len(), &all["failed"]), (2, &json!([])), "{all}");
    // What is there still refuses; what was deleted since is newer.
    let status = |n: usize| {
        let path = format!("/v1/writes/{}", all["replayed"][n]["write_id"].as_str().unwrap());
        wait_for("its end", || {
            let told: Value = serde_json::from_str(&web::request(&url, "GET", &path, "").1).unwrap();
            (told["status"] != "accepted").then(|| told["status"].as_str().unwrap().to_owned())
        })
    };
    assert_eq!([status(0), status(1)], ["superseded", "dead"]);
    dlq(&["list"]).expect(0).prints(&["insert items/2", "1 dead letter\n"]);
    dlq(&["drop", "--all", "--yes", "--json"]).expect(0);
    dlq(&["list"]).expect(0).prints(&["no dead letters"]);
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    sandbox.expect_clean();
}

#[test]
fn what_cannot_be_done_is_said() {
    let sandbox = Sandbox::new();
    let profile = sandbox.profile("none", "");
    sandbox
        .scalekit(&["dlq", "list", "-p", &profile])
        .expect(1)
        .says(&["nothing is deployed", "scalekit deploy"]);
    sandbox.scalekit(&["dlq", "list", "--url", "nonsense"]).expect(104).says(&["--url", "nonsense"]);
    let away = format!("http://127.0.0.1:{}", free_port());
    for words in [&["list"][..], &["show", "1"], &["replay", "1", "2"], &["drop", "--yes", "1", "2"]] {
        let output = sandbox.scalekit(&[&["dlq"], words, &["--url", &away]].concat()).expect(1);
        output.says(&[&away, if words.contains(&"2") { "1 more were not tried" } else { "GET" }]);
    }
    for words in [
        &["replay"][..],
        &["drop", "--all", "1"],
        &["replay", "1", "--reason", "x"],
        &["list", "--limit", "0"],
    ] {
        sandbox.scalekit(&[&["dlq"], words].concat()).expect(2);
    }
}
