//! The limit of the database and the bound of the backlog.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Harness, Kind, Options, eventually, on_both};
use scalekit_service::worker::BatchSettings;

on_both!(
    the_database_is_asked_no_more_than_it_allows,
    the_backlog_is_bounded_and_recovers,
    bytes_and_age_are_bounds_too,
);

async fn the_database_is_asked_no_more_than_it_allows(kind: Kind) {
    const LIMIT: u32 = 20;
    let batch = BatchSettings { max_writes: 3, max_bytes: 1 << 20, linger: Duration::ZERO };
    let options = Options { database_ops_per_s: LIMIT, batch, ..Options::default() };
    let harness = Harness::with(kind, options).await;
    let operations = async || {
        let api = harness.stats().await.store.operations;
        let worker = match &harness.worker {
            Some(worker) => harness.stats_of(worker).await.store.operations,
            None => 0,
        };
        api + worker
    };
    let (before, started) = (operations().await, Instant::now());
    let mut round = 0;
    while started.elapsed() < Duration::from_secs(4) {
        // Misses of many documents in many collections, and writes to as many.
        let reads: Vec<_> = (0..40)
            .map(|n| json!({"collection": format!("c{}", n % 10), "id": format!("absent-{round}-{n}")}))
            .collect();
        let writes: Vec<_> = (0..10)
            .map(|n| json!({"collection": format!("c{n}"), "op": "insert", "document": {"round": round}}))
            .collect();
        let body = json!({"reads": reads, "writes": writes}).to_string();
        harness.send("POST", "/v1/transactions", &body).await.expect(202);
        round += 1;
    }
    let (asked, took) = (operations().await - before, started.elapsed());
    // In any span, at most the limit for each second of it that has begun, and one for timers that were late.
    let allowed = f64::from(LIMIT) * (took.as_secs_f64().ceil() + 1.0);
    assert!(asked as f64 <= allowed, "{asked} operations in {took:?}, at most {allowed} are allowed");
    assert!(asked >= u64::from(LIMIT), "only {asked} operations in {took:?}: there was enough to do");
    for process in [Some(&harness.api), harness.worker.as_ref()].into_iter().flatten() {
        let store = harness.stats_of(process).await.store;
        assert!(store.operations_peak > 0 && store.operations_peak <= store.operations_limit, "{store:?}");
        assert_eq!((store.operations_limit, store.operations_most), (LIMIT, LIMIT));
        assert_eq!((store.operations_limit_by.as_str(), &store.device), ("database_ops", &None));
        assert_eq!(store.operations_shared, kind == Kind::RedisMongo, "API and worker are under one limit");
    }
}

async fn the_backlog_is_bounded_and_recovers(kind: Kind) {
    const BOUND: u64 = 10;
    // The worker holds what it has read for a second.
    let batch = BatchSettings { max_writes: 1000, max_bytes: 1 << 20, linger: Duration::from_secs(1) };
    let options = Options { backlog_entries: BOUND, batch, ..Options::default() };
    let harness = Harness::with(kind, options).await;
    let mut accepted = 0;
    let refused = loop {
        let answer = harness.send("POST", "/v1/orders", "{}").await;
        if answer.status != 202 {
            break answer;
        }
        accepted += 1;
        assert!(accepted <= 1000, "the bound never holds");
    };
    let refused = refused.expect_problem(503, "the backlog is full");
    assert!(refused.header("retry-after").parse::<u32>().unwrap() > 0);
    assert!(refused.text.contains("10"), "{}", refused.text);
    assert!(accepted >= BOUND);
    eventually("it is not ready while it is full", async || {
        // Fills it up again whenever the worker has emptied it.
        if harness.send("POST", "/v1/orders", "{}").await.status == 202 {
            accepted += 1;
        }
        let ready = harness.get("/readyz").await;
        (ready.status == 503).then(|| ready.expect_problem(503, "not ready"))
    })
    .await;
    harness.get("/v1/orders/absent").await.expect(404);
    eventually("it accepts again", async || {
        let answer = harness.send("POST", "/v1/orders", "{}").await;
        accepted += u64::from(answer.status == 202);
        (answer.status == 202).then_some(())
    })
    .await;
    harness.drained().await;
    eventually("it is ready again", async || (harness.get("/readyz").await.status == 200).then_some(()))
        .await;
    assert_eq!(harness.stored("orders").await.len() as u64, accepted, "what was refused is not there");
}

async fn bytes_and_age_are_bounds_too(kind: Kind) {
    // The worker holds what it has read for two seconds.
    let batch = BatchSettings { max_writes: 1000, max_bytes: 1 << 20, linger: Duration::from_secs(2) };
    let by_bytes = Options { backlog_bytes: 2000, batch, ..Options::default() };
    let by_age = Options { backlog_age: Duration::from_secs(1), batch, ..Options::default() };
    for (options, reason, says) in
        [(by_bytes, "backlog_bytes", "the bound is 2000"), (by_age, "backlog_age", "the bound is 1 s")]
    {
        let harness = Harness::with(kind, options).await;
        let mut accepted = 0;
        let refused = eventually("the bound holds", async || {
            let answer = harness.send("POST", "/v1/orders", "{}").await;
            accepted += u64::from(answer.status == 202);
            (answer.status != 202).then_some(answer)
        })
        .await;
        let refused = refused.expect_problem(503, reason);
        assert!(refused.text.contains(says), "{}", refused.text);
        let wait: u64 = refused.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        let journal = harness.stats().await.journal;
        assert!(journal.rejected[reason] >= 1, "{journal:?}");
        let metrics = harness.get("/metrics").await.expect(200).text;
        let line = format!("scalekit_rejected_total{{reason=\"{reason}\"}} ");
        let count = metrics.lines().find_map(|metric| metric.strip_prefix(&line)).expect("it is counted");
        assert!(count.parse::<u64>().unwrap() >= 1, "{count}");
        eventually("it accepts again", async || {
            let answer = harness.send("POST", "/v1/orders", "{}").await;
            accepted += u64::from(answer.status == 202);
            (answer.status == 202).then_some(())
        })
        .await;
        harness.drained().await;
        let journal = harness.stats().await.journal;
        assert_eq!((journal.backlog_bytes, journal.backlog_entries), (0, 0));
        assert!(journal.drain_per_s > 0.0, "{journal:?}");
        assert_eq!(harness.stored("orders").await.len() as u64, accepted, "what was refused is not there");
    }
}
