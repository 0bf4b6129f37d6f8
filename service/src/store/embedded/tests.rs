//! The embedded store: the suite of all stores, its own files, and its speed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Document, doc};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use proptest::prelude::*;

use super::*;
use crate::operation::Change;
use crate::store::suite::{self, Backdoor, write};
use crate::store::{TOMBSTONE_TTL, Unlimited, encoding};

#[async_trait]
impl Backdoor for Embedded {
    async fn put(&self, collection: &str, document: Document) {
        let id = document.get("_id").unwrap();
        let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        let bytes = document.to_vec().unwrap();
        self.engine.documents.insert(DocumentKey::new(collection, &id).as_bytes(), bytes).unwrap();
    }

    async fn remove(&self, collection: &str, id: &str) {
        self.engine.documents.remove(DocumentKey::new(collection, id).as_bytes()).unwrap();
    }

    async fn raw(&self, collection: &str, id: &str) -> Option<Document> {
        let value = self.engine.documents.get(DocumentKey::new(collection, id).as_bytes()).unwrap()?;
        Some(Document::try_from(RawDocument::from_bytes(&value).unwrap()).unwrap())
    }
}

fn open() -> (tempfile::TempDir, Embedded) {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    (dir, store)
}

#[tokio::test]
async fn keeps_the_contract() {
    let (_dir, store) = open();
    assert_eq!(store.kind(), "embedded");
    suite::run(&store, &store).await;
}

#[tokio::test]
async fn everything_is_there_after_a_reopen() {
    let (dir, store) = open();
    let writes =
        [write("c", "a", "1", 1, Change::insert(doc! { "n": 1 })), write("c", "b", "2", 2, Change::Delete)];
    suite::apply(&store, &writes).await;
    let stamps = store.stamps("c", "", None, 10).await.unwrap();
    assert_eq!(stamps.len(), 2);
    drop(store);
    let store = Embedded::open(dir.path()).unwrap();
    assert_eq!(store.stamps("c", "", None, 10).await.unwrap(), stamps);
    assert_eq!(suite::apply(&store, &writes).await, [Applied::Superseded, Applied::Superseded]);
    let document = doc! { "n": 1 };
    assert_eq!(suite::get(&store, "c", "a").await, Some(StoredDocument { version: 1, document }));
}

#[test]
fn a_directory_in_use_or_unusable_says_so() {
    let (dir, store) = open();
    let error = Embedded::open(dir.path()).err().unwrap().to_string();
    assert!(
        error.contains("in use by another process") && error.contains(dir.path().to_str().unwrap()),
        "{error}"
    );
    drop(store);
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = Embedded::open(&file).err().unwrap().to_string();
    assert!(error.contains("cannot open") && error.contains("file"), "{error}");
}

#[tokio::test]
async fn corrupt_values_are_errors() {
    let (_dir, store) = open();
    let document = doc! { "_id": "a", "_sk": { "op": "x", "v": 1_i64 }, "n": "text" };
    let good = RawDocumentBuf::try_from(&document).unwrap().into_bytes();
    let mut bad_type = good.clone();
    bad_type[4] = 0x7e;
    let mut bad_length = good.clone();
    bad_length[8] = 0xff;
    for bytes in [vec![], vec![1], good[..good.len() - 3].to_vec(), bad_type, bad_length] {
        store.engine.documents.insert(DocumentKey::new("c", "a").as_bytes(), bytes.clone()).unwrap();
        let read = store.get_many(&[DocumentKey::new("c", "a")]).await;
        let stamps = store.stamps("c", "", None, 10).await;
        let merge = [write("c", "a", "2", 2, Change::Merge(doc! { "n": 1 }))];
        let applied = store.apply(&merge, &Unlimited).await;
        for error in [read.unwrap_err(), stamps.unwrap_err(), applied.unwrap_err()] {
            assert!(matches!(&error, StoreError::Failed(why) if why.contains("c/a")), "{bytes:?}: {error}");
        }
    }
}

#[tokio::test]
async fn big_batches_are_several_operations() {
    let (_dir, store) = open();
    let many: Vec<_> = (0..COMMIT_WRITES + 1)
        .map(|n| write("c", &n.to_string(), "op", 1, Change::insert(doc! {})))
        .collect();
    assert!(suite::apply(&store, &many).await.iter().all(|applied| *applied == Applied::Stored));
    assert_eq!(store.operations(), 2);
    let payload = "x".repeat(COMMIT_BYTES / 2);
    let large: Vec<_> =
        (0..3).map(|n| write("d", &n.to_string(), "op", 1, Change::insert(doc! { "p": &payload }))).collect();
    suite::apply(&store, &large).await;
    assert_eq!(store.operations(), 2 + 3);
}

