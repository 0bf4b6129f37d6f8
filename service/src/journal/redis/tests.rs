//! The journal on a real Redis: appends, deliveries, and what a server that is away does to them.

use std::collections::BTreeSet;
use std::time::Duration;

use bson::doc;
use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;
use crate::journal::{Consumer as _, DeadLetter, Delivery, RequestWrite, now_ms};
use crate::operation::{Change, DocumentKey};
use crate::testing::RedisServer;

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
        RedisJournal::connect(self.link(), bounds).await
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
    Request { op_id: op_id.into(), at_ms: now_ms(), writes: vec![write] }
}

async fn append(journal: &RedisJournal, op_id: &str) -> Position {
    let appended = journal.append(request(op_id)).await.unwrap();
    assert!(!appended.repeated, "{op_id} is new");
    appended.position
}

fn name(delivery: &Delivery) -> String {
    match delivery {
        Delivery::Entry(entry) => entry.requests[0].op_id.to_string(),
        Delivery::Undecodable { reason, .. } => format!("undecodable: {reason}"),
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

/// Reads, through errors and standby, until `count` entries are there.
async fn read_all(consumer: &mut RedisConsumer, count: usize) -> Vec<Delivery> {
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    while all.len() < count && Instant::now() < deadline {
        match consumer.read(1000, usize::MAX, Duration::from_millis(50)).await {
            Ok(some) => all.extend(some),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    all
}

fn names(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(name).collect()
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
    assert_eq!(backlog, Backlog { entries: 20, bytes: 0, oldest_ms: Some(appended[0].ms) });
    let read = drain(&mut consumer).await;
    assert_eq!((names(&read), positions(&read)), (numbered(0..20), appended.clone()));
    consumer.ack(&appended[..5]).await.unwrap();
    assert_eq!(server.length().await, 15);
    consumer.rewind();
    assert_eq!(names(&drain(&mut consumer).await), numbered(5..20), "the rest comes again");
    consumer.ack(&appended[5..]).await.unwrap();
    assert_eq!(server.length().await, 0);
    assert_eq!(journal.backlog().await.unwrap(), Backlog::default());
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
    assert!(answers.iter().all(|answer| answer.position == answers[0].position));
    assert_eq!(server.length().await, 1);
    let other_process = server.journal().await;
    let again = other_process.append(request("same")).await.unwrap();
    assert_eq!(again, Appended { position: answers[0].position, repeated: true });
}

#[tokio::test]
async fn what_a_dead_consumer_held_comes_first_and_in_order() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    append_numbered(&journal, 0..10).await;
    let mut first = journal.consumer("w1");
    assert_eq!(drain(&mut first).await.len(), 10);
    drop(first);
    append_numbered(&journal, 10..15).await;
    // The same name: at once, although the lease still runs.
    let mut reborn = journal.consumer("w1");
    assert_eq!(names(&drain(&mut reborn).await), numbered(0..15));
    drop(reborn);
    append_numbered(&journal, 15..17).await;
    let mut successor = journal.consumer("w2");
    assert!(drain(&mut successor).await.is_empty(), "the dead one's lease still runs");
    // The lease ends, here by hand.
    assert_eq!(server.command::<i64>(&["DEL", OWNER]).await, 1);
    assert_eq!(names(&drain(&mut successor).await), numbered(0..17));
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_expires() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    append_numbered(&journal, 0..3).await;
    let lease = Duration::from_millis(300);
    let mut first = journal.consumer("w1").with_lease(lease);
    assert_eq!(drain(&mut first).await.len(), 3);
    let mut second = journal.consumer("w2");
    assert_eq!(names(&read_all(&mut second, 3).await), numbered(0..3));
    // The first one has lost the shard and notices.
    append_numbered(&journal, 3..4).await;
    assert!(drain(&mut first).await.is_empty());
    assert_eq!(names(&drain(&mut second).await), numbered(3..4));
}

#[tokio::test]
async fn who_did_not_notice_that_another_owned_the_shard_meanwhile_starts_again_in_order() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    append_numbered(&journal, 0..4).await;
    let lease = Duration::from_millis(100);
    let mut first = journal.consumer("w1").with_lease(lease);
    assert_eq!(names(&first.read(1, usize::MAX, AT_ONCE).await.unwrap()), numbered(0..1));
    let mut second = journal.consumer("w2");
    assert_eq!(names(&read_all(&mut second, 4).await), numbered(0..4), "the first one's lease has run out");
    second.release().await;
    append_numbered(&journal, 4..6).await;
    assert!(
        first.read(9, usize::MAX, AT_ONCE).await.is_err(),
        "what it has read so far is not to be gone on with"
    );
    assert_eq!(names(&read_all(&mut first, 6).await), numbered(0..6));
}

#[tokio::test]
async fn who_stood_still_while_another_took_the_shard_is_given_nothing_new() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    append_numbered(&journal, 0..1).await;
    let mut first = journal.consumer("w1");
    assert_eq!(names(&drain(&mut first).await), numbered(0..1));
    // By its own clock its lease runs.
    assert_eq!(server.command::<i64>(&["DEL", OWNER]).await, 1);
    let mut second = journal.consumer("w2");
    assert_eq!(names(&drain(&mut second).await), numbered(0..1));
    append_numbered(&journal, 1..3).await;
    assert!(first.read(9, usize::MAX, AT_ONCE).await.unwrap().is_empty());
    assert_eq!(names(&drain(&mut second).await), numbered(1..3));
    second.release().await;
    assert_eq!(names(&read_all(&mut first, 3).await), numbered(0..3));
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
async fn of_two_consumers_of_one_name_the_later_owns_the_shard() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    append_numbered(&journal, 0..2).await;
    let (mut first, mut second) = (journal.consumer("w1"), journal.consumer("w1"));
    assert_eq!(names(&drain(&mut first).await), numbered(0..2));
    assert_eq!(names(&drain(&mut second).await), numbered(0..2), "as after a restart");
    append_numbered(&journal, 2..4).await;
    assert!(drain(&mut first).await.is_empty(), "it stands by");
    assert_eq!(names(&drain(&mut second).await), numbered(2..4));
    second.release().await;
    assert_eq!(names(&read_all(&mut first, 4).await), numbered(0..4), "and takes over in order");
}

#[tokio::test]
async fn one_of_two_consumers_reads_and_the_other_takes_over_a_released_shard() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    append_numbered(&journal, 0..4).await;
    let (mut one, mut other) = (journal.consumer("w1"), journal.consumer("w2"));
    let read = drain(&mut one).await;
    assert_eq!(read.len(), 4);
    assert!(drain(&mut other).await.is_empty());
    one.ack(&positions(&read)[..2]).await.unwrap();
    one.release().await;
    assert_eq!(names(&drain(&mut other).await), numbered(2..4));
    assert!(drain(&mut one).await.is_empty());
    // Only the owner can release.
    one.release().await;
    assert!(server.command::<String>(&["GET", OWNER]).await.ends_with(" w2"));
}

