//! The gate in simulated time, and a crowd before it that does as it is told.

use std::collections::BinaryHeap;

use super::*;

const STEP: Duration = Duration::from_millis(10);
/// Steps from one look at the backlog to the next.
const LOOK: u64 = 25;

fn bounds(entries: u64, bytes: u64, age: u64) -> Bounds {
    Bounds { backlog: BacklogBounds { entries, bytes }, age: Duration::from_secs(age) }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A gate that has seen `backlog` for ten seconds, draining at `rate`.
fn drained(bounds: Bounds, entries: u64, bytes: u64, age: f64, rate: u64) -> Admission {
    let mut gate = Admission::new(bounds);
    for n in 0..=100_u64 {
        let backlog = Backlog { entries, bytes, removed: n * rate / 10, ..Backlog::default() };
        gate.observe(backlog, seconds(age), seconds(n as f64 / 10.0));
    }
    gate
}

#[test]
fn each_bound_closes_it_and_ninety_percent_open_it() {
    for (entries, bytes, age, expected) in
        [(100, 10, 1.0, Reason::Entries), (10, 1000, 1.0, Reason::Bytes), (10, 10, 60.0, Reason::Age)]
    {
        let mut gate = drained(bounds(100, 1000, 60), entries, bytes, age, 0);
        let now = seconds(10.0);
        let refusal = gate.ask(now, 0.5, 10).unwrap_err();
        assert_eq!(refusal.reason, expected);
        let bound = refusal.detail.rsplit_once("the bound is ").map(|(_, bound)| bound.to_owned());
        assert!(bound.is_some_and(|bound| bound.starts_with(['1', '6'])), "{}", refusal.detail);
        let part = |of: u64| (of as f64 * 0.95) as u64;
        let less = Backlog { entries: part(entries), bytes: part(bytes), ..Backlog::default() };
        gate.observe(less, seconds(age * 0.95), now);
        assert!(gate.closed().is_some(), "still above nine tenths");
        let part = |of: u64| (of as f64 * 0.85) as u64;
        let less = Backlog { entries: part(entries), bytes: part(bytes), ..Backlog::default() };
        gate.observe(less, seconds(age * 0.85), now);
        assert_eq!(gate.closed(), None);
        gate.ask(now, 0.5, 10).unwrap();
    }
}

#[test]
fn what_was_let_in_since_the_last_look_counts() {
    let mut gate = drained(bounds(100, 1_000_000, 60), 90, 900, 0.0, 10);
    let admitted = (0..50).filter(|_| gate.ask(seconds(10.1), 0.0, 10).is_ok()).count();
    assert_eq!(admitted, 10);
    // The same by bytes, ten each; how large those are that wait says nothing of these.
    let mut gate = drained(bounds(1000, 1000, 60), 1, 900, 0.0, 10);
    let admitted = (0..50).filter(|_| gate.ask(seconds(10.1), 0.0, 10).is_ok()).count();
    assert_eq!(admitted, 10);
}

/// Eight requests an entry, ten entries a second: the database takes eighty requests a second.
#[test]
fn requests_that_share_an_entry_count_as_their_part_of_it() {
    let mut gate = Admission::new(bounds(100, u64::MAX, 600));
    let (mut removed, mut now) = (0, Duration::ZERO);
    for look in 0..400_u64 {
        now = seconds(look as f64 / 4.0);
        gate.observe(Backlog { entries: 50, removed, ..Backlog::default() }, Duration::ZERO, now);
        (0..24).for_each(|_| gate.ask(now, 0.0, 1).unwrap());
        removed += 3;
    }
    assert!((90.0..100.0).contains(&gate.taken()), "{}", gate.taken());
    let in_these = gate.entries() - gate.backlog.entries as f64;
    assert!((3.0..3.5).contains(&in_these), "{in_these}");
    gate.observe(Backlog { entries: 50, removed, ..Backlog::default() }, Duration::ZERO, now);
    // At a bound, and below it again: as fast as it takes them, not as fast as entries leave.
    gate.observe(Backlog { entries: 100, removed, ..Backlog::default() }, Duration::ZERO, now);
    gate.ask(now, 0.0, 1).unwrap_err();
    gate.observe(Backlog { entries: 89, removed, ..Backlog::default() }, Duration::ZERO, now);
    let refused = (0..200).filter(|_| gate.ask(now + seconds(1.0), 0.0, 1).is_err()).count();
    assert!(refused > 0, "the gate is opening");
    assert!(gate.rate(0.89) > 90.0, "{}", gate.rate(0.89));
}

#[test]
fn when_to_come_back() {
    let wait = |mut gate: Admission| gate.ask(seconds(10.0), 0.0, 10).unwrap_err().retry_after.as_secs_f64();
    // 100 entries above nine tenths, 10 a second.
    let by_entries = wait(drained(bounds(1000, u64::MAX, 600), 1000, 1, 1.0, 10));
    assert!((10.0..14.0).contains(&by_entries), "{by_entries}");
    // 100 bytes above them, 10 entries of 10 bytes a second.
    let by_bytes = wait(drained(bounds(1000, 1000, 600), 100, 1000, 1.0, 10));
    assert!((1.0..1.5).contains(&by_bytes), "{by_bytes}");
    // 600 s old, and 60 too old; 6000 entries, of which 20 s worth leave in a second: 60 / (20 - 1).
    let by_age = wait(drained(bounds(1_000_000, u64::MAX, 600), 6000, 1, 600.0, 200));
    assert!((3.0..4.5).contains(&by_age), "{by_age}");
    // It grows older as fast as it drains: until it is empty.
    let old = wait(drained(bounds(1_000_000, u64::MAX, 20), 300, 1, 20.0, 10));
    assert!((30.0..42.0).contains(&old), "{old}");
    // Far beyond what anybody should wait, and never.
    let slow = wait(drained(bounds(1000, u64::MAX, 600), 100_000, 1, 1.0, 1));
    assert!((30.0..=60.0).contains(&slow), "{slow}");
    let mut still = drained(bounds(1000, u64::MAX, 600), 1000, 1, 1.0, 0);
    let waits: Vec<f64> = [0.0, 0.5, 1.0]
        .into_iter()
        .map(|chance| still.ask(seconds(10.0), chance, 10).unwrap_err().retry_after.as_secs_f64())
        .collect();
    assert_eq!(waits, [30.0, 45.0, 60.0]);
}

#[test]
fn those_who_are_turned_away_together_come_back_one_after_the_other() {
    let mut gate = drained(bounds(1000, u64::MAX, 600), 1000, 1, 1.0, 100);
    let mut by_second = [0; 61];
    for n in 0..3000 {
        let refusal = gate.ask(seconds(10.0), f64::from(n % 10) / 10.0, 10).unwrap_err();
        by_second[refusal.retry_after.as_secs() as usize] += 1;
    }
    assert!(by_second.iter().all(|count| *count <= 130), "as many a second as are drained: {by_second:?}");
    assert!(by_second[2..28].iter().all(|count| *count >= 70), "{by_second:?}");
}

#[test]
fn a_counter_that_begins_anew_is_no_drain_and_an_empty_backlog_says_nothing() {
    let mut gate = drained(bounds(1000, u64::MAX, 600), 500, 1, 1.0, 100);
    let rate = gate.drain();
    assert!((80.0..101.0).contains(&rate), "{rate}");
    gate.observe(Backlog { entries: 500, removed: 3, ..Backlog::default() }, Duration::ZERO, seconds(10.1));
    assert_eq!(gate.drain(), rate);
    gate.observe(Backlog { removed: 3, ..Backlog::default() }, Duration::ZERO, seconds(10.2));
    let after = gate.drain();
    for n in 0..1000 {
        let empty = Backlog { removed: 3, ..Backlog::default() };
        gate.observe(empty, Duration::ZERO, seconds(10.3 + f64::from(n)));
    }
    assert_eq!(gate.drain(), after);
}

/// What came of a simulation.
#[derive(Debug, Default)]
struct Seen {
    most: u64,
    closings: u32,
    attempts: u64,
    served: u64,
    /// When the last client was served.
    until: f64,
    /// Most and least of the backlog in the second half.
    late: (u64, u64),
}

/// `clients` come within the first second; the database takes `rate` entries a second, after it stood still for
/// `outage` seconds. With `again` a client comes back a second after it was served, for `lasts` seconds in all.
fn simulate(clients: u64, bound: u64, rate: f64, outage: f64, again: bool, lasts: f64) -> Seen {
    let mut random = fastrand::Rng::with_seed(7);
    let mut gate = Admission::new(bounds(bound, u64::MAX, 3600));
    // The next arrivals, in steps, earliest first.
    let mut due: BinaryHeap<std::cmp::Reverse<u64>> =
        (0..clients).map(|_| std::cmp::Reverse(random.u64(0..100))).collect();
    let (mut backlog, mut removed, mut credit) = (0_u64, 0_u64, 0.0);
    let mut seen = Seen { late: (0, u64::MAX), ..Seen::default() };
    let mut was_closed = false;
    for step in 0..(lasts * 100.0) as u64 {
        let now = STEP * u32::try_from(step).unwrap();
        if now.as_secs_f64() >= outage {
            credit += rate / 100.0;
            let leaves = (credit as u64).min(backlog);
            credit = (credit - leaves as f64).min(rate / 100.0 + 1.0);
            (backlog, removed) = (backlog - leaves, removed + leaves);
        }
        if step % LOOK == 0 {
            gate.observe(Backlog { entries: backlog, removed, ..Backlog::default() }, Duration::ZERO, now);
        }
        while due.peek().is_some_and(|next| next.0 <= step) {
            due.pop();
            seen.attempts += 1;
            match gate.ask(now, random.f64(), 10) {
                Ok(()) => {
                    backlog += 1;
                    seen.served += 1;
                    seen.until = now.as_secs_f64();
                    if again {
                        due.push(std::cmp::Reverse(step + 100));
                    }
                }
                // As the header has it, in whole seconds.
                Err(refusal) => {
                    let wait = refusal.retry_after.as_secs_f64().ceil() as u64;
                    due.push(std::cmp::Reverse(step + 100 * wait));
                }
            }
        }
        let closed = gate.closed().is_some();
        seen.closings += u32::from(closed && !was_closed);
        was_closed = closed;
        seen.most = seen.most.max(backlog);
        if now.as_secs_f64() > lasts / 2.0 {
            seen.late = (seen.late.0.max(backlog), seen.late.1.min(backlog));
        }
    }
    seen
}

#[test]
fn a_crowd_that_does_as_it_is_told_is_served_without_overshoot() {
    for (bound, rate, outage) in
        [(1000, 200.0, 0.0), (2000, 500.0, 0.0), (1000, 200.0, 20.0), (100, 100.0, 5.0)]
    {
        let seen = simulate(10_000, bound, rate, outage, false, 400.0);
        let ideal = outage + (10_000.0 - bound as f64) / rate;
        assert_eq!(seen.served, 10_000, "bound {bound}, rate {rate}: {seen:?}");
        assert!(seen.most <= bound, "no overshoot, bound {bound}, rate {rate}: {seen:?}");
        assert!(seen.closings <= 4, "it does not oscillate, bound {bound}, rate {rate}: {seen:?}");
        assert!(seen.until <= 1.5 * ideal + 60.0, "ideal {ideal}, bound {bound}, rate {rate}: {seen:?}");
        assert!(seen.attempts <= 60_000, "six times each, bound {bound}, rate {rate}: {seen:?}");
    }
}

#[test]
fn a_crowd_that_never_ends_is_let_in_as_fast_as_the_database_takes_it() {
    let seen = simulate(10_000, 1000, 200.0, 0.0, true, 300.0);
    assert!(seen.most <= 1000, "{seen:?}");
    assert!(seen.closings <= 4, "it does not oscillate: {seen:?}");
    assert!(seen.late.1 > 0, "the database never has nothing to do: {seen:?}");
    assert!(seen.served as f64 > 0.95 * 200.0 * 300.0, "nothing of its rate is wasted: {seen:?}");
}
