//! What concurrent requests share when they are appended, and requests that write to several shards.

use super::*;
use crate::journal::shard::shard_of;

const SHARDS: u16 = 4;

async fn sharded(server: &Server) -> RedisJournal {
    RedisJournal::connect(server.link(), BOUNDS, SHARDS, Durability::Memory).await.unwrap()
}

/// A write to each of so many documents.
fn wide(op_id: &str, writes: usize) -> Request {
    let write = |n| {
        let key = DocumentKey::new("orders", &format!("{op_id} {n}"));
        RequestWrite { key, change: Change::insert(doc! { "n": n as i32 }) }
    };
    Request { writes: (0..writes).map(write).collect(), ..request(op_id) }
}

async fn keys(server: &Server) -> Vec<String> {
    let mut keys: Vec<String> = server.command(&["KEYS", "*"]).await;
    keys.sort();
    keys
}

#[tokio::test]
async fn requests_that_come_together_share_entries_and_keep_their_order() {
    const REQUESTS: usize = 100;
    let server = Server::start(&[]);
    let journal = server.journal().await;
    let appends = numbered(0..REQUESTS).into_iter().map(|op_id| journal.append(request(&op_id)));
    let appended: Vec<WriteId> = futures_util::future::join_all(appends.collect::<Vec<_>>())
        .await
        .into_iter()
        .map(|appended| appended.unwrap().ids.first())
        .collect();
    let entries = server.length().await as usize;
    assert!(entries <= REQUESTS / 8, "{entries} entries");
    let places: Vec<(Position, u16)> = appended.iter().map(|id| (id.position, id.place)).collect();
    assert!(places.is_sorted_by(|one, next| one < next), "{places:?}");
    let held: Vec<(u16, String)> = numbered(0..REQUESTS).into_iter().map(|op_id| (0, op_id)).collect();
    let asked: Vec<(u16, &str)> = held.iter().map(|(shard, op_id)| (*shard, op_id.as_str())).collect();
    for (held, (id, (_, op_id))) in
        journal.held(&asked).await.unwrap().into_iter().zip(appended.iter().zip(&held))
    {
        let held = held.unwrap();
        assert_eq!((held.version, &*held.request.op_id), (id.position.version(), op_id.as_str()));
    }
    let mut consumer = journal.consumer("w1");
    let read = drain(&mut consumer).await;
    assert_eq!(names(&read), numbered(0..REQUESTS));
    consumer.ack(&positions(&read)).await.unwrap();
    assert_eq!(journal.held(&[(0, "op1")]).await.unwrap(), [None], "it is stored");
    assert_eq!(journal.backlog().await.unwrap().bytes, 0);
}

#[tokio::test]
async fn an_operation_that_comes_twice_at_once_is_one() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    let twice = ["a", "b", "a", "c", "b", "a"].map(|op_id| journal.append(request(op_id)));
    let answers = futures_util::future::try_join_all(twice).await.unwrap();
    let repeated: Vec<bool> = answers.iter().map(|answer| answer.repeated).collect();
    assert_eq!(repeated, [false, false, true, false, true, true]);
    assert_eq!(answers[0].ids, answers[5].ids);
    let mut found = names(&drain(&mut journal.consumer("w1")).await);
    found.sort();
    assert_eq!(found, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_request_has_a_part_in_each_of_its_shards() {
    let server = Server::start(&[]);
    let journal = sharded(&server).await;
    let request = wide("wide", 32);
    let Appended { ids, repeated } = journal.append(request.clone()).await.unwrap();
    assert!(!repeated);
    let shards: BTreeSet<u16> = request.writes.iter().map(|write| shard_of(&write.key, SHARDS)).collect();
    assert_eq!(ids.iter().map(|id| id.shard).collect::<BTreeSet<_>>(), shards);
    assert!(shards.len() > 1, "the test needs more than one");

    let operations: Vec<(u16, &str)> = shards.iter().map(|shard| (*shard, "wide")).collect();
    let mut seen = Vec::new();
    for (held, id) in journal.held(&operations).await.unwrap().into_iter().zip(ids.iter()) {
        let held = held.unwrap();
        assert_eq!(held.version, id.position.version());
        for (place, write) in held.request.writes.iter().enumerate() {
            assert_eq!(shard_of(&write.key, SHARDS), id.shard);
            seen.push((held.request.write_op_id(place), write.clone()));
        }
    }
    seen.sort_by(|(one, _), (other, _)| one.cmp(other));
    let expected: Vec<(String, RequestWrite)> =
        request.writes.iter().enumerate().map(|(n, write)| (format!("wide-{n:02}"), write.clone())).collect();
    assert_eq!(seen, expected, "each write once, under its own operation id");

    for id in ids.iter() {
        assert_eq!(journal.status(id).await.unwrap(), WriteState::Accepted);
    }
    let before = keys(&server).await;
    let again = sharded(&server).await.append(request).await.unwrap();
    assert_eq!(again, Appended { ids, repeated: true });
    assert_eq!(keys(&server).await, before);
    assert_eq!(journal.backlog().await.unwrap().entries, shards.len() as u64, "of all shards");
}

#[tokio::test]
async fn a_full_backlog_takes_no_part_of_a_request() {
    let server = Server::start(&[]);
    let bounds = BacklogBounds { entries: 3, ..BOUNDS };
    let journal = RedisJournal::connect(server.link(), bounds, SHARDS, Durability::Memory).await.unwrap();
    journal.append(wide("first", 32)).await.unwrap();
    let before = keys(&server).await;
    let error = journal.append(wide("second", 32)).await.unwrap_err();
    assert!(matches!(&error, JournalError::Full(reason) if reason.contains("the bound is 3")), "{error:?}");
    assert_eq!(keys(&server).await, before);
    assert!(journal.append(wide("first", 32)).await.unwrap().repeated, "what is there is still found");
}

/// Redis does nothing of a step whose first command it refuses.
#[tokio::test]
async fn a_server_that_refuses_takes_no_part_of_a_request() {
    let server = Server::start(&[]);
    let journal = sharded(&server).await;
    append(&journal, "before").await;
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let before = keys(&server).await;
    let error = journal.append(wide("wide", 32)).await.unwrap_err();
    assert!(matches!(&error, JournalError::Unavailable(reason) if reason.contains("OOM")), "{error:?}");
    assert_eq!(keys(&server).await, before);
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert!(!journal.append(wide("wide", 32)).await.unwrap().repeated);
}

#[tokio::test]
async fn many_requests_over_many_shards_do_not_overfill_a_command() {
    const REQUESTS: usize = 300;
    let server = Server::start(&[]);
    let journal = RedisJournal::connect(server.link(), BOUNDS, 64, Durability::Memory).await.unwrap();
    let appends: Vec<_> = numbered(0..REQUESTS).iter().map(|op_id| journal.append(wide(op_id, 64))).collect();
    for appended in futures_util::future::join_all(appends).await {
        assert!(!appended.unwrap().repeated);
    }
}
