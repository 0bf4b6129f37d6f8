//! The accept loop: an explicit backlog, a cap on connections, time limits for handshakes, request heads and clients
//! that do not read, turns for a crowd, and a shutdown that lets requests finish. (axum's own loop has no such limits.)

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, header};
use axum::response::IntoResponse as _;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::auth::{Guard, Visitor};
use super::crowd::{self, Crowd, Turn};
use super::rest::{Asked, Felt};
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

/// A connection that is served takes up to 30 kB. So many requests at a time fill the commands that go to Redis, also while
/// these take 50 ms each.
const SERVED_PER_THREAD: usize = 1024;

/// Bounds of the accept loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// Further clients wait in the backlog.
    pub max_connections: usize,
    /// Of more connections than this, so many are served at a time, and the others have no buffers.
    pub served: usize,
    /// How long requests may take to finish after the shutdown began.
    pub shutdown_grace: Duration,
    pub patience: Patience,
}

/// How long a client may keep its connection waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For a whole request head, from the end of the request before it: so it bounds idle connections, too. One that rests
    /// in a crowd has as long for the first byte, and again for the others.
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

/// Connections that the threads of this runtime serve at a time, if there are more.
pub(crate) fn served() -> usize {
    SERVED_PER_THREAD * Handle::current().metrics().num_workers()
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
    let crowd = Crowd::new(Arc::clone(&slots), limits.max_connections, limits.served);
    let tasks = TaskTracker::new();
    let cannot_accept = Rarely::default();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.patience.head);
    let host = Arc::new(Host {
        http,
        router,
        door,
        patience: limits.patience,
        metrics,
        crowd: Arc::clone(&crowd),
        stop: stop.clone(),
    });
    let mut ticks = tokio::time::interval(crowd::TURN);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let shaking = host.door.tls.as_ref().map(|_| &handshakes);
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots, shaking) => accepted,
            _ = ticks.tick() => {
                crowd.tick();
                continue;
            }
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
        let host = Arc::clone(&host);
        tasks.spawn(async move {
            host.metrics.connections.inc();
            if let Err(error) = host.receive(accepted).await {
                tracing::debug!(%error, "a connection ended early");
            }
            host.metrics.connections.dec();
        });
    }
    // From here on connects are refused, so that a balancer turns elsewhere.
    drop(listener);
    tasks.close();
    let finished = async {
        tokio::select! {
            () = tasks.wait() => {}
            // Those who wait for their turn still get it.
            () = async { loop { ticks.tick().await; crowd.tick(); } } => {}
        }
    };
    if tokio::time::timeout(limits.shutdown_grace, finished).await.is_err() {
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

/// What connections are served with.
struct Host {
    http: http1::Builder,
    router: Router,
    door: Door,
    patience: Patience,
    metrics: Arc<Metrics>,
    crowd: Arc<Crowd>,
    stop: CancellationToken,
}

impl Host {
    /// Serves one connection to its end.
    async fn receive(
        self: &Arc<Self>,
        accepted: Accepted,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Accepted { stream, _slot, shaking } = accepted;
        let stream = Impatient::new(stream, self.patience.unread);
        match &self.door.tls {
            None => self.receive_clear(stream).await,
            // Apart, so that a connection in the clear does not have the size of one with TLS.
            Some(tls) => Box::pin(self.receive_sealed(stream, tls, shaking)).await,
        }
    }

    /// In a crowd, a connection that asks for nothing is a socket and no more.
    async fn receive_clear(
        self: &Arc<Self>,
        stream: Impatient<TcpStream>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let visitor = self.visitor();
        let mut stream = Felt::new(stream);
        let mut is_new = true;
        loop {
            let mut turn = None;
            if self.crowd.is_there() {
                if !stream.has_unread() {
                    tokio::select! {
                        biased;
                        asks = tokio::time::timeout(self.patience.head, stream.get_ref().get_ref().readable()) => {
                            asks.map_err(|_| "no request came in time")??;
                        }
                        () = self.stop.cancelled() => return Ok(()),
                    }
                }
                turn = Some(self.crowd.turn(is_new).await);
            }
            is_new = false;
            // Boxed, so that it is gone while the connection rests.
            let Some(rested) = Box::pin(self.converse(stream, visitor.clone(), turn, true)).await? else {
                return Ok(());
            };
            stream = rested;
        }
    }

    async fn receive_sealed(
        self: &Arc<Self>,
        stream: Impatient<TcpStream>,
        tls: &Tls,
        shaking: Option<OwnedSemaphorePermit>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(self.patience.handshake, tls.acceptor.accept(stream)) => shaken,
            // It has asked for nothing yet.
            () = self.stop.cancelled() => return Ok(()),
        };
        let stream = shaken.map_err(|_| "the TLS handshake took too long")??;
        drop(shaking);
        // That it can be read says nothing here: it may hold what it has deciphered already. So it never rests.
        self.converse(Felt::new(stream), self.visitor(), None, false).await?;
        Ok(())
    }

    fn visitor(&self) -> Option<Arc<Visitor>> {
        self.door.guard.clone().map(|guard| Arc::new(Visitor::new(guard)))
    }

    /// Serves a connection until its end, or until it rests in a crowd, if it may; then it comes back.
    async fn converse<S>(
        self: &Arc<Self>,
        stream: Felt<S>,
        visitor: Option<Arc<Visitor>>,
        turn: Option<Turn>,
        may_rest: bool,
    ) -> hyper::Result<Option<Felt<S>>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let pulse = Arc::clone(stream.pulse());
        pulse.begin();
        let service = {
            let (host, pulse) = (Arc::clone(self), Arc::clone(&pulse));
            service_fn(move |request| answer(Arc::clone(&host), visitor.clone(), pulse.ask(), request))
        };
        let mut connection = self.http.serve_connection(TokioIo::new(stream), service);
        let mut turn = turn;
        let mut stopped = pin!(self.stop.cancelled());
        let mut is_ending = false;
        let rests = poll_fn(|context| {
            loop {
                if let Poll::Ready(ended) = Pin::new(&mut connection).poll(context) {
                    return Poll::Ready(ended.map(|()| false));
                }
                if is_ending {
                    return Poll::Pending;
                }
                // After a look at what it asks, so that a request that waited for its turn is served.
                if stopped.as_mut().poll(context).is_ready() {
                    is_ending = true;
                    Pin::new(&mut connection).graceful_shutdown();
                    continue;
                }
                if !pulse.rests() {
                    return Poll::Pending;
                }
                turn = None;
                if !(may_rest && self.crowd.is_there()) {
                    return Poll::Pending;
                }
                // hyper ends at once if it agrees that nothing is under way; else after what is.
                is_ending = true;
                pulse.stay_open(true);
                Pin::new(&mut connection).graceful_shutdown();
                let ended = Pin::new(&mut connection).poll(context);
                pulse.stay_open(false);
                // Whatever it read meanwhile may belong to what it gave up.
                return ended.map_ok(|()| pulse.waits());
            }
        });
        if !rests.await? {
            return Ok(None);
        }
        let parts = connection.into_parts();
        Ok(Some(parts.io.into_inner().unread(parts.read_buf)))
    }
}

async fn answer(
    host: Arc<Host>,
    visitor: Option<Arc<Visitor>>,
    _asked: Asked,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let router = host.router.clone();
    let Some(visitor) = visitor else { return router.oneshot(request.map(Body::new)).await };
    let started = Instant::now();
    let Err(refusal) = visitor.admit(request.uri().path(), request.headers()) else {
        return router.oneshot(request.map(Body::new)).await;
    };
    let method = request.method().clone();
    // Unread, it would be answered by a reset. Whoever waits to be told to continue has sent nothing.
    if !request.body().is_end_stream() && !request.headers().contains_key(header::EXPECT) {
        let body = Body::new(request.into_body());
        tokio::spawn(routes::discard(body, DISCARDED_BYTES, host.patience.head));
    }
    let response = refusal.into_response();
    // It has seen no route.
    host.metrics.requests.answered(method.as_str(), None, response.status().as_u16(), started.elapsed());
    Ok(response)
}

#[cfg(test)]
mod crowd_tests;
#[cfg(test)]
mod tests;
