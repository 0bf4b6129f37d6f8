//! Traces as a collector gets them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use reqwest::Method;
use scalekit_service::telemetry::TraceSettings;

use crate::harness::{Answer, Harness, Kind, Options, answer, eventually, on_both};

on_both!(a_request_is_traced_to_the_database, who_is_not_sampled_is_not_traced);

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Speaks OTLP over HTTP and keeps what it gets.
struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    async fn start() -> Self {
        let spans: Arc<Mutex<Vec<Span>>> = Arc::default();
        let receive = async |State(spans): State<Arc<Mutex<Vec<Span>>>>, body: Bytes| {
            let request = ExportTraceServiceRequest::decode(body).unwrap();
            for resource in request.resource_spans {
                let attributes = resource.resource.unwrap().attributes;
                assert!(attributes.iter().any(|attribute| attribute.key == "service.name"), "{attributes:?}");
                spans.lock().unwrap().extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        };
        let router = axum::Router::new().route("/v1/traces", axum::routing::post(receive));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = router.with_state(Arc::clone(&spans));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, spans }
    }

    fn settings(&self, ratio: f64) -> Option<TraceSettings> {
        Some(TraceSettings { endpoint: format!("http://{}", self.address), ratio })
    }

    async fn span(&self, what: &str, wanted: impl Fn(&Span) -> bool) -> Span {
        eventually(what, async || self.spans.lock().unwrap().iter().find(|span| wanted(span)).cloned()).await
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(span: &Span) -> BTreeMap<&str, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    let attributes = span.attributes.iter();
    attributes
        .map(|pair| (pair.key.as_str(), text(pair.value.as_ref().unwrap().value.as_ref().unwrap())))
        .collect()
}

async fn put(harness: &Harness, id: &str, traceparent: Option<&str>) -> Answer {
    let mut request = harness.request(Method::PUT, &format!("/v1/items/{id}")).body("{}");
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    answer(request).await.expect(202)
}

async fn a_request_is_traced_to_the_database(kind: Kind) {
    let collector = Collector::start().await;
    let harness =
        Harness::with(kind, Options { traces: collector.settings(1.0), ..Options::default() }).await;
    let accepted = put(&harness, "1", Some(&format!("00-{TRACE}-{PARENT}-01"))).await.json();
    let write_id = accepted["write_id"].as_str().unwrap();
    let request = collector
        .span("the request", |span| hex(&span.trace_id) == TRACE && hex(&span.parent_span_id) == PARENT)
        .await;
    assert_eq!(request.name, "PUT /v1/{collection}/{id}");
    let said = attributes(&request);
    assert_eq!(
        (said["http.request.method"].as_str(), said["http.route"].as_str()),
        ("PUT", "/v1/{collection}/{id}")
    );
    assert_eq!(
        (said["http.response.status_code"].as_str(), said["scalekit.write_id"].as_str()),
        ("202", write_id)
    );
    let append = collector
        .span("the append", |span| span.name == "journal append" && hex(&span.trace_id) == TRACE)
        .await;
    assert_eq!(append.parent_span_id, request.span_id);
    assert!(append.start_time_unix_nano >= request.start_time_unix_nano);
    assert!(append.end_time_unix_nano <= request.end_time_unix_nano);
    // Found by what the request's span says.
    let position = write_id.split('.').skip(1).take(2).collect::<Vec<_>>().join(".");
    let batch = collector
        .span("its batch", |span| {
            span.name == "worker batch" && attributes(span)["scalekit.first"] == position
        })
        .await;
    let said = attributes(&batch);
    assert_eq!((said["scalekit.last"].as_str(), said["scalekit.writes"].as_str()), (position.as_str(), "1"));
    assert!(batch.parent_span_id.is_empty() && batch.trace_id != request.trace_id);
    let apply = collector.span("the operation", |span| span.parent_span_id == batch.span_id).await;
    assert_eq!((apply.name.as_str(), &apply.trace_id), ("database apply", &batch.trace_id));
    assert_eq!(apply.events.iter().filter(|event| event.name == "operation").count(), 1);
    // A read, which nobody asked to trace; all are, at this ratio.
    harness.get("/v1/items/absent").await.expect(404);
    let request = collector.span("the read's request", |span| span.name == "GET /v1/{collection}/{id}").await;
    let read =
        collector.span("the read", |span| span.name == "read" && span.trace_id == request.trace_id).await;
    assert_eq!(read.parent_span_id, request.span_id);
}

async fn who_is_not_sampled_is_not_traced(kind: Kind) {
    let collector = Collector::start().await;
    let harness =
        Harness::with(kind, Options { traces: collector.settings(0.0), ..Options::default() }).await;
    for n in 0..20 {
        put(&harness, &n.to_string(), None).await;
        put(&harness, &n.to_string(), Some(&format!("00-{TRACE}-{PARENT}-00"))).await;
        put(&harness, &n.to_string(), Some("nonsense")).await;
    }
    let sampled = "1af7651916cd43dd8448eb211c80319c";
    put(&harness, "1", Some(&format!("00-{sampled}-{PARENT}-01"))).await;
    // Spans are sent in order, so whatever came before it would be there.
    collector.span("the sampled one", |span| span.name.starts_with("PUT")).await;
    let traced: Vec<_> = collector.spans.lock().unwrap().iter().map(|span| hex(&span.trace_id)).collect();
    assert!(traced.iter().all(|trace| trace == sampled), "{traced:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_hurts_nobody() {
    // Refused, and accepted without ever an answer.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [closed, silent.local_addr().unwrap()] {
        let traces = Some(TraceSettings { endpoint: format!("http://{address}"), ratio: 1.0 });
        let harness = Harness::with(Kind::Embedded, Options { traces, ..Options::default() }).await;
        for n in 0..50 {
            put(&harness, &n.to_string(), None).await;
        }
        harness.drained().await;
        assert_eq!(harness.stored("items").await.len(), 50);
        eventually("a failed export is counted", async || {
            let metrics = harness.get("/metrics").await.expect(200).text;
            let line =
                metrics.lines().find(|line| line.starts_with("scalekit_trace_exports_failed_total")).unwrap();
            (!line.ends_with(" 0")).then_some(())
        })
        .await;
        let stopping = Instant::now();
        harness.api.stop().await;
        assert!(
            stopping.elapsed() < Duration::from_secs(20),
            "the end is not held up: {:?}",
            stopping.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_none_stops_the_start() {
    let harness = Harness::start(Kind::RedisMongo).await;
    let mut config = harness.config(scalekit_service::config::Role::Api, "w1");
    config.traces = Some(TraceSettings { endpoint: "127.0.0.1:4318".into(), ratio: 1.0 });
    let start = tokio::task::spawn_blocking(move || crate::harness::Process::try_start(config).err());
    let error = start.await.unwrap().expect("it is no URL");
    assert!(error.contains("http://127.0.0.1:4318"), "{error}");
}
