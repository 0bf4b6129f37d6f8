//! The way of spans to the collector. The SDK's own thread makes the requests and waits for them; they are sent on
//! the service's runtime. A collector that is away costs spans and nothing else.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{RetryPolicy, SpanExporter as Otlp, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prometheus_client::metrics::counter::Counter;
use tokio::runtime::Handle;

use crate::rarely::Rarely;

const TIMEOUT: Duration = Duration::from_secs(2);
/// A collector's answer says how many spans it refused, and no more.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Counts what fails, and says so now and then.
#[derive(Debug)]
pub(super) struct Exporter {
    inner: Otlp,
    endpoint: String,
    failed: Counter,
    rarely: Rarely,
}

impl Exporter {
    pub(super) fn new(endpoint: &str, failed: Counter) -> Result<Self, String> {
        if !endpoint.starts_with("http://") {
            return Err(format!(
                "the OTLP endpoint {endpoint:?} must be an http:// URL, such as http://127.0.0.1:4318; for TLS run a collector beside the service"
            ));
        }
        let error = |error: &dyn std::fmt::Display| format!("the OTLP endpoint {endpoint:?}: {error}");
        let client = reqwest::Client::builder().timeout(TIMEOUT).build().map_err(|e| error(&e))?;
        let inner = Otlp::builder()
            .with_http()
            .with_http_client(Sender { client, runtime: Handle::current() })
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(TIMEOUT)
            // The next batch is due in a second; what waits meanwhile would be dropped.
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .map_err(|e| error(&e))?;
        Ok(Self { inner, endpoint: endpoint.to_owned(), failed, rarely: Rarely::default() })
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.inner.export(batch).await;
        if let Err(error) = &exported {
            self.failed.inc();
            if let Some(unsaid) = self.rarely.now() {
                tracing::warn!(%error, endpoint = self.endpoint, unsaid, "traces do not reach the collector");
            }
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &opentelemetry_sdk::Resource) {
        self.inner.set_resource(resource);
    }
}

#[derive(Debug)]
struct Sender {
    client: reqwest::Client,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let request =
            self.client.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body);
        let answered = self.runtime.spawn(async move {
            let mut response = request.send().await?;
            let status = response.status();
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                    return Err(HttpError::from("the collector's answer is too long"));
                }
                body.extend_from_slice(&chunk);
            }
            let mut answer = Response::new(Bytes::from(body));
            *answer.status_mut() = status;
            Ok(answer)
        });
        answered.await?
    }
}
