//! The MongoDB store: the suite of all stores, and what only a real server shows.

use std::sync::{Arc, PoisonError, Weak};

use bson::doc;
use mongodb::bson::Bson;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::command::{MAX_COMMAND_BYTES, MAX_COMMAND_WRITES};
use super::write::{Statement, chunks};
use super::*;
use crate::operation::Change;
use crate::store::suite::{self, Backdoor, write};
use crate::testing::{MongoServer, free_port};

/// One server for all tests that run at the same time, gone with the last of them.
struct Shared {
    server: MongoServer,
    _dir: tempfile::TempDir,
}

fn server() -> Arc<Shared> {
    static SERVER: Mutex<Weak<Shared>> = Mutex::new(Weak::new());
    let mut current = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    current.upgrade().unwrap_or_else(|| {
        let dir = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared { server: MongoServer::start(dir.path()), _dir: dir });
        *current = Arc::downgrade(&shared);
        shared
    })
}

/// A store on a database of its own.
async fn connect(name: &str) -> (Arc<Shared>, Mongo) {
    let shared = server();
    let store = Mongo::connect(&shared.server.url(), name).await.unwrap();
    (shared, store)
}

#[async_trait]
impl Backdoor for Mongo {
    async fn put(&self, collection: &str, document: Document) {
        let id = document.get("_id").unwrap().clone();
        let collection = self.database.collection::<Document>(collection);
        collection.replace_one(doc! { "_id": id }, document).upsert(true).await.unwrap();
    }

    async fn remove(&self, collection: &str, id: &str) {
        self.database.collection::<Document>(collection).delete_one(doc! { "_id": id }).await.unwrap();
    }

    async fn raw(&self, collection: &str, id: &str) -> Option<Document> {
        self.database.collection(collection).find_one(doc! { "_id": id }).await.unwrap()
    }
}

async fn command(store: &Mongo, command: Document) -> Document {
    store.database.run_command(command).await.unwrap()
}

#[tokio::test]
async fn keeps_the_contract() {
    let (_server, store) = connect("contract").await;
    assert_eq!(store.kind(), "mongodb");
    suite::run(&store, &store).await;
}

#[tokio::test]
async fn one_refused_of_a_thousand() {
    let (_server, store) = connect("refused").await;
    let unique = doc! { "key": { "email": 1 }, "name": "email_1", "unique": true };
    command(&store, doc! { "createIndexes": "users", "indexes": [unique] }).await;
    command(&store, doc! { "create": "numbers", "validator": { "n": { "$type": "int" } } }).await;
    let users = |n: i32| {
        // The last one has the first one's address, under its own id.
        let change = doc! { "email": format!("{}@example.org", n % 999) };
        let change = if n % 2 == 0 { Change::insert(change) } else { Change::replace(change) };
        write("users", &n.to_string(), &format!("u{n}"), 5, change)
    };
    let numbers = |n: i32| {
        let value = if n == 500 { Bson::from("five hundred") } else { Bson::from(n) };
        write("numbers", &n.to_string(), &format!("n{n}"), 5, Change::insert(doc! { "n": value }))
    };
    for (writes, refused, code) in [
        ((0..1_000).map(users).collect::<Vec<_>>(), None, "11000"),
        ((0..1_000).map(numbers).collect(), Some(500), "121"),
    ] {
        let answer = suite::apply(&store, &writes).await;
        let places: Vec<_> = (0..1_000).filter(|place| answer[*place] != Applied::Stored).collect();
        // Which of two with the same address comes first is the server's business: inserts go before updates.
        assert_eq!(places.len(), 1, "{places:?}");
        assert!(refused.is_none_or(|refused| refused == places[0]), "{places:?}");
        let Applied::Refused { reason } = &answer[places[0]] else { panic!("{:?}", answer[places[0]]) };
        assert!(reason.contains(code), "{reason}");
        let stored = store.stamps(writes[0].key.collection(), "", None, 2_000).await.unwrap();
        assert_eq!(stored.len(), 999);
    }
}

