//! When a counter of a series was over its threshold.

use super::rule::{GIVEN_CAP, Rule, Test};
use super::step::{Step, steps};
use crate::host::counters::{Column, Series};

/// A time over the threshold, from its beginning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Crossing {
    /// Of the samples between which it began, in ms since the series' first.
    pub(super) from_ms: u64,
    pub(super) at_ms: u64,
    /// The last sample of it.
    pub(super) until_ms: u64,
    /// Whether it may be the cause of the knee.
    pub(super) is_before_knee: bool,
}

/// The time around the knee in which its cause began, in ms since the series' first sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Window {
    pub(super) from_ms: i64,
    pub(super) to_ms: i64,
}

impl Window {
    /// What crossed its threshold did so somewhere between two samples; further apart than this they say nothing of when.
    const UNDATED_MS: u64 = 5000;

    fn has(self, step: &Step) -> bool {
        let ms = |at: u64| i64::try_from(at).unwrap_or(i64::MAX);
        step.at_ms.saturating_sub(step.from_ms) <= Self::UNDATED_MS
            && ms(step.at_ms) >= self.from_ms
            && ms(step.from_ms) < self.to_ms
    }
}

/// Seconds before the window with which a rise that never stopped is compared.
const JUST_BEFORE_MS: i64 = 5000;

impl Crossing {
    /// Whether the two are at one time, or nearly: what fills last may be seen first.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let reach = |crossing: &Self| crossing.until_ms.saturating_add(NEARLY_MS);
        self.from_ms <= reach(other) && other.from_ms <= reach(self)
    }
}

/// (h) A queue is full within seconds of its cause.
const NEARLY_MS: u64 = 5000;

/// One counter over its threshold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Crossed {
    /// With its object in brackets.
    pub(super) counter: String,
    /// At first, and in the end; of a gauge its highest value.
    pub(super) before: f64,
    pub(super) after: f64,
    /// What it was held against.
    pub(super) limit: Option<f64>,
    /// In the order of time; at least one.
    pub(super) crossings: Vec<Crossing>,
}

/// A cap on a device's operations that is not the kernel's, such as a cloud disk's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DiskCap {
    /// `MAJOR:MINOR`.
    pub(crate) device: String,
    pub(crate) operations_per_s: f64,
}

/// Objects of one counter that are judged.
const MAX_OBJECTS: usize = 4;

/// Every object of a counter that was over its threshold, a few at most: first what may be the knee's cause.
pub(super) fn crossed(
    series: &Series,
    rule: &Rule,
    cap: Option<&DiskCap>,
    window: Option<Window>,
) -> Vec<Crossed> {
    let Rule { counter, test, guards, .. } = *rule;
    let mut found: Vec<Crossed> = objects(series, counter)
        .filter_map(|(name, column)| {
            let object = name.strip_prefix(counter)?;
            let other = |of: &str| counterpart(series, of, object, cap);
            let other = match test {
                Test::Rises | Test::Ends | Test::Stall { .. } => None,
                Test::Share { of, .. } | Test::Part { of, .. } | Test::Cap { of, .. } => Some(other(of)?),
            };
            let steps = steps(series, column, other.as_deref(), test);
            let is_over = |step: &Step| step.is_over(test) && step.is_allowed(guards, series, object);
            let crossings = match test {
                Test::Cap { at, for_s, .. } => at_cap(&steps, at, for_s, window),
                _ => crossings(&steps, &is_over, test, window),
            };
            let known = || column.values.iter().copied().flatten();
            let after = match test {
                Test::Share { .. } => known().fold(f64::NEG_INFINITY, f64::max),
                _ => known().last()?,
            };
            let limit = match test {
                Test::Share { .. } | Test::Cap { .. } => other?.into_iter().flatten().last(),
                _ => None,
            };
            let crossed =
                Crossed { counter: name.to_owned(), before: known().next()?, after, limit, crossings };
            (!crossed.crossings.is_empty()).then_some(crossed)
        })
        .collect();
    found.sort_by_key(|crossed| {
        let first = crossed.crossings.first().map_or(u64::MAX, |crossing| crossing.at_ms);
        (crossed.crossings.iter().all(|crossing| !crossing.is_before_knee), first)
    });
    found.truncate(MAX_OBJECTS);
    found
}

/// Columns of a counter: the one of its name, or those with an object in brackets behind it.
pub(super) fn objects<'a>(
    series: &'a Series,
    counter: &'a str,
) -> impl Iterator<Item = (&'a str, &'a Column)> + use<'a> {
    series.counters.iter().filter_map(move |(name, column)| {
        let rest = name.strip_prefix(counter)?;
        (rest.is_empty() || rest.starts_with('[')).then_some((name.as_str(), column))
    })
}

/// What a counter is held against: of the same object, of all, or a cap that was given.
fn counterpart(series: &Series, of: &str, object: &str, cap: Option<&DiskCap>) -> Option<Vec<Option<f64>>> {
    if of == GIVEN_CAP {
        let cap = cap.filter(|cap| format!("[{}]", cap.device) == object)?;
        return Some(vec![Some(cap.operations_per_s); series.at_ms.len()]);
    }
    let column = series.counters.get(&format!("{of}{object}")).or_else(|| series.counters.get(of))?;
    Some(column.values.clone())
}

