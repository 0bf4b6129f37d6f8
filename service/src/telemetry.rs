//! Traces. A request is a span, and so are its append to the journal and its reads; a batch of the worker is a trace
//! of its own, since it carries the writes of many requests. The request's span has the `write_id`, the batch's the
//! positions of its first and last entry, so one is found from the other.
//!
//! Whoever works below a span needs no handle: the current context has it. Without an exporter, or below a request
//! that is not sampled, there is no such context, and a span costs the look at one thread-local.

#[cfg(feature = "otlp")]
mod export;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg(not(feature = "otlp"))]
mod without;

#[cfg(feature = "otlp")]
pub use otlp::{Span, Traces, child, current};
#[cfg(not(feature = "otlp"))]
pub use without::{Span, Traces, child, current};

/// Of requests without a `traceparent`, the part that is traced when nobody says otherwise.
pub const DEFAULT_RATIO: f64 = 0.01;

/// Where traces go, and how many.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// The collector's base URL, `http://host:4318`; `/v1/traces` is added, as OTEL_EXPORTER_OTLP_ENDPOINT has it.
    pub endpoint: String,
    /// Of the requests that no caller has decided on, the part that is traced; 0 to 1.
    pub ratio: f64,
}
