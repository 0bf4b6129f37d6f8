//! A store whose calls are spans, where somebody traces.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Applied, Stamp, Store, StoreError, StoredDocument, Throttle};
use crate::operation::{DocumentKey, DocumentWrite};
use crate::telemetry::{self, Span};

/// Around the store itself.
pub struct Traced(pub Arc<dyn Store>);

/// Notes when each operation of a call may start.
struct Noted<'a> {
    throttle: &'a dyn Throttle,
    span: &'a Span,
}

#[async_trait]
impl Throttle for Noted<'_> {
    async fn acquire(&self) {
        self.throttle.acquire().await;
        self.span.event("operation");
    }
}

fn failed<T>(span: &Span, result: Result<T, StoreError>) -> Result<T, StoreError> {
    result.inspect_err(|error| span.fail(&error.to_string()))
}

#[async_trait]
impl Store for Traced {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    async fn get_many(&self, keys: &[DocumentKey]) -> Result<Vec<Option<StoredDocument>>, StoreError> {
        let span = telemetry::child("database read");
        span.count("scalekit.documents", keys.len() as u64);
        failed(&span, span.around(self.0.get_many(keys)).await)
    }

    async fn apply(
        &self,
        writes: &[DocumentWrite],
        throttle: &dyn Throttle,
    ) -> Result<Vec<Applied>, StoreError> {
        let span = telemetry::child("database apply");
        span.set("db.system.name", || self.0.kind().to_owned());
        span.count("scalekit.writes", writes.len() as u64);
        let noted = Noted { throttle, span: &span };
        failed(&span, span.around(self.0.apply(writes, &noted)).await)
    }

    async fn stamps(
        &self,
        collection: &str,
        op_prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Stamp>, StoreError> {
        let span = telemetry::child("database audit");
        failed(&span, span.around(self.0.stamps(collection, op_prefix, after, limit)).await)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.0.ping().await
    }

    fn operations(&self) -> u64 {
        self.0.operations()
    }
}
