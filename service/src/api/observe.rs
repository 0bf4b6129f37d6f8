//! What is seen of each request: its status and time, by the route that it matched, and its trace.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::metrics::Requests;
use crate::telemetry::Traces;

/// Around all routes and the answers to what matches none. It is applied inside of the router, since only there
/// the route is known.
#[derive(Clone)]
pub(crate) struct Observe {
    pub(crate) requests: Arc<Requests>,
    pub(crate) traces: Traces,
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, observe: self.clone() }
    }
}

#[derive(Clone)]
pub(crate) struct Observed<S> {
    inner: S,
    observe: Observe,
}

impl<S> Service<Request> for Observed<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let started = Instant::now();
        let route = request.extensions().get::<MatchedPath>().cloned();
        let method = request.method().clone();
        let requests = Arc::clone(&self.observe.requests);
        let template = route.as_ref().map_or("unmatched", MatchedPath::as_str);
        let span = self.observe.traces.request(method.as_str(), template, request.headers());
        let answering = self.inner.call(request);
        Box::pin(async move {
            let response = span.around(answering).await?;
            let status = response.status().as_u16();
            span.count("http.response.status_code", u64::from(status));
            if status >= 500 {
                span.fail(response.status().canonical_reason().unwrap_or_default());
            }
            let took = started.elapsed();
            requests.answered(method.as_str(), route.as_ref().map(MatchedPath::as_str), status, took);
            tracing::debug!(
                target: "scalekit_service::access",
                %method,
                route = route.as_ref().map(MatchedPath::as_str),
                status,
                took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            );
            Ok(response)
        })
    }
}
