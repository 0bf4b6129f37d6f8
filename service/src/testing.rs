//! Real servers for tests: started on a free port, waited for until they answer, killed and reaped on drop,
//! and dead with the test process even when that is killed. Failures panic: there is no test without them.

pub mod checker;
mod constant;
mod io_group;
pub mod proxy;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bson::doc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use constant::{Yardstick, serve_constant};
pub use io_group::{IoGroup, NO_LIMIT};

/// Names an executable to use in place of `mongod`; it is started as SecantusDB is.
pub const MONGOD_VARIABLE: &str = "SCALEKIT_TEST_MONGOD";

const START_LIMIT: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Somebody else may take a free port first.
const PORT_ATTEMPTS: usize = 5;

/// A port that nobody listens on at the moment.
///
/// # Panics
/// If the loopback interface has none.
#[must_use]
pub fn free_port() -> u16 {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on the loopback interface");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// A running Redis.
#[derive(Debug)]
pub struct RedisServer(Server);

impl Deref for RedisServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for RedisServer {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

impl RedisServer {
    /// Starts `redis-server` with its files in `dir` and these further arguments (`["--appendonly", "yes"]`).
    ///
    /// # Panics
    /// If there is no `redis-server` on the PATH, or if it does not start.
    #[must_use]
    pub fn start(dir: &Path, args: &[&str]) -> Self {
        let program = on_path("redis-server").expect("redis-server on the PATH; install Redis 7 or newer");
        let mut all = vec!["--bind", "127.0.0.1", "--daemonize", "no", "--save", "", "--dir"];
        let dir_text = dir.to_str().expect("a UTF-8 directory");
        all.push(dir_text);
        all.extend(args);
        Self(Server::start("redis", program, &all, dir, redis_answers))
    }
}

/// A running server that speaks MongoDB's wire protocol.
#[derive(Debug)]
pub struct MongoServer(Server);

impl Deref for MongoServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for MongoServer {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

impl MongoServer {
    /// Starts it with its files in `dir`: `mongod` if there is one on the PATH, else the program that
    /// [`MONGOD_VARIABLE`] names, else SecantusDB from `target/venv`. Fail points may be set on it.
    ///
    /// # Panics
    /// If there is none, or if it does not start.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        let dir_text = dir.to_str().expect("a UTF-8 directory");
        if let Some(program) = on_path("mongod") {
            let fail_points = ["--setParameter", "enableTestCommands=1"];
            let args =
                [&["--bind_ip", "127.0.0.1", "--nounixsocket", "--dbpath", dir_text], &fail_points[..]];
            let args = args.concat();
            return Self(Server::start("mongodb", program, &args, dir, mongo_answers));
        }
        let program = std::env::var_os(MONGOD_VARIABLE).map_or_else(bundled_mongod, PathBuf::from);
        assert!(
            program.is_file(),
            "no MongoDB server for this test: no mongod on the PATH, and {} does not exist; run ./test, which \
             installs SecantusDB there, or set {MONGOD_VARIABLE}",
            program.display()
        );
        let args = ["--sync-on-commit", "--enable-test-commands", "--storage-path", dir_text];
        Self(Server::start("mongodb", program, &args, dir, mongo_answers))
    }
}

impl MongoServer {
    /// SecantusDB from `target/venv`, with these further arguments; `None` if it is not there. It counts as started
    /// when it takes connections, since TLS or a password may keep strangers from more.
    #[must_use]
    pub fn start_secantus(dir: &Path, args: &[&str]) -> Option<Self> {
        let program = bundled_mongod();
        let all = [&["--storage-path", dir.to_str().expect("a UTF-8 directory")], args].concat();
        let listens: fn(TcpStream) -> io::Result<bool> = |_| Ok(true);
        program.is_file().then(|| Self(Server::start("mongodb", program, &all, dir, listens)))
    }
}

fn bundled_mongod() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    workspace.join("target/venv/bin/secantusd-py")
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// What all of them are: a child process with a port.
#[derive(Debug)]
pub struct Server {
    scheme: &'static str,
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    answers: fn(TcpStream) -> io::Result<bool>,
    port: u16,
    child: Child,
}

impl Server {
    fn start(
        scheme: &'static str,
        program: PathBuf,
        args: &[&str],
        dir: &Path,
        answers: fn(TcpStream) -> io::Result<bool>,
    ) -> Self {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let log = dir.join("server.log");
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port();
            let child = spawn(&program, &args, port, &log);
            let mut server = Self {
                scheme,
                program: program.clone(),
                args: args.clone(),
                log: log.clone(),
                answers,
                port,
                child,
            };
            if server.wait_until_it_answers().is_ok() {
                return server;
            }
        }
        panic!("{} exits at once; it says:\n{}", program.display(), tail(&log));
    }

    /// `redis://127.0.0.1:PORT`, `mongodb://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it (SIGKILL); [`Server::restart`] brings it back.
    pub fn kill(&mut self) {
        // Fails only if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Has it stand still (SIGSTOP), with each of its threads, until it gets a SIGCONT. The signal alone is under way when
    /// it is sent, and threads answer until it is there.
    ///
    /// # Panics
    /// If it goes on for seconds.
    pub fn freeze(&self) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("Linux process ids are below 2^22"));
        kill(pid, Signal::SIGSTOP).expect("the server is our child");
        let stands = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // A thread that has ended meanwhile does nothing either.
            stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
        };
        for _ in 0..500 {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the server is our child");
            if tasks.flatten().all(stands) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the server does not stand still");
    }

    /// Starts it again on the same port and directory.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.program, &self.args, self.port, &self.log);
        if let Err(status) = self.wait_until_it_answers() {
            panic!("{} exits with {status}; it says:\n{}", self.program.display(), tail(&self.log));
        }
    }

    /// `Err` if it exits instead.
    fn wait_until_it_answers(&mut self) -> Result<(), ExitStatus> {
        let start = Instant::now();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        while start.elapsed() < START_LIMIT {
            if let Some(status) = self.child.try_wait().expect("the state of a child of this process") {
                return Err(status);
            }
            let answers = TcpStream::connect_timeout(&address, ANSWER_LIMIT).and_then(|stream| {
                stream.set_read_timeout(Some(ANSWER_LIMIT))?;
                (self.answers)(stream)
            });
            if answers.unwrap_or(false) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!(
            "{} does not answer within {START_LIMIT:?}; it says:\n{}",
            self.program.display(),
            tail(&self.log)
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn redis_answers(mut stream: TcpStream) -> io::Result<bool> {
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    // Who must log in first is answered, too.
    Ok(matches!(&answer, b"+PONG" | b"-NOAU"))
}

/// Sends `hello` as an `OP_MSG`:
/// <https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/#op_msg>
fn mongo_answers(mut stream: TcpStream) -> io::Result<bool> {
    const OP_MSG: i32 = 2013;
    let body = doc! { "hello": 1, "$db": "admin" }.to_vec().map_err(io::Error::other)?;
    // Header (length, request, response to, opcode), flags, section kind 0.
    let length = i32::try_from(16 + 4 + 1 + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::new();
    for field in [length, 1, 0, OP_MSG, 0] {
        message.extend_from_slice(&field.to_le_bytes());
    }
    message.push(0);
    message.extend_from_slice(&body);
    stream.write_all(&message)?;
    let mut header = [0; 16];
    stream.read_exact(&mut header)?;
    Ok(header[12..] == OP_MSG.to_le_bytes())
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let from = text.len().saturating_sub(2_000);
    text.get(from..).unwrap_or(&text).to_owned()
}

/// Starts a program that is killed when this process ends, however it ends.
///
/// The kernel sends that signal when the *thread* ends that started the program, and a test has a thread of
/// its own, so one thread that never ends starts them all.
fn spawn(program: &Path, args: &[String], port: u16, log: &Path) -> Child {
    type Job = (Command, mpsc::Sender<io::Result<Child>>);
    static STARTER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (jobs, todo) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in todo {
                // The asking test may be gone; then the child is dropped, and still dies with this process.
                let _ = answer.send(command.spawn());
            }
        });
        jobs
    });
    let output = File::create(log).expect("a log file in the server's directory");
    let mut command = Command::new(program);
    command.arg("--port").arg(port.to_string()).args(args).stdin(Stdio::null());
    command.stdout(output.try_clone().expect("a second handle of the log")).stderr(output);
    // SAFETY: between fork and exec only prctl(2) is called, which is a plain system call.
    unsafe {
        command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
    let (answer, child) = mpsc::channel();
    starter.send((command, answer)).expect("the starter thread never ends");
    let child = child.recv().expect("the starter thread answers each job");
    child.unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listens(port: u16) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
    }

    #[test]
    fn redis_starts_restarts_and_is_gone_after_drop() {
        let dir = tempfile::tempdir().unwrap();
        let mut server = RedisServer::start(dir.path(), &["--appendonly", "yes"]);
        let (port, pid) = (server.port(), server.pid());
        assert!(listens(port));
        server.kill();
        assert!(!listens(port));
        server.restart();
        assert!(listens(port) && server.pid() != pid);
        drop(server);
        assert!(!listens(port));
    }

    #[test]
    #[should_panic(expected = "exits at once; it says")]
    fn a_server_that_does_not_start_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let _ = RedisServer::start(dir.path(), &["--no-such-option", "1"]);
    }
}
