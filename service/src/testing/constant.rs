//! What the service's own loop costs by itself: the same accept loop, router and answer, and nothing behind them. The
//! yardsticks of `service/benches/transactions`.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::routing::post;
use tokio_util::sync::CancellationToken;

use crate::api::Observe;
use crate::api::listener::{self, ConnectionLimits, Door, Patience};
use crate::metrics::Metrics;

/// What is done for a constant answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yardstick {
    /// What every route of the service does: its body is received, it is counted and timed.
    Route,
    /// Nothing; a body is thrown away.
    Loop,
}

/// Answers `POST /v1/transactions` with 202 and this body, whatever is sent, until `stop`.
///
/// # Errors
/// The socket cannot be used.
pub async fn serve_constant(
    yardstick: Yardstick,
    listener: TcpListener,
    body: &'static [u8],
    stop: CancellationToken,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let metrics: Arc<Metrics> = Arc::default();
    let answer = move || {
        (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "application/json")], Bytes::from_static(body))
    };
    let router = match yardstick {
        Yardstick::Loop => Router::new().route("/v1/transactions", post(async move || answer())),
        Yardstick::Route => {
            let observe = Observe { requests: Arc::clone(&metrics.requests), traces: Default::default() };
            Router::new().route("/v1/transactions", post(async move |_: Bytes| answer())).layer(observe)
        }
    };
    let limits = ConnectionLimits {
        max_connections: 20_000,
        served: listener::served(),
        shutdown_grace: Duration::from_secs(1),
        patience: Patience::USUAL,
    };
    let listener = tokio::net::TcpListener::from_std(listener)?;
    listener::serve(listener, router, limits, Door::default(), metrics, stop).await;
    Ok(())
}
