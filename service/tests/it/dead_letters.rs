//! Dead letters from the refusal to their end: listed, shown, put back, given up.

use std::collections::HashSet;
use std::io::Write as _;
use std::time::Duration;

use scalekit_service::config::{Backend, Role};
use scalekit_service::journal::{RequestWrite, WriteId, codec};
use scalekit_service::operation::{Change, DocumentKey};
use scalekit_service::worker::BatchSettings;
use serde_json::{Value, json};

use crate::harness::{Harness, Kind, Options, eventually, on_both};

on_both!(
    a_refused_write_is_listed_and_shown_and_refused_again_while_the_cause_is_there,
    a_replay_gives_way_to_what_was_written_since_unless_it_is_as_new,
    letters_of_a_former_build_are_put_back_under_their_version_and_readable_at_once,
    an_old_write_does_not_undo_a_newer_one_that_waits,
    letters_of_one_change_go_back_together,
    a_replay_is_one_effect_however_often_it_is_asked_for,
    what_is_dropped_is_gone_and_its_status_says_so,
    pages_filters_and_bad_questions,
);

const DEAD: &str = "/v1/dead-letters";

async fn letters(harness: &Harness) -> Vec<Value> {
    let page = harness.get(DEAD).await.expect(200).json();
    assert!(page["next"].is_null(), "{page}");
    page["letters"].as_array().unwrap().clone()
}

