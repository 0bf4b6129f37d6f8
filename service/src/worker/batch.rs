//! From journal entries to one change a document: coalescing. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;
use bson::raw::RawDocumentBuf;
use bson::{Bson, Document};

use crate::contract::write_operation_id;
use crate::journal::{DeadLetter, Delivery, Request, RequestWrite, Returned, WriteId, codec};
use crate::operation::{Change, DocumentKey, DocumentWrite, Position};

/// The reason given for an insert over a document that is there.
pub const EXISTS: &str = "a document with this id exists already";

/// One journaled write with all that names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub write_id: WriteId,
    pub op_id: Arc<str>,
    pub change: Change,
    /// Of a dead letter that was put back.
    pub replay: Option<Arc<Replayed>>,
}

impl Source {
    /// It is a dead letter under the version that it had. It must be compared with what is stored by itself: as part of
    /// a net change it would be as new as the newest part.
    fn is_of_old(&self) -> bool {
        self.replay.as_ref().is_some_and(|replay| !replay.as_new)
    }
}

/// Where dead letters that were put back come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The request that they were, which names them.
    pub origin: WriteId,
    /// The entry that they are in now.
    pub entry: WriteId,
    /// They have its version instead of their own.
    pub as_new: bool,
    /// How often they were buried.
    pub times: u32,
}

/// The net change of one document, and the writes that it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedWrite {
    pub write: DocumentWrite,
    /// Write ids and operations behind it, oldest first. Changes are kept only where there are several, since
    /// a single one is the net change itself.
    pub sources: Vec<Source>,
}

impl PlannedWrite {
    /// The letters for a refusal of all of it.
    #[must_use]
    pub fn dead_letters(self, reason: &str) -> Vec<DeadLetter> {
        let Self { write, mut sources } = self;
        if let [only] = &mut sources[..] {
            only.change = write.change;
        }
        sources.into_iter().map(|source| dead_letter(&write.key, source, reason)).collect()
    }

    /// The same, an entry of the journal at a time: after a refusal of the whole, what is good in it is stored.
    #[must_use]
    pub fn by_entry(self) -> Vec<Self> {
        let Self { write: DocumentWrite { key, .. }, sources } = self;
        let mut steps: Vec<Self> = Vec::new();
        for source in sources {
            let version = source.write_id.position.version();
            match steps.last_mut() {
                Some(step) if step.write.version == version => step.absorb(source),
                _ => steps.push(Self::first(key.clone(), source)),
            }
        }
        steps
    }

    fn first(key: DocumentKey, source: Source) -> Self {
        let Source { write_id, op_id, change, replay } = source;
        let write = DocumentWrite { key, op_id: op_id.clone(), version: write_id.position.version(), change };
        Self { write, sources: vec![Source { write_id, op_id, change: Change::Delete, replay }] }
    }

    /// The entry that dead letters under their old version are in; none for all other writes.
    #[must_use]
    pub fn entry_of_old(&self) -> Option<WriteId> {
        let source = self.sources.first().filter(|source| source.is_of_old())?;
        source.replay.as_ref().map(|replay| replay.entry)
    }

    /// Whether a source may be part of the same change.
    fn takes(&self, source: &Source) -> bool {
        match self.entry_of_old() {
            // The letters of one request to one document were one change, and are again.
            Some(entry) => {
                source.is_of_old() && source.replay.as_ref().is_some_and(|replay| replay.entry == entry)
            }
            None => !source.is_of_old(),
        }
    }

    fn absorb(&mut self, source: Source) {
        if let [only] = &mut self.sources[..] {
            only.change = self.write.change.clone();
        }
        let before = std::mem::replace(&mut self.write.change, Change::Delete);
        self.write.change = combine(before, source.change.clone());
        self.write.op_id.clone_from(&source.op_id);
        self.write.version = source.write_id.position.version();
        self.sources.push(source);
    }

    /// Whether the document exists once this is applied.
    fn leaves_a_document(&self) -> bool {
        !matches!(self.write.change, Change::Delete)
    }
}

