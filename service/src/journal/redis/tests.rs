//! The journal on a real Redis: appends, deliveries, and what a server that is away does to them.

mod append;
mod dead;
mod faults;
mod ownership;
mod presence;
mod states;

use std::collections::BTreeSet;
use std::time::Duration;

use bson::doc;
use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use tokio::time::Instant;

use super::keys::GROUP;
use super::*;
use crate::journal::{Consumer as _, DeadLetter, Delivery, RequestWrite, now_ms};
use crate::operation::{Change, DocumentKey};
use crate::testing::RedisServer;

const STREAM: &str = "scalekit:{0}:journal";
const OWNER: &str = "scalekit:{0}:owner";
const DEAD: &str = "scalekit:{0}:dead";
const BOUNDS: BacklogBounds = BacklogBounds { entries: 1_000_000, bytes: u64::MAX };
/// For reads that must find nothing; the server waits at least this long.
const AT_ONCE: Duration = Duration::from_millis(1);
/// As long as a consumer waits at a time.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// No test waits longer than this for something that must come.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    redis: RedisServer,
    dir: tempfile::TempDir,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { redis: RedisServer::start(dir.path(), args), dir }
    }

    fn link(&self) -> Arc<RedisLink> {
        Arc::new(RedisLink::new(&self.redis.url()).unwrap())
    }

    async fn connect(&self, bounds: BacklogBounds) -> Result<RedisJournal, JournalError> {
        RedisJournal::connect(self.link(), bounds, 1, Durability::Memory).await
    }

    async fn journal(&self) -> RedisJournal {
        self.connect(BOUNDS).await.unwrap()
    }

    async fn command<T: ::redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = self.link().dedicated(PATIENCE).await.unwrap();
        ::redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.unwrap()
    }

    async fn length(&self) -> u64 {
        self.command(&["XLEN", STREAM]).await
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.redis.pid() as i32), signal).unwrap();
    }
}

fn request(op_id: &str) -> Request {
    let write =
        RequestWrite { key: DocumentKey::new("orders", op_id), change: Change::insert(doc! { "n": 1 }) };
    Request { op_id: op_id.into(), at_ms: now_ms(), writes: vec![write], places: None, replay: None }
}

async fn append(journal: &RedisJournal, op_id: &str) -> Position {
    let appended = journal.append(request(op_id)).await.unwrap();
    assert!(!appended.repeated, "{op_id} is new");
    appended.ids.first().position
}

fn ops(delivery: &Delivery) -> Vec<String> {
    match delivery {
        Delivery::Entry(entry) => entry.requests.iter().map(|request| request.op_id.to_string()).collect(),
        Delivery::Undecodable { reason, .. } => vec![format!("undecodable: {reason}")],
    }
}

