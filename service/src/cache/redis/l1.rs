//! What this process read of the cache in Redis lately (L1), kept so that an answer need not travel again.
//!
//! It is never believed by itself. Redis remembers what was read over the connection of the lookups (`CLIENT TRACKING`)
//! and says on it when such a key changes; it sends that and its replies in the order of the events. So after the reply
//! to any command (the *barrier*), whatever changed before that command ran is gone from here, and what is left is what
//! Redis itself would have said then. Changes are taken in where the connection is read, so before whoever waits
//! for a later reply is woken.
//!
//! A value that was read must not come in here after news that it changed. Each fill has a [`Ticket`] from before its
//! command was sent: connection, and how often keys of its slot had changed. Under the slot's lock a fill
//! compares and inserts, and a change counts and removes. If the change is first, the fill is refused; if the fill is first, it is
//! removed. A change before the command ran may refuse a fill for nothing, which costs a round trip later.
//!
//! Redis tracks a key from a read to its next change, for one connection. So what is here belongs to the
//! connection that it was read over: with another one, or none, or one that does not track, all of it goes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{PushInfo, PushKind, Value};
use ahash::RandomState;
use bytes::Bytes;
use quick_cache::sync::{Cache as Bounded, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use tokio::time::Instant;

use super::{jittered, key_of};
use crate::metrics::Metrics;
use crate::operation::DocumentKey;
use crate::redis_link::Watcher;

/// Documents and keys, in bytes.
pub(super) const MAX_BYTES: u64 = 32 * 1024 * 1024;
/// The cache's own locks. A document larger than its lock's share (4 MiB) is not kept.
const LOCKS: usize = 8;
/// What a document is expected to take, to size the cache's index.
const TYPICAL_BYTES: u64 = 512;
/// What an entry takes beside key and document, about.
const ENTRY_BYTES: usize = 96;
/// Keys share these at random; more of them, and fewer fills are refused for a neighbour's change.
const SLOTS: usize = 4096;
/// A bound should the news of a change be lost all the same, and on how long a key outlives its end in Redis, which
/// removes expired keys when it comes to them.
pub(super) const TTL: Duration = Duration::from_secs(1);
/// That there is no document is believed for less.
pub(super) const ABSENT_TTL: Duration = Duration::from_millis(250);
/// No connection: nothing is kept.
const NONE: u64 = 0;

pub(super) struct L1 {
    documents: Bounded<DocumentKey, Read, Weigh, RandomState>,
    /// How often keys of each slot have changed.
    slots: Box<[Mutex<u64>]>,
    hasher: RandomState,
    /// Over which all that is here was read.
    connection: AtomicU64,
    is_refused: AtomicBool,
    metrics: Arc<Metrics>,
}

#[derive(Clone)]
struct Read {
    document: Option<Bytes>,
    expires: Instant,
}

#[derive(Clone)]
struct Weigh;

impl Weighter<DocumentKey, Read> for Weigh {
    fn weight(&self, key: &DocumentKey, read: &Read) -> u64 {
        (key.as_bytes().len() + read.document.as_ref().map_or(0, Bytes::len) + ENTRY_BYTES) as u64
    }
}

/// Taken before the command is sent that reads a document.
#[derive(Clone, Copy)]
pub(super) struct Ticket {
    connection: u64,
    changes: u64,
}

impl L1 {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let options = OptionsBuilder::new()
            .shards(LOCKS)
            .weight_capacity(MAX_BYTES)
            .estimated_items_capacity((MAX_BYTES / TYPICAL_BYTES) as usize)
            .build()
            .expect("capacities are given");
        Self {
            documents: Bounded::with_options(options, Weigh, RandomState::new(), DefaultLifecycle::default()),
            slots: (0..SLOTS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            connection: AtomicU64::new(NONE),
            is_refused: AtomicBool::new(false),
            metrics,
        }
    }

    fn slot(&self, key: &DocumentKey) -> MutexGuard<'_, u64> {
        // A count is whole at any time.
        self.slots[self.hasher.hash_one(key) as usize % SLOTS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether [`L1::get`] may find it after a barrier.
    pub(super) fn has(&self, key: &DocumentKey, connection: u64, now: Instant) -> bool {
        self.connection.load(Ordering::SeqCst) == connection
            && self.documents.peek(key).is_some_and(|read| read.expires > now)
    }

    /// To be called after the reply to a command that was sent over this connection after the lookup began.
    pub(super) fn get(&self, key: &DocumentKey, connection: u64, now: Instant) -> Option<Option<Bytes>> {
        // Should another connection take over in between, what is found was read over that one, so even later.
        if self.connection.load(Ordering::SeqCst) != connection {
            return None;
        }
        let read = self.documents.get(key)?;
        (read.expires > now).then_some(read.document)
    }

    pub(super) fn ticket(&self, key: &DocumentKey, connection: u64) -> Ticket {
        Ticket { connection, changes: *self.slot(key) }
    }

    /// Keeps what a command said that was sent after the ticket was taken, over the ticket's connection.
    pub(super) fn fill(&self, key: &DocumentKey, document: Option<Bytes>, ticket: Ticket) {
        let ttl = jittered(if document.is_some() { TTL } else { ABSENT_TTL });
        let changes = self.slot(key);
        if *changes == ticket.changes && self.connection.load(Ordering::SeqCst) == ticket.connection {
            self.documents.insert(key.clone(), Read { document, expires: Instant::now() + ttl });
        }
    }

    /// For the metrics.
    pub(super) fn weigh(&self) {
        self.metrics.l1_bytes.set(self.documents.weight());
    }

    fn forget(&self, key: &DocumentKey) {
        let mut changes = self.slot(key);
        *changes += 1;
        self.documents.remove(key);
        self.metrics.l1_invalidations.inc();
    }

    /// First all fills under way are refused, then what is here is dropped.
    fn forget_all(&self) {
        for slot in &self.slots {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        self.documents.clear();
        self.metrics.l1_bytes.set(0);
    }

    fn changed(&self, data: &[Value]) {
        // `[[key, …]]`, or `[nil]` when all keys are gone.
        let [Value::Array(names)] = data else { return self.forget_all() };
        for name in names {
            match name {
                Value::BulkString(name) if let Some(key) = key_of(name) => self.forget(&key),
                // Nothing else was read over this connection; better too much than too little.
                _ => return self.forget_all(),
            }
        }
    }
}

impl Watcher for L1 {
    fn connected(&self, connection: u64, tracking: Result<(), String>) {
        let is_tracked = tracking.is_ok();
        // Before all is forgotten, so that a fill over a former connection is either refused or forgotten.
        self.connection.store(if is_tracked { connection } else { NONE }, Ordering::SeqCst);
        self.forget_all();
        let was_refused = self.is_refused.swap(!is_tracked, Ordering::Relaxed);
        match tracking {
            Err(reason) if !was_refused => tracing::warn!(
                reason,
                "the cache's Redis does not tell what changes (CLIENT TRACKING), so each read travels to it; nothing is kept in this process"
            ),
            Ok(()) if was_refused => {
                tracing::info!("the cache's Redis tells what changes; reads are kept in this process again")
            }
            _ => {}
        }
    }

    fn pushed(&self, connection: u64, push: PushInfo) {
        match push.kind {
            PushKind::Invalidate => self.changed(&push.data),
            PushKind::Disconnection => {
                let was =
                    self.connection.compare_exchange(connection, NONE, Ordering::SeqCst, Ordering::SeqCst);
                if was.is_ok() {
                    self.forget_all();
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTION: u64 = 7;

    fn l1() -> L1 {
        let l1 = L1::new(Arc::default());
        l1.connected(CONNECTION, Ok(()));
        l1
    }

    fn get(l1: &L1, key: &DocumentKey, connection: u64) -> Option<Option<Bytes>> {
        l1.get(key, connection, Instant::now())
    }

    fn key(id: &str) -> DocumentKey {
        DocumentKey::new("items", id)
    }

    fn json() -> Option<Bytes> {
        Some(Bytes::from_static(b"{}"))
    }

    fn push(data: Vec<Value>) -> PushInfo {
        PushInfo { kind: PushKind::Invalidate, data }
    }

    fn change(id: &str) -> PushInfo {
        let name = format!("scalekit:c:items/{id}");
        push(vec![Value::Array(vec![Value::BulkString(name.into_bytes())])])
    }

    fn fill(l1: &L1, id: &str) {
        l1.fill(&key(id), json(), l1.ticket(&key(id), CONNECTION));
        assert_eq!(get(l1, &key(id), CONNECTION), Some(json()));
    }

    #[test]
    fn news_of_a_change_wins_over_a_fill_whichever_comes_first() {
        let l1 = l1();
        fill(&l1, "1");
        l1.pushed(CONNECTION, change("1"));
        assert_eq!(get(&l1, &key("1"), CONNECTION), None);
        let ticket = l1.ticket(&key("1"), CONNECTION);
        l1.pushed(CONNECTION, change("1"));
        l1.fill(&key("1"), json(), ticket);
        assert_eq!(get(&l1, &key("1"), CONNECTION), None, "it was read before");
        // And from threads: news that come after the ticket leave nothing behind.
        for _ in 0..2000 {
            let ticket = l1.ticket(&key("1"), CONNECTION);
            std::thread::scope(|scope| {
                scope.spawn(|| l1.fill(&key("1"), json(), ticket));
                l1.pushed(CONNECTION, change("1"));
            });
            assert_eq!(get(&l1, &key("1"), CONNECTION), None);
        }
    }

    #[test]
    fn what_cannot_be_told_apart_is_all_forgotten() {
        let strange = vec![Value::Array(vec![Value::BulkString(b"what".to_vec())])];
        for data in [vec![Value::Nil], vec![], strange] {
            let l1 = l1();
            fill(&l1, "1");
            let ticket = l1.ticket(&key("2"), CONNECTION);
            l1.pushed(CONNECTION, push(data));
            l1.fill(&key("2"), json(), ticket);
            assert_eq!([get(&l1, &key("1"), CONNECTION), get(&l1, &key("2"), CONNECTION)], [None, None]);
        }
    }

    #[test]
    fn only_what_came_over_the_connection_of_now_is_believed() {
        let l1 = l1();
        fill(&l1, "1");
        let ticket = l1.ticket(&key("2"), CONNECTION);
        l1.connected(CONNECTION + 1, Ok(()));
        l1.fill(&key("2"), json(), ticket);
        l1.fill(&key("3"), json(), l1.ticket(&key("3"), CONNECTION));
        for id in ["1", "2", "3"] {
            for connection in [CONNECTION, CONNECTION + 1] {
                assert!(
                    !l1.has(&key(id), connection, Instant::now()) && get(&l1, &key(id), connection).is_none(),
                    "{id}"
                );
            }
        }
        let disconnection = || PushInfo { kind: PushKind::Disconnection, data: Vec::new() };
        let newer = CONNECTION + 1;
        l1.fill(&key("4"), json(), l1.ticket(&key("4"), newer));
        l1.pushed(CONNECTION, disconnection());
        assert_eq!(get(&l1, &key("4"), newer), Some(json()), "that was another connection's end");
        l1.pushed(newer, disconnection());
        assert_eq!((get(&l1, &key("4"), newer), l1.documents.len()), (None, 0));
        l1.connected(newer + 1, Err("NOPERM".into()));
        l1.fill(&key("5"), json(), l1.ticket(&key("5"), newer + 1));
        assert_eq!((get(&l1, &key("5"), newer + 1), l1.documents.len()), (None, 0), "it does not track");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_believed_for_a_moment_and_absence_for_less() {
        let l1 = l1();
        let keys: Vec<_> = (0..100).map(|n| key(&n.to_string())).collect();
        let count = || keys.iter().filter(|key| get(&l1, key, CONNECTION).is_some()).count();
        for (document, ttl) in [(json(), TTL), (None, ABSENT_TTL)] {
            for key in &keys {
                l1.fill(key, document.clone(), l1.ticket(key, CONNECTION));
            }
            tokio::time::advance(ttl.mul_f64(0.79)).await;
            assert_eq!(count(), 100);
            tokio::time::advance(ttl.mul_f64(0.21)).await;
            assert!((10..90).contains(&count()), "they go one after the other, {} are left", count());
            tokio::time::advance(ttl.mul_f64(0.21)).await;
            assert_eq!(count(), 0);
            assert!(!keys.iter().any(|key| l1.has(key, CONNECTION, Instant::now())));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let l1 = l1();
        let document = Bytes::from(vec![b' '; 16 * 1024]);
        for n in 0..5 * MAX_BYTES / document.len() as u64 {
            let key = key(&n.to_string());
            l1.fill(&key, Some(document.clone()), l1.ticket(&key, CONNECTION));
        }
        l1.weigh();
        let kept = l1.metrics.l1_bytes.get();
        assert!(kept <= MAX_BYTES && kept > MAX_BYTES / 2, "{kept}");
        let large = Bytes::from(vec![b' '; 5 * 1024 * 1024]);
        l1.fill(&key("large"), Some(large), l1.ticket(&key("large"), CONNECTION));
        assert_eq!(get(&l1, &key("large"), CONNECTION), None, "it would push out all others");
    }
}
