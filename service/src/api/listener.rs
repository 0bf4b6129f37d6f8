//! The accept loop: an explicit backlog, a cap on connections, time limits for handshakes, request heads and clients
//! that do not read, and a shutdown that lets requests finish. (axum's own loop has no such limits.)

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, header};
use axum::response::IntoResponse as _;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::auth::{Guard, Visitor};
use super::routes;
use super::slow::Impatient;
use super::tls::Tls;
use crate::metrics::Metrics;
use crate::rarely::Rarely;

/// After an accept that failed for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Handshakes may take a part of the connections only, or clients that never finish one would take all.
const CONNECTIONS_PER_HANDSHAKE: usize = 4;
/// Of the body of a request that is refused at the door; see [`routes::discard`].
const DISCARDED_BYTES: usize = 4 << 20;

/// Bounds of the accept loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// Further clients wait in the backlog.
    pub max_connections: usize,
    /// How long requests may take to finish after the shutdown began.
    pub shutdown_grace: Duration,
    pub patience: Patience,
}

/// How long a client may keep its connection waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For a whole request head, from the end of the request before it: so it bounds idle connections, too.
    pub head: Duration,
    /// While an answer waits and next to nothing of it is read; see [`Impatient`].
    pub unread: Duration,
}

impl Patience {
    /// Each is far above what a client on a bad network needs.
    pub(crate) const USUAL: Self = Self {
        handshake: Duration::from_secs(10),
        head: Duration::from_secs(15),
        unread: Duration::from_secs(15),
    };
}

/// What a client has to pass.
#[derive(Clone, Default)]
pub(crate) struct Door {
    /// `None`: open to all.
    pub guard: Option<Arc<Guard>>,
    /// `None`: in the clear.
    pub tls: Option<Arc<Tls>>,
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
    door: Door,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let handshakes = Arc::new(Semaphore::new(limits.max_connections.div_ceil(CONNECTIONS_PER_HANDSHAKE)));
    let graceful = GracefulShutdown::new();
    let cannot_accept = Rarely::default();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.patience.head).pipeline_flush(true);
    loop {
        let shaking = door.tls.as_ref().map(|_| &handshakes);
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots, shaking) => accepted,
            () = stop.cancelled() => break,
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of files, usually; the clients wait in the backlog meanwhile.
                if let Some(unsaid) = cannot_accept.now() {
                    tracing::warn!(%error, unsaid, "cannot accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let host = Host {
            http: http.clone(),
            router: router.clone(),
            door: door.clone(),
            patience: limits.patience,
            metrics: Arc::clone(&metrics),
        };
        let (watcher, stop) = (graceful.watcher(), stop.clone());
        tokio::spawn(async move {
            let metrics = Arc::clone(&host.metrics);
            metrics.connections.inc();
            if let Err(error) = host.receive(accepted, watcher, stop).await {
                tracing::debug!(%error, "a connection ended early");
            }
            metrics.connections.dec();
        });
    }
    // From here on connects are refused, so that a balancer turns elsewhere.
    drop(listener);
    if tokio::time::timeout(limits.shutdown_grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way when the time to finish them was over");
    }
}

/// A connection and its place among those that there may be.
struct Accepted {
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
    /// Until its handshake is over.
    shaking: Option<OwnedSemaphorePermit>,
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    handshakes: Option<&Arc<Semaphore>>,
) -> io::Result<Accepted> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let shaking = match handshakes {
        Some(handshakes) => Some(Arc::clone(handshakes).acquire_owned().await.map_err(io::Error::other)?),
        None => None,
    };
    let (stream, _) = listener.accept().await?;
    // Fails only for a client that has gone already; serving it will tell.
    let _ = stream.set_nodelay(true);
    Ok(Accepted { stream, _slot: slot, shaking })
}

/// What a connection is served with.
struct Host {
    http: http1::Builder,
    router: Router,
    door: Door,
    patience: Patience,
    metrics: Arc<Metrics>,
}

impl Host {
    /// Serves one connection to its end.
    async fn receive(
        self,
        accepted: Accepted,
        watcher: Watcher,
        stop: CancellationToken,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Accepted { stream, _slot, shaking } = accepted;
        let stream = Impatient::new(stream, self.patience.unread);
        match self.door.tls.clone() {
            None => Ok(self.converse(stream, watcher).await?),
            // Apart, so that a connection in the clear does not have the size of one with TLS.
            Some(tls) => Box::pin(self.receive_sealed(stream, tls, shaking, watcher, stop)).await,
        }
    }

    async fn receive_sealed(
        self,
        stream: Impatient<TcpStream>,
        tls: Arc<Tls>,
        shaking: Option<OwnedSemaphorePermit>,
        watcher: Watcher,
        stop: CancellationToken,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(self.patience.handshake, tls.acceptor.accept(stream)) => shaken,
            // It has asked for nothing yet.
            () = stop.cancelled() => return Ok(()),
        };
        let stream = shaken.map_err(|_| "the TLS handshake took too long")??;
        drop(shaking);
        Ok(self.converse(stream, watcher).await?)
    }

    async fn converse<S>(self, stream: S, watcher: Watcher) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { http, router, door, patience, metrics } = self;
        let visitor = door.guard.map(|guard| Arc::new(Visitor::new(guard)));
        let service = service_fn(move |request| {
            answer(router.clone(), visitor.clone(), patience, Arc::clone(&metrics), request)
        });
        watcher.watch(http.serve_connection(TokioIo::new(stream), service)).await
    }
}

async fn answer(
    router: Router,
    visitor: Option<Arc<Visitor>>,
    patience: Patience,
    metrics: Arc<Metrics>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let Some(visitor) = visitor else { return router.oneshot(request.map(Body::new)).await };
    let started = Instant::now();
    let Err(refusal) = visitor.admit(request.uri().path(), request.headers()) else {
        return router.oneshot(request.map(Body::new)).await;
    };
    let method = request.method().clone();
    // Unread, it would be answered by a reset. Whoever waits to be told to continue has sent nothing.
    if !request.body().is_end_stream() && !request.headers().contains_key(header::EXPECT) {
        let body = Body::new(request.into_body());
        tokio::spawn(routes::discard(body, DISCARDED_BYTES, patience.head));
    }
    let response = refusal.into_response();
    // It has seen no route.
    metrics.requests.answered(method.as_str(), None, response.status().as_u16(), started.elapsed());
    Ok(response)
}

#[cfg(test)]
mod tests;