/// The times over the threshold that lasted long enough.
fn crossings(
    steps: &[Step],
    is_over: &dyn Fn(&Step) -> bool,
    test: Test,
    window: Option<Window>,
) -> Vec<Crossing> {
    let (for_s, least) = match test {
        Test::Part { for_s, least, .. } => (for_s, least),
        Test::Stall { for_s, .. } => (for_s, 0.0),
        _ => (0.0, 0.0),
    };
    let mut found = Vec::new();
    for run in steps.chunk_by(|one, other| is_over(one) == is_over(other)) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let lasted_s: f64 = run.iter().map(Step::seconds).sum();
        let of: f64 = run.iter().filter_map(|step| step.others).map(|(from, to)| to - from).sum();
        // Seconds are never exact to the millisecond.
        if is_over(first) && lasted_s >= for_s * 0.95 && (least <= 0.0 || of >= least) {
            let is_before_knee = window.is_some_and(|window| window.has(first));
            let (from_ms, at_ms, until_ms) = (first.from_ms, first.at_ms, last.at_ms);
            found.push(Crossing { from_ms, at_ms, until_ms, is_before_knee });
        }
    }
    match window {
        Some(window) if test == Test::Rises => against_background(found, steps, is_over, window),
        _ => found,
    }
}

/// A second counts for at most so much of the cap: one burst is not ten seconds at it.
const MOST_OF_CAP: f64 = 1.5;

/// The times in which the mean over so long was at this share of the cap, from their first second that was. A device
/// under a cap is now above, now below it, so that no second says much.
fn at_cap(steps: &[Step], at: f64, for_s: f64, window: Option<Window>) -> Vec<Crossing> {
    let is_near = |step: &Step, share: f64| {
        step.others.is_some_and(|(_, cap)| cap > 0.0 && step.growth() >= share * cap * step.seconds())
    };
    let mut is_over = vec![false; steps.len()];
    for first in 0..steps.len() {
        let (mut seconds, mut done, mut allowed, mut end) = (0.0, 0.0, 0.0, first);
        while let Some(step) = steps.get(end).filter(|_| seconds < for_s * 0.95) {
            let cap = step.others.map_or(0.0, |(_, cap)| cap.max(0.0)) * step.seconds();
            seconds += step.seconds();
            done += step.growth().min(MOST_OF_CAP * cap);
            allowed += cap;
            end += 1;
        }
        if seconds >= for_s * 0.95 && allowed > 0.0 && done >= at * allowed {
            is_over[first..end].fill(true);
        }
    }
    let mut found = Vec::new();
    let mut place = 0;
    for run in is_over.chunk_by(|one, other| one == other) {
        let own = steps.get(place..place + run.len()).unwrap_or_default();
        place += run.len();
        let first = own.iter().find(|step| is_near(step, at));
        if let (Some(true), Some(first), Some(last)) = (run.first(), first, own.last()) {
            let is_before_knee = window.is_some_and(|window| window.has(first));
            let (from_ms, at_ms, until_ms) = (first.from_ms, first.at_ms, last.at_ms);
            found.push(Crossing { from_ms, at_ms, until_ms, is_before_knee });
        }
    }
    found
}

/// (h) A rise is no cause of the knee where the counter rose as fast before: around the knee it must have grown by
/// twice as much as it did in as long a time before, and by three standard deviations more, of events that are
/// independent of each other (Poisson). One that never stopped is dated to where it became twice as fast.
fn against_background(
    mut found: Vec<Crossing>,
    steps: &[Step],
    is_over: &dyn Fn(&Step) -> bool,
    window: Window,
) -> Vec<Crossing> {
    let is_earlier = |step: &&Step| i64::try_from(step.at_ms).unwrap_or(i64::MAX) < window.from_ms;
    let sums =
        |(growth, seconds): (f64, f64), step: &Step| (growth + step.growth(), seconds + step.seconds());
    let (before, before_s) = steps.iter().filter(is_earlier).fold((0.0, 0.0), sums);
    let around = || steps.iter().filter(|step| window.has(step));
    let (growth, seconds) = around().fold((0.0, 0.0), sums);
    let expected = if before_s > 0.0 { before / before_s * seconds } else { 0.0 };
    if growth <= (2.0 * expected).max(expected + 3.0 * expected.sqrt()) {
        found.iter_mut().for_each(|crossing| crossing.is_before_knee = false);
        return found;
    }
    if found.iter().any(|crossing| crossing.is_before_knee) {
        return found;
    }
    let rate = |step: &Step| if step.seconds() > 0.0 { step.growth() / step.seconds() } else { 0.0 };
    let is_just_before = |step: &&Step| {
        i64::try_from(step.at_ms).unwrap_or(i64::MAX) >= window.from_ms.saturating_sub(JUST_BEFORE_MS)
    };
    let fastest = steps.iter().filter(is_earlier).filter(is_just_before).map(rate).fold(0.0, f64::max);
    if let Some(step) = around().find(|step| is_over(step) && rate(step) > 2.0 * fastest) {
        let (from_ms, at_ms) = (step.from_ms, step.at_ms);
        found.push(Crossing { from_ms, at_ms, until_ms: at_ms, is_before_knee: true });
        found.sort_by_key(|crossing| crossing.at_ms);
    }
    found
}