/// The paths after a collision, with the number of commands they take.
#[tokio::test]
async fn collisions_cost_one_lookup() {
    let (_server, store) = connect("collisions").await;
    let writes: Vec<_> =
        (0..50).map(|n| write("c", &n.to_string(), "op", 5, Change::insert(doc! { "n": n }))).collect();
    suite::apply(&store, &writes).await;
    let before = store.operations();
    suite::apply(&store, &writes).await;
    assert_eq!(store.operations() - before, 2, "insert, find");
    let deletes: Vec<_> = (0..50).map(|n| write("c", &n.to_string(), "op-d", 6, Change::Delete)).collect();
    let before = store.operations();
    suite::apply(&store, &deletes).await;
    assert_eq!(store.operations() - before, 2, "update, the index that purges tombstones");
    let again: Vec<_> =
        (0..50).map(|n| write("c", &n.to_string(), "op-2", 7, Change::insert(doc! { "n": n }))).collect();
    let before = store.operations();
    assert!(suite::apply(&store, &again).await.iter().all(|applied| *applied == Applied::Stored));
    assert_eq!(store.operations() - before, 3, "insert, find, update");
    let before = store.operations();
    assert!(suite::apply(&store, &deletes).await.iter().all(|applied| *applied == Applied::Superseded));
    assert_eq!(store.operations() - before, 2, "update, find; the index is made once");
}

#[tokio::test]
async fn tombstones_have_an_index_that_purges_them() {
    let (_server, store) = connect("ttl").await;
    suite::apply(&store, &[write("c", "1", "op", 1, Change::Delete)]).await;
    let reply = command(&store, doc! { "listIndexes": "c" }).await;
    let indexes = reply.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    let index =
        indexes.iter().filter_map(Bson::as_document).find(|index| index.contains_key("expireAfterSeconds"));
    assert_eq!(index.unwrap().get_document("key").unwrap(), &doc! { "_sk.deleted": 1 });
    let raw = store.raw("c", "1").await.unwrap();
    assert!(matches!(raw.get_document("_sk").unwrap().get("deleted"), Some(Bson::DateTime(_))), "{raw}");
}

