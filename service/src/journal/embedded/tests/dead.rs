//! Dead letters in their file: found again, counted, put back over a crash, and no larger than it must be.

use super::*;
use crate::journal::{LetterId, Replay, Returned};

fn letter(write: WriteId, op_id: &str) -> DeadLetter {
    let payload = vec![7; 100].into();
    DeadLetter {
        write_id: write,
        reason: format!("{op_id} broke a rule"),
        op_id: op_id.into(),
        payload,
        returned: None,
    }
}

fn write_id(position: Position) -> WriteId {
    WriteId { shard: 0, position, place: 0 }
}

async fn all(journal: &EmbeddedJournal) -> Vec<String> {
    let page = journal.page(Position::default(), 10_000).await.unwrap();
    page.into_iter().map(|kept| kept.letter.op_id).collect()
}

fn replay_of(write: WriteId, times: u32) -> Request {
    let replay = Replay { origin: write, as_new: false, times };
    Request { places: Some([0].into()), replay: Some(Box::new(replay)), ..request("k") }
}

#[tokio::test]
async fn letters_are_counted_and_keep_their_order_over_restarts_and_rewrites() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    let write = write_id(append(&journal, "k").await);
    let ops: Vec<String> = (0..50).map(|n| format!("k-{n:02}")).collect();
    {
        let mut consumer = journal.consumer();
        let letters: Vec<DeadLetter> = ops.iter().map(|op_id| letter(write, op_id)).collect();
        consumer.bury(&letters).await.unwrap();
        consumer.bury(&letters[49..]).await.unwrap();
        let entry = WriteId { place: 9, ..write };
        let returned = Some(Returned { entry, times: 7 });
        consumer.bury(&[DeadLetter { returned, ..letters[48].clone() }]).await.unwrap();
    }
    let path = dir.path().join("dead-letters.jsonl");
    let before = fs::metadata(&path).unwrap().len();
    let page = journal.page(Position::default(), 20).await.unwrap();
    let rest = journal.page(page[19].at, 100).await.unwrap();
    assert_eq!((page.len(), rest.len()), (20, 30));
    assert!(page.iter().chain(&rest).map(|kept| kept.at).is_sorted());
    assert_eq!([rest[27].times, rest[28].times, rest[29].times], [1, 8, 2]);
    for place in (0..46).rev() {
        assert!(journal.drop_letter(LetterId { write, place: Some(place) }).await.unwrap());
        assert!(!journal.drop_letter(LetterId { write, place: Some(place) }).await.unwrap());
    }
    let after = fs::metadata(&path).unwrap().len();
    assert!(after < before / 3, "{after} of {before} bytes");
    for restart in [false, true] {
        if restart {
            drop(journal);
            journal = open(dir.path());
        }
        assert_eq!(journal.page(Position::default(), 100).await.unwrap(), rest[26..], "{restart}");
        assert_eq!(journal.backlog().await.unwrap().dead_letters, 4);
        let found = journal.by_operation("k-48").await.unwrap().unwrap();
        assert_eq!((found.letter, found.times), (letter(write, "k-48"), 8));
        assert_eq!(journal.of_request(write).await.unwrap().len(), 4);
        assert!(journal.by_operation("k-00").await.unwrap().is_none());
    }
    assert!(!dir.path().join("dead-letters.jsonl.new").exists());
}

#[tokio::test]
async fn what_a_former_build_wrote_and_what_nobody_can_read_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dead-letters.jsonl");
    let old = r#"{"write_id":"0.5.0.0","op_id":"a-00","reason":"r","payload":"00ff"}"#;
    let other = r#"{"write_id":"0.5.0.0","op_id":"","reason":"whole","payload":"01"}"#;
    fs::write(&path, format!("{old}\nnonsense\n{other}\n")).unwrap();
    // A crash while the file was written anew.
    fs::write(dir.path().join("dead-letters.jsonl.new"), "half").unwrap();
    let journal = open(dir.path());
    assert_eq!(all(&journal).await, ["a-00", ""]);
    let kept = journal.by_operation("a-00").await.unwrap().unwrap();
    assert_eq!((kept.at, kept.last_ms, kept.times), (Position { ms: 5, seq: 0 }, 5, 1));
    assert_eq!(&kept.letter.payload[..], [0, 255]);
    assert!(journal.by_operation("").await.unwrap().is_none());
    let entry = LetterId { write: write_id(Position { ms: 5, seq: 0 }), place: None };
    for place in [Some(0), None] {
        assert!(journal.drop_letter(LetterId { place, ..entry }).await.unwrap());
    }
    assert_eq!(all(&journal).await, Vec::<String>::new());
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("nonsense\n") && !text.contains("a-00"), "{text}");
}