/// Reads until nothing comes any more.
async fn drain(consumer: &mut RedisConsumer) -> Vec<Delivery> {
    let mut all = Vec::new();
    loop {
        let some = consumer.read(7, usize::MAX, AT_ONCE).await.unwrap();
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

/// Reads, through errors and standby, until `count` requests are there.
async fn read_all(consumer: &mut RedisConsumer, count: usize) -> Vec<Delivery> {
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    while names(&all).len() < count && Instant::now() < deadline {
        match consumer.read(1000, usize::MAX, Duration::from_millis(50)).await {
            Ok(some) => all.extend(some),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    all
}

fn names(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().flat_map(ops).collect()
}

fn positions(deliveries: &[Delivery]) -> Vec<Position> {
    deliveries.iter().map(Delivery::position).collect()
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("op{n}")).collect()
}

async fn append_numbered(journal: &RedisJournal, range: std::ops::Range<usize>) -> Vec<Position> {
    let mut positions = Vec::new();
    for op_id in numbered(range) {
        positions.push(append(journal, &op_id).await);
    }
    positions
}

fn id(position: Position) -> WriteId {
    WriteId { shard: 0, position, place: 0 }
}

#[tokio::test]
async fn entries_come_in_order_and_acknowledging_empties_the_stream() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    let mut consumer = journal.consumer("w1");
    let appended = append_numbered(&journal, 0..20).await;
    assert!(appended.windows(2).all(|pair| pair[0] < pair[1]));
    let backlog = journal.backlog().await.unwrap();
    assert_eq!(
        backlog,
        Backlog { entries: 20, bytes: backlog.bytes, oldest_ms: Some(appended[0].ms), ..Backlog::default() }
    );
    let read = drain(&mut consumer).await;
    assert_eq!((names(&read), positions(&read)), (numbered(0..20), appended.clone()));
    consumer.ack(&appended[..5]).await.unwrap();
    assert_eq!(server.length().await, 15);
    consumer.rewind();
    assert_eq!(names(&drain(&mut consumer).await), numbered(5..20), "the rest comes again");
    consumer.ack(&appended[5..]).await.unwrap();
    assert_eq!(server.length().await, 0);
    assert_eq!(journal.backlog().await.unwrap(), Backlog { removed: 20, ..Backlog::default() });
    consumer.rewind();
    assert!(drain(&mut consumer).await.is_empty());
}

#[tokio::test]
async fn thousands_are_acknowledged_at_once() {
    const ENTRIES: usize = 4_321;
    let server = Server::start(&[]);
    let journal = server.journal().await;
    futures_util::future::join_all(numbered(0..ENTRIES).iter().map(|op_id| append(&journal, op_id))).await;
    let mut consumer = journal.consumer("w1");
    let read = read_all(&mut consumer, ENTRIES).await;
    consumer.ack(&positions(&read)).await.unwrap();
    assert_eq!(server.length().await, 0);
    consumer.rewind();
    assert!(drain(&mut consumer).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_operation_is_one_entry() {
    let server = Server::start(&[]);
    let journal = Arc::new(server.journal().await);
    let appends: Vec<_> = (0..50)
        .map(|_| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move { journal.append(request("same")).await.unwrap() })
        })
        .collect();
    let mut answers = Vec::new();
    for append in appends {
        answers.push(append.await.unwrap());
    }
    assert_eq!(answers.iter().filter(|answer| !answer.repeated).count(), 1);
    assert!(answers.iter().all(|answer| answer.ids == answers[0].ids));
    assert_eq!(server.length().await, 1);
    let other_process = server.journal().await;
    let again = other_process.append(request("same")).await.unwrap();
    assert_eq!(again, Appended { ids: answers[0].ids.clone(), repeated: true, salt: None });
}

#[tokio::test]
async fn a_waiting_consumer_gets_an_entry_at_once() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    let mut consumer = journal.consumer("w1");
    for op_id in numbered(0..3) {
        // Acknowledged by hand and never deleted, so the stream is never empty.
        let foreign: String = server.command(&["XADD", STREAM, "*", "x", "y"]).await;
        assert_eq!(consumer.read(1, usize::MAX, PATIENCE).await.unwrap().len(), 1);
        assert_eq!(server.command::<i64>(&["XACK", STREAM, GROUP, &foreign]).await, 1);
        let read = async { consumer.read(9, usize::MAX, MAX_WAIT).await.unwrap() };
        let (read, _) = futures_util::join!(read, append(&journal, &op_id));
        assert_eq!(names(&read), [op_id]);
    }
}

#[tokio::test]
async fn a_write_is_accepted_then_stored_or_dead_and_buried_once() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    let status = async |id: WriteId| journal.status(id).await.unwrap();
    assert_eq!(status(id(Position { ms: now_ms(), seq: 0 })).await, WriteState::Unknown);
    let (good, bad) = (append(&journal, "good").await, append(&journal, "bad").await);
    for unknown in
        [id(Position::default()), id(Position { ms: bad.ms + 1, seq: 0 }), WriteId { shard: 1, ..id(good) }]
    {
        assert_eq!(status(unknown).await, WriteState::Unknown, "{unknown}");
    }
    assert_eq!(status(id(good)).await, WriteState::Accepted);
    let mut consumer = journal.consumer("w1");
    drain(&mut consumer).await;
    let letter = |op_id: &str| DeadLetter {
        write_id: id(bad),
        reason: format!("{op_id} broke a rule"),
        op_id: op_id.into(),
        payload: Bytes::from_static(b"\0\xff"),
        returned: None,
    };
    consumer.bury(&[letter("bad-00"), letter("bad-01")]).await.unwrap();
    consumer.bury(&[letter("bad-01")]).await.unwrap();
    consumer.ack(&[good, bad]).await.unwrap();
    assert_eq!(status(id(good)).await, WriteState::Stored);
    assert_eq!(status(id(bad)).await, WriteState::Dead { reason: "bad-00 broke a rule".into() });
    assert_eq!(server.command::<u64>(&["XLEN", DEAD]).await, 2);
    let kept: StreamRangeReply = server.command(&["XRANGE", DEAD, "-", "+"]).await;
    assert_eq!(kept.ids[0].get::<String>("op_id").as_deref(), Some("bad-00"));
    assert_eq!(kept.ids[0].get::<Vec<u8>>("payload").as_deref(), Some(&b"\0\xff"[..]));
}

