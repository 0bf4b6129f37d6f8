//! Spans that an OpenTelemetry collector gets.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    FutureExt as _, Link, SpanKind, Status, TraceContextExt as _, TraceId, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingDecision, SamplingResult, SdkTracer,
    SdkTracerProvider, ShouldSample,
};
use prometheus_client::metrics::counter::Counter;

use super::TraceSettings;
use super::export::Exporter;

/// Spans that wait for the exporter; beyond it, spans are dropped.
const QUEUE: usize = 8192;
/// Spans in one request to the collector.
const BATCH: usize = 512;
const EXPORT_INTERVAL: Duration = Duration::from_secs(1);
/// For the last spans, when the process ends.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// The span of a batch of the worker.
const BATCH_SPAN: &str = "worker batch";

/// Begins traces; off by default.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<Exporting>>);

#[derive(Debug)]
struct Exporting {
    provider: SdkTracerProvider,
    tracer: Tracer,
    propagator: TraceContextPropagator,
}

/// Goes along in the context, for spans below the first.
#[derive(Clone, Debug)]
struct Tracer(SdkTracer);

impl Traces {
    /// Must be called within the runtime that sends them. Exports that fail are counted by `failed`.
    ///
    /// # Errors
    /// The endpoint is no HTTP URL.
    pub fn start(
        settings: &TraceSettings,
        role: &'static str,
        instance: &str,
        failed: Counter,
    ) -> Result<Self, String> {
        let exporter = Exporter::new(&settings.endpoint, failed)?;
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(EXPORT_INTERVAL)
            .build();
        let resource = Resource::builder()
            .with_service_name("scalekit")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
            .with_attribute(KeyValue::new("scalekit.role", role))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(config).build())
            .with_sampler(Sampler::ParentBased(Box::new(Root::new(settings.ratio))))
            .with_resource(resource)
            .build();
        let tracer = Tracer(provider.tracer("scalekit-service"));
        Ok(Self(Some(Arc::new(Exporting { provider, tracer, propagator: TraceContextPropagator::new() }))))
    }

    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The span of a request. If the client sent a `traceparent`, it is below that one, and sampled if that one is.
    #[must_use]
    pub fn request(&self, method: &str, route: &str, headers: &HeaderMap) -> Span {
        let Some(exporting) = &self.0 else { return Span::default() };
        let parent = if headers.contains_key("traceparent") {
            exporting.propagator.extract_with_context(&Context::new(), &HeaderExtractor(headers))
        } else {
            Context::new()
        };
        let span = exporting.begin(format!("{method} {route}"), SpanKind::Server, &parent);
        span.set("http.request.method", || method.to_owned());
        span.set("http.route", || route.to_owned());
        span
    }

    /// The span of a batch of the worker.
    #[must_use]
    pub fn batch(&self) -> Span {
        let Some(exporting) = &self.0 else { return Span::default() };
        exporting.begin(BATCH_SPAN.into(), SpanKind::Internal, &Context::new())
    }

    /// Sends what is left, as far as the collector takes it in time.
    pub async fn stop(self) {
        let Some(exporting) = self.0 else { return };
        let stopping =
            tokio::task::spawn_blocking(move || exporting.provider.shutdown_with_timeout(STOP_PATIENCE));
        // What is not sent is lost, and the exporter has said so.
        let _ = stopping.await;
    }
}

impl Exporting {
    fn begin(&self, name: String, kind: SpanKind, parent: &Context) -> Span {
        let Tracer(tracer) = &self.tracer;
        let span = tracer.span_builder(name).with_kind(kind).start_with_context(tracer, parent);
        Span::recorded(Context::new().with_value(self.tracer.clone()).with_span(span))
    }
}

/// A span that ends when it is dropped; nothing, if nobody records it.
#[derive(Debug, Default)]
pub struct Span(Option<Context>);

impl Span {
    fn recorded(context: Context) -> Self {
        Self(context.span().is_recording().then_some(context))
    }

    /// What `work` traces is below this span.
    pub async fn around<F: Future>(&self, work: F) -> F::Output {
        match &self.0 {
            Some(context) => work.with_context(context.clone()).await,
            None => work.await,
        }
    }

    /// `value` is asked for only if somebody records it.
    pub fn set(&self, key: &'static str, value: impl FnOnce() -> String) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(key, value()));
        }
    }

    pub fn count(&self, key: &'static str, count: u64) {
        if let Some(context) = &self.0 {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            context.span().set_attribute(KeyValue::new(key, count));
        }
    }

    pub fn event(&self, name: &'static str) {
        if let Some(context) = &self.0 {
            context.span().add_event(name, Vec::new());
        }
    }

    pub fn fail(&self, reason: &str) {
        if let Some(context) = &self.0 {
            context.span().set_status(Status::error(reason.to_owned()));
        }
    }
}

/// A span below the one whose work this is, if there is one.
#[must_use]
pub fn child(name: &'static str) -> Span {
    Context::map_current(|parent| {
        let Some(Tracer(tracer)) = parent.get::<Tracer>() else { return Span::default() };
        let span = tracer.span_builder(name).start_with_context(tracer, parent);
        Span::recorded(parent.with_span(span))
    })
}

/// The span whose work this is, to add to it.
#[must_use]
pub fn current() -> Span {
    Context::map_current(|current| Span(current.get::<Tracer>().is_some().then(|| current.clone())))
}

/// Decides on traces that begin here.
#[derive(Clone, Debug)]
struct Root {
    requests: Sampler,
    is_off: bool,
}

impl Root {
    fn new(ratio: f64) -> Self {
        Self { requests: Sampler::TraceIdRatioBased(ratio), is_off: ratio <= 0.0 }
    }
}

impl ShouldSample for Root {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let mut result = self.requests.should_sample(parent, trace_id, name, kind, attributes, links);
        // Batches are few, by their very purpose, and a request that was sampled must find its own.
        if name == BATCH_SPAN && !self.is_off {
            result.decision = SamplingDecision::RecordAndSample;
        }
        result
    }
}