/// Inserts over a document that is there; the `write_id` of what is refused.
async fn conflict(harness: &Harness, collection: &str, id: &str, key: &str) -> String {
    harness.write("PUT", &format!("/v1/{collection}/{id}"), r#"{"is":"first"}"#).await;
    harness.drained().await;
    let write = json!({"collection": collection, "op": "insert", "id": id, "document": {"is": "refused"}});
    let body = json!({ "writes": [write] }).to_string();
    let refused = harness.send_as(key, "POST", "/v1/transactions", &body).await.expect(202).json();
    harness.drained().await;
    refused["write_id"].as_str().unwrap().to_owned()
}

async fn replay(harness: &Harness, id: &str, query: &str) -> String {
    let answer = harness.send("POST", &format!("{DEAD}/{id}/replay{query}"), "").await.expect(202).json();
    assert_eq!(answer["durability"], "fsync");
    answer["write_id"].as_str().unwrap().to_owned()
}

async fn status(harness: &Harness, write_id: &str) -> Value {
    harness.drained().await;
    harness.write_status(write_id).await["status"].clone()
}

/// Puts a letter where a build from before letters had counts and times left it: a replace by the operation `old-00`,
/// of the request with this id. Embedded it is there after a restart.
async fn buried_by_a_former_build(harness: Harness, write_id: &str, key: DocumentKey) -> Harness {
    let write = RequestWrite { key, change: Change::replace(bson::doc! {"is": "old"}) };
    let mut payload = Vec::new();
    codec::encode_write(&write, &mut payload).unwrap();
    if harness.kind == Kind::RedisMongo {
        let text = String::from_utf8(payload).unwrap();
        let (dead, reasons) = ("scalekit:{0}:dead", "scalekit:{0}:dead:reasons");
        let fields = ["write_id", write_id, "op_id", "old-00", "reason", "a rule", "payload", &text];
        let _: String = harness.redis_command(&[&["XADD", dead, "*"], &fields[..]].concat()).await;
        let mark = format!("{write_id} old-00");
        let _: u32 = harness.redis_command(&["HSET", reasons, &mark, "", write_id, "a rule"]).await;
        return harness;
    }
    let Backend::Embedded { data_dir } = harness.config(Role::All, "w1").backend else { unreachable!() };
    let path = data_dir.join("journal/dead-letters.jsonl");
    let mut file = std::fs::File::options().append(true).open(path).unwrap();
    let payload: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
    let line = json!({"write_id": write_id, "op_id": "old-00", "reason": "a rule", "payload": payload});
    writeln!(file, "{line}").unwrap();
    harness.restart(true).await
}

async fn a_refused_write_is_listed_and_shown_and_refused_again_while_the_cause_is_there(kind: Kind) {
    let harness = Harness::start(kind).await;
    assert_eq!(letters(&harness).await, Vec::<Value>::new());
    let write_id = conflict(&harness, "items", "1", "key").await;
    let [letter] = &letters(&harness).await[..] else { panic!("one was refused") };
    let id = format!("{write_id}.0");
    for (field, expected) in [
        ("id", json!(id)),
        ("write_id", json!(write_id)),
        ("op_id", json!("key-00")),
        ("collection", json!("items")),
        ("document_id", json!("1")),
        ("op", json!("insert")),
        ("times", json!(1)),
    ] {
        assert_eq!(letter[field], expected, "{letter}");
    }
    assert!(letter["reason"].as_str().unwrap().contains("exists already"), "{letter}");
    let accepted_ms: u64 = write_id.split('.').nth(1).unwrap().parse().unwrap();
    let first_ms = letter["first_ms"].as_u64().unwrap();
    assert!(first_ms >= accepted_ms && first_ms < accepted_ms + 60_000, "{letter}");
    assert!(letter.get("document").is_none() && letter.get("payload").is_none(), "{letter}");
    // By its id, by the operation, and by the request's only letter.
    for name in [&id, "key-00", &write_id] {
        let whole = harness.get(&format!("{DEAD}/{name}")).await.expect(200).json();
        assert_eq!((&whole["id"], &whole["document"]), (&json!(id), &json!({"is": "refused"})), "{name}");
    }
    eventually("the gauge knows", async || {
        let text = harness.get("/metrics").await.expect(200).text;
        text.contains("scalekit_dead_letters 1\n").then_some(())
    })
    .await;
    assert_eq!(harness.stats().await.journal.dead_letters, 1);

    let again = replay(&harness, &id, "").await;
    assert_ne!(again, write_id);
    for name in [&again, &write_id] {
        assert_eq!(status(&harness, name).await, "dead", "{name}");
    }
    let [letter] = &letters(&harness).await[..] else { panic!("it was refused again") };
    assert_eq!((&letter["id"], &letter["times"]), (&json!(id), &json!(2)));
    assert_eq!(harness.get("/v1/items/1").await.expect(200).text, r#"{"is":"first"}"#);
    let harness = harness.restart(true).await;
    assert_eq!(letters(&harness).await, std::slice::from_ref(letter), "they outlive the process");
}

async fn a_replay_gives_way_to_what_was_written_since_unless_it_is_as_new(kind: Kind) {
    let harness = Harness::start(kind).await;
    for (query, expected) in [("", "superseded"), ("?as_new=false", "superseded"), ("?as_new=true", "stored")]
    {
        let key = format!("key{}", query.len());
        let write_id = conflict(&harness, "items", &key, &key).await;
        // The cause is gone, and that is newer than the letter.
        harness.write("DELETE", &format!("/v1/items/{key}"), "").await;
        harness.drained().await;
        harness.get(&format!("/v1/items/{key}")).await.expect(404);
        let replayed = replay(&harness, &format!("{write_id}.0"), query).await;
        assert_eq!(status(&harness, &replayed).await, expected, "{query}");
        assert_eq!(status(&harness, &write_id).await, expected, "{query}: its request goes with it");
        let read = harness.get(&format!("/v1/items/{key}")).await;
        let stored = harness.stored("items").await;
        if expected == "stored" {
            assert_eq!(read.expect(200).json(), json!({"is": "refused"}));
            assert!(stored.contains(&(key.clone(), format!("{key}-00"))), "{stored:?}");
        } else {
            read.expect(404);
            assert!(stored.iter().all(|(id, _)| *id != key), "{stored:?}");
        }
        assert_eq!(letters(&harness).await, Vec::<Value>::new());
    }
}

async fn letters_of_a_former_build_are_put_back_under_their_version_and_readable_at_once(kind: Kind) {
    let harness = Harness::start(kind).await;
    let accepted = harness.write("PUT", "/v1/items/other", "{}").await;
    harness.drained().await;
    let write_id = accepted["write_id"].as_str().unwrap();
    let harness = buried_by_a_former_build(harness, write_id, DocumentKey::new("items", "1")).await;
    // Every cache believes from here on that there is none.
    harness.get("/v1/items/1").await.expect(404);
    let [letter] = &letters(&harness).await[..] else { panic!("it is there") };
    assert_eq!((&letter["op"], &letter["times"]), (&json!("replace"), &json!(1)), "{letter}");
    let replayed = replay(&harness, letter["id"].as_str().unwrap(), "").await;
    assert_eq!(status(&harness, &replayed).await, "stored");
    assert_eq!(harness.get("/v1/items/1").await.expect(200).json(), json!({"is": "old"}));
    assert!(harness.stored("items").await.contains(&("1".into(), "old-00".into())));
    if kind == Kind::RedisMongo {
        let raw = harness.raw("items", "1").await.unwrap();
        let version = write_id.parse::<WriteId>().unwrap().position.version();
        assert_eq!(raw.get_document("_sk").unwrap().get_i64("v").unwrap(), version);
    }
    assert_eq!(letters(&harness).await, Vec::<Value>::new());
    assert_eq!(status(&harness, write_id).await, "stored", "nothing is left of what it was dead for");
}

/// The linger brings the newer write and the letter into one batch.
async fn an_old_write_does_not_undo_a_newer_one_that_waits(kind: Kind) {
    let batch = BatchSettings { linger: Duration::from_millis(500), ..Options::default().batch };
    let harness = Harness::with(kind, Options { batch, ..Options::default() }).await;
    let accepted = harness.write("PUT", "/v1/items/other", "{}").await;
    harness.drained().await;
    let write_id = accepted["write_id"].as_str().unwrap();
    let harness = buried_by_a_former_build(harness, write_id, DocumentKey::new("items", "1")).await;
    let id = letters(&harness).await[0]["id"].as_str().unwrap().to_owned();
    harness.write("PATCH", "/v1/items/1", r#"{"new":1}"#).await;
    let replayed = replay(&harness, &id, "").await;
    harness.write("PATCH", "/v1/items/1", r#"{"newer":2}"#).await;
    let expected = json!({"new": 1, "newer": 2});
    assert_eq!(harness.get("/v1/items/1").await.expect(200).json(), expected, "while they wait");
    assert_eq!(status(&harness, &replayed).await, "superseded");
    assert_eq!(harness.get("/v1/items/1").await.expect(200).json(), expected, "once they are stored");
    // What the store has, without any cache.
    if kind == Kind::RedisMongo {
        let _: String = harness.redis_command(&["FLUSHALL"]).await;
    }
    let harness = harness.restart(true).await;
    assert_eq!(harness.get("/v1/items/1").await.expect(200).json(), expected);
}

async fn letters_of_one_change_go_back_together(kind: Kind) {
    let harness = Harness::start(kind).await;
    harness.write("PUT", "/v1/items/1", "{}").await;
    harness.drained().await;
    let writes = json!({ "writes": [
        {"collection": "items", "op": "insert", "id": "1", "document": {"a": 1}},
        {"collection": "items", "op": "insert", "id": "2", "document": {"other": true}},
        {"collection": "items", "op": "merge", "id": "1", "document": {"b": 2}},
    ]});
    let refused = harness.write("POST", "/v1/transactions", &writes.to_string()).await;
    harness.drained().await;
    let write_id = refused["write_id"].as_str().unwrap();
    let ids = [0, 2].map(|place| json!(format!("{write_id}.{place}")));
    assert_eq!(letters(&harness).await.iter().map(|letter| letter["id"].clone()).collect::<Vec<_>>(), ids);
    harness.get(&format!("{DEAD}/{write_id}")).await.expect_problem(404, "which of the two?");
    harness.write("DELETE", "/v1/items/1", "").await;
    let path = format!("{DEAD}/{}/replay?as_new=true", ids[1].as_str().unwrap());
    let answer = harness.send("POST", &path, "").await.expect(202).json();
    assert_eq!(answer["letters"], json!(ids));
    assert_eq!(harness.get("/v1/items/1").await.expect(200).json(), json!({"a": 1, "b": 2}), "at once");
    assert_eq!(status(&harness, answer["write_id"].as_str().unwrap()).await, "stored");
    assert_eq!(harness.get("/v1/items/1").await.expect(200).json(), json!({"a": 1, "b": 2}));
    assert_eq!(letters(&harness).await, Vec::<Value>::new());
}

async fn a_replay_is_one_effect_however_often_it_is_asked_for(kind: Kind) {
    let harness = Harness::start(kind).await;
    let write_id = conflict(&harness, "items", "1", "key").await;
    harness.write("DELETE", "/v1/items/1", "").await;
    harness.drained().await;
    let before = harness.stats().await.journal.appended;
    let path = format!("{DEAD}/{write_id}.0/replay?as_new=true");
    let asks = (0..10).map(|_| harness.send("POST", &path, ""));
    let mut taken = HashSet::new();
    for answer in futures_util::future::join_all(asks).await {
        match answer.status {
            202 => drop(taken.insert(answer.json()["write_id"].as_str().unwrap().to_owned())),
            _ => drop(answer.expect_problem(404, "it is replayed by then")),
        }
    }
    assert_eq!(taken.len(), 1, "{taken:?}");
    harness.drained().await;
    harness.send("POST", &path, "").await.expect_problem(404, "again, and later");
    assert_eq!(harness.stats().await.journal.appended, before + 1);
    assert_eq!(harness.stored("items").await, [("1".to_owned(), "key-00".to_owned())]);
}

async fn what_is_dropped_is_gone_and_its_status_says_so(kind: Kind) {
    let harness = Harness::start(kind).await;
    let (first, second) =
        (conflict(&harness, "items", "1", "a").await, conflict(&harness, "items", "2", "b").await);
    let dropped = harness.send("DELETE", &format!("{DEAD}/a-00"), "").await.expect(200).json();
    assert_eq!(dropped, json!({"id": format!("{first}.0")}));
    for (method, path) in [("GET", ""), ("DELETE", ""), ("POST", "/replay")] {
        let path = format!("{DEAD}/{first}.0{path}");
        harness.send(method, &path, "").await.expect_problem(404, "it is gone");
    }
    let harness = harness.restart(true).await;
    let [left] = &letters(&harness).await[..] else { panic!("the other one stays") };
    assert_eq!(left["write_id"], json!(second));
    let said = harness.write_status(&first).await;
    assert!(said["status"] == "dead" && said["reason"].as_str().unwrap().contains("dropped"), "{said}");
    assert_eq!(harness.get("/v1/items/1").await.expect(200).text, r#"{"is":"first"}"#);
}

async fn pages_filters_and_bad_questions(kind: Kind) {
    let harness = Harness::start(kind).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let collection = ["even", "odd"][n % 2];
        let write_id = conflict(&harness, collection, &n.to_string(), &format!("key{n}")).await;
        ids.push(format!("{write_id}.0"));
    }
    let all = async |query: &str, most: usize| {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let page = harness.get(&format!("{DEAD}?{query}{after}")).await.expect(200).json();
            let letters = page["letters"].as_array().unwrap().clone();
            assert!(letters.len() <= most, "{page}");
            found.extend(letters.iter().map(|letter| letter["id"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return found,
            }
        }
    };
    for limit in [1, 2, 5, 1000] {
        assert_eq!(all(&format!("limit={limit}"), limit).await, ids, "{limit}");
    }
    let odd = [ids[1].clone(), ids[3].clone()];
    assert_eq!(all("collection=odd&limit=1", 1).await, odd);
    assert_eq!(all("collection=none", 0).await, Vec::<String>::new());
    for (query, status, part) in [
        ("limit=0", 400, "1 to 1000"),
        ("limit=1001", 400, "1 to 1000"),
        ("limit=many", 400, "limit"),
        ("after=nonsense", 400, "nonsense"),
        ("x=1", 400, "x"),
        ("collection=a$b", 422, "a$b"),
    ] {
        let problem = harness.get(&format!("{DEAD}?{query}")).await.expect_problem(status, query);
        assert!(problem.text.contains(part), "{query}: {}", problem.text);
    }
    for (method, path) in [("GET", ""), ("DELETE", ""), ("POST", "/replay")] {
        for id in ["0.1.0.0.0", "no-such-operation-00", "nonsense"] {
            let problem = harness.send(method, &format!("{DEAD}/{id}{path}"), "").await;
            assert!(problem.expect_problem(404, id).text.contains(id));
        }
    }
    harness.send("POST", &format!("{DEAD}/{}/replay?as_new=maybe", ids[0]), "").await.expect(400);
    let body = r#"{"writes":[{"collection":"dead-letters","op":"insert","document":{}}]}"#;
    let reserved = harness.send("POST", "/v1/transactions", body).await.expect_problem(422, "the name");
    assert!(reserved.text.contains("reserved"), "{}", reserved.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_is_stored_once_its_cause_is_gone_from_the_database() {
    let harness = Harness::start(Kind::RedisMongo).await;
    let write_id = conflict(&harness, "items", "1", "key").await;
    harness.get("/v1/items/1").await.expect(200);
    // Behind the service's back, so nothing is newer than the letter.
    let items = harness.mongo_database().await.collection::<bson::Document>("items");
    items.delete_one(bson::doc! {"_id": "1"}).await.unwrap();
    let replayed = replay(&harness, "key-00", "").await;
    assert_eq!(status(&harness, &replayed).await, "stored");
    assert_eq!(status(&harness, &write_id).await, "stored");
    assert_eq!(harness.get("/v1/items/1").await.expect(200).json(), json!({"is": "refused"}));
    // Merges that are newer go on top of it, wherever they are read.
    harness.write("PATCH", "/v1/items/1", r#"{"more":1}"#).await;
    assert_eq!(harness.get("/v1/items/1").await.expect(200).json(), json!({"is": "refused", "more": 1}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_read_is_a_letter_with_its_bytes_and_is_not_replayed() {
    let harness = Harness::start(Kind::RedisMongo).await;
    let stream = "scalekit:{0}:journal";
    for field in [["e", "\u{9}a newer build's"], ["other", "hand"]] {
        let _: String = harness.redis_command(&["XADD", stream, "*", field[0], field[1]]).await;
    }
    harness.write("PUT", "/v1/items/1", "{}").await;
    harness.drained().await;
    assert_eq!(harness.stored("items").await.len(), 1, "it is in nobody's way");
    let letters = letters(&harness).await;
    for (letter, (reason, payload)) in letters.iter().zip([
        ("version 9, this build reads versions 1 and 2", "0961206e65776572206275696c642773"),
        ("not written by scalekit", "6f746865720a68616e640a"),
    ]) {
        let id = letter["id"].as_str().unwrap();
        let whole = harness.get(&format!("{DEAD}/{id}")).await.expect(200).json();
        assert!(whole["reason"].as_str().unwrap().contains(reason), "{whole}");
        assert_eq!(whole["payload"], payload);
        assert!(whole.get("op_id").is_none() && whole.get("document").is_none(), "{whole}");
        let refused = harness.send("POST", &format!("{DEAD}/{id}/replay"), "").await;
        assert!(refused.expect_problem(422, "who knows what it is").text.contains(reason));
        harness.send("DELETE", &format!("{DEAD}/{id}"), "").await.expect(200);
    }
    assert_eq!(letters.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rule_of_the_database_refused_is_stored_once_the_rule_is_another() {
    let harness = Harness::start(Kind::RedisMongo).await;
    let database = harness.mongo_database().await;
    let strict = bson::doc! { "create": "numbers", "validator": { "n": { "$type": "int" } } };
    database.run_command(strict).await.unwrap();
    let refused = harness.write("PUT", "/v1/numbers/1", r#"{"n":"text"}"#).await;
    harness.drained().await;
    harness.get("/v1/numbers/1").await.expect(404);
    let [letter] = &letters(&harness).await[..] else { panic!("the rule holds") };
    assert_eq!((&letter["op"], &letter["write_id"]), (&json!("replace"), &refused["write_id"]));
    let id = letter["id"].as_str().unwrap();
    let again = replay(&harness, id, "").await;
    assert_eq!(status(&harness, &again).await, "dead");
    assert_eq!(letters(&harness).await[0]["times"], 2);
    let lax = bson::doc! { "collMod": "numbers", "validator": {} };
    database.run_command(lax).await.unwrap();
    let stored = replay(&harness, id, "").await;
    assert_eq!(status(&harness, &stored).await, "stored");
    assert_eq!(harness.get("/v1/numbers/1").await.expect(200).json(), json!({"n": "text"}));
    assert_eq!(letters(&harness).await, Vec::<Value>::new());
}