#[tokio::test]
async fn durability_is_what_the_server_is_set_to() {
    for (args, expected) in [
        (&["--appendonly", "no"][..], Durability::Memory),
        (&["--appendonly", "yes", "--appendfsync", "everysec"], Durability::Os),
        (&["--appendonly", "yes", "--appendfsync", "always"], Durability::Fsync),
        (
            &["--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "yes"],
            Durability::Os,
        ),
    ] {
        let server = Server::start(args);
        assert_eq!(server.journal().await.durability(), expected, "{args:?}");
    }
}

#[tokio::test]
async fn the_bound_of_the_backlog_holds_and_lifts() {
    let server = Server::start(&[]);
    let journal = server.connect(BacklogBounds { entries: 2, bytes: u64::MAX }).await.unwrap();
    append_numbered(&journal, 0..2).await;
    let error = journal.append(request("more")).await.unwrap_err();
    assert_eq!(error, JournalError::Full("2 entries wait for the database, the bound is 2".into()));
    assert!(journal.append(request("op1")).await.unwrap().repeated, "what is there is still found");
    let mut consumer = journal.consumer("w1");
    let read = drain(&mut consumer).await;
    consumer.ack(&positions(&read)[..1]).await.unwrap();
    append(&journal, "more").await;
}

#[tokio::test]
async fn bytes_are_counted_once_each_and_bounded() {
    let server = Server::start(&[]);
    let journal = server.connect(BacklogBounds { entries: 99, bytes: 200 }).await.unwrap();
    let bytes = async || journal.backlog().await.unwrap().bytes;
    let mut appended = Vec::new();
    let refused = loop {
        match journal.append(request(&format!("op{}", appended.len()))).await {
            Ok(entry) => appended.push(entry.ids.first().position),
            Err(error) => break error,
        }
        assert!(appended.len() < 99, "the bound never holds");
    };
    let full = bytes().await;
    assert!(full >= 200, "{full}");
    let expected = format!("{full} bytes wait for the database, the bound is 200");
    assert_eq!(refused, JournalError::Full(expected));
    assert!(journal.append(request("op0")).await.unwrap().repeated, "what is there is still found");
    assert_eq!(bytes().await, full, "and not counted again");
    let mut consumer = journal.consumer("w1");
    let read = drain(&mut consumer).await;
    let sizes: Vec<u64> = read
        .iter()
        .map(|delivery| match delivery {
            Delivery::Entry(entry) => entry.bytes as u64,
            Delivery::Undecodable { payload, .. } => payload.len() as u64,
        })
        .collect();
    assert_eq!(sizes.iter().sum::<u64>(), full);
    // Acknowledged twice, together with one that never was.
    for _ in 0..2 {
        consumer.ack(&[appended[0], Position { ms: 1, seq: 1 }]).await.unwrap();
        assert_eq!(bytes().await, full - sizes[0]);
    }
    append(&journal, "more").await;
    // Whatever made it wrong, an empty stream mends it.
    let _: i64 = server.command(&["INCRBY", "scalekit:{0}:bytes", "1000"]).await;
    let rest = positions(&read_all(&mut consumer, 1).await);
    consumer.ack(&[&appended[1..], &rest].concat()).await.unwrap();
    assert_eq!(server.command::<i64>(&["EXISTS", "scalekit:{0}:bytes"]).await, 0);
    assert_eq!(bytes().await, 0);
    append(&journal, "again").await;
    assert_eq!(bytes().await, sizes[0] + 4, "its name, which is its key too, is longer");
}