fn dead_letter(key: &DocumentKey, source: Source, reason: &str) -> DeadLetter {
    let mut payload = Vec::new();
    let write = RequestWrite { key: key.clone(), change: source.change };
    if let Err(error) = codec::encode_write(&write, &mut payload) {
        // It came out of the same encoding a moment ago.
        tracing::error!(%error, write_id = %source.write_id, "a dead letter cannot be encoded");
    }
    let replay = source.replay.as_deref();
    DeadLetter {
        write_id: replay.map_or(source.write_id, |replay| replay.origin),
        reason: reason.to_owned(),
        op_id: source.op_id.to_string(),
        payload: payload.into(),
        returned: replay.map(|replay| Returned { entry: replay.entry, times: replay.times }),
    }
}

/// Where a document's last write is in the batch: in which round, and where in it.
type Index = HashMap<DocumentKey, (usize, usize), RandomState>;

/// What one bulk write will do.
#[derive(Debug, Default)]
pub struct Batch {
    /// At most one for each document.
    pub writes: Vec<PlannedWrite>,
    /// To be done after those, a round after the other, each with at most one write for each document. Dead letters under
    /// their old version part a document's changes in the journal's order.
    pub later: Vec<Vec<PlannedWrite>>,
    /// All entries in it, to be acknowledged when it is done.
    pub positions: Vec<Position>,
    /// Refused before the database was asked.
    pub dead: Vec<DeadLetter>,
    /// The documents of those: readers see what was refused until the cache is told.
    pub refused: Vec<DocumentKey>,
    /// Journaled writes in it.
    pub journaled_writes: usize,
}

impl Batch {
    /// Coalesces entries of a shard, which must be in journal order.
    #[must_use]
    pub fn new(shard: u16, deliveries: Vec<Delivery>) -> Self {
        let mut batch = Self::default();
        let mut index: Index = Index::default();
        for delivery in deliveries {
            batch.positions.push(delivery.position());
            match delivery {
                Delivery::Undecodable { position, reason, payload } => {
                    let write_id = WriteId { shard, position, place: 0 };
                    let op_id = String::new();
                    batch.dead.push(DeadLetter { write_id, reason, op_id, payload, returned: None });
                }
                Delivery::Entry(entry) => {
                    for (place, request) in entry.requests.into_iter().enumerate() {
                        let place = u16::try_from(place).unwrap_or(u16::MAX);
                        let write_id = WriteId { shard, position: entry.position, place };
                        batch.add_request(&mut index, write_id, request);
                    }
                }
            }
        }
        batch
    }

    /// Journaled writes that need no write of their own.
    #[must_use]
    pub fn coalesced(&self) -> usize {
        let later: usize = self.later.iter().map(Vec::len).sum();
        self.journaled_writes.saturating_sub(self.writes.len() + later + self.dead.len())
    }

    fn add_request(&mut self, index: &mut Index, entry: WriteId, request: Request) {
        let Request { op_id, writes, places, replay, .. } = request;
        let replayed = replay.as_ref().map(|replay| {
            let (origin, as_new, times) = (replay.origin, replay.as_new, replay.times);
            Arc::new(Replayed { origin, entry, as_new, times })
        });
        let write_id = match &replayed {
            Some(replayed) if !replayed.as_new => replayed.origin,
            _ => entry,
        };
        for (place, write) in writes.into_iter().enumerate() {
            let original = places.as_ref().and_then(|places| places.get(place));
            let place = original.map_or(place, |place| usize::from(*place));
            let op_id = write_operation_id(&op_id, place).into();
            let source = Source { write_id, op_id, change: write.change, replay: replayed.clone() };
            self.add(index, write.key, source);
        }
    }

    /// The writes of a round, which is made if it is the next one.
    fn round(&mut self, round: usize) -> &mut Vec<PlannedWrite> {
        let Some(later) = round.checked_sub(1) else { return &mut self.writes };
        if later == self.later.len() {
            self.later.push(Vec::new());
        }
        &mut self.later[later]
    }

    fn add(&mut self, index: &mut Index, key: DocumentKey, source: Source) {
        self.journaled_writes += 1;
        let last = index.get(&key).copied();
        let next = match last {
            None => Some(0),
            Some((round, at)) if !self.round(round)[at].takes(&source) => Some(round + 1),
            Some(_) => None,
        };
        if let Some(next) = next {
            let round = self.round(next);
            index.insert(key.clone(), (next, round.len()));
            round.push(PlannedWrite::first(key, source));
            return;
        }
        let Some((round, at)) = last else { return };
        let planned = &mut self.round(round)[at];
        if matches!(source.change, Change::Insert(_)) && planned.leaves_a_document() {
            // The same operation twice is a repeated delivery; another one is a conflict.
            if planned.sources.iter().all(|earlier| earlier.op_id != source.op_id) {
                self.dead.push(dead_letter(&key, source, EXISTS));
                self.refused.push(key);
            }
            return;
        }
        planned.absorb(source);
    }
}

