//! Real sockets, short patience: whoever keeps a connection waiting loses it, and the others do not notice.

use std::path::Path;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::tls::tests::certificate;
use super::*;
use crate::access::TlsFiles;
use crate::token;

/// Nothing here takes this long unless it hangs.
pub(super) const LONG: Duration = Duration::from_secs(60);
/// More than all buffers between two sockets.
const LARGE_BYTES: usize = 64 << 20;
pub(super) const SHORT: Patience = Patience {
    handshake: Duration::from_millis(200),
    head: Duration::from_millis(200),
    unread: Duration::from_millis(200),
};
pub(super) const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

pub(super) struct Server {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    pub(super) stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Server {
    pub(super) fn start(max_connections: usize, patience: Patience, door: Door) -> Self {
        Self::serving(max_connections, patience, door, 1000)
    }

    /// Where every connection is one of a crowd, of which one is served at a time.
    pub(super) fn crowded(patience: Patience) -> Self {
        Self::serving(100, patience, Door::default(), 0)
    }

    fn serving(max_connections: usize, patience: Patience, door: Door, served: usize) -> Self {
        let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 64).unwrap();
        let address = socket.local_addr().unwrap();
        let (stop, metrics) = (CancellationToken::new(), Arc::<Metrics>::default());
        let router = Router::new()
            .route("/", axum::routing::get(async || "fine").post(async |body: axum::body::Bytes| body))
            .route("/healthz", axum::routing::get(async || "ok"))
            .route("/never", axum::routing::get(std::future::pending::<()>))
            .route("/late", axum::routing::get(late))
            .route("/large", axum::routing::get(async || vec![b'x'; LARGE_BYTES]));
        let shutdown_grace = Duration::from_secs(5);
        let limits = ConnectionLimits { max_connections, served, shutdown_grace, patience };
        let listener = TcpListener::from_std(socket).unwrap();
        let serving = tokio::spawn(serve(listener, router, limits, door, Arc::clone(&metrics), stop.clone()));
        Self { address, metrics, stop, serving }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(super) async fn ask(&self, request: &str) -> String {
        ask(self.connect().await, request).await
    }

    /// Waits until all places are free again.
    pub(super) async fn empties(&self) {
        let free = async {
            while self.metrics.connections.get() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, free).await.expect("connections stay");
    }

    /// Waits until all connections are there, and no requests but those that are being answered.
    pub(super) async fn settles(&self, connections: i64) {
        let there = async {
            while self.metrics.connections.get() < connections {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, there).await.expect("connections are missing");
    }

    pub(super) async fn end(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
    }
}

async fn late() -> &'static str {
    tokio::time::sleep(Duration::from_millis(300)).await;
    "late"
}

pub(super) async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let reading = stream.read_to_string(&mut answer);
    tokio::time::timeout(LONG, reading).await.expect("no end of the answer").unwrap();
    answer
}

