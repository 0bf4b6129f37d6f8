//! What clients are told in the states of Redis and MongoDB that pass, and in those that a person has to mend.

use std::time::Duration;

use nix::sys::signal::Signal;
use redis::Value;

use crate::harness::{Harness, Kind, Options, eventually};

type Commands<'a> = &'a [&'a [&'a str]];

async fn all(harness: &Harness, commands: Commands<'_>) {
    for words in commands {
        let _: Value = harness.redis_command(words).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_state_of_redis_is_taken_for_a_success() {
    let harness = Harness::without_worker(Kind::RedisMongo, Options::default()).await;
    let table: [(&str, u16, Commands<'_>, Commands<'_>); 5] = [
        ("OOM", 503, &[&["CONFIG", "SET", "maxmemory", "1mb"]], &[&["CONFIG", "SET", "maxmemory", "0"]]),
        ("READONLY", 503, &[&["REPLICAOF", "127.0.0.1", "1"]], &[&["REPLICAOF", "NO", "ONE"]]),
        (
            "NOREPLICAS",
            503,
            &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
            &[&["CONFIG", "SET", "min-replicas-to-write", "0"]],
        ),
        (
            "profiles/redis.acl",
            500,
            &[&["ACL", "SETUSER", "default", "-xadd"]],
            &[&["ACL", "SETUSER", "default", "+xadd"]],
        ),
        (
            "WRONGTYPE",
            500,
            &[&["RENAME", "scalekit:{0}:journal", "aside"], &["SET", "scalekit:{0}:journal", "x"]],
            &[&["DEL", "scalekit:{0}:journal"], &["RENAME", "aside", "scalekit:{0}:journal"]],
        ),
    ];
    harness.write("PUT", "/v1/items/first", "{}").await;
    for (says, status, enter, leave) in table {
        all(&harness, enter).await;
        let answer = harness.send_as(says, "PUT", "/v1/items/1", "{}").await.expect_problem(status, says);
        assert!(answer.text.contains(says), "{}", answer.text);
        let wait = answer.header("retry-after");
        assert_eq!(wait.is_empty(), status == 500, "{says}: {wait}");
        all(&harness, leave).await;
        eventually("it is accepted afterwards, by the same key", async || {
            let answer = harness.send_as(says, "PUT", "/v1/items/1", "{}").await;
            (answer.status == 202).then_some(())
        })
        .await;
    }
    let journal = harness.stats().await.journal;
    assert_eq!((journal.appended, journal.repeated), (6, 0), "nothing of what was refused");
    assert!(journal.rejected["journal"] >= 5, "{journal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_gives_less_than_it_did_is_refused_until_it_gives_it_again() {
    let harness = Harness::start(Kind::RedisMongo).await;
    let accepted = harness.write("PUT", "/v1/items/1", "{}").await;
    assert_eq!(accepted["durability"], "fsync");
    // As after a failover: other settings, and new connections.
    let set = async |fsync: &str| {
        all(&harness, &[&["CONFIG", "SET", "appendfsync", fsync], &["CLIENT", "KILL", "TYPE", "normal"]])
            .await;
    };
    set("everysec").await;
    let refused = eventually("writes are refused", async || {
        let answer = harness.send("PUT", "/v1/items/2", "{}").await;
        assert!(answer.status != 202 || answer.json()["durability"] == "fsync", "{}", answer.text);
        (answer.status == 503 && answer.text.contains("durability")).then_some(answer)
    })
    .await;
    let refused = refused.expect_problem(503, "less than the profile demands");
    assert!(refused.text.contains("`fsync`") && refused.text.contains("`os`"), "{}", refused.text);
    assert!(!refused.header("retry-after").is_empty());
    eventually("not ready", async || (harness.get("/readyz").await.status == 503).then_some(())).await;
    let journal = harness.stats().await.journal;
    assert_eq!((journal.durability.as_str(), journal.reachable), ("os", true));
    assert!(journal.refuses.is_some_and(|reason| reason.contains("durability")));
    harness.get("/v1/items/1").await.expect(200);
    set("always").await;
    let accepted = eventually("writes are accepted again", async || {
        let answer = harness.send("PUT", "/v1/items/2", "{}").await;
        (answer.status == 202).then_some(answer)
    })
    .await;
    assert_eq!(accepted.json()["durability"], "fsync");
    eventually("ready", async || (harness.get("/readyz").await.status == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mongodb_that_stands_still_holds_nobody_up_for_ever() {
    let harness = Harness::with(Kind::RedisMongo, Options { own_mongo: true, ..Options::default() }).await;
    harness.write("PUT", "/v1/items/1", "{}").await;
    harness.drained().await;
    harness.signal_mongo(Signal::SIGSTOP);
    for n in 2..10 {
        harness.write("PUT", &format!("/v1/items/{n}"), "{}").await;
    }
    let refused = tokio::time::timeout(Duration::from_secs(20), harness.get("/v1/items/absent")).await;
    let refused = refused.expect("it is answered").expect_problem(503, "MongoDB does not answer");
    assert!(!refused.header("retry-after").is_empty());
    harness.signal_mongo(Signal::SIGCONT);
    harness.drained().await;
    let worker = harness.stats_of(harness.worker.as_ref().unwrap()).await.worker.unwrap();
    assert_eq!(worker.dead, 0);
    assert_eq!(harness.stored("items").await.len(), 9);
}
