//! Health, counters and connections.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use crate::harness::{Harness, Kind, PATIENCE, on_both};

on_both!(health_and_stats, connections_are_kept_alive);

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
