//! Dead letters that were put back, among other writes of their documents.

use bson::doc;
use proptest::prelude::*;

use super::tests::{delivery, model};
use super::*;
use crate::journal::Replay;

/// A dead letter of the request at `origin`, put back at `ms`.
fn put_back(ms: u64, origin: u64, as_new: bool, changes: Vec<Change>) -> Delivery {
    let origin = WriteId { shard: 0, position: Position { ms: origin, seq: 0 }, place: 0 };
    let places = (0..changes.len()).map(|place| place as u16 + 2).collect();
    let replay = Replay { origin, as_new, times: 3 };
    let changes = changes.into_iter().map(|change| ("1", change)).collect();
    let Delivery::Entry(mut entry) = delivery(ms, changes) else { unreachable!("it is one") };
    entry.requests[0].places = Some(places);
    entry.requests[0].replay = Some(Box::new(replay));
    Delivery::Entry(entry)
}

#[test]
fn a_letter_under_its_old_version_stands_for_itself() {
    let merge = |n| Change::Merge(doc! {"n": n});
    let batch = Batch::new(
        0,
        vec![
            delivery(10, vec![("1", merge(1))]),
            put_back(20, 5, false, vec![Change::insert(doc! {"a": 1}), Change::Merge(doc! {"b": 2})]),
            delivery(30, vec![("1", merge(3)), ("2", Change::Delete)]),
            delivery(40, vec![("1", merge(4))]),
        ],
    );
    let version = |ms| Position { ms, seq: 0 }.version();
    let rounds: Vec<Vec<(i64, &str)>> = std::iter::once(&batch.writes)
        .chain(&batch.later)
        .map(|round| round.iter().map(|planned| (planned.write.version, &*planned.write.op_id)).collect())
        .collect();
    let expected = [
        vec![(version(10), "op10-00"), (version(30), "op30-01")],
        vec![(version(5), "op20-03")],
        vec![(version(40), "op40-00")],
    ];
    assert_eq!(rounds, expected);
    let letter = &batch.later[0][0];
    assert_eq!(letter.write.change, Change::insert(doc! {"a": 1, "b": 2}), "one change, as it was");
    let entry = WriteId { shard: 0, position: Position { ms: 20, seq: 0 }, place: 0 };
    assert_eq!(letter.entry_of_old(), Some(entry));
    assert_eq!((batch.journaled_writes, batch.coalesced()), (6, 2));
    let letters = letter.clone().dead_letters("again");
    assert_eq!(letters[0].id().to_string(), "0.5.0.0.2", "the same letter as before");
    assert_eq!(letters[1].returned, Some(Returned { entry, times: 3 }));
}

#[test]
fn a_letter_that_is_as_new_is_a_write_like_others() {
    let batch = Batch::new(
        0,
        vec![
            delivery(10, vec![("1", Change::replace(doc! {"a": 1}))]),
            put_back(20, 5, true, vec![Change::Merge(doc! {"b": 2})]),
        ],
    );
    assert!(batch.later.is_empty());
    let [planned] = &batch.writes[..] else { panic!("one document") };
    assert_eq!(planned.write.change, Change::replace(doc! {"a": 1, "b": 2}));
    assert_eq!(
        (planned.write.version, &*planned.write.op_id),
        (Position { ms: 20, seq: 0 }.version(), "op20-02")
    );
    assert_eq!(planned.entry_of_old(), None);
    let letters = planned.clone().dead_letters("again");
    assert_eq!([letters[0].id(), letters[1].id()].map(|id| id.to_string()), ["0.10.0.0.0", "0.5.0.0.2"]);
}

proptest! {
    /// Entries of one document, some of them letters of old, against a store that takes what is newer: in one batch
    /// they do what they do one by one.
    #[test]
    fn letters_among_newer_writes_do_what_they_do_alone(
        entries in proptest::collection::vec((0..3_u8, 0..3_u8, 1..5_i32, proptest::option::of(any::<u8>())), 1..12),
        start in 0..10_u64,
    ) {
        let deliveries: Vec<Delivery> = entries.iter().enumerate().map(|(n, (kind, field, value, old))| {
            let ms = 10 * (n as u64 + 1);
            let change = match kind {
                0 => Change::replace(doc! { format!("f{field}"): *value }),
                1 => Change::Merge(doc! { format!("f{field}"): *value }),
                _ => Change::Delete,
            };
            match old {
                // Between other entries, each of its own.
                Some(old) => put_back(ms, 1 + u64::from(*old) % ms / 10 * 10 + n as u64 % 9, false, vec![change]),
                None => delivery(ms, vec![("1", change)]),
            }
        }).collect();
        // No entry of the journal was stored before the batch.
        let start = (Some(doc! {"f0": 100}), Position { ms: start, seq: 0 }.version());
        let store = |state: &mut (Option<Document>, i64), batch: Batch| {
            for planned in std::iter::once(batch.writes).chain(batch.later).flatten() {
                if planned.write.version > state.1 {
                    *state = (model(&[planned.write.change], state.0.take()), planned.write.version);
                }
            }
        };
        let (mut together, mut alone) = (start.clone(), start);
        store(&mut together, Batch::new(0, deliveries.clone()));
        for delivery in deliveries {
            store(&mut alone, Batch::new(0, vec![delivery]));
        }
        prop_assert_eq!(together, alone);
    }
}