/// Two changes of one document, one after the other, as one.
fn combine(before: Change, after: Change) -> Change {
    match (before, after) {
        (Change::Delete, Change::Insert(document) | Change::Replace(document)) => Change::Replace(document),
        (Change::Delete, Change::Merge(fields)) => Change::Replace(raw(merged(Document::new(), fields))),
        // If the insert turns out to be a conflict, the whole is taken apart again.
        (Change::Insert(_), Change::Replace(document)) => Change::Insert(document),
        (Change::Insert(document), Change::Merge(fields)) => {
            Change::Insert(raw(merged(tree(&document), fields)))
        }
        (Change::Replace(document), Change::Merge(fields)) => {
            Change::Replace(raw(merged(tree(&document), fields)))
        }
        (Change::Merge(mut earlier), Change::Merge(later)) => {
            // Nulls stay: they remove fields of the document that neither merge knows.
            earlier.extend(later);
            Change::Merge(earlier)
        }
        (_, after) => after,
    }
}

/// The journal's decoder has been through every field of it.
fn tree(document: &RawDocumentBuf) -> Document {
    Document::try_from(&**document).expect("a document that was validated when it was decoded")
}

fn raw(document: Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(&document).expect("fields of documents that were BSON before")
}

fn merged(mut document: Document, fields: Document) -> Document {
    for (field, value) in fields {
        if value == Bson::Null {
            document.remove(&field);
        } else {
            document.insert(field, value);
        }
    }
    document
}

