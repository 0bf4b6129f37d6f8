//! The checker finds each kind of fault in a history made by hand, and none in one that is good.

use serde_json::json;

use super::*;

fn fields(value: Value) -> Fields {
    value.as_object().unwrap().clone()
}

fn replace(n: i32) -> Change {
    Change::Replace(fields(json!({ "n": n })))
}

fn merge(value: Value) -> Change {
    Change::Merge(fields(value))
}

fn invoke(op: &str, key: &str, change: Change) -> Event {
    Event::Invoke { op: op.into(), writes: vec![(key.into(), change)] }
}

fn accepted(op: &str, version: i64) -> Event {
    Event::Accepted { op: op.into(), version }
}

fn open(op: &str) -> Event {
    Event::Open { op: op.into() }
}

fn refused(op: &str) -> Event {
    Event::Refused { op: op.into(), status: 503 }
}

fn read(key: &str, found: Option<Value>) -> Event {
    Event::Read { key: key.into(), found: found.map(fields) }
}

fn stored(key: &str, op: &str, version: i64, document: Value) -> Stored {
    let (key, op) = (key.into(), format!("{op}-00"));
    Stored { key, op, version, deleted: false, fields: fields(document) }
}

fn tombstone(key: &str, op: &str, version: i64) -> Stored {
    Stored { deleted: true, ..stored(key, op, version, json!({})) }
}

fn end(stored: Vec<Stored>) -> End {
    End { stored, ..End::default() }
}

/// Replaced, merged, deleted, merged again; the answers to the third one were lost at first.
fn good() -> Vec<Event> {
    vec![
        invoke("a", "c/1", replace(1)),
        accepted("a", 10),
        read("c/1", Some(json!({ "n": 1 }))),
        invoke("b", "c/1", merge(json!({ "n": null, "m": 2 }))),
        accepted("b", 11),
        read("c/1", Some(json!({ "m": 2 }))),
        invoke("c", "c/1", Change::Delete),
        open("c"),
        refused("c"),
        accepted("c", 12),
        read("c/1", None),
        invoke("d", "c/1", merge(json!({ "k": 4 }))),
        accepted("d", 13),
    ]
}

#[track_caller]
fn expect(history: &[Event], end: &End, violations: &[Violation]) {
    assert_eq!(check(history, end), violations);
}

fn lost(op: &str, key: &str) -> Violation {
    Violation::Lost { op: format!("{op}-00"), key: key.into() }
}

fn twice(op: &str) -> Violation {
    Violation::Twice { op: format!("{op}-00") }
}

#[test]
fn a_good_history_is_good() {
    expect(&good(), &end(vec![stored("c/1", "d", 13, json!({ "k": 4 }))]), &[]);
    expect(&[], &End::default(), &[]);
}

#[test]
fn what_was_accepted_and_is_nowhere_is_lost() {
    expect(&good(), &end(vec![]), &[lost("d", "c/1")]);
    expect(&good(), &end(vec![tombstone("c/1", "c", 12)]), &[lost("d", "c/1")]);
    // A dead letter is somewhere, and what came before it counts.
    let dead = End { dead: vec!["d-00".into()], ..end(vec![tombstone("c/1", "c", 12)]) };
    expect(&good(), &dead, &[]);
    let insert = [invoke("i", "o/i-00", Change::Insert(fields(json!({})))), accepted("i", 1)];
    expect(&insert, &end(vec![]), &[lost("i", "o/i-00")]);
    expect(&insert, &end(vec![stored("o/i-00", "i", 1, json!({}))]), &[]);
}

#[test]
fn a_merge_lost_in_the_middle_shows_in_the_document() {
    let history = [
        invoke("a", "c/1", merge(json!({ "x": 1 }))),
        accepted("a", 1),
        invoke("b", "c/1", merge(json!({ "y": 2 }))),
        accepted("b", 2),
    ];
    let (both, half) = (json!({ "x": 1, "y": 2 }), json!({ "y": 2 }));
    expect(&history, &end(vec![stored("c/1", "b", 2, both.clone())]), &[]);
    let (expected, found) = (Some(fields(both)), Some(fields(half.clone())));
    let wrong = Violation::Wrong { key: "c/1".into(), expected, found };
    expect(&history, &end(vec![stored("c/1", "b", 2, half)]), &[wrong]);
}

