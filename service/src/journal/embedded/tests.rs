//! The embedded journal: order, recovery, damage, bounds and a full disk.

mod dead;
mod recovery;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use bson::doc;

use super::*;
use crate::journal::{Consumer as _, DeadLetter, Delivery, RequestWrite, now_ms};
use crate::operation::{Change, DocumentKey, Position};

const BOUNDS: BacklogBounds = BacklogBounds { entries: 1_000_000, bytes: u64::MAX };
/// Long enough for any machine; a read returns as soon as there is something.
const PATIENCE: Duration = Duration::from_secs(20);
/// For reads that must find nothing.
const AT_ONCE: Duration = Duration::from_millis(1);

fn open(dir: &Path) -> EmbeddedJournal {
    EmbeddedJournal::open(dir, Durability::Fsync, BOUNDS).unwrap()
}

/// Segments that hold two entries each.
fn open_small(dir: &Path) -> EmbeddedJournal {
    EmbeddedJournal::open_with(dir, Durability::Os, BOUNDS, 100, now_ms).unwrap()
}

fn request(op_id: &str) -> Request {
    let write = RequestWrite {
        key: DocumentKey::new("orders", op_id),
        change: Change::insert(doc! { "text": "0123456789" }),
    };
    Request { op_id: op_id.into(), at_ms: now_ms(), writes: vec![write], places: None, replay: None }
}

async fn append(journal: &EmbeddedJournal, op_id: &str) -> Position {
    let appended = journal.append(request(op_id)).await.unwrap();
    assert!(!appended.repeated, "{op_id} is new");
    appended.ids.first().position
}

/// Position and operation id of each entry.
fn names(deliveries: &[Delivery]) -> Vec<(Position, String)> {
    let name = |delivery: &Delivery| match delivery {
        Delivery::Entry(entry) => (entry.position, entry.requests[0].op_id.to_string()),
        Delivery::Undecodable { position, reason, .. } => (*position, format!("undecodable: {reason}")),
    };
    deliveries.iter().map(name).collect()
}

async fn read(consumer: &mut EmbeddedConsumer) -> Vec<(Position, String)> {
    names(&consumer.read(10_000, usize::MAX, AT_ONCE).await.unwrap())
}

fn ops(read: &[(Position, String)]) -> Vec<&str> {
    read.iter().map(|(_, op_id)| op_id.as_str()).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| segment::parse_name(path).is_some())
        .collect();
    paths.sort();
    paths
}

fn id(position: Position) -> WriteId {
    WriteId { shard: 0, position, place: 0 }
}

#[tokio::test]
async fn entries_come_in_order_and_go_when_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let mut consumer = journal.consumer();
    assert!(read(&mut consumer).await.is_empty());
    let mut appended = Vec::new();
    for n in 0..5 {
        appended.push((append(&journal, &format!("op{n}")).await, format!("op{n}")));
    }
    assert!(appended.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert_eq!(journal.backlog().await.unwrap().entries, 5);
    let first = consumer.read(2, usize::MAX, AT_ONCE).await.unwrap();
    assert_eq!(names(&first), appended[..2]);
    assert_eq!(read(&mut consumer).await, appended[2..]);
    assert!(read(&mut consumer).await.is_empty(), "each comes once");
    consumer.ack(&[appended[0].0, appended[1].0]).await.unwrap();
    assert_eq!(journal.backlog().await.unwrap().entries, 3);
    consumer.rewind();
    assert_eq!(read(&mut consumer).await, appended[2..], "what is not acknowledged comes again");
    consumer.ack(&[appended[2].0, appended[3].0, appended[4].0]).await.unwrap();
    assert_eq!(journal.backlog().await.unwrap(), Backlog { removed: 5, ..Backlog::default() });
    consumer.rewind();
    assert!(read(&mut consumer).await.is_empty());
}

#[tokio::test]
async fn a_waiting_reader_gets_an_append_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let mut consumer = journal.consumer();
    let reading = tokio::spawn(async move { consumer.read(10, usize::MAX, PATIENCE).await.unwrap() });
    let position = append(&journal, "late").await;
    assert_eq!(names(&reading.await.unwrap()), [(position, "late".to_owned())]);
}

