//! What concurrent requests share when they are appended, and requests that write to several shards.

use super::*;
use crate::contract::write_operation_id;
use crate::journal::shard::shard_of;
use crate::testing::proxy::{Mode, Proxy, Way};

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
    let Appended { ids, repeated, .. } = journal.append(request.clone()).await.unwrap();
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
    assert_eq!(again, Appended { ids, repeated: true, salt: None });
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

/// Inserts without an id, and a write to each of these documents.
fn unnamed(inserts: usize, others: &[&str]) -> Request {
    let insert = |_| RequestWrite { key: DocumentKey::new("orders", ""), change: Change::insert(doc! {}) };
    let replace =
        |id: &&str| RequestWrite { key: DocumentKey::new("orders", id), change: Change::replace(doc! {}) };
    let writes = (0..inserts).map(insert).chain(others.iter().map(replace)).collect();
    Request { writes, ..request("") }
}

#[tokio::test]
async fn a_request_without_a_name_gets_one_by_which_it_is_found() {
    let server = Server::start(&[]);
    let journal = sharded(&server).await;
    let appends: Vec<_> = (0..40).map(|_| journal.append(unnamed(2, &[]))).collect();
    let mut names = Vec::new();
    for appended in futures_util::future::join_all(appends).await {
        let appended = appended.unwrap();
        assert!(!appended.repeated);
        names.push(appended.name().unwrap().to_string());
    }
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    let shards: BTreeSet<&str> = names.iter().filter_map(|name| name.split('.').next()).collect();
    assert_eq!(shards.len(), usize::from(SHARDS), "they are dealt out");
    for name in &names {
        let key = DocumentKey::new("orders", &write_operation_id(name, 1));
        let held = journal.held(&[(journal.shard_of(&key), name)]).await.unwrap().remove(0).unwrap();
        assert_eq!((&*held.request.op_id, &held.request.writes[1].key), (name.as_str(), &key));
    }
    let guessed = format!("{}.{:016x}", &names[0].rsplit_once('.').unwrap().0, 7);
    let shard = guessed.split('.').next().unwrap().parse().unwrap();
    assert_eq!(journal.held(&[(shard, &guessed)]).await.unwrap(), [None], "a name cannot be guessed");

    let remembered = keys(&server).await.into_iter().filter(|key| key.contains(":op:")).count();
    assert_eq!(remembered, 0, "nothing is remembered of each");
    let commands = keys(&server).await.into_iter().filter(|key| key.contains(":command:")).count();
    assert!(commands <= 4, "{commands} commands");
}

#[tokio::test]
async fn inserts_without_an_id_are_in_the_first_part_of_their_request() {
    let server = Server::start(&[]);
    let journal = sharded(&server).await;
    let others = ["1", "2", "3", "4", "5", "6"];
    let appended = journal.append(unnamed(3, &others)).await.unwrap();
    assert!(appended.ids.iter().count() > 1, "the test needs several parts");
    let name = appended.name().unwrap().to_string();
    let first = journal.held(&[(appended.ids.first().shard, &name)]).await.unwrap().remove(0).unwrap();
    let ids: Vec<&str> = first.request.writes.iter().map(|write| write.key.id()).take(3).collect();
    assert_eq!(ids, [0, 1, 2].map(|place| write_operation_id(&name, place)));
}

/// A client's own name that looks like one of the journal's is found as any other.
#[tokio::test]
async fn a_name_that_looks_like_a_position_is_as_good_as_any() {
    let server = Server::start(&[]);
    let journal = sharded(&server).await;
    let name = "2.1795000000000.0.0.00000000000000ab";
    let id = write_operation_id(name, 0);
    let write = RequestWrite { key: DocumentKey::new("orders", &id), change: Change::insert(doc! {}) };
    let appended = journal.append(Request { writes: vec![write], ..request(name) }).await.unwrap();
    assert_eq!(appended.ids.first().shard, 2);
    let held = journal.held(&[(2, name)]).await.unwrap().remove(0).unwrap();
    assert_eq!(held.request.writes[0].key.id(), id);
}

#[tokio::test]
async fn a_name_of_another_request_is_refused_and_what_comes_with_it_is_not() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    append(&journal, "a").await;
    let another = Request { writes: wide("other", 1).writes, ..request("a") };
    let (refused, same, new, unnamed) = tokio::join!(
        journal.append(another),
        journal.append(request("b")),
        journal.append(request("a")),
        journal.append(unnamed(1, &[])),
    );
    assert_eq!(refused.unwrap_err(), JournalError::Reused);
    assert!(!same.unwrap().repeated && new.unwrap().repeated && !unnamed.unwrap().repeated);
    let mut found = names(&drain(&mut journal.consumer("w1")).await);
    found.retain(|name| name.len() == 1);
    found.sort();
    assert_eq!(found, ["a", "b"]);
}

/// Redis carries the command out, and nobody hears of it.
#[tokio::test]
async fn a_command_whose_reply_is_lost_is_found_when_it_is_sent_again() {
    let server = Server::start(&[]);
    let proxy = Proxy::start(server.redis.port()).await;
    let link = Arc::new(RedisLink::new(&format!("redis://127.0.0.1:{}", proxy.port())).unwrap());
    let journal = RedisJournal::connect(link, BOUNDS, 1, Durability::Memory).await.unwrap();
    // Redis knows the script from here on; or it would be the answer that it does not which gets lost.
    append(&journal, "before").await;
    proxy.set(Way::ToClient, Mode::Drop);
    let appends =
        futures_util::future::join(journal.append(unnamed(2, &[])), journal.append(request("named")));
    let heal = async {
        let deadline = Instant::now() + PATIENCE;
        while server.length().await < 2 {
            assert!(Instant::now() < deadline, "it was never carried out");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        proxy.cut();
        proxy.set(Way::ToClient, Mode::Forward);
    };
    let ((unnamed, named), ()) = futures_util::future::join(appends, heal).await;
    let (unnamed, named) = (unnamed.unwrap(), named.unwrap());
    assert_eq!((unnamed.repeated, named.repeated), (false, false), "it is the command's own");
    assert_eq!(server.length().await, 2);
    let name = unnamed.name().unwrap().to_string();
    let held = journal.held(&[(0, &name), (0, "named")]).await.unwrap();
    assert_eq!(held[0].as_ref().unwrap().request.writes.len(), 2);
    assert_eq!(held[1].as_ref().unwrap().version, named.ids.first().position.version());
}