#[cfg(test)]
mod replay_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Entry, Request};
    use bson::doc;
    use bytes::Bytes;
    use proptest::prelude::*;

    pub(super) fn delivery(ms: u64, writes: Vec<(&str, Change)>) -> Delivery {
        let writes = writes
            .into_iter()
            .map(|(id, change)| RequestWrite { key: DocumentKey::new("c", id), change })
            .collect();
        let request =
            Request { op_id: format!("op{ms}").into(), at_ms: ms, writes, places: None, replay: None };
        Delivery::Entry(Entry { position: Position { ms, seq: 0 }, requests: vec![request], bytes: 0 })
    }

    fn net(changes: Vec<Change>) -> Vec<Change> {
        let deliveries = changes
            .into_iter()
            .enumerate()
            .map(|(ms, change)| delivery(ms as u64 + 1, vec![("1", change)]))
            .collect();
        Batch::new(3, deliveries).writes.into_iter().map(|planned| planned.write.change).collect()
    }

    #[test]
    fn one_net_change_a_document() {
        let insert = |n| Change::insert(doc! {"n": n});
        let replace = |n| Change::replace(doc! {"n": n});
        let merge = |document| Change::Merge(document);
        for (changes, expected) in [
            (vec![insert(1)], insert(1)),
            (vec![insert(1), replace(2)], insert(2)),
            (vec![insert(1), merge(doc! {"m": 2, "n": null})], Change::insert(doc! {"m": 2})),
            (vec![insert(1), Change::Delete], Change::Delete),
            (vec![Change::Delete, insert(1)], replace(1)),
            (vec![Change::Delete, merge(doc! {"a": 1, "b": null})], Change::replace(doc! {"a": 1})),
            (vec![replace(1), merge(doc! {"m": 1})], Change::replace(doc! {"n": 1, "m": 1})),
            (vec![merge(doc! {"a": 1, "b": 1}), merge(doc! {"b": null})], merge(doc! {"a": 1, "b": null})),
            (vec![merge(doc! {"a": 1}), replace(3)], replace(3)),
            (
                vec![replace(1), Change::Delete, replace(4), merge(doc! {"x": 1})],
                Change::replace(doc! {"n": 4, "x": 1}),
            ),
        ] {
            assert_eq!(net(changes.clone()), [expected], "{changes:?}");
        }
    }

    #[test]
    fn the_net_change_carries_the_newest_version_and_operation() {
        let batch = Batch::new(
            3,
            vec![
                delivery(7, vec![("1", Change::replace(doc! {}))]),
                delivery(9, vec![("2", Change::Delete), ("1", Change::Merge(doc! {"a": 1}))]),
            ],
        );
        assert_eq!(batch.writes.len(), 2);
        assert_eq!(batch.writes[0].write.version, Position { ms: 9, seq: 0 }.version());
        assert_eq!(&*batch.writes[0].write.op_id, "op9-01");
        assert_eq!((batch.journaled_writes, batch.positions.len()), (3, 2));
    }

    #[test]
    fn a_second_insert_is_a_conflict_unless_it_is_the_same_operation() {
        let first = delivery(1, vec![("1", Change::insert(doc! {"n": 1}))]);
        let batch = Batch::new(3, vec![first.clone(), first.clone()]);
        assert_eq!((batch.writes.len(), batch.dead.len()), (1, 0));
        let batch = Batch::new(3, vec![first, delivery(2, vec![("1", Change::insert(doc! {"n": 2}))])]);
        assert_eq!(batch.writes[0].write.change, Change::insert(doc! {"n": 1}));
        assert_eq!((batch.dead[0].op_id.as_str(), batch.dead[0].reason.as_str()), ("op2-00", EXISTS));
        assert_eq!(batch.refused, [DocumentKey::new("c", "1")]);
        assert_eq!(batch.dead[0].write_id.shard, 3);
    }

    #[test]
    fn a_refused_write_comes_apart_by_entry_and_its_letters_hold_the_originals() {
        let batch = Batch::new(
            3,
            vec![
                delivery(1, vec![("1", Change::insert(doc! {"n": 1})), ("1", Change::Merge(doc! {"m": 1}))]),
                delivery(2, vec![("1", Change::replace(doc! {"bad": 1}))]),
            ],
        );
        let steps = batch.writes.into_iter().next().unwrap().by_entry();
        let changes: Vec<&Change> = steps.iter().map(|step| &step.write.change).collect();
        assert_eq!(changes, [&Change::insert(doc! {"n": 1, "m": 1}), &Change::replace(doc! {"bad": 1})]);
        assert_ne!(steps[0].write.version, steps[1].write.version);
        let letters: Vec<DeadLetter> = steps.into_iter().flat_map(|step| step.dead_letters("no")).collect();
        assert_eq!(
            letters.iter().map(|letter| letter.op_id.as_str()).collect::<Vec<_>>(),
            ["op1-00", "op1-01", "op2-00"]
        );
        assert_eq!(letters[2].payload[0], 1, "a replace, as it was journaled");
    }

    #[test]
    fn an_undecodable_entry_is_a_dead_letter_and_acknowledged() {
        let position = Position { ms: 3, seq: 1 };
        let batch = Batch::new(
            3,
            vec![Delivery::Undecodable {
                position,
                reason: "version 9".into(),
                payload: Bytes::from_static(b"\x09"),
            }],
        );
        assert_eq!(batch.positions, [position]);
        assert_eq!((batch.dead[0].reason.as_str(), &batch.dead[0].payload[..]), ("version 9", &b"\x09"[..]));
    }

    /// The state after applying changes one by one, the plainest way.
    pub(super) fn model(changes: &[Change], mut state: Option<Document>) -> Option<Document> {
        for change in changes {
            state = match change.clone() {
                Change::Insert(document) => state.or_else(|| Some(tree(&document))),
                Change::Replace(document) => Some(tree(&document)),
                Change::Merge(fields) => Some(merged(state.unwrap_or_default(), fields)),
                Change::Delete => None,
            };
        }
        state
    }

    proptest! {
        #[test]
        fn the_net_change_does_what_all_changes_do(kinds in proptest::collection::vec((0..4_u8, 0..3_u8, 0..5_i32), 1..10), exists: bool) {
            let changes: Vec<Change> = kinds.iter().map(|(kind, field, n)| {
                let document = doc! { format!("f{field}"): *n };
                match kind {
                    0 => Change::insert(document),
                    1 => Change::replace(document),
                    2 if *n == 0 => Change::Merge(doc! { format!("f{field}"): null }),
                    2 => Change::Merge(document),
                    _ => Change::Delete,
                }
            }).collect();
            let start = exists.then(|| doc! {"f0": 100, "f1": 100});
            // An insert first, over a document that exists, is the conflict that the store reports.
            prop_assume!(!(exists && matches!(changes[0], Change::Insert(_))));
            let net = net(changes.clone());
            prop_assert_eq!(model(&net, start.clone()), model(&changes, start));
        }
    }
}