#[tokio::test]
async fn a_read_is_bounded_in_bytes_but_never_empty() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    append(&journal, "a").await;
    append(&journal, "b").await;
    let mut consumer = journal.consumer();
    for expected in ["a", "b"] {
        let one = consumer.read(100, 1, AT_ONCE).await.unwrap();
        assert_eq!(ops(&names(&one)), [expected]);
    }
}

#[tokio::test]
async fn positions_grow_while_the_clock_stands_still_or_goes_back() {
    fn stopped() -> u64 {
        1_795_000_000_000
    }
    fn earlier() -> u64 {
        1_700_000_000_000
    }
    let dir = tempfile::tempdir().unwrap();
    let mut last = Position::default();
    for clock in [stopped as fn() -> u64, earlier] {
        let journal = EmbeddedJournal::open_with(dir.path(), Durability::Os, BOUNDS, 200, clock).unwrap();
        for n in 0..20 {
            let position = append(&journal, &format!("{}-{n}", clock())).await;
            assert!(position > last, "{position} after {last}");
            last = position;
        }
        // With everything acknowledged, only the checkpoint knows where the log stood.
        let mut consumer = journal.consumer();
        assert_eq!(read(&mut consumer).await.len(), 20);
        consumer.ack(&[last]).await.unwrap();
    }
    assert_eq!(last, Position { ms: stopped(), seq: 39 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_appends_are_all_durable_and_in_order() {
    const APPENDS: usize = 3_000;
    let dir = tempfile::tempdir().unwrap();
    let journal = Arc::new(open(dir.path()));
    let appends = (0..APPENDS).map(|n| {
        let journal = Arc::clone(&journal);
        tokio::spawn(async move { (append(&journal, &format!("op{n}")).await, format!("op{n}")) })
    });
    let appends: Vec<_> = appends.collect();
    let mut appended = Vec::with_capacity(APPENDS);
    for append in appends {
        appended.push(append.await.unwrap());
    }
    appended.sort();
    assert_eq!(journal.backlog().await.unwrap().entries, APPENDS as u64);
    drop(Arc::into_inner(journal).unwrap());
    let journal = open(dir.path());
    assert_eq!(read(&mut journal.consumer()).await, appended);
    assert_eq!(journal.backlog().await.unwrap().entries, APPENDS as u64, "counted again after a start");
}

#[tokio::test]
async fn acknowledged_segments_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open_small(dir.path());
    let mut consumer = journal.consumer();
    for round in 0..5 {
        for n in 0..10 {
            append(&journal, &format!("{round}-{n}")).await;
        }
        assert!(segments(dir.path()).len() >= 5);
        let entries = read(&mut consumer).await;
        assert_eq!(entries.len(), 10, "round {round}");
        // In two steps, so that the reader stands in a segment that goes.
        let positions: Vec<Position> = entries.iter().map(|(position, _)| *position).collect();
        consumer.ack(&positions[..5]).await.unwrap();
        consumer.ack(&positions[5..]).await.unwrap();
        assert_eq!(segments(dir.path()).len(), 1, "only the writer's own stays");
    }
    drop(journal);
    let journal = open_small(dir.path());
    assert!(segments(dir.path()).is_empty(), "a start removes that too");
    assert!(read(&mut journal.consumer()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_operation_is_appended_once() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Arc::new(open(dir.path()));
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
    let position = answers[0].ids.first().position;
    assert!(answers.iter().all(|answer| answer.ids.first().position == position));
    assert_eq!(ops(&read(&mut journal.consumer()).await), ["same"]);
    drop(Arc::into_inner(journal).unwrap());
    let journal = open(dir.path());
    let again = journal.append(request("same")).await.unwrap();
    assert_eq!(again, Appended::at(position, true), "known after a restart while it waits");
    let mut consumer = journal.consumer();
    assert_eq!(read(&mut consumer).await.len(), 1);
    consumer.ack(&[position]).await.unwrap();
    let again = journal.append(request("same")).await.unwrap();
    assert_eq!(again, Appended::at(position, true), "and once it is stored");
}

#[tokio::test]
async fn the_bounds_of_the_backlog_hold_and_lift() {
    let dir = tempfile::tempdir().unwrap();
    for bounds in [BacklogBounds { entries: 3, bytes: u64::MAX }, BacklogBounds { entries: 99, bytes: 200 }] {
        let dir = dir.path().join(bounds.entries.to_string());
        let journal = EmbeddedJournal::open(&dir, Durability::Os, bounds).unwrap();
        let mut positions = Vec::new();
        let refused = loop {
            match journal.append(request(&positions.len().to_string())).await {
                Ok(appended) => positions.push(appended.ids.first().position),
                Err(refused) => break refused,
            }
        };
        let backlog = journal.backlog().await.unwrap();
        assert_eq!(refused, JournalError::Full(backlog.full(bounds).unwrap()));
        let bound =
            if bounds.entries == 3 { "3 entries wait for the database, the bound is 3" } else { "bytes" };
        assert!(refused.to_string().contains(bound), "{refused}");
        let mut consumer = journal.consumer();
        assert_eq!(read(&mut consumer).await.len(), 3, "nothing of the refused one is there");
        consumer.ack(&positions[..1]).await.unwrap();
        append(&journal, "fits").await;
    }
}

#[tokio::test]
async fn what_waits_for_the_disk_is_bounded_in_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    append(&journal, "first").await;
    let queued = || journal.shared.queued_bytes.load(Ordering::Relaxed);
    assert_eq!(queued(), 0, "what is written waits no more");
    // As if the disk stood still.
    journal.shared.queued_bytes.store(WAITING_BYTES, Ordering::Relaxed);
    let refused = journal.append(request("second")).await.unwrap_err();
    assert!(matches!(refused, JournalError::Unavailable(_)), "{refused}");
    assert_eq!(queued(), WAITING_BYTES);
    journal.shared.queued_bytes.store(0, Ordering::Relaxed);
    append(&journal, "second").await;
}

#[tokio::test]
async fn a_write_is_accepted_then_stored_or_dead() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let unknown = async |journal: &EmbeddedJournal, id| {
        assert_eq!(journal.status(id).await.unwrap(), WriteState::Unknown, "{id}");
    };
    unknown(&journal, id(Position { ms: now_ms(), seq: 0 })).await;
    let (good, bad) = (append(&journal, "good").await, append(&journal, "bad").await);
    unknown(&journal, id(Position::default())).await;
    unknown(&journal, id(Position { ms: bad.ms, seq: bad.seq + 1 })).await;
    unknown(&journal, WriteId { shard: 1, ..id(good) }).await;
    unknown(&journal, WriteId { place: 1, ..id(good) }).await;
    assert_eq!(journal.status(id(good)).await.unwrap(), WriteState::Accepted);
    let mut consumer = journal.consumer();
    read(&mut consumer).await;
    let letter = DeadLetter {
        write_id: id(bad),
        reason: "no such luck".into(),
        op_id: "bad-00".into(),
        payload: vec![0, 255].into(),
        returned: None,
    };
    consumer.bury(std::slice::from_ref(&letter)).await.unwrap();
    consumer.bury(&[letter]).await.unwrap();
    consumer.ack(&[good, bad]).await.unwrap();
    let dead = WriteState::Dead { reason: "no such luck".into() };
    assert_eq!(journal.status(id(good)).await.unwrap(), WriteState::Stored);
    assert_eq!(journal.status(id(bad)).await.unwrap(), dead);
    let path = dir.path().join("dead-letters.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches(r#""payload":"00ff""#).count(), 1, "buried once: {text}");
    drop((consumer, journal));
    // A letter that was torn while it was written is not one.
    fs::write(&path, format!("{text}{}", &text[..20])).unwrap();
    let journal = open(dir.path());
    assert_eq!(journal.status(id(bad)).await.unwrap(), dead);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let Err(error) = EmbeddedJournal::open(dir.path(), Durability::Os, BOUNDS) else {
        panic!("the log is in use")
    };
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(journal);
    append(&open(dir.path()), "mine").await;
}
