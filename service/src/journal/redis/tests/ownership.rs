//! Who owns a shard: leases, their ends, and what the next owner is given.

use super::*;

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
async fn who_stood_still_while_another_took_the_shard_claims_nothing_of_what_that_one_holds() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    append_numbered(&journal, 0..4).await;
    let mut first = journal.consumer("w1");
    assert_eq!(names(&first.read(2, usize::MAX, AT_ONCE).await.unwrap()), numbered(0..2));
    // It is to start again from what is not acknowledged, and by its own clock its lease runs.
    first.rewind();
    assert_eq!(server.command::<i64>(&["DEL", OWNER]).await, 1);
    let mut second = journal.consumer("w2");
    assert_eq!(names(&drain(&mut second).await), numbered(0..4));
    assert!(first.read(9, usize::MAX, AT_ONCE).await.unwrap().is_empty());
    assert!(first.has_lost() && !second.has_lost());
    let held: (u64, ::redis::Value, ::redis::Value, Vec<(String, u64)>) =
        server.command(&["XPENDING", STREAM, GROUP]).await;
    assert_eq!((held.0, held.3), (4, vec![("w2".to_owned(), 4)]));
}

#[tokio::test]
async fn what_a_former_owner_acknowledges_and_buries_late_changes_nothing_for_the_next() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    let appended = append_numbered(&journal, 0..3).await;
    let mut first = journal.consumer("w1");
    assert_eq!(drain(&mut first).await.len(), 3);
    assert_eq!(server.command::<i64>(&["DEL", OWNER]).await, 1);
    let mut second = journal.consumer("w2");
    assert_eq!(names(&drain(&mut second).await), numbered(0..3));
    let letter = DeadLetter {
        write_id: id(appended[1]),
        reason: "no".into(),
        op_id: "op1-00".into(),
        payload: Bytes::from_static(b"x"),
        returned: None,
    };
    for consumer in [&mut first, &mut second] {
        consumer.bury(std::slice::from_ref(&letter)).await.unwrap();
        consumer.ack(&appended[..2]).await.unwrap();
    }
    assert_eq!(server.command::<u64>(&["XLEN", DEAD]).await, 1, "one letter");
    append_numbered(&journal, 3..4).await;
    second.rewind();
    assert_eq!(names(&drain(&mut second).await), numbered(2..4), "what nobody has acknowledged");
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