#[tokio::test]
async fn a_destroyed_group_costs_nothing() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    let appended = append_numbered(&journal, 0..6).await;
    let mut consumer = journal.consumer("w1");
    assert_eq!(drain(&mut consumer).await.len(), 6);
    consumer.ack(&appended[..2]).await.unwrap();
    assert_eq!(server.command::<i64>(&["XGROUP", "DESTROY", STREAM, GROUP]).await, 1);
    let appended_after = append_numbered(&journal, 6..8).await;
    let read = read_all(&mut consumer, 6).await;
    assert_eq!(names(&read), numbered(2..8), "in order, but for what is acknowledged");
    consumer.ack(&[&appended[2..], &appended_after[..]].concat()).await.unwrap();
    assert_eq!(server.length().await, 0);
}

#[tokio::test]
async fn a_deleted_stream_starts_anew() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    append_numbered(&journal, 0..3).await;
    let mut consumer = journal.consumer("w1");
    let read = drain(&mut consumer).await;
    assert_eq!(server.command::<i64>(&["DEL", STREAM]).await, 1);
    // Acknowledging what is gone is no error: it is stored.
    consumer.ack(&positions(&read)).await.unwrap();
    append_numbered(&journal, 3..5).await;
    let read = read_all(&mut consumer, 2).await;
    assert_eq!(names(&read), numbered(3..5));
    consumer.ack(&positions(&read)).await.unwrap();
    assert_eq!(server.length().await, 0);
    // Deleted under a reader that waits.
    let waiting = tokio::spawn(async move { read_all(&mut consumer, 1).await });
    let _: i64 = server.command(&["DEL", STREAM]).await;
    append_numbered(&journal, 5..6).await;
    assert_eq!(names(&waiting.await.unwrap()), numbered(5..6));
}

#[tokio::test]
async fn entries_that_nobody_can_read_are_delivered_as_such() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    append(&journal, "good").await;
    let _: String = server.command(&["XADD", STREAM, "*", FIELD, "\x09from the future"]).await;
    let _: String = server.command(&["XADD", STREAM, "*", "colour", "blue"]).await;
    append(&journal, "after").await;
    let mut consumer = journal.consumer("w1");
    let read = drain(&mut consumer).await;
    let [good, future, foreign, after] = &read[..] else { panic!("four deliveries, not {read:?}") };
    assert_eq!((name(good), name(after)), ("good".to_owned(), "after".to_owned()));
    let Delivery::Undecodable { reason, payload, .. } = future else { panic!("{future:?}") };
    assert!(reason.contains("version 9"), "{reason}");
    assert_eq!(&payload[..], b"\x09from the future");
    let Delivery::Undecodable { reason, payload, .. } = foreign else { panic!("{foreign:?}") };
    assert!(reason.contains("not written by scalekit"), "{reason}");
    let kept = String::from_utf8_lossy(payload);
    assert!(kept.contains("colour") && kept.contains("blue"), "what it held is kept: {kept:?}");
    consumer.ack(&positions(&read)).await.unwrap();
    assert_eq!(server.length().await, 0);
}

