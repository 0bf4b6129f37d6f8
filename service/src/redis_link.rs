//! One shared, self-mending connection to a Redis server. Commands of concurrent requests travel pipelined on
//! it. It says at once when the server is away, so that callers can answer instead of queueing.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ProtocolVersion, PushInfo, RedisError, RedisResult,
    TlsCertificates,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::authorities::Authorities;
use crate::server_url::ServerUrl;

/// How long the server may take for an answer. Far above an fsync, so that it only ends what hangs.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// After a failed connect, calls fail at once for this long instead of trying again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Commands that may wait on the connection.
const PIPELINE_BUFFER: usize = 16_384;

/// Told what becomes of the keys that were read over a connection (`CLIENT TRACKING`).
pub(crate) trait Watcher: Send + Sync + 'static {
    /// This connection takes the place of all former ones, and is used from now on. Without tracking there is the reason.
    fn connected(&self, generation: u64, tracking: Result<(), String>);

    /// What the server says unasked, or that the connection has ended; before any later reply is given to who waits
    /// for it. It is called where the connection is read and must not block.
    fn pushed(&self, generation: u64, push: PushInfo);
}

/// A connection that is made when needed and made again when it broke.
pub struct RedisLink {
    client: Client,
    watcher: Option<Arc<dyn Watcher>>,
    /// Address without credentials, for messages.
    address: String,
    current: RwLock<Option<Live>>,
    connecting: Mutex<Pause>,
}

#[derive(Clone)]
struct Live {
    connection: MultiplexedConnection,
    generation: u64,
}

#[derive(Default)]
struct Pause {
    until: Option<Instant>,
    reason: String,
    generations: u64,
}

/// A connection to use for one call; hand it back to [`RedisLink::check`] with what came of it.
pub struct Lease {
    pub connection: MultiplexedConnection,
    generation: u64,
}

impl Lease {
    /// The same number is the same connection.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
}

impl RedisLink {
    /// Connects lazily; only a URL that cannot be understood is an error here.
    ///
    /// # Errors
    /// What is wrong with the URL; its credentials are not repeated.
    pub fn new(url: &str) -> Result<Self, String> {
        Self::open(&url.into(), None)
    }

    /// The same, with the authorities that a `rediss://` server is trusted by; the public ones, when left out.
    ///
    /// # Errors
    /// As [`RedisLink::new`].
    pub fn open(url: &ServerUrl, authorities: Option<&Authorities>) -> Result<Self, String> {
        let client = client(url, authorities)?;
        let address = client.get_connection_info().addr().to_string();
        Ok(Self::of(client, address, None))
    }

    fn of(client: Client, address: String, watcher: Option<Arc<dyn Watcher>>) -> Self {
        Self { client, watcher, address, current: RwLock::new(None), connecting: Mutex::default() }
    }

    /// Another one to the same server; what is read over it is tracked, if the server does that.
    #[must_use]
    pub(crate) fn watched(&self, watcher: Arc<dyn Watcher>) -> Self {
        Self::of(self.client.clone(), self.address.clone(), Some(watcher))
    }

    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The live connection, or a new one.
    ///
    /// # Errors
    /// Why there is none; nothing was sent then.
    pub async fn lease(&self) -> Result<Lease, String> {
        if let Some(lease) = self.live() {
            return Ok(lease);
        }
        let mut pause = self.connecting.lock().await;
        if let Some(lease) = self.live() {
            return Ok(lease);
        }
        if pause.until.is_some_and(|until| Instant::now() < until) {
            return Err(pause.reason.clone());
        }
        // Also of one that fails: what it says late must not be taken for its successor's.
        pause.generations += 1;
        let generation = pause.generations;
        match self.connect(generation).await {
            Ok(connection) => {
                let live = Live { connection: connection.clone(), generation };
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(live);
                Ok(Lease { connection, generation })
            }
            Err(error) => {
                pause.reason = format!("Redis at {}: {error}", self.address);
                pause.until = Some(Instant::now() + RETRY_PAUSE);
                Err(pause.reason.clone())
            }
        }
    }

