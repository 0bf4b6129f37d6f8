//! Dead letters in their stream: found, counted, adopted from former builds, and put back in one step.

use super::*;
use crate::journal::{LetterId, Note, Replay, Returned};

const REASONS: &str = "scalekit:{0}:dead:reasons";
const INDEX: &str = "scalekit:{0}:dead:index";

fn letter(write: WriteId, op_id: &str) -> DeadLetter {
    let payload = Bytes::from_static(b"\0\xff");
    DeadLetter {
        write_id: write,
        reason: format!("{op_id} broke a rule"),
        op_id: op_id.into(),
        payload,
        returned: None,
    }
}

async fn all(journal: &RedisJournal) -> Vec<(String, u32)> {
    let page = journal.page(Position::default(), 1000).await.unwrap();
    page.into_iter().map(|kept| (kept.letter.op_id, kept.times)).collect()
}

fn replay_of(write: WriteId, times: u32) -> Request {
    let replay = Replay { origin: write, as_new: false, times };
    Request { places: Some([0].into()), replay: Some(Box::new(replay)), ..request("k") }
}

#[tokio::test]
async fn letters_of_a_former_build_are_adopted_once() {
    let server = Server::start(&[]);
    let (old, reason) = ("0.5.0.0", "a rule");
    for n in 0..3 {
        server.command::<String>(&["XADD", DEAD, "*", "somebody", "else's"]).await;
        let (op_id, mark) = (format!("a-0{n}"), format!("{old} a-0{n}"));
        let fields = ["write_id", old, "op_id", &op_id, "reason", reason, "payload", "p"];
        server.command::<String>(&[&["XADD", DEAD, "*"], &fields[..]].concat()).await;
        server.command::<u32>(&["HSET", REASONS, &mark, "", old, reason]).await;
    }
    let journal = server.journal().await;
    let write: WriteId = old.parse().unwrap();
    // Found before anybody has listed them.
    let found = journal.by_operation("a-01").await.unwrap().unwrap();
    assert_eq!((found.letter.write_id, found.times, found.last_ms), (write, 1, found.at.ms));
    assert_eq!(all(&journal).await, [("a-00".into(), 1), ("a-01".into(), 1), ("a-02".into(), 1)]);
    // What is no letter is in nobody's way.
    let page = journal.page(Position::default(), 2).await.unwrap();
    let rest = journal.page(page[1].at, 2).await.unwrap();
    assert_eq!((page.len(), rest.len()), (2, 1));
    assert_eq!(journal.of_request(write).await.unwrap().len(), 3);
    // A former build's worker whose entry comes once more.
    let mut consumer = journal.consumer("w1");
    consumer.bury(&[letter(write, "a-01"), letter(write, "a-03")]).await.unwrap();
    let times = |n| ("a-0".to_owned() + n, if n == "1" { 2 } else { 1 });
    assert_eq!(all(&journal).await, ["0", "1", "2", "3"].map(times));
    for place in 0..4 {
        assert!(matches!(journal.status(write).await.unwrap(), WriteState::Dead { .. }));
        assert!(journal.drop_letter(LetterId { write, place: Some(place) }).await.unwrap());
    }
    assert_eq!(all(&journal).await, []);
    assert_eq!(server.command::<u64>(&["HLEN", REASONS]).await, 0, "nothing is left of them");
    assert_eq!(server.command::<Vec<String>>(&["HKEYS", INDEX]).await, ["adopted"]);
}

