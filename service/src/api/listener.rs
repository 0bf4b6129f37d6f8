//! The accept loop: an explicit backlog, a cap on connections, a time limit for request heads, and a shutdown
//! that lets requests finish. (axum's own loop has no time limit for heads.)

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::metrics::Metrics;

/// A request head must be there within this.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// After an accept that failed for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bounds of the accept loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// Further clients wait in the backlog.
    pub max_connections: usize,
    /// How long requests may take to finish after the shutdown began.
    pub shutdown_grace: Duration,
    pub head_timeout: Duration,
}

/// Opens a listening socket with a backlog of its own; the kernel cuts it to net.core.somaxconn.
///
/// # Errors
/// The address is taken or not ours.
pub(crate) fn bind(address: SocketAddr, backlog: u32) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Serves until `stop`, then lets the requests under way finish.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let graceful = GracefulShutdown::new();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head_timeout).pipeline_flush(true);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of files, usually; the clients wait in the backlog meanwhile.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = {
            let router = router.clone();
            let metrics = Arc::clone(&metrics);
            service_fn(move |request| answer(router.clone(), Arc::clone(&metrics), request))
        };
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        let metrics = Arc::clone(&metrics);
        tokio::spawn(async move {
            metrics.connections.inc();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            metrics.connections.dec();
            drop(slot);
        });
    }
    // From here on connects are refused, so that a balancer turns elsewhere.
    drop(listener);
    if tokio::time::timeout(limits.shutdown_grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way when the time to finish them was over");
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Fails only for a client that has gone already; serving it will tell.
    let _ = stream.set_nodelay(true);
    Ok((stream, slot))
}

async fn answer(
    router: Router,
    metrics: Arc<Metrics>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let started = Instant::now();
    let response = router.oneshot(request.map(Body::new)).await?;
    metrics.request_seconds.observe(started.elapsed().as_secs_f64());
    metrics.answered(response.status().as_u16());
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_client_that_does_not_finish_its_head_is_cut_off() {
        let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 16).unwrap();
        let address = socket.local_addr().unwrap();
        let stop = CancellationToken::new();
        let router = Router::new().route("/", axum::routing::get(async || "fine"));
        let limits = ConnectionLimits {
            max_connections: 2,
            shutdown_grace: Duration::from_secs(5),
            head_timeout: Duration::from_millis(200),
        };
        let listener = TcpListener::from_std(socket).unwrap();
        let serving = tokio::spawn(serve(listener, router, limits, Arc::default(), stop.clone()));
        for head in ["", "GET /", "GET / HTTP/1.1\r\nHost: x\r\n"] {
            let mut slow = TcpStream::connect(address).await.unwrap();
            slow.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            let ended = tokio::time::timeout(Duration::from_secs(20), slow.read_to_string(&mut answer)).await;
            // An end or a reset, but no answer, and not never.
            assert!(ended.is_ok(), "{head:?} holds its connection");
            assert!(!answer.contains("200"), "{head:?}: {answer}");
        }
        // Their places are free again.
        let mut quick = TcpStream::connect(address).await.unwrap();
        quick.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        quick.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("fine"), "{answer}");
        stop.cancel();
        serving.await.unwrap();
    }
}