#[test]
fn a_deleted_document_stays_deleted() {
    let history = [
        invoke("a", "c/1", replace(1)),
        accepted("a", 1),
        invoke("b", "c/1", Change::Delete),
        accepted("b", 2),
    ];
    expect(&history, &end(vec![tombstone("c/1", "b", 2)]), &[]);
    expect(&history, &end(vec![stored("c/1", "a", 1, json!({ "n": 1 }))]), &[lost("b", "c/1")]);
    let back = Violation::Wrong { key: "c/1".into(), expected: None, found: Some(fields(json!({ "n": 1 }))) };
    expect(&history, &end(vec![stored("c/1", "b", 2, json!({ "n": 1 }))]), &[back]);
}

#[test]
fn an_effect_counts_once_whatever_its_id() {
    let history = [invoke("i", "o/i-00", replace(1)), accepted("i", 1)];
    let here = stored("o/i-00", "i", 1, json!({ "n": 1 }));
    let copy = Stored { key: "o/other".into(), ..here.clone() };
    let stranger = Violation::Stranger { op: "i-00".into(), key: "o/other".into() };
    expect(&history, &end(vec![here.clone(), copy]), &[stranger, twice("i")]);
    let both = End { dead: vec!["i-00".into()], ..end(vec![here.clone()]) };
    assert_eq!(check(&history, &both)[..1], [twice("i")]);
    // Appended a second time: the same effect under another version.
    expect(&history, &end(vec![Stored { version: 2, ..here.clone() }]), &[twice("i")]);
    let again = [&history[..], &[accepted("i", 2)]].concat();
    expect(&again, &end(vec![here]), &[twice("i")]);
}

#[test]
fn what_was_refused_has_no_effect() {
    let history = [invoke("a", "c/1", replace(1)), refused("a")];
    expect(&history, &end(vec![]), &[]);
    let effect = Violation::RefusedTookEffect { op: "a-00".into() };
    let there = end(vec![stored("c/1", "a", 1, json!({ "n": 1 }))]);
    expect(&history, &there, std::slice::from_ref(&effect));
    expect(&history, &End { dead: vec!["a-00".into()], ..end(vec![]) }, &[effect]);
    // Nobody sent it at all.
    let stranger = Violation::Stranger { op: "a-00".into(), key: "c/1".into() };
    expect(&[], &there, &[stranger]);
}

#[test]
fn what_is_open_happened_or_not_and_nothing_in_between() {
    let history = [
        invoke("a", "c/1", merge(json!({ "x": 1 }))),
        accepted("a", 5),
        invoke("b", "c/1", merge(json!({ "y": 2 }))),
        open("b"),
        refused("b"),
    ];
    expect(&history, &end(vec![stored("c/1", "a", 5, json!({ "x": 1 }))]), &[]);
    expect(&history, &end(vec![stored("c/1", "b", 7, json!({ "x": 1, "y": 2 }))]), &[]);
    let late = check(&history, &end(vec![stored("c/1", "b", 3, json!({ "y": 2 }))]));
    assert_eq!(late, [lost("a", "c/1")], "an older one hides the accepted one");
    let wrong = check(&history, &end(vec![stored("c/1", "b", 7, json!({ "y": 2 }))]));
    assert!(matches!(wrong[..], [Violation::Wrong { .. }]), "{wrong:?}");
    // The rules are broken: which of the two came first?
    let more = [&history[..], &[invoke("c", "c/1", merge(json!({ "y": 3 }))), open("c")]].concat();
    let undecidable = Violation::Undecidable { key: "c/1".into() };
    expect(&more, &end(vec![stored("c/1", "c", 8, json!({ "x": 1, "y": 3 }))]), &[undecidable]);
}