/// Documents that together exceed one command, and one answer.
#[tokio::test]
async fn large_documents_go_in_several_commands() {
    let (_server, store) = connect("large").await;
    let payload = "x".repeat(5 * 1024 * 1024);
    let writes: Vec<_> = (0..5)
        .map(|n| write("c", &n.to_string(), "op", 1, Change::replace(doc! { "n": n, "payload": &payload })))
        .collect();
    assert!(suite::apply(&store, &writes).await.iter().all(|applied| *applied == Applied::Stored));
    assert_eq!(store.operations(), 3, "two of 5 MiB in each command of at most 12");
    let keys: Vec<_> = writes.iter().map(|write| write.key.clone()).collect();
    let read = store.get_many(&keys).await.unwrap();
    let numbers: Vec<_> = read.iter().flatten().map(|stored| stored.document.get_i32("n").unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn a_collection_that_cannot_be_refuses_its_writes_only() {
    let (_server, store) = connect("namespace").await;
    let writes = [
        write("bad$name", "1", "op", 1, Change::insert(doc! {})),
        write("good", "1", "op", 1, Change::insert(doc! {})),
        write("bad$name", "2", "op", 1, Change::insert(doc! {})),
    ];
    let answer = suite::apply(&store, &writes).await;
    for place in [0, 2] {
        assert!(matches!(&answer[place], Applied::Refused { reason } if reason.contains("73")), "{answer:?}");
    }
    assert_eq!(answer[1], Applied::Stored);
}

/// Until the driver has found the server again.
async fn wait_for_server(store: &Mongo) {
    let limit = tokio::time::Instant::now() + Duration::from_secs(30);
    while let Err(error) = store.ping().await {
        assert!(tokio::time::Instant::now() < limit, "{error}");
    }
}

/// Arms the server's fail point for the next command of this name.
async fn fail_next(store: &Mongo, name: &str, data: Document) {
    let mut all = doc! { "failCommands": [name] };
    all.extend(data);
    let point = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": all };
    store.database.client().database("admin").run_command(point).await.unwrap();
}

/// Faults that the server makes on demand; they concern all its clients, so this one has a server of its own.
#[tokio::test]
async fn failed_commands() {
    let dir = tempfile::tempdir().unwrap();
    let server = MongoServer::start(dir.path());
    let store = Mongo::connect(&server.url(), "faults").await.unwrap();
    let batch = |first: i32| -> Vec<_> {
        (first..first + 9)
            .map(|n| write("c", &n.to_string(), "op", 1, Change::insert(doc! { "n": n })))
            .collect()
    };

    fail_next(&store, "insert", doc! { "errorCode": 2 }).await;
    let answer = suite::apply(&store, &batch(0)).await;
    assert_eq!(answer, vec![Applied::Stored; 9], "halves of a command refused for a document");
    assert_eq!(store.operations(), 3);

    fail_next(&store, "insert", doc! { "errorCode": 2 }).await;
    let answer = suite::apply(&store, &batch(100)[..1]).await;
    assert!(matches!(&answer[0], Applied::Refused { reason } if reason.contains("error 2:")), "{answer:?}");

    let concern = doc! { "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" } };
    let labelled = doc! { "errorCode": 4711, "errorLabels": ["SystemOverloadedError"] };
    for (data, expected) in [
        (concern, "in time"),
        (doc! { "errorCode": 50 }, "in time"),
        (doc! { "errorCode": 462 }, "overloaded"),
        (labelled, "overloaded"),
        (doc! { "errorCode": 112 }, "cannot be reached"),
        (doc! { "errorCode": 13 }, "cannot be reached"),
        (doc! { "errorCode": 8000 }, "cannot be reached"),
        (doc! { "errorCode": 14031 }, "cannot be reached"),
        (doc! { "errorCode": 96 }, "failed"),
        (doc! { "closeConnection": true }, "cannot be reached"),
        // The driver looks for the primary again after each of these.
        (doc! { "errorCode": 10107 }, "cannot be reached"),
        (doc! { "errorCode": 189 }, "cannot be reached"),
        (doc! { "errorCode": 11602 }, "cannot be reached"),
        (doc! { "errorCode": 91 }, "cannot be reached"),
    ] {
        wait_for_server(&store).await;
        fail_next(&store, "insert", data.clone()).await;
        let error = store.apply(&batch(200), &Unlimited).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{data}: {error}");
    }
    wait_for_server(&store).await;
    assert_eq!(suite::apply(&store, &batch(200)).await.len(), 9);
    assert_eq!(store.stamps("c", "op", None, 100).await.unwrap().len(), 18);
}

/// A code that nobody knows, or one that may concern the whole command, while other writes fail, too.
#[tokio::test]
async fn what_fails_every_write_is_no_fault_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = MongoServer::start(dir.path());
    let store = Mongo::connect(&server.url(), "faults").await.unwrap();
    let one = [write("c", "1", "op", 1, Change::insert(doc! {}))];
    for code in [4711, 96, 2, 9] {
        let point = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn",
        "data": { "failCommands": ["insert", "update"], "errorCode": code } };
        store.database.client().database("admin").run_command(point).await.unwrap();
        let error = store.apply(&one, &Unlimited).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Unavailable(why) if why.contains("another document fails, too"))
        );
        assert!(error.reason().contains(&format!("MongoDB error {code}")), "{error}");
    }
    let off = doc! { "configureFailPoint": "failCommand", "mode": "off" };
    store.database.client().database("admin").run_command(off).await.unwrap();
    assert_eq!(suite::apply(&store, &one).await, [Applied::Stored]);
    assert_eq!(store.stamps("c", "", None, 9).await.unwrap().len(), 1, "no other write came through");

    // The same for this write only: it is judged by itself, and the other write leaves a tombstone.
    for round in 0..2 {
        fail_next(&store, "insert", doc! { "errorCode": 4711 }).await;
        let again = [write("c", "2", "op", 1, Change::insert(doc! {}))];
        let error = store.apply(&again, &Unlimited).await.unwrap_err();
        assert!(matches!(&error, StoreError::Failed(why) if why.contains("4711")), "{round}: {error}");
    }
    let stamps = store.stamps("c", "", None, 9).await.unwrap();
    let marks: Vec<bool> = stamps.iter().map(|stamp| stamp.deleted).collect();
    assert_eq!(marks, [true, false], "one tombstone, and nothing of the write that failed: {stamps:?}");
}