#[tokio::test]
async fn a_replay_takes_the_letter_out_in_the_step_that_appends_it() {
    let server = Server::start(&[]);
    let journal = server.connect(BacklogBounds { entries: 2, bytes: u64::MAX }).await.unwrap();
    let write = id(append(&journal, "k").await);
    let mut consumer = journal.consumer("w1");
    drain(&mut consumer).await;
    consumer.bury(&[letter(write, "k-00")]).await.unwrap();
    consumer.ack(&[write.position]).await.unwrap();
    let letter_id = LetterId { write, place: Some(0) };
    // No room: nothing happened.
    let filling = [append(&journal, "f1").await, append(&journal, "f2").await];
    let full = journal.replay(&[letter_id], replay_of(write, 1)).await;
    assert!(matches!(full, Err(JournalError::Full(_))), "{full:?}");
    assert_eq!(all(&journal).await, [("k-00".into(), 1)]);
    drain(&mut consumer).await;
    consumer.ack(&filling).await.unwrap();
    let appended = journal.replay(&[letter_id], replay_of(write, 1)).await.unwrap().unwrap();
    assert!(!appended.repeated);
    assert_eq!((all(&journal).await, journal.backlog().await.unwrap().dead_letters), (vec![], 0));
    assert_eq!(journal.status(write).await.unwrap(), WriteState::Accepted, "as its replay");
    // Who did not get the answer gets it now; who comes later finds no letter.
    let again = journal.replay(&[letter_id], replay_of(write, 1)).await.unwrap().unwrap();
    assert_eq!(again, Appended { repeated: true, ..appended.clone() });
    assert_eq!(journal.replay(&[letter_id], replay_of(write, 2)).await.unwrap(), None);
    assert_eq!(server.length().await, 1);
    let read = drain(&mut consumer).await;
    let [Delivery::Entry(entry)] = &read[..] else { panic!("{read:?}") };
    let of = |request: Request| (request.write_op_id(0), request.replay);
    assert_eq!(of(entry.requests[0].clone()), of(replay_of(write, 1)));

    // It is refused again, and then comes too late.
    let returned = Some(Returned { entry: id(appended.ids.first().position), times: 1 });
    consumer.bury(&[DeadLetter { returned, ..letter(write, "k-00") }]).await.unwrap();
    consumer.ack(&[appended.ids.first().position]).await.unwrap();
    assert_eq!(all(&journal).await, [("k-00".into(), 2)]);
    for dead in [write, id(appended.ids.first().position)] {
        let said = WriteState::Dead { reason: "k-00 broke a rule".into() };
        assert_eq!(journal.status(dead).await.unwrap(), said);
    }
    let second = journal.replay(&[letter_id], replay_of(write, 2)).await.unwrap().unwrap();
    drain(&mut consumer).await;
    consumer.superseded(&[id(second.ids.first().position)]).await.unwrap();
    consumer.ack(&[second.ids.first().position]).await.unwrap();
    for gone in [write, id(second.ids.first().position)] {
        assert_eq!(journal.status(gone).await.unwrap(), WriteState::Superseded);
    }
    let notes: Vec<String> = server.command(&["KEYS", "scalekit:{0}:note:*"]).await;
    assert_eq!(notes.len(), 3, "{notes:?}");
    for note in notes {
        assert!(server.command::<i64>(&["PTTL", &note]).await > 0, "it is forgotten some day");
        assert!(Note::decode(&server.command::<String>(&["GET", &note]).await).is_some(), "{note}");
    }
}

#[tokio::test]
async fn letters_are_kept_and_given_up_when_memory_is_full() {
    let server = Server::start(&["--maxmemory-policy", "noeviction"]);
    let journal = server.journal().await;
    let write = id(append(&journal, "k").await);
    let mut consumer = journal.consumer("w1");
    drain(&mut consumer).await;
    server.command::<String>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let returned = Some(Returned { entry: write, times: 4 });
    consumer.bury(&[DeadLetter { returned, ..letter(write, "k-00") }]).await.unwrap();
    consumer.ack(&[write.position]).await.unwrap();
    assert_eq!(all(&journal).await, [("k-00".into(), 5)]);
    let replayed = journal.replay(&[LetterId { write, place: Some(0) }], replay_of(write, 5)).await;
    assert!(matches!(replayed, Err(JournalError::Unavailable(_))), "{replayed:?}");
    assert!(journal.drop_letter(LetterId { write, place: Some(0) }).await.unwrap());
}