#[test]
fn a_request_is_stored_whole_or_not_at_all() {
    let writes = vec![("o/t-00".into(), replace(1)), ("c/1".into(), replace(2))];
    let history = [Event::Invoke { op: "t".into(), writes }, open("t")];
    let first = stored("o/t-00", "t", 1, json!({ "n": 1 }));
    let second = Stored { op: "t-01".into(), ..stored("c/1", "t", 1, json!({ "n": 2 })) };
    expect(&history, &end(vec![]), &[]);
    expect(&history, &end(vec![first.clone(), second.clone()]), &[]);
    expect(&history, &end(vec![first.clone()]), &[Violation::Torn { op: "t".into() }]);
    let dead = End { dead: vec!["t-01".into()], ..end(vec![first.clone()]) };
    expect(&history, &dead, &[]);
    let history = [history[0].clone(), accepted("t", 1)];
    let lost = Violation::Lost { op: "t-01".into(), key: "c/1".into() };
    expect(&history, &end(vec![first]), &[lost]);
}

#[test]
fn of_many_writers_the_newest_stays() {
    let history = [
        invoke("a", "s/1", replace(1)),
        invoke("b", "s/1", replace(2)),
        invoke("c", "s/1", replace(3)),
        accepted("b", 6),
        accepted("a", 5),
        open("c"),
        invoke("d", "s/1", replace(4)),
        open("d"),
    ];
    expect(&history, &end(vec![stored("s/1", "b", 6, json!({ "n": 2 }))]), &[]);
    expect(&history, &end(vec![stored("s/1", "d", 9, json!({ "n": 4 }))]), &[]);
    expect(&history, &end(vec![stored("s/1", "a", 5, json!({ "n": 1 }))]), &[lost("b", "s/1")]);
    let mixed = check(&history, &end(vec![stored("s/1", "b", 6, json!({ "n": 1 }))]));
    assert!(matches!(mixed[..], [Violation::Wrong { .. }]), "{mixed:?}");
}

#[test]
fn a_client_sees_its_own_writes() {
    let at = good().iter().position(|event| matches!(event, Event::Read { .. })).unwrap();
    let good_end = end(vec![stored("c/1", "d", 13, json!({ "k": 4 }))]);
    for found in [None, Some(json!({ "n": 0 }))] {
        let mut history = good();
        history[at] = read("c/1", found.clone());
        let (expected, found) = (Some(fields(json!({ "n": 1 }))), found.map(fields));
        expect(&history, &good_end, &[Violation::Stale { key: "c/1".into(), expected, found }]);
    }
    // Nor what was deleted.
    let mut history = good();
    let at = history.iter().rposition(|event| matches!(event, Event::Read { .. })).unwrap();
    history[at] = read("c/1", Some(json!({ "m": 2 })));
    assert!(matches!(check(&history, &good_end)[..], [Violation::Stale { .. }]));
}

#[test]
fn versions_follow_time_and_never_fall() {
    let history =
        [invoke("a", "c/1", replace(1)), accepted("a", 5), invoke("b", "c/1", replace(2)), accepted("b", 4)];
    let there = end(vec![stored("c/1", "a", 5, json!({ "n": 1 }))]);
    expect(&history, &there, &[Violation::Reordered { key: "c/1".into() }]);
    let sample = |version| Event::Sample { key: "c/1".into(), version };
    let history = [invoke("a", "c/1", replace(1)), accepted("a", 5), sample(3), sample(3), sample(5)];
    expect(&history, &there, &[]);
    let history = [&history[..], &[sample(4)]].concat();
    expect(&history, &there, &[Violation::Regressed { key: "c/1".into(), from: 5, to: 4 }]);
}

#[test]
fn an_empty_journal_is_empty() {
    for (entries, pending) in [(1, 0), (0, 1), (3, 2)] {
        let left = End { entries, pending, ..End::default() };
        expect(&[], &left, &[Violation::Undrained { entries, pending }]);
    }
}
