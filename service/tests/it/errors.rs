//! Requests that are refused, and how.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::harness::{Harness, Kind, PATIENCE, answer, on_both};

on_both!(every_refusal_is_a_problem_document, a_body_that_is_too_large_is_refused_whole);

async fn every_refusal_is_a_problem_document(kind: Kind) {
    let harness = Harness::start(kind).await;
    let many = |what: &str, one: &str| format!(r#"{{"{what}":[{}]}}"#, vec![one; 65].join(","));
    let too_many_writes = many("writes", r#"{"collection":"a","op":"insert","document":{}}"#);
    let too_many_reads = many("reads", r#"{"collection":"a","id":"1"}"#);
    let long_id = format!("/v1/items/{}", "x".repeat(257));
    let long_collection = format!("/v1/{}", "x".repeat(121));
    let table = [
        ("POST", "/v1/items", "{", 400, "the body"),
        ("POST", "/v1/items", "", 400, "the body"),
        ("POST", "/v1/transactions", "{\"reads\":", 400, "the body"),
        ("POST", "/v1/transactions", "{\"writs\":[]}", 422, "writs"),
        ("POST", "/v1/transactions", "[]", 422, "array"),
        ("POST", "/v1/transactions", &too_many_writes, 422, "65"),
        ("POST", "/v1/transactions", &too_many_reads, 422, "65"),
        ("POST", "/v1/items", "[1]", 422, "JSON object"),
        ("POST", "/v1/items", r#"{"_sk":{}}"#, 422, "_sk"),
        ("POST", "/v1/_hidden", "{}", 422, "collection"),
        ("POST", "/v1/a%20b", "{}", 422, "collection"),
        ("POST", &long_collection, "{}", 422, "120"),
        ("PUT", "/v1/audit/1", "{}", 405, "PUT"),
        ("PUT", "/v1/system.users/1", "{}", 422, "reserved"),
        ("PUT", &long_id, "{}", 422, "256"),
        ("GET", "/v1/a$b/1", "", 422, "collection"),
        ("GET", "/v1/items/a%00b", "", 422, "control"),
        ("GET", "/v1/items/%ff", "", 400, "UTF-8"),
        ("PUT", "/v1/%ff/1", "{}", 400, "UTF-8"),
        ("POST", "/v1/%ff", "{}", 400, "UTF-8"),
        ("GET", "/v1/audit/%ff", "", 400, "UTF-8"),
        ("GET", "/v1/writes/%ff", "", 400, "UTF-8"),
        ("GET", "/v1/audit/items?befor=1", "", 400, "befor"),
        ("GET", "/v1/audit/a$b", "", 422, "collection"),
        ("GET", "/v1/writes/nonsense", "", 400, "nonsense"),
        ("GET", "/v1/writes/0.1.2", "", 400, "write id"),
        ("GET", "/v1/writes/0.99999999999999.0.0", "", 404, "never gave out"),
        ("GET", "/v1/writes/7.1.0.0", "", 404, "never gave out"),
        ("GET", "/v1/items/absent", "", 404, "items/absent"),
        ("GET", "/nowhere", "", 404, "/nowhere"),
        ("GET", "/", "", 404, "route"),
        ("GET", "/v1/a/b/c", "", 404, "route"),
        ("DELETE", "/v1/items", "", 405, "DELETE"),
        ("POST", "/v1/items/1", "{}", 405, "POST"),
        ("POST", "/healthz", "", 405, "POST"),
        ("PUT", "/v1/stats", "{}", 405, "PUT"),
    ];
    for (method, path, body, status, says) in table {
        let what = format!("{method} {path:.60} {body:.60}");
        let refused = harness.send(method, path, body).await.expect_problem(status, &what);
        assert!(refused.text.contains(says), "{what}: {}", refused.text);
        if status == 405 {
            assert!(!refused.header("allow").is_empty(), "{what}: RFC 9110 demands Allow with 405");
        }
    }
    for key in ["", "sp\u{e9}cial", &"k".repeat(249)] {
        let request = harness.request(reqwest::Method::POST, "/v1/items");
        let request = request.header("Idempotency-Key", key.as_bytes()).body("{}");
        answer(request).await.expect_problem(400, &format!("key {key:.20}"));
    }
    assert_eq!(harness.stats().await.journal.appended, 0, "nothing was accepted");
    if let Some(worker) = &harness.worker {
        let get = |path: &str| harness.client.get(worker.url(path));
        answer(get("/v1/items/1")).await.expect_problem(404, "a worker has no API");
        answer(harness.client.post(worker.url("/healthz"))).await.expect_problem(405, "a worker's health");
        answer(get("/healthz")).await.expect(200);
    }
}

async fn a_body_that_is_too_large_is_refused_whole(kind: Kind) {
    const BYTES: usize = 20 << 20;
    let harness = Harness::start(kind).await;
    let address = harness.api.address;
    // Plain sockets: a client that sends all of it and only then reads, as most do.
    let send = move |chunked: bool| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let framing =
            if chunked { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {BYTES}") };
        write!(stream, "POST /v1/items HTTP/1.1\r\nHost: x\r\n{framing}\r\nConnection: close\r\n\r\n")
            .unwrap();
        let part = vec![b' '; 1 << 16];
        for _ in 0..BYTES / part.len() {
            let sent = if chunked {
                write!(stream, "{:x}\r\n", part.len())
                    .and_then(|()| stream.write_all(&part))
                    .and_then(|()| stream.write_all(b"\r\n"))
            } else {
                stream.write_all(&part)
            };
            if sent.is_err() {
                break;
            }
        }
        let _ = stream.write_all(if chunked { b"0\r\n\r\n" } else { b"" });
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    };
    for chunked in [false, true] {
        let text = tokio::task::spawn_blocking(move || send(chunked)).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 413 "), "chunked {chunked}: {text:?}");
        assert!(text.contains("application/problem+json") && text.contains("1048576 bytes"), "{text}");
    }
    assert_eq!(harness.stats().await.journal.appended, 0);
    // Just within the bound is taken.
    let limit = harness.options.max_body_bytes;
    let body = format!("{{{}}}", " ".repeat(limit - 2));
    harness.send("POST", "/v1/items", &body).await.expect(202);
    harness.send("POST", "/v1/items", &format!("{body} ")).await.expect_problem(413, "one byte more");
}
