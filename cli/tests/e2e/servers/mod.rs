//! Servers whose every answer the test decides, and which keep a log of their own: what a load generator says is
//! held against what its server saw.

mod act;
mod log;
mod queue;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

pub(crate) use act::{Act, End};
pub(crate) use log::Log;
pub(crate) use queue::{Blackhole, PausedAccept};

/// Chooses the answer to each request by its number, in the order of arrival from 0.
type Conduct = Arc<Mutex<dyn FnMut(u64) -> Act + Send>>;

/// Enough for a crowd that connects at once.
const BACKLOG: i32 = 1024;

/// A server on one thread, so that blocking that thread freezes it as SIGSTOP would: the kernel goes on to accept
/// and to acknowledge, nobody answers.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) log: Arc<Log>,
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(conduct: impl FnMut(u64) -> Act + Send + 'static) -> Self {
        let (socket, address) = listener(BACKLOG);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let log = Arc::<Log>::default();
        let thread = {
            let (log, conduct): (_, Conduct) = (Arc::clone(&log), Arc::new(Mutex::new(conduct)));
            std::thread::spawn(move || {
                runtime.block_on(async {
                    socket.set_nonblocking(true).unwrap();
                    let listener = TcpListener::from_std(socket.into()).unwrap();
                    tokio::select! {
                        _ = stopped => {}
                        () = accept(listener, &conduct, &log) => {}
                    }
                });
            })
        };
        Self { url: format!("http://{address}/"), log, handle, stop: Some(stop), thread: Some(thread) }
    }

    /// Answers every request alike.
    pub(crate) fn always(act: Act) -> Self {
        Self::start(move |_| act.clone())
    }

    /// Does nothing at all for so long, from the moment at which it gets to it.
    pub(crate) fn freeze(&self, duration: Duration) {
        let log = Arc::clone(&self.log);
        self.handle.spawn(async move {
            let start = Instant::now();
            std::thread::sleep(duration);
            log.froze(start.elapsed());
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its thread may have ended by a panic, which the join below shows.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let outcome = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            outcome.unwrap().unwrap();
        }
    }
}

/// A bound and listening socket on a free port of the loopback.
fn listener(backlog: i32) -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(backlog).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

async fn accept(listener: TcpListener, conduct: &Conduct, log: &Arc<Log>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        log.connected();
        let (conduct, log) = (Arc::clone(conduct), Arc::clone(log));
        tokio::spawn(async move {
            // The client hanging up is the normal end.
            let _ = serve(stream, &conduct, &log).await;
        });
    }
}

async fn serve(mut stream: TcpStream, conduct: &Conduct, log: &Log) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    let mut last_answer = None;
    while request(&mut stream, &mut buffer).await? {
        let arrived = Instant::now();
        // The number is drawn under the lock, so that the log and the conduct count alike.
        let act = {
            let mut conduct = conduct.lock().unwrap();
            conduct(log.started())
        };
        if !act.delay.is_zero() {
            tokio::time::sleep(act.delay).await;
        }
        let answering = Instant::now();
        log.answering(answering - arrived);
        log.passed(answering - last_answer.replace(answering).unwrap_or(arrived));
        act.perform(&mut stream, log).await?;
        log.finished();
        match act.end {
            End::Keep => {}
            End::Close => return Ok(()),
            End::Reset => return stream.set_zero_linger(),
            End::Hold => {
                // Whatever else comes is not heard; the end of the client is.
                while stream.read(&mut [0; 1024]).await? > 0 {}
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Takes the next request, which must not have a body, off the connection; false when the client has left.
async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<bool> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            buffer.drain(..end + 4);
            return Ok(true);
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(false);
        }
    }
}
