//! Servers that speak TLS and HTTP/2: hyper and rustls on a small runtime of their own, which counts what it sees.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::service::service_fn;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// What the server saw.
#[derive(Debug, Default)]
pub(crate) struct Log {
    connections: AtomicU64,
    requests: AtomicU64,
    body_bytes: AtomicU64,
    remotes: Mutex<BTreeSet<IpAddr>>,
    versions: Mutex<BTreeSet<String>>,
    heads: Mutex<Vec<(String, Option<String>)>>,
}

impl Log {
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Ordering::SeqCst)
    }

    pub(crate) fn remotes(&self) -> Vec<String> {
        self.remotes.lock().unwrap().iter().map(IpAddr::to_string).collect()
    }

    pub(crate) fn versions(&self) -> Vec<String> {
        self.versions.lock().unwrap().iter().cloned().collect()
    }

    /// URI and user agent of each request.
    pub(crate) fn heads(&self) -> Vec<(String, Option<String>)> {
        self.heads.lock().unwrap().clone()
    }
}

/// A certificate, its key, and the file that a client trusts it by.
pub(crate) struct Identity {
    directory: tempfile::TempDir,
    config: Arc<ServerConfig>,
}

impl Identity {
    /// `change`: what is wrong with the certificate. `alpn`: what the server agrees to, in its order.
    pub(crate) fn new(name: &str, alpn: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(
                    vec![certificate.der().clone()],
                    PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
                )
                .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { directory, config: Arc::new(config) }
    }

    /// A sound one for 127.0.0.1.
    pub(crate) fn sound(alpn: &[&str]) -> Self {
        Self::new("127.0.0.1", alpn, |_| {})
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }
}

/// What is done with each connection that was accepted.
pub(crate) trait Serve: Clone + Send + 'static {
    fn serve(self, stream: impl Stream, http2: bool, log: Arc<Log>) -> impl Future<Output = ()> + Send;
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

pub(crate) struct AsyncServer {
    pub(crate) address: SocketAddr,
    pub(crate) log: Arc<Log>,
    /// Ends everything when dropped.
    runtime: Option<Runtime>,
}

impl AsyncServer {
    /// Without an identity: without TLS, and HTTP/2 at once if `http2`.
    pub(crate) fn start(identity: Option<&Identity>, http2: bool, service: impl Serve) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Log::default());
        let acceptor = identity.map(|identity| TlsAcceptor::from(Arc::clone(&identity.config)));
        runtime.spawn(accept(listener, acceptor, http2, service, Arc::clone(&log)));
        Self { address, log, runtime: Some(runtime) }
    }
}

impl Drop for AsyncServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    http2: bool,
    service: impl Serve,
    log: Arc<Log>,
) {
    while let Ok((stream, remote)) = listener.accept().await {
        log.connections.fetch_add(1, Ordering::SeqCst);
        log.remotes.lock().unwrap().insert(remote.ip());
        stream.set_nodelay(true).unwrap();
        tokio::spawn(shake_hands(stream, acceptor.clone(), http2, service.clone(), Arc::clone(&log)));
    }
}

async fn shake_hands(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    http2: bool,
    service: impl Serve,
    log: Arc<Log>,
) {
    let Some(acceptor) = acceptor else { return service.serve(stream, http2, log).await };
    // A client that trusts nothing ends it here.
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    service.serve(stream, http2, log).await;
}

/// Answers each request with 200 and a body of so many bytes.
#[derive(Clone, Copy)]
pub(crate) struct Answer(pub(crate) usize);

impl Serve for Answer {
    async fn serve(self, stream: impl Stream, http2: bool, log: Arc<Log>) {
        let service = service_fn(move |request: Request<Incoming>| answer(request, self.0, Arc::clone(&log)));
        let io = hyper_util::rt::TokioIo::new(stream);
        // How a client leaves is its own business.
        if http2 {
            let executor = hyper_util::rt::TokioExecutor::new();
            let _ = hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service).await;
        } else {
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    length: usize,
    log: Arc<Log>,
) -> Result<Response<Blocks>, Infallible> {
    let agent = request.headers().get("user-agent").map(|value| value.to_str().unwrap().to_owned());
    log.heads.lock().unwrap().push((request.uri().to_string(), agent));
    log.versions.lock().unwrap().insert(format!("{:?}", request.version()));
    let mut body = request.into_body();
    while let Some(Ok(frame)) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        log.body_bytes.fetch_add(frame.data_ref().map_or(0, Bytes::len) as u64, Ordering::SeqCst);
    }
    log.requests.fetch_add(1, Ordering::SeqCst);
    Ok(Response::new(Blocks(length)))
}

/// A body that is made as it is sent.
struct Blocks(usize);

impl Body for Blocks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static BLOCK: [u8; 64 * 1024] = [b'x'; 64 * 1024];
        let length = self.0.min(BLOCK.len());
        self.0 -= length;
        Poll::Ready((length > 0).then(|| Ok(Frame::data(Bytes::from_static(&BLOCK[..length])))))
    }

    fn is_end_stream(&self) -> bool {
        self.0 == 0
    }
}

/// What an HTTP/2 server does to the first stream of each connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Misdeed {
    /// RST_STREAM.
    Reset,
    /// GOAWAY, with an error and no answer.
    GoAway,
    /// A whole answer, and a GOAWAY that takes nothing back.
    AnswerAndGoAway,
    /// Half of an answer, then the connection ends.
    HalfAnswer,
    /// Never an answer.
    Silence,
}

impl Serve for Misdeed {
    async fn serve(self, stream: impl Stream, _http2: bool, log: Arc<Log>) {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((_request, mut respond))) = connection.accept().await {
            log.requests.fetch_add(1, Ordering::SeqCst);
            match self {
                Self::Reset => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                Self::GoAway => connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM),
                Self::AnswerAndGoAway => {
                    respond.send_response(Response::new(()), true).unwrap();
                    connection.graceful_shutdown();
                }
                Self::HalfAnswer => {
                    let mut body = respond.send_response(Response::new(()), false).unwrap();
                    body.send_data(Bytes::from_static(b"half"), false).unwrap();
                    tokio::spawn(async move {
                        let _body = body;
                        std::future::pending::<()>().await;
                    });
                    // Until what was said has left; then the socket goes without another word.
                    let _ = tokio::time::timeout(super::millis(20), connection.accept()).await;
                    return;
                }
                Self::Silence => {
                    tokio::spawn(async move {
                        let _respond = respond;
                        std::future::pending::<()>().await;
                    });
                }
            }
        }
    }
}