#[tokio::test]
async fn tombstones_are_purged_after_their_time() {
    let (_dir, store) = open();
    let deletes: Vec<_> = (0..5).map(|n| write("c", &n.to_string(), "op", 1, Change::Delete)).collect();
    suite::apply(&store, &deletes).await;
    // Revived, deleted again: one entry each in the end.
    suite::apply(&store, &[write("c", "0", "op", 2, Change::replace(doc! {}))]).await;
    suite::apply(&store, &[write("c", "1", "op", 2, Change::Delete)]).await;
    let later = SystemTime::now() + TOMBSTONE_TTL + Duration::from_secs(1);
    let early = later - Duration::from_secs(60);
    assert_eq!(store.purge(early, 100, &Unlimited).await.unwrap(), 0);
    assert_eq!(store.stamps("c", "", None, 10).await.unwrap().len(), 5);
    let before = store.operations();
    assert_eq!(store.purge(later, 3, &Unlimited).await.unwrap(), 4);
    assert_eq!(store.operations() - before, 2, "three at a time");
    assert_eq!(store.purge(later, 3, &Unlimited).await.unwrap(), 0);
    let left = store.stamps("c", "", None, 10).await.unwrap();
    assert_eq!(left.iter().map(|stamp| stamp.id.as_str()).collect::<Vec<_>>(), ["0"]);
    assert_eq!(store.engine.tombstones.iter().count(), 0);
}

fn changes() -> impl Strategy<Value = Change> {
    let field = prop_oneof![Just("a"), Just("b"), Just("c")];
    prop_oneof![
        any::<i32>().prop_map(|n| Change::replace(doc! { "a": n })),
        (field.clone(), any::<i32>()).prop_map(|(name, n)| Change::Merge(doc! { name: n })),
        field.prop_map(|name| Change::Merge(doc! { name: bson::Bson::Null })),
        Just(Change::Delete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// The journal delivers in order, but anything already delivered may come again at any time.
    #[test]
    fn redeliveries_change_nothing(
        history in prop::collection::vec((0..4_u8, changes(), prop::collection::vec(any::<prop::sample::Index>(), 0..3)), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (_dir, store) = open();
            let mut delivered: Vec<DocumentWrite> = vec![];
            let mut model: BTreeMap<u8, Option<StoredDocument>> = BTreeMap::new();
            for (n, (id, change, again)) in history.into_iter().enumerate() {
                let version = n as i64 + 1;
                let state = model.entry(id).or_default();
                let mut document = state.take().map(|stored| stored.document).unwrap_or_default();
                *state = match &change {
                    Change::Insert(_) => unreachable!("not generated"),
                    Change::Replace(new) => Some(StoredDocument { version, document: Document::try_from(&**new).unwrap() }),
                    Change::Merge(fields) => {
                        encoding::merge(&mut document, fields);
                        Some(StoredDocument { version, document })
                    }
                    Change::Delete => None,
                };
                let new = write("c", &id.to_string(), &format!("op-{n}"), version, change);
                assert_eq!(suite::apply(&store, std::slice::from_ref(&new)).await, [Applied::Stored]);
                delivered.push(new);
                for index in again {
                    let old = index.get(&delivered).clone();
                    assert_eq!(suite::apply(&store, &[old]).await, [Applied::Superseded]);
                }
            }
            for (id, expected) in model {
                assert_eq!(suite::get(&store, "c", &id.to_string()).await, expected);
            }
        });
    }
}

/// Of all threads, the engine's too.
fn cpu_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// Not a test of speed, only a way to see it: `cargo test --release -p scalekit-service -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
async fn measure_apply() {
    const BATCH: u64 = 2_000;
    let (_dir, store) = open();
    for (name, first) in [("inserts", true), ("replaces", false)] {
        let batches: Vec<Vec<DocumentWrite>> = (0..200)
            .map(|batch| {
                let one = |n| {
                    let document = doc! { "user": n as i64, "kind": "order", "amount": 12.5, "note": "a small document" };
                    let change = if first { Change::insert(document) } else { Change::replace(document) };
                    let version = if first { 1 } else { 2 };
                    write("transactions", &format!("k3f9x2ab-{n:08x}-000004af-00"), "k3f9x2ab-00", version, change)
                };
                (batch * BATCH..(batch + 1) * BATCH).map(one).collect()
            })
            .collect();
        let (start, cpu) = (Instant::now(), cpu_seconds());
        for batch in &batches {
            let answer = store.apply(batch, &Unlimited).await.unwrap();
            assert!(answer.iter().all(|applied| *applied == Applied::Stored));
        }
        let documents = (batches.len() as u64 * BATCH) as f64;
        let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        println!("{name}: {:.0} documents/s, {:.0} per second of CPU", documents / wall, documents / cpu);
    }
}
