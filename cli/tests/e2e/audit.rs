//! The audit must find what is lost and what is there twice: documents are changed behind the service's back
//! while the load runs.

use mongodb::Collection;
use mongodb::bson::{Document, doc};
use serde_json::Value;

use crate::run::{Servers, documents, expect_valid, runtime};
use crate::sandbox::{Output, Sandbox, wait_for};

/// A bench on Redis and MongoDB; `tamper` gets the documents once some of the run's are stored.
fn bench_tampered<F: Future<Output = ()>>(
    name: &str,
    tamper: impl FnOnce(Collection<Document>) -> F,
) -> (Output, Value) {
    let (sandbox, servers) = (Sandbox::new(), Servers::start());
    let profile = sandbox.profile(name, "deploy: {backend: redis-mongo}\nload: {duration: 3s}");
    let (redis, mongo) = (servers.redis.url(), servers.mongo.url());
    let urls = ["--redis-url", &redis, "--cache-url", &redis, "--mongo-url", &mongo];
    sandbox.scalekit(&[&["deploy", "-p", &profile], &urls[..]].concat()).expect(0);
    let mut bench = sandbox.start(sandbox.command(&["bench", "-p", &profile]));
    bench.wait_to_say("measuring");
    let runtime = runtime();
    // The client's own tasks run in the runtime.
    let orders = runtime.block_on(async { documents(&servers.mongo) });
    wait_for("documents of the run", || {
        let count = runtime.block_on(async { orders.count_documents(doc! {}).await });
        (count.unwrap() >= 20).then_some(())
    });
    runtime.block_on(tamper(orders));
    let output = bench.wait();
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    sandbox.expect_clean();
    (output, sandbox.report())
}

#[test]
fn deleted_documents_are_lost_writes() {
    let mut ids = Vec::new();
    let (output, report) = bench_tampered("lossy", |orders| {
        let ids = &mut ids;
        async move {
            for _ in 0..3 {
                let gone = orders.find_one_and_delete(doc! {}).await.unwrap().unwrap();
                ids.push(gone.get_document("_sk").unwrap().get_str("op").unwrap().to_owned());
            }
        }
    });
    let output = output.expect(121);
    expect_valid(&report);
    let audit = &report["audit"];
    assert_eq!(audit["lost"], 3, "{audit}");
    assert_eq!(audit["duplicated"], 0, "{audit}");
    assert_eq!(audit["acknowledged"].as_u64().unwrap(), audit["stored"].as_u64().unwrap() + 3, "{audit}");
    let examples = audit["examples"].to_string();
    for id in ids {
        assert!(examples.contains(&id), "{id} is not among {examples}");
        assert!(output.stdout.contains(&id), "the summary names it too");
    }
    assert_eq!(report["verdict"]["audit_mismatch"], true);
    assert!(output.stdout.contains("VERDICT: FAIL"), "{}", output.stdout);
}

#[test]
fn a_second_document_of_the_same_write_is_a_duplicate() {
    let (output, report) = bench_tampered("doubled", |orders| async move {
        let mut copy = orders.find_one(doc! {}).await.unwrap().unwrap();
        copy.insert("_id", "a-copy-under-another-id");
        orders.insert_one(copy).await.unwrap();
    });
    output.expect(121);
    let audit = &report["audit"];
    assert_eq!(audit["duplicated"], 1, "{audit}");
    assert_eq!(audit["lost"], 0, "{audit}");
}