#[tokio::test]
async fn a_server_that_stands_still_is_a_time_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = MongoServer::start(dir.path());
    let mut store = Mongo::connect(&server.url(), "still").await.unwrap();
    store.patience = Patience { read: Duration::from_millis(300), long: Duration::from_millis(300) };
    let first = [write("c", "1", "op", 1, Change::insert(doc! {}))];
    suite::apply(&store, &first).await;
    let second = [write("c", "2", "op", 2, Change::insert(doc! {}))];
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    server.freeze();
    let started = std::time::Instant::now();
    let applied = store.apply(&second, &Unlimited).await.unwrap_err();
    let read = store.get_many(&[second[0].key.clone()]).await.unwrap_err();
    let ping = store.ping().await.unwrap_err();
    let audit = store.stamps("c", "", None, 1).await.unwrap_err();
    let took = started.elapsed();
    kill(pid, Signal::SIGCONT).unwrap();
    for error in [applied, read, ping, audit] {
        assert!(matches!(error, StoreError::TimedOut(_)), "{error}");
    }
    assert!(took < Duration::from_secs(5), "{took:?}");
    store.patience = PATIENCE;
    wait_for_server(&store).await;
    let answer = suite::apply(&store, &second).await;
    assert!(matches!(answer[0], Applied::Stored | Applied::Superseded), "{answer:?}");
    assert_eq!(store.stamps("c", "", None, 9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn no_server_is_unavailable_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = MongoServer::start(dir.path());
    let store =
        Mongo::connect(&format!("{}/?serverSelectionTimeoutMS=300", server.url()), "gone").await.unwrap();
    let first = [write("c", "1", "op", 1, Change::insert(doc! {}))];
    suite::apply(&store, &first).await;
    server.kill();
    let second = [write("c", "2", "op", 2, Change::insert(doc! {}))];
    for _ in 0..2 {
        let error = store.apply(&second, &Unlimited).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    server.restart();
    wait_for_server(&store).await;
    assert_eq!(suite::apply(&store, &first).await, [Applied::Superseded]);
    assert_eq!(suite::apply(&store, &second).await, [Applied::Stored]);
}

#[tokio::test]
async fn messages_never_show_the_password() {
    for url in
        ["mongodb://user:s3cr:et@host", "mongodb://user:s3cret@host:port/?x", "http://user:s3cret@host"]
    {
        let error = Mongo::connect(url, "db").await.err().unwrap().to_string();
        assert!(!error.contains("s3cr") && error.contains("MongoDB URL"), "{error}");
    }
    let url = format!("mongodb://user:s3cret@127.0.0.1:{}/?serverSelectionTimeoutMS=50", free_port());
    let error = Mongo::connect(&url, "db").await.unwrap().ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)) && !error.to_string().contains("s3cret"), "{error}");
}

#[test]
fn commands_are_bounded() {
    let statement = |bytes: usize| {
        let mut body = RawDocumentBuf::new();
        body.append(bson::cstr!("p"), "x".repeat(bytes));
        Statement { place: 0, body }
    };
    let small: Vec<_> = (0..MAX_COMMAND_WRITES + 1).map(|_| statement(1)).collect();
    assert_eq!(chunks(&small), [0..MAX_COMMAND_WRITES, MAX_COMMAND_WRITES..MAX_COMMAND_WRITES + 1]);
    let large: Vec<_> = [1, MAX_COMMAND_BYTES, 1, 1].map(statement).into();
    assert_eq!(chunks(&large), [0..1, 1..2, 2..4]);
    assert!(chunks(&[]).is_empty());
}
