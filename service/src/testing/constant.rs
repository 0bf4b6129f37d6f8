//! What the service's own loop costs by itself: the same accept loop, router and answer, and nothing behind them. The
//! yardstick of `service/benches/transactions`.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::routing::post;
use tokio_util::sync::CancellationToken;

use crate::api::listener::{self, ConnectionLimits, Door, Patience};

/// Answers `POST /v1/transactions` with 202 and this body, whatever is sent, until `stop`.
///
/// # Errors
/// The socket cannot be used.
pub async fn serve_constant(
    listener: TcpListener,
    body: &'static [u8],
    stop: CancellationToken,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let answer = async move || {
        (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "application/json")], Bytes::from_static(body))
    };
    let router = Router::new().route("/v1/transactions", post(answer));
    let limits = ConnectionLimits {
        max_connections: 20_000,
        served: listener::served(),
        shutdown_grace: Duration::from_secs(1),
        patience: Patience::USUAL,
    };
    let listener = tokio::net::TcpListener::from_std(listener)?;
    listener::serve(listener, router, limits, Door::default(), std::sync::Arc::default(), stop).await;
    Ok(())
}
