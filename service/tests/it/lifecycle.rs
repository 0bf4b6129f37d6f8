//! Stopping, being killed and starting again: nothing is lost, nothing is there twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::{Harness, Kind, Options, PATIENCE, Process, eventually, on_both};
use scalekit_service::config::Role;
use scalekit_service::worker::BatchSettings;

on_both!(
    requests_under_way_finish_and_connects_are_refused,
    a_stop_under_load_loses_nothing,
    a_kill_under_load_loses_nothing,
    what_was_accepted_before_a_kill_is_readable_after_it,
);

/// Inserts from 20 clients at once until `enough` were accepted and then `until` is done; the operations that
/// were accepted.
pub(crate) async fn load(
    harness: &Harness,
    run: &str,
    enough: usize,
    until: impl Future<Output = ()>,
) -> BTreeSet<String> {
    let accepted = std::sync::Mutex::new(BTreeSet::new());
    let (over, mut reached) = tokio::sync::watch::channel(0);
    let (finish, finished) = tokio::sync::watch::channel(false);
    let clients = (0..20).map(|client| {
        let (accepted, over, finished) = (&accepted, &over, &finished);
        async move {
            for n in 0.. {
                if *finished.borrow() {
                    return;
                }
                let key = format!("{run}-{client:02}-{n:05}");
                let request = harness.request(reqwest::Method::POST, "/v1/orders");
                let request = request.header("Idempotency-Key", &key).body(format!(r#"{{"n":{n}}}"#));
                match crate::harness::try_answer(request).await {
                    Ok(answer) if answer.status == 202 => {
                        let mut accepted = accepted.lock().unwrap();
                        accepted.insert(format!("{key}-00"));
                        over.send_replace(accepted.len());
                    }
                    Ok(answer) if answer.status == 503 => {
                        assert!(!answer.header("retry-after").is_empty(), "{}", answer.text);
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    Ok(answer) => assert_eq!(answer.status, 504, "{}", answer.text),
                    // No answer at all, from a process that is gone: nothing was promised.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        }
    });
    let clients = futures_util::future::join_all(clients);
    let conductor = async {
        // What it gives back locks the channel, so it must go at once.
        let waited = tokio::time::timeout(PATIENCE, reached.wait_for(|count| *count >= enough)).await.is_ok();
        assert!(waited, "only {} were accepted", accepted.lock().unwrap().len());
        until.await;
        finish.send_replace(true);
    };
    futures_util::future::join(clients, conductor).await;
    accepted.into_inner().unwrap()
}

/// Everything accepted is stored, under its own id, and no operation twice.
pub(crate) async fn assert_stored_once(harness: &Harness, accepted: &BTreeSet<String>) {
    harness.drained().await;
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for (id, op) in harness.stored("orders").await {
        assert_eq!(id, op);
        *count.entry(op).or_default() += 1;
    }
    let lost: Vec<&String> = accepted.iter().filter(|op| !count.contains_key(*op)).collect();
    assert!(lost.is_empty(), "{} of {} accepted writes are lost: {lost:.300?}", lost.len(), accepted.len());
    let twice: Vec<_> = count.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

async fn requests_under_way_finish_and_connects_are_refused(kind: Kind) {
    let harness = Harness::start(kind).await;
    let address = harness.api.address;
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "PUT /v1/items/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{{\"n\"").unwrap();
    eventually("the connection is open", async || {
        let text = harness.get("/metrics").await.expect(200).text;
        // This one and the one that asks.
        text.contains("scalekit_http_connections 2").then_some(())
    })
    .await;
    harness.api.ask_to_stop();
    eventually("further connects are refused", async || TcpStream::connect(address).err()).await;
    stream.write_all(b":1}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    let harness = harness.restart(true).await;
    harness.drained().await;
    assert_eq!(harness.get("/v1/items/1").await.expect(200).text, r#"{"n":1}"#);
    assert_eq!(harness.stored("items").await, [("1".to_owned(), harness.audit("items").await[0].op.clone())]);
}

/// Slow enough that there is a backlog.
fn slow() -> Options {
    Options { database_ops_per_s: 5, ..Options::default() }
}

async fn a_stop_under_load_loses_nothing(kind: Kind) {
    let mut harness = Harness::with(kind, slow()).await;
    let accepted = load(&harness, "stop", 200, async { harness.api.ask_to_stop() }).await;
    assert!(accepted.len() >= 200);
    if kind == Kind::Embedded {
        // It has drained its journal: a worker that starts now has nothing to do.
        let config = harness.config(Role::All, "w1");
        let old = std::mem::replace(
            &mut harness.api,
            // The directory is free only once the old process has gone.
            eventually("the directory is free", async || {
                let config = config.clone();
                tokio::task::spawn_blocking(move || Process::try_start(config)).await.unwrap().ok()
            })
            .await,
        );
        old.stop().await;
        assert_eq!(harness.stats().await.journal.backlog_entries, 0, "drained before it ended");
        assert_stored_once(&harness, &accepted).await;
    }
    let harness = harness.restart(true).await;
    assert_stored_once(&harness, &accepted).await;
}

async fn a_kill_under_load_loses_nothing(kind: Kind) {
    let mut harness = Harness::with(kind, slow()).await;
    let mut accepted = BTreeSet::new();
    for round in 0..3 {
        accepted.extend(load(&harness, &format!("kill{round}"), 150, async {}).await);
        assert!(harness.stats().await.journal.backlog_entries > 0, "there is something to lose");
        harness = harness.restart(false).await;
    }
    let killed_with = accepted.len();
    assert!(killed_with >= 450);
    assert_stored_once(&harness, &accepted).await;
}

/// One write a second goes into the database, so the last of them is far from it when it is read.
async fn what_was_accepted_before_a_kill_is_readable_after_it(kind: Kind) {
    let batch = BatchSettings { max_writes: 1, max_bytes: 1 << 20, linger: Duration::ZERO };
    let harness = Harness::with(kind, Options { database_ops_per_s: 1, batch, ..Options::default() }).await;
    for n in 0..60 {
        harness.write("PUT", &format!("/v1/items/{n}"), &format!(r#"{{"n":{n},"t":"ü"}}"#)).await;
    }
    harness.write("PATCH", "/v1/items/58", r#"{"n":null,"m":[1.5]}"#).await;
    harness.write("DELETE", "/v1/items/57", "").await;
    let harness = harness.restart(false).await;
    assert!(harness.stats().await.journal.backlog_entries > 5, "none of them is stored");
    assert_eq!(harness.get("/v1/items/59").await.expect(200).json(), serde_json::json!({"n": 59, "t": "ü"}));
    assert_eq!(
        harness.get("/v1/items/58").await.expect(200).json(),
        serde_json::json!({"t": "ü", "m": [1.5]})
    );
    harness.get("/v1/items/57").await.expect_problem(404, "it is deleted");
}