#[tokio::test]
async fn a_write_is_accepted_then_stored_or_dead_and_buried_once() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    let status = async |id: WriteId| journal.status(id).await.unwrap();
    assert_eq!(status(id(Position { ms: now_ms(), seq: 0 })).await, WriteState::Unknown);
    let (good, bad) = (append(&journal, "good").await, append(&journal, "bad").await);
    for unknown in [
        id(Position::default()),
        id(Position { ms: bad.ms + 1, seq: 0 }),
        WriteId { shard: 1, ..id(good) },
        WriteId { place: 1, ..id(good) },
    ] {
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
async fn a_server_that_may_evict_is_refused() {
    let server = Server::start(&["--maxmemory", "100mb"]);
    for policy in ["allkeys-lru", "volatile-lru", "volatile-ttl"] {
        let _: String = server.command(&["CONFIG", "SET", "maxmemory-policy", policy]).await;
        let Err(JournalError::Failed(reason)) = server.connect(BOUNDS).await else {
            panic!("{policy} must be refused")
        };
        assert!(reason.contains(policy) && reason.contains("noeviction"), "{reason}");
    }
    let _: String = server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    server.journal().await;
    // Without a limit nothing is ever evicted.
    let _: String = server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    server.journal().await;
}

#[tokio::test]
async fn a_server_without_memory_accepts_nothing() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    append(&journal, "before").await;
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    for n in 0..3 {
        let error = journal.append(request(&format!("full{n}"))).await.unwrap_err();
        assert!(matches!(&error, JournalError::Unavailable(why) if why.contains("OOM")), "{error}");
    }
    assert_eq!(server.length().await, 1);
    assert_eq!(server.command::<Vec<String>>(&["KEYS", "*op:full*"]).await, Vec::<String>::new());
    // What waits can still be taken away.
    let mut consumer = journal.consumer("w1");
    let read = read_all(&mut consumer, 1).await;
    assert_eq!(names(&read), ["before"]);
    consumer.ack(&positions(&read)).await.unwrap();
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    append(&journal, "full0").await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_to_a_stopped_server_never_fails_falsely() {
    let server = Server::start(&[]);
    let journal = Arc::new(server.journal().await);
    append(&journal, "warm").await;
    server.signal(Signal::SIGSTOP);
    let appends: Vec<_> = (0..20)
        .map(|n| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move { journal.append(request(&format!("op{n}"))).await })
        })
        .collect();
    let mut outcomes = Vec::new();
    for (n, append) in appends.into_iter().enumerate() {
        outcomes.push((format!("op{n}"), append.await.unwrap()));
    }
    server.signal(Signal::SIGCONT);
    // The server works off what lies in its sockets; then the stream tells the truth.
    for (op_id, outcome) in &outcomes {
        assert!(
            matches!(outcome, Err(JournalError::Unknown(_) | JournalError::Unavailable(_))),
            "nothing can be known of {op_id}: {outcome:?}"
        );
    }
    let open: Vec<_> =
        outcomes.iter().filter(|(_, outcome)| matches!(outcome, Err(JournalError::Unknown(_)))).collect();
    assert!(!open.is_empty(), "the requests were on their way");
    // A retry settles the open ones, and adds none twice.
    for (op_id, _) in &open {
        let deadline = Instant::now() + PATIENCE;
        while journal.append(request(op_id)).await.is_err() {
            assert!(Instant::now() < deadline, "{op_id} is never settled");
        }
    }
    let read = read_all(&mut journal.consumer("w1"), open.len() + 1).await;
    let there: BTreeSet<String> = names(&read).into_iter().collect();
    assert_eq!(there.len(), read.len(), "each once");
    for (op_id, outcome) in &outcomes {
        let is_open = matches!(outcome, Err(JournalError::Unknown(_)));
        assert_eq!(there.contains(op_id), is_open, "{op_id}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_killed_server_is_unavailable_at_once_and_loses_nothing() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let journal = server.journal().await;
    assert_eq!(journal.durability(), Durability::Fsync);
    let appended = append_numbered(&journal, 0..10).await;
    let mut consumer = journal.consumer("w1");
    assert_eq!(drain(&mut consumer).await.len(), 10);
    consumer.ack(&appended[..3]).await.unwrap();
    server.redis.kill();
    // The first one finds the connection broken under it, and cannot know whether it was in time.
    let lost = journal.append(request("op10")).await.unwrap_err();
    assert!(matches!(lost, JournalError::Unavailable(_) | JournalError::Unknown(_)), "{lost:?}");
    for n in 0..20 {
        let error = journal.append(request(&format!("while-away{n}"))).await.unwrap_err();
        assert!(matches!(error, JournalError::Unavailable(_)), "append {n}: {error:?}");
    }
    assert!(matches!(journal.backlog().await, Err(JournalError::Unavailable(_))));
    assert!(consumer.read(10, usize::MAX, AT_ONCE).await.is_err());
    server.redis.restart();
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = journal.append(request("op10")).await {
        assert!(Instant::now() < deadline, "{error}");
    }
    assert_eq!(names(&read_all(&mut consumer, 8).await), numbered(3..11));
    assert!(server.dir.path().join("appendonlydir").is_dir());
}