#[tokio::test]
async fn a_worker_that_is_faster_than_the_end_of_a_replay_loses_no_letter() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let write = write_id(append(&journal, "k").await);
    let mut consumer = journal.consumer();
    consumer.bury(&[letter(write, "k-00")]).await.unwrap();
    // Durable, and refused again before the letter was taken out.
    let entry = write_id(journal.append(replay_of(write, 1)).await.unwrap().ids.first().position);
    let returned = Some(Returned { entry, times: 1 });
    consumer.bury(&[DeadLetter { returned, ..letter(write, "k-00") }]).await.unwrap();
    let ended = journal.replay(&[LetterId { write, place: Some(0) }], replay_of(write, 1)).await.unwrap();
    assert_eq!(ended.map(|appended| appended.ids.first().position), Some(entry.position));
    assert_eq!(all(&journal).await, ["k-00"]);
    drop((consumer, journal));
    assert_eq!(all(&open(dir.path())).await, ["k-00"], "nor when the log is recovered");
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_replay_is_one_replay() {
    let dir = tempfile::tempdir().unwrap();
    let (write, replayed) = {
        let journal = open(dir.path());
        let write = write_id(append(&journal, "k").await);
        let mut consumer = journal.consumer();
        read(&mut consumer).await;
        consumer.bury(&[letter(write, "k-00"), letter(write, "k-01")]).await.unwrap();
        consumer.ack(&[write.position]).await.unwrap();
        // The first half of a replay: it is durable, and the letter is still there.
        let appended = journal.append(replay_of(write, 1)).await.unwrap();
        assert_eq!(all(&journal).await, ["k-00", "k-01"]);
        // Asked for again, it is found again.
        let id = LetterId { write, place: Some(1) };
        let again = journal.append(replay_of(write, 1)).await.unwrap();
        assert_eq!(again, Appended { repeated: true, ..appended.clone() });
        assert_eq!(
            journal.replay(&[LetterId { place: Some(9), ..id }], replay_of(write, 3)).await.unwrap(),
            None
        );
        (write, appended.ids.first().position)
    };
    let journal = open(dir.path());
    assert_eq!(all(&journal).await, ["k-01"], "the second half");
    let mut consumer = journal.consumer();
    assert_eq!(read(&mut consumer).await.len(), 1, "nothing else was appended");
    // It is refused again: the same letter once more, which a further replay puts back.
    let returned = Some(Returned { entry: write_id(replayed), times: 1 });
    consumer.bury(&[DeadLetter { returned, ..letter(write, "k-00") }]).await.unwrap();
    consumer.ack(&[replayed]).await.unwrap();
    let kept = journal.by_operation("k-00").await.unwrap().unwrap();
    assert_eq!((kept.letter.write_id, kept.times), (write, 2));
    let dead = WriteState::Dead { reason: "k-00 broke a rule".into() };
    assert_eq!(journal.status(write_id(replayed)).await.unwrap(), dead);
    let second = journal.replay(&[kept.letter.id()], replay_of(write, 2)).await.unwrap().unwrap();
    assert!(!second.repeated && second.ids.first().position > replayed);
    assert_eq!(all(&journal).await, ["k-01"]);
    assert_eq!(ops(&read(&mut consumer).await), ["k"]);
    consumer.superseded(&[write_id(second.ids.first().position)]).await.unwrap();
    consumer.ack(&[second.ids.first().position]).await.unwrap();
    assert_eq!(journal.status(write_id(second.ids.first().position)).await.unwrap(), WriteState::Superseded);
    assert_eq!(journal.status(write).await.unwrap(), WriteState::Dead { reason: "k-01 broke a rule".into() });
    assert!(journal.drop_letter(LetterId { write, place: Some(1) }).await.unwrap());
    let said = journal.status(write).await.unwrap();
    assert!(matches!(&said, WriteState::Dead { reason } if reason.contains("dropped")), "{said:?}");
}
