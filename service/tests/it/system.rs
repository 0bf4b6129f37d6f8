//! Health, metrics, counters and connections.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use crate::harness::{Harness, Kind, PATIENCE, on_both};

on_both!(health_and_stats, metrics_are_prometheus_text, connections_are_kept_alive);

async fn health_and_stats(kind: Kind) {
    let harness = Harness::start(kind).await;
    assert_eq!(harness.get("/healthz").await.expect(200).text, "ok\n");
    assert_eq!(harness.get("/readyz").await.expect(200).text, "ready\n");
    harness.write("PUT", "/v1/items/1", "{}").await;
    harness.get("/v1/items/1").await.expect(200);
    harness.get("/v1/items/2").await.expect(404);
    harness.drained().await;
    let stats = harness.stats().await;
    let (journal, store) = match kind {
        Kind::Embedded => ("embedded", "embedded"),
        Kind::RedisMongo => ("redis", "mongodb"),
    };
    assert_eq!((stats.journal.kind.as_str(), stats.store.kind.as_str()), (journal, store));
    assert_eq!(stats.journal.durability, "fsync");
    assert_eq!((stats.journal.appended, stats.journal.backlog_entries), (1, 0));
    assert_eq!((stats.pid, stats.memory_bytes > 0), (std::process::id(), true));
    assert!(stats.store.operations >= 1);
    assert_eq!((stats.requests_by_status[&202], stats.requests_by_status[&404]), (1, 1));
    assert_eq!(stats.requests, stats.requests_by_status.values().sum::<u64>());
    let worker = match &harness.worker {
        None => stats.worker,
        Some(worker) => harness.stats_of(worker).await.worker,
    };
    assert_eq!(worker.unwrap().stored, 1);
}

async fn metrics_are_prometheus_text(kind: Kind) {
    let harness = Harness::start(kind).await;
    harness.write("PUT", "/v1/items/1", "{}").await;
    harness.get("/v1/items/none").await.expect(404);
    let answer = harness.get("/metrics").await.expect(200);
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"));
    let mut lines: Vec<&str> = answer.text.lines().collect();
    assert_eq!(lines.pop(), Some("# EOF"));
    let mut typed = HashSet::new();
    let mut samples = HashSet::new();
    for line in lines {
        if let Some(comment) = line.strip_prefix("# ") {
            let [keyword, name, text] = comment.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            assert!(["HELP", "TYPE", "UNIT"].contains(&keyword) && !text.is_empty(), "{line}");
            if keyword == "TYPE" {
                assert!(typed.insert(name), "declared once: {line}");
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap_or_else(|error| panic!("{line}: {error}"));
        let name = series.split('{').next().unwrap();
        assert!(name.starts_with("scalekit_"), "{line}");
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{line}");
        if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            assert!(labels.starts_with('{') && labels.ends_with("\"}") && labels.contains("=\""), "{line}");
        }
        let family = ["_total", "_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        assert!(typed.contains(name) || family.is_some_and(|name| typed.contains(name)), "{line}");
        assert!(samples.insert(series), "a series once: {line}");
    }
    for expected in [
        r#"scalekit_http_requests_total{status="202"}"#,
        r#"scalekit_http_requests_total{status="404"}"#,
        "scalekit_accepted_writes_total",
        "scalekit_journal_backlog_entries",
        "scalekit_database_operations_peak",
    ] {
        assert!(samples.contains(expected), "{expected} is missing in {}", answer.text);
    }
}

async fn connections_are_kept_alive(kind: Kind) {
    let harness = Harness::start(kind).await;
    let address = harness.api.address;
    let talk = move || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut reader = BufReader::new(&stream);
        let mut statuses = Vec::new();
        // A refusal does not end the connection either.
        for request in [
            "PUT /v1/items/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
            "GET /v1/items/1 HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /v1/items/%ff HTTP/1.1\r\nHost: x\r\n\r\n",
            "PUT /v1/items/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{",
            "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        ] {
            (&stream).write_all(request.as_bytes()).unwrap();
            let mut length = 0;
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            statuses.push(line[9..12].to_owned());
            while line != "\r\n" {
                line.clear();
                assert!(reader.read_line(&mut line).unwrap() > 0, "closed after {statuses:?}");
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                    length = value.trim().parse().unwrap();
                }
            }
            reader.read_exact(&mut vec![0; length]).unwrap();
        }
        statuses
    };
    let statuses = tokio::task::spawn_blocking(talk).await.unwrap();
    assert_eq!(statuses, ["202", "200", "400", "400", "200"]);
}