    async fn connect(&self, generation: u64) -> RedisResult<MultiplexedConnection> {
        let Some(watcher) = &self.watcher else { return connect(&self.client, RESPONSE_TIMEOUT).await };
        let (connection, tracking) = match self.connect_tracked(watcher, generation).await {
            Ok(connection) => (connection, Ok(())),
            Err(error) if is_broken(&error) => return Err(error),
            // An old server, a proxy, or a user who may not.
            Err(error) => (connect(&self.client, RESPONSE_TIMEOUT).await?, Err(error.to_string())),
        };
        watcher.connected(generation, tracking);
        Ok(connection)
    }

    async fn connect_tracked(
        &self,
        watcher: &Arc<dyn Watcher>,
        generation: u64,
    ) -> RedisResult<MultiplexedConnection> {
        let info = self.client.get_connection_info();
        // Only then the server speaks unasked.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.clone().set_redis_settings(settings))?;
        let watcher = Arc::clone(watcher);
        let pushed = move |push| {
            watcher.pushed(generation, push);
            Ok::<(), Infallible>(())
        };
        let config = connection_config(RESPONSE_TIMEOUT).set_push_sender(pushed);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("CLIENT").arg("TRACKING").arg("ON").exec_async(&mut connection).await?;
        Ok(connection)
    }

    fn live(&self) -> Option<Lease> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current
            .as_ref()
            .map(|live| Lease { connection: live.connection.clone(), generation: live.generation })
    }

    /// Gives up the lease's connection if the error means that it is of no more use.
    pub fn check<T>(&self, lease: &Lease, result: &RedisResult<T>) {
        if let Err(error) = result
            && (is_broken(error) || is_elsewhere(error))
        {
            let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
            if current.as_ref().is_some_and(|live| live.generation == lease.generation) {
                *current = None;
            }
        }
    }

    /// Gives up whatever connection there is: what happened on another one means that the server is no more the right one.
    pub(crate) fn give_up(&self) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A connection of its own, for calls that block.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub async fn dedicated(&self, response_timeout: Duration) -> Result<MultiplexedConnection, String> {
        connect(&self.client, response_timeout)
            .await
            .map_err(|error| format!("Redis at {}: {error}", self.address))
    }
}

/// Whether another connection may do better, although this one works: after a failover the name leads to the new
/// primary, and a password may have been given to the user meanwhile.
pub(crate) fn is_elsewhere(error: &RedisError) -> bool {
    matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "NOAUTH"))
}

/// Whether the connection is gone or its state unknown; an answer from the server, even an error, is not.
#[must_use]
pub fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
}

/// A client, which has not connected yet.
///
/// # Errors
/// What is wrong with the URL; its credentials are not repeated.
pub fn client(url: &ServerUrl, authorities: Option<&Authorities>) -> Result<Client, String> {
    let problem = |error: RedisError| {
        let detail = url.hide_in(&error.to_string());
        format!(
            "not a Redis URL (expected redis://[user:password@]HOST:PORT/DB, or rediss:// for TLS): {detail}"
        )
    };
    let client = Client::open(url.expose()).map_err(problem)?;
    let is_tls = matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. });
    match authorities.filter(|_| is_tls) {
        None => Ok(client),
        Some(authorities) => {
            let trusted = TlsCertificates { client_tls: None, root_cert: Some(authorities.pem.clone()) };
            Client::build_with_tls(url.expose(), trusted).map_err(problem)
        }
    }
}

async fn connect(client: &Client, response_timeout: Duration) -> RedisResult<MultiplexedConnection> {
    client.get_multiplexed_async_connection_with_config(&connection_config(response_timeout)).await
}

fn connection_config(response_timeout: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(response_timeout))
        .set_pipeline_buffer_size(PIPELINE_BUFFER)
}
