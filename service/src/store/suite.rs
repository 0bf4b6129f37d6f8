//! What every store must do, run against each of them.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bson::{Bson, Document, doc};

use super::{Applied, Stamp, Store, StoredDocument, Throttle, Unlimited};
use crate::operation::{Change, DocumentKey, DocumentWrite};

/// Changes made past the store, as somebody with a shell does.
#[async_trait]
pub(super) trait Backdoor: Send + Sync {
    /// `document` has its own `_id` and, if any, `_sk`.
    async fn put(&self, collection: &str, document: Document);
    async fn remove(&self, collection: &str, id: &str);
    async fn raw(&self, collection: &str, id: &str) -> Option<Document>;
}

/// Lets everything pass and counts.
#[derive(Default)]
pub(super) struct Counting(AtomicU64);

#[async_trait]
impl Throttle for Counting {
    async fn acquire(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) fn write(collection: &str, id: &str, op_id: &str, version: i64, change: Change) -> DocumentWrite {
    DocumentWrite { key: DocumentKey::new(collection, id), op_id: op_id.into(), version, change }
}

/// Applies, and checks that each database operation was asked for and counted.
pub(super) async fn apply(store: &dyn Store, writes: &[DocumentWrite]) -> Vec<Applied> {
    let throttle = Counting::default();
    let before = store.operations();
    let answer = store.apply(writes, &throttle).await.unwrap();
    assert_eq!(store.operations() - before, throttle.0.into_inner(), "operations counted and asked for");
    assert_eq!(answer.len(), writes.len());
    answer
}

pub(super) async fn get(store: &dyn Store, collection: &str, id: &str) -> Option<StoredDocument> {
    store.get_many(&[DocumentKey::new(collection, id)]).await.unwrap().remove(0)
}

pub(super) async fn run(store: &dyn Store, backdoor: &dyn Backdoor) {
    store.ping().await.unwrap();
    transitions(store, backdoor).await;
    redelivery(store).await;
    order_inversion(store).await;
    reads_keep_their_order(store).await;
    stamps(store, backdoor).await;
    behind_the_back(store, backdoor).await;
    merges(store, backdoor).await;
    refusals(store).await;
    operations(store).await;
    racing_writers(store).await;
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    Absent,
    LiveSameOp,
    LiveOlder,
    LiveEqual,
    LiveNewer,
    TombstoneOlder,
    TombstoneNewer,
    Foreign,
    BrokenStamp,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// Stored.
    St,
    /// Superseded, and nothing changed.
    Su,
    /// Refused, and nothing changed.
    Re,
}

/// Each operation (version 50, operation `new`) over each state.
async fn transitions(store: &dyn Store, backdoor: &dyn Backdoor) {
    use Before::*;
    use Then::*;
    // insert, replace, merge, delete
    let table = [
        (Absent, [St, St, St, St]),
        (LiveSameOp, [Su, Su, Su, Su]),
        (LiveOlder, [Re, St, St, St]),
        (LiveEqual, [Su, Su, Su, Su]),
        (LiveNewer, [Su, Su, Su, Su]),
        (TombstoneOlder, [St, St, St, St]),
        (TombstoneNewer, [Su, Su, Su, Su]),
        (Foreign, [Re, St, St, St]),
        (BrokenStamp, [Re, St, St, St]),
    ];
    let changes = [
        Change::insert(doc! { "a": 1 }),
        Change::replace(doc! { "a": 1 }),
        Change::Merge(doc! { "a": 1, "b": Bson::Null }),
        Change::Delete,
    ];
    let coll = "transitions";
    // Prepared with two batches and changed by one: many documents a command is the point.
    let (mut first, mut deletes, mut second, mut expected) = (vec![], vec![], vec![], vec![]);
    for (before, thens) in table {
        for (change, then) in changes.iter().zip(thens) {
            let id = format!("{before:?}-{:?}", change.op());
            let old =
                |op: &str, version| write(coll, &id, op, version, Change::replace(doc! { "b": 2, "c": 3 }));
            match before {
                Absent => {}
                LiveSameOp => first.push(old("new", 50)),
                LiveOlder => first.push(old("old", 49)),
                LiveEqual => first.push(old("old", 50)),
                LiveNewer => first.push(old("old", 51)),
                TombstoneOlder => deletes.push(write(coll, &id, "old", 49, Change::Delete)),
                TombstoneNewer => deletes.push(write(coll, &id, "old", 51, Change::Delete)),
                Foreign => backdoor.put(coll, doc! { "_id": &id, "b": 2, "c": 3 }).await,
                BrokenStamp => {
                    let stamp = doc! { "op": "x", "v": "seven" };
                    backdoor.put(coll, doc! { "_id": &id, "_sk": stamp, "b": 2, "c": 3 }).await;
                }
            }
            second.push(write(coll, &id, "new", 50, change.clone()));
            expected.push((id, before, change.clone(), then));
        }
    }
    assert!(apply(store, &first).await.iter().all(|applied| *applied == Applied::Stored));
    assert!(apply(store, &deletes).await.iter().all(|applied| *applied == Applied::Stored));
    let mut raw = vec![];
    for (id, ..) in &expected {
        raw.push(backdoor.raw(coll, id).await);
    }
    let answer = apply(store, &second).await;
    for (((id, before, change, then), applied), raw) in expected.iter().zip(answer).zip(raw) {
        let now = backdoor.raw(coll, id).await;
        match then {
            St => {
                assert_eq!(applied, Applied::Stored, "{id}");
                let stored = now.unwrap();
                let stamp = stored.get_document("_sk").unwrap();
                assert_eq!((stamp.get_str("op").unwrap(), stamp.get_i64("v").unwrap()), ("new", 50), "{id}");
                let kept = matches!(before, LiveOlder | Foreign | BrokenStamp);
                let document = match change {
                    Change::Merge(_) if kept => Some(doc! { "c": 3, "a": 1 }),
                    Change::Delete => None,
                    _ => Some(doc! { "a": 1 }),
                };
                assert_eq!(stamp.contains_key("deleted"), document.is_none(), "{id}");
                let read = document.map(|document| StoredDocument { version: 50, document });
                assert_eq!(get(store, coll, id).await, read, "{id}");
            }
            Su => assert_eq!((applied, now), (Applied::Superseded, raw), "{id}"),
            Re => {
                let reason = "a document with this id exists already".to_owned();
                assert_eq!((applied, now), (Applied::Refused { reason }, raw), "{id}");
            }
        }
    }
}

async fn redelivery(store: &dyn Store) {
    let coll = "redelivery";
    let mut writes = vec![];
    for n in 0..200 {
        let id = format!("{n:03}");
        let change = match n % 4 {
            0 => Change::insert(doc! { "n": n }),
            1 => Change::replace(doc! { "n": n }),
            2 => Change::Merge(doc! { "n": n }),
            _ => Change::Delete,
        };
        writes.push(write(coll, &id, &format!("op-{n}"), 100 + n, change));
    }
    let keys: Vec<_> = writes.iter().map(|write| write.key.clone()).collect();
    assert!(apply(store, &writes).await.iter().all(|applied| *applied == Applied::Stored));
    let state = store.get_many(&keys).await.unwrap();
    let stamps = store.stamps(coll, "", None, 1_000).await.unwrap();
    assert_eq!((state.iter().flatten().count(), stamps.len()), (150, 200));
    for _ in 0..2 {
        assert!(apply(store, &writes).await.iter().all(|applied| *applied == Applied::Superseded));
        assert_eq!(store.get_many(&keys).await.unwrap(), state);
        assert_eq!(store.stamps(coll, "", None, 1_000).await.unwrap(), stamps);
    }
}

/// A late delivery neither overwrites nor revives.
async fn order_inversion(store: &dyn Store) {
    let coll = "inversion";
    let late = |id: &str| {
        [
            write(coll, id, "first", 1, Change::insert(doc! { "n": 1 })),
            write(coll, id, "second", 2, Change::Merge(doc! { "m": 2 })),
        ]
    };
    let newest = [
        write(coll, "kept", "third", 3, Change::replace(doc! { "n": 3 })),
        write(coll, "deleted", "third", 3, Change::Delete),
    ];
    assert_eq!(apply(store, &newest).await, [Applied::Stored, Applied::Stored]);
    for old in late("kept").into_iter().chain(late("deleted")) {
        assert_eq!(apply(store, &[old]).await, [Applied::Superseded]);
    }
    let kept = StoredDocument { version: 3, document: doc! { "n": 3 } };
    assert_eq!(get(store, coll, "kept").await, Some(kept));
    assert_eq!(get(store, coll, "deleted").await, None);
}

async fn reads_keep_their_order(store: &dyn Store) {
    let ids = ["b", "a", "ü\u{0}x", "", "c"];
    let writes: Vec<_> = ["order-1", "order-2"]
        .iter()
        .flat_map(|coll| ids.iter().map(move |id| (coll, id)))
        .enumerate()
        .map(|(n, (coll, id))| write(coll, id, "op", 1 + n as i64, Change::insert(doc! { "n": n as i64 })))
        .collect();
    assert!(apply(store, &writes).await.iter().all(|applied| *applied == Applied::Stored));
    let mut keys: Vec<_> = writes.iter().rev().map(|write| write.key.clone()).collect();
    keys.insert(3, DocumentKey::new("order-1", "absent"));
    keys.push(keys[0].clone());
    let read = store.get_many(&keys).await.unwrap();
    let versions: Vec<_> = read.iter().map(|stored| stored.as_ref().map(|stored| stored.version)).collect();
    let expected = [10, 9, 8, 0, 7, 6, 5, 4, 3, 2, 1, 10].map(|v| (v > 0).then_some(v));
    assert_eq!(versions, expected);
    assert_eq!(store.get_many(&[]).await.unwrap(), []);
}

async fn stamps(store: &dyn Store, backdoor: &dyn Backdoor) {
    let coll = "stamps";
    let mut writes = vec![];
    for n in 0..25 {
        let run = if n % 5 == 4 { "run2" } else { "run" };
        let change = if n % 5 == 3 { Change::Delete } else { Change::replace(doc! { "n": n }) };
        writes.push(write(coll, &format!("id-{n:02}"), &format!("{run}-{n:02}"), n, change));
    }
    writes.push(write("stamps2", "id-99", "run-99", 99, Change::Delete));
    assert!(apply(store, &writes).await.iter().all(|applied| *applied == Applied::Stored));
    // Not ours, not a string: passed over. A copy under a second id shows.
    backdoor.put(coll, doc! { "_id": "foreign" }).await;
    backdoor.put(coll, doc! { "_id": 7, "_sk": { "op": "run-07", "v": 7_i64 } }).await;
    backdoor.put(coll, doc! { "_id": "zz-copy", "_sk": { "op": "run-00", "v": 0_i64 } }).await;
    let mut expected: Vec<Stamp> = writes[..25]
        .iter()
        .map(|write| Stamp {
            id: write.key.id().to_owned(),
            op_id: write.op_id.to_string(),
            version: write.version,
            deleted: write.change == Change::Delete,
        })
        .filter(|stamp| stamp.op_id.starts_with("run-"))
        .collect();
    expected.push(Stamp { id: "zz-copy".into(), op_id: "run-00".into(), version: 0, deleted: false });
    for page in [1, 3, 7, 21, 1_000] {
        let mut found: Vec<Stamp> = vec![];
        loop {
            let after = found.last().map(|stamp| stamp.id.clone());
            let next = store.stamps(coll, "run-", after.as_deref(), page).await.unwrap();
            assert!(next.len() <= page);
            if next.is_empty() {
                break;
            }
            found.extend(next);
        }
        assert_eq!(found, expected, "pages of {page}");
    }
    assert_eq!(store.stamps(coll, "run2-", None, 100).await.unwrap().len(), 5);
    assert_eq!(store.stamps(coll, "", None, 100).await.unwrap().len(), 26);
    assert_eq!(store.stamps(coll, "run-", None, 0).await.unwrap(), []);
    assert_eq!(store.stamps("nothing", "run-", None, 10).await.unwrap(), []);
}

async fn behind_the_back(store: &dyn Store, backdoor: &dyn Backdoor) {
    let coll = "behind";
    let writes = ["a", "b"].map(|id| write(coll, id, id, 5, Change::insert(doc! { "n": 1 })));
    apply(store, &writes).await;
    backdoor.remove(coll, "a").await;
    backdoor.put(coll, doc! { "_id": "b", "_sk": { "op": "b", "v": 6_i64 }, "n": 2 }).await;
    assert_eq!(get(store, coll, "a").await, None);
    assert_eq!(get(store, coll, "b").await, Some(StoredDocument { version: 6, document: doc! { "n": 2 } }));
    let left = store.stamps(coll, "", None, 10).await.unwrap();
    assert_eq!(left, [Stamp { id: "b".into(), op_id: "b".into(), version: 6, deleted: false }]);
    assert_eq!(apply(store, &writes).await, [Applied::Stored, Applied::Superseded]);
}

async fn merges(store: &dyn Store, backdoor: &dyn Backdoor) {
    let coll = "merges";
    let base = doc! { "keep": 1, "change": { "x": 1 }, "drop": "d" };
    apply(store, &[write(coll, "a", "1", 1, Change::insert(base))]).await;
    let fields =
        doc! { "change": { "y": Bson::Null }, "drop": Bson::Null, "absent": Bson::Null, "_id": 1, "_sk": 2 };
    assert_eq!(
        apply(store, &[write(coll, "a", "2", 2, Change::Merge(fields.clone()))]).await,
        [Applied::Stored]
    );
    let merged = doc! { "keep": 1, "change": { "y": Bson::Null } };
    assert_eq!(get(store, coll, "a").await, Some(StoredDocument { version: 2, document: merged }));
    // Of nothing but nulls, onto nothing.
    let nulls = Change::Merge(doc! { "a": Bson::Null });
    assert_eq!(apply(store, &[write(coll, "b", "2", 2, nulls)]).await, [Applied::Stored]);
    let empty = StoredDocument { version: 2, document: doc! {} };
    assert_eq!(get(store, coll, "b").await, Some(empty));
    // A foreign document keeps what it has.
    backdoor.put(coll, doc! { "_id": "c", "own": 1 }).await;
    assert_eq!(apply(store, &[write(coll, "c", "2", 2, Change::Merge(fields))]).await, [Applied::Stored]);
    let kept = doc! { "own": 1, "change": { "y": Bson::Null } };
    assert_eq!(get(store, coll, "c").await, Some(StoredDocument { version: 2, document: kept }));
}

/// What cannot be stored is refused alone.
async fn refusals(store: &dyn Store) {
    let coll = "refusals";
    let big = "x".repeat(16 * 1024 * 1024);
    let writes = [
        write(coll, "1", "1", 1, Change::insert(doc! { "n": 1 })),
        write(coll, "2", "2", 1, Change::insert(doc! { "big": &big })),
        write(coll, "3", "3", 1, Change::Merge(doc! { "nul\0": 1 })),
        write(coll, "4", "4", 1, Change::Merge(doc! { "a.b": 1 })),
        write(coll, "5", "5", 1, Change::Merge(doc! { "$inc": { "n": 1 } })),
        write("bad\0name", "6", "6", 1, Change::Delete),
        write(coll, "7", "7", 1, Change::insert(doc! { "a.b": 1, "n": 7 })),
        write(coll, "8", "8", 1, Change::Merge(doc! { "n": 8 })),
    ];
    let answer = apply(store, &writes).await;
    let refused: Vec<_> = answer.iter().map(|applied| matches!(applied, Applied::Refused { .. })).collect();
    assert_eq!(refused, [false, true, true, true, true, true, false, false], "{answer:?}");
    for id in ["2", "3", "4", "5"] {
        assert_eq!(get(store, coll, id).await, None);
    }
    let dotted = StoredDocument { version: 1, document: doc! { "a.b": 1, "n": 7 } };
    assert_eq!(get(store, coll, "7").await, Some(dotted));
}

async fn operations(store: &dyn Store) {
    let before = store.operations();
    assert_eq!(apply(store, &[]).await, []);
    assert_eq!(store.operations(), before, "nothing to do is no operation");
    let writes: Vec<_> = (0..300)
        .map(|n| write("operations", &format!("{n}"), "op", 1, Change::insert(doc! { "n": n })))
        .collect();
    apply(store, &writes).await;
    assert_eq!(store.operations(), before + 1, "one collection, one kind: one operation");
    get(store, "operations", "1").await;
    assert_eq!(store.operations(), before + 2);
    store.stamps("operations", "", None, 10).await.unwrap();
    assert_eq!(store.operations(), before + 3);
}

/// Batches of the same documents at the same time, as when a worker that was thought dead comes back: the
/// newest version is what stays, whoever came first.
async fn racing_writers(store: &dyn Store) {
    const WRITERS: i64 = 6;
    let batches: Vec<Vec<_>> = (1..=WRITERS)
        .map(|version| {
            let op = format!("op-{version}");
            let replace =
                |n| write("race", &format!("{n}"), &op, version, Change::replace(doc! { "n": version }));
            (0..20).map(replace).collect()
        })
        .collect();
    let deliver = batches.iter().map(|batch| async move {
        // A server may give way to a rival (a write conflict); the worker then delivers again.
        for _ in 0..100 {
            if let Ok(answer) = store.apply(batch, &Unlimited).await {
                assert!(answer.iter().all(|applied| !matches!(applied, Applied::Refused { .. })));
                return;
            }
        }
        panic!("never applied");
    });
    futures_util::future::join_all(deliver).await;
    let stamps = store.stamps("race", "", None, 100).await.unwrap();
    assert_eq!(stamps.len(), 20);
    assert!(stamps.iter().all(|stamp| stamp.version == WRITERS && stamp.op_id == "op-6"), "{stamps:?}");
}