#[tokio::test]
async fn an_answer_does_not_wait_for_the_rest_of_the_next_request() {
    for server in [Server::start(1, Patience::USUAL, Door::default()), Server::crowded(Patience::USUAL)] {
        let mut stream = server.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT").await.unwrap();
        let mut answer = Vec::new();
        let reading = async {
            while !answer.ends_with(b"fine") {
                assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "it was closed");
            }
        };
        // Well before the head's time is over.
        let half = Patience::USUAL.head / 2;
        tokio::time::timeout(half, reading).await.expect("the answer is held back");
        stream.write_all(b"TP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(ask(stream, "").await.ends_with("fine"));
        server.end().await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_head_is_cut_off() {
    let server = Server::start(2, SHORT, Door::default());
    for head in ["", "GET /", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        let mut slow = server.connect().await;
        slow.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let ended = tokio::time::timeout(LONG, slow.read_to_string(&mut answer)).await;
        // An end or a reset, but no answer, and not never.
        assert!(ended.is_ok(), "{head:?} holds its connection");
        assert!(!answer.contains("200"), "{head:?}: {answer}");
    }
    // Their places are free again.
    let answer = server.ask(GET).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("fine"), "{answer}");
    server.end().await;
}

#[tokio::test]
async fn a_head_that_drips_in_does_not_last_longer() {
    let server = Server::start(1, SHORT, Door::default());
    let mut slow = server.connect().await;
    let started = Instant::now();
    // A byte each 20 ms would take a head of this length a minute.
    for byte in std::iter::once(&b"GET / HTTP/1.1\r\nX: "[..]).chain(std::iter::repeat_n(&b"y"[..], 3000)) {
        if slow.write_all(byte).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(50), "it may send all of it");
    assert!(server.ask(GET).await.ends_with("fine"));
    server.end().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_time_and_its_place_is_free() {
    let server = Server::start(1, SHORT, Door::default());
    let mut kept = server.connect().await;
    kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // The end comes though the client never closes.
    let mut answer = String::new();
    tokio::time::timeout(LONG, kept.read_to_string(&mut answer)).await.expect("it stays open").unwrap();
    assert!(answer.ends_with("fine"), "{answer}");
    assert!(server.ask(GET).await.ends_with("fine"));
    server.end().await;
}

#[tokio::test]
async fn a_client_that_never_reads_its_answer_is_cut_off() {
    let patience = Patience { head: LONG, ..SHORT };
    let dir = tempfile::tempdir().unwrap();
    for tls in [None, Some(Arc::new(Tls::open(&certificate(dir.path())).unwrap()))] {
        let server = Server::start(1, patience, Door { tls: tls.clone(), ..Door::default() });
        let request = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut never_reads: Box<dyn AsyncWriter> = match &tls {
            None => Box::new(server.connect().await),
            Some(_) => Box::new(secure(&server, dir.path(), rustls::ALL_VERSIONS).await.unwrap()),
        };
        never_reads.write_all(request).await.unwrap();
        never_reads.flush().await.unwrap();
        // There is one place, and the one who holds it does not go.
        if tls.is_none() {
            let answer = tokio::time::timeout(LONG, server.ask(GET)).await.expect("the place stays taken");
            assert!(answer.ends_with("fine"), "{answer}");
        } else {
            server.empties().await;
        }
        drop(never_reads);
        server.end().await;
    }
}

trait AsyncWriter: AsyncWrite + Unpin + Send {}
impl<T: AsyncWrite + Unpin + Send> AsyncWriter for T {}

#[tokio::test]
async fn a_large_answer_that_is_read_comes_whole() {
    let server = Server::start(1, SHORT, Door::default());
    let answer = server.ask("GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.len() > LARGE_BYTES && answer.ends_with("xx"));
    server.end().await;
}

#[tokio::test]
async fn further_clients_wait_for_a_place() {
    let server = Server::start(1, Patience::USUAL, Door::default());
    let mut first = server.connect().await;
    first.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    first.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    let mut second = server.connect().await;
    second.write_all(GET.as_bytes()).await.unwrap();
    assert_eq!(server.metrics.connections.get(), 1);
    let mut answer = String::new();
    let early = tokio::time::timeout(Duration::from_millis(100), second.read_to_string(&mut answer)).await;
    assert!(early.is_err() && answer.is_empty(), "it is served beside the first: {answer}");
    drop(first);
    tokio::time::timeout(LONG, second.read_to_string(&mut answer)).await.expect("it waits on").unwrap();
    assert!(answer.ends_with("fine"), "{answer}");
    server.end().await;
}

fn guarded(dir: &Path, lines: &[String]) -> Door {
    let file = dir.join("tokens");
    std::fs::write(&file, lines.join("\n")).unwrap();
    Door { guard: Some(Arc::new(Guard::open(&file).unwrap())), tls: None }
}

#[tokio::test]
async fn a_refusal_is_read_even_by_who_sends_a_large_body() {
    let dir = tempfile::tempdir().unwrap();
    let line = token::line("ci", "a-token", Some("1/s")).unwrap();
    // Few connections, and a crowd.
    for served in [1000, 0] {
        let door = guarded(dir.path(), std::slice::from_ref(&line));
        refused(Server::serving(4, Patience::USUAL, door, served)).await;
    }
}

async fn refused(server: Server) {
    assert!(
        server.ask("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.ends_with("ok")
    );
    let body = "x".repeat(1 << 20);
    let post = |extra: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\n{extra}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let answer = server.ask(&post("")).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(answer.contains("www-authenticate: Bearer realm=\"scalekit\"\r\n"), "{answer}");
    assert!(answer.contains("\"status\":401"), "{answer}");
    let answer = server.ask(&post("Authorization: Bearer another\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("error=\"invalid_token\""), "{answer}");
    let mut statuses = Vec::new();
    for _ in 0..20 {
        let answer = server.ask(&post("Authorization: Bearer a-token\r\n")).await;
        statuses.push(answer[9..12].to_owned());
        if statuses.last().unwrap() == "429" {
            assert!(answer.contains("retry-after: 1\r\n") && answer.contains("\"status\":429"), "{answer}");
            break;
        }
    }
    assert_eq!((statuses[0].as_str(), statuses.last().unwrap().as_str()), ("200", "429"), "{statuses:?}");
    server.end().await;
}

async fn secure(
    server: &Server,
    dir: &Path,
    versions: &[&'static SupportedProtocolVersion],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(dir.join("cert.pem")).unwrap();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, server.connect().await).await
}

#[tokio::test]
async fn https_is_spoken_with_both_versions_and_a_new_certificate_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let files: TlsFiles = certificate(dir.path());
    let tls = Arc::new(Tls::open(&files).unwrap());
    let server = Server::start(4, Patience::USUAL, Door { tls: Some(Arc::clone(&tls)), guard: None });
    for version in rustls::ALL_VERSIONS {
        let stream = secure(&server, dir.path(), &[version]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        assert!(ask(stream, GET).await.ends_with("fine"));
    }
    // In the clear there is no answer, and nothing breaks.
    let mut plain = server.connect().await;
    plain.write_all(GET.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LONG, plain.read_to_end(&mut answer)).await.expect("it stays open");
    assert!(!answer.starts_with(b"HTTP"));
    certificate(dir.path());
    assert!(
        secure(&server, dir.path(), rustls::ALL_VERSIONS).await.is_err(),
        "it is trusted before it is shown"
    );
    let stop = CancellationToken::new();
    let watching = tokio::spawn(super::super::reload::watch(tls, Duration::from_millis(10), stop.clone()));
    let shown = async {
        while secure(&server, dir.path(), rustls::ALL_VERSIONS).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, shown).await.expect("the new certificate is never shown");
    stop.cancel();
    watching.await.unwrap();
    server.end().await;
}

#[tokio::test]
async fn half_handshakes_end_in_time_and_leave_room_for_those_who_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let tls = Arc::new(Tls::open(&certificate(dir.path())).unwrap());
    let patience = Patience { handshake: Duration::from_millis(300), ..Patience::USUAL };
    // Eight places, two of them for handshakes.
    let server = Server::start(8, patience, Door { tls: Some(tls), guard: None });
    let mut half = Vec::new();
    for _ in 0..20 {
        let mut stream = server.connect().await;
        // The beginning of a record of a handshake.
        stream.write_all(&[22, 3, 1]).await.unwrap();
        half.push(stream);
    }
    let most = server.metrics.connections.get();
    assert!(most <= 2, "{most} handshakes at a time");
    let stream = tokio::time::timeout(LONG, secure(&server, dir.path(), rustls::ALL_VERSIONS)).await;
    assert!(ask(stream.expect("no place is ever free").unwrap(), GET).await.ends_with("fine"));
    for mut stream in half {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await.expect("it is kept");
    }
    server.empties().await;
    server.end().await;
}
