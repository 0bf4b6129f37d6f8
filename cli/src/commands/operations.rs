//! The database operations of a load, from the counters of the service's processes. A process that was started anew
//! counts from 0, and what the former one counted last died with it: then they are not known, and never too few.

use std::collections::BTreeMap;
use std::time::Duration;

use scalekit_service::contract::Stats;

use super::sampler::{Sample, most_operations_a_second};
use crate::report::Finding;

/// What the counters tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operations {
    /// There is no service of ours, or it could not be asked.
    NotCounted,
    Counted {
        count: u64,
        /// In any one second.
        most: u64,
    },
    /// These processes are not those of before.
    StartedAnew(Vec<String>),
}

/// From the counters before and after, and the samples in between.
pub(super) fn of_load(
    before: &BTreeMap<String, Stats>,
    after: &BTreeMap<String, Stats>,
    samples: &[Sample],
) -> Operations {
    if before.is_empty() || after.is_empty() {
        return Operations::NotCounted;
    }
    let is_the_same = |role: &String, stats: &Stats| {
        before.get(role).is_some_and(|former| former.instance == stats.instance)
    };
    let anew = after.iter().filter(|(role, stats)| !is_the_same(role, stats));
    let anew: Vec<String> = anew.map(|(role, _)| role.clone()).collect();
    if !anew.is_empty() {
        return Operations::StartedAnew(anew);
    }
    let sum = |all: &BTreeMap<String, Stats>| all.values().map(|stats| stats.store.operations).sum::<u64>();
    // The governors count exactly, but only what passes them; the samples see every operation, once a
    // second. One governor of all processes tells each of them of all; the peaks of two governors may not have met in
    // one second, so their sum is an upper bound.
    let peaks = || after.values().map(|stats| u64::from(stats.store.operations_peak));
    let governed: u64 = match after.values().any(|stats| stats.store.operations_shared) {
        true => peaks().max().unwrap_or(0),
        false => peaks().sum(),
    };
    Operations::Counted {
        count: sum(after).saturating_sub(sum(before)),
        most: governed.max(most_operations_a_second(samples)),
    }
}

/// What is said of processes that were started anew.
pub(super) fn started_anew(roles: &[String]) -> Finding {
    Finding {
        id: "process-restarted".into(),
        message: format!(
            "{} started anew under the load, so its database operations are not known (no db_ops)",
            roles.join(" and ")
        ),
        advice: "its log says why it ended".into(),
        evidence: None,
    }
}

/// Operations in the second that ends at `end`, where they are known, and the backlog then, from the samples
/// around it.
pub(super) fn growth(samples: &[Sample], end: Duration) -> Option<(Option<u64>, u64)> {
    // Samples come once a second; the one nearest to the end of this second.
    let half = Duration::from_millis(500);
    let at = samples.iter().position(|sample| sample.at + half > end && sample.at < end + half)?;
    let (before, now) = (samples.get(at.checked_sub(1)?)?, &samples[at]);
    let operations = now.db_ops.saturating_sub(before.db_ops);
    Some(((now.instances == before.instances).then_some(operations), now.backlog))
}

#[cfg(test)]
mod tests {
    use super::*;
    use scalekit_service::contract::StoreStats;

    fn stats(processes: [(&str, &str, u64, u32); 2]) -> BTreeMap<String, Stats> {
        let one = |(role, instance, operations, operations_peak): (&str, &str, _, _)| {
            let store = StoreStats { operations, operations_peak, ..StoreStats::default() };
            (role.to_owned(), Stats { instance: instance.to_owned(), store, ..Stats::default() })
        };
        processes.into_iter().map(one).collect()
    }

    #[test]
    fn operations_are_counted_only_while_the_processes_are_the_same() {
        let before = stats([("api", "a", 10, 3), ("worker", "w", 100, 9)]);
        let after = stats([("api", "a", 15, 4), ("worker", "w", 300, 9)]);
        let counted = Operations::Counted { count: 205, most: 13 };
        assert_eq!(of_load(&before, &after, &[]), counted);
        let mut shared = after.clone();
        shared.values_mut().for_each(|stats| stats.store.operations_shared = true);
        let counted = Operations::Counted { count: 205, most: 9 };
        assert_eq!(of_load(&before, &shared, &[]), counted, "each tells the peak of both");
        // Even where the new one has counted more than the old one had.
        let anew = stats([("api", "a", 15, 4), ("worker", "x", 300, 9)]);
        assert_eq!(of_load(&before, &anew, &[]), Operations::StartedAnew(vec!["worker".to_owned()]));
        for (before, after) in [(&BTreeMap::new(), &after), (&before, &BTreeMap::new())] {
            assert_eq!(of_load(before, after, &[]), Operations::NotCounted);
        }
    }

    #[test]
    fn the_second_of_a_restart_has_no_operations_but_a_backlog() {
        let sample = |s, db_ops, instances| Sample {
            at: Duration::from_secs(s),
            db_ops,
            backlog: s,
            device: None,
            instances,
        };
        let samples = [sample(0, 0, 1), sample(1, 50, 1), sample(2, 4, 2), sample(3, 9, 2)];
        let seconds: Vec<_> = (0..5).map(|end| growth(&samples, Duration::from_secs(end))).collect();
        assert_eq!(seconds, [None, Some((Some(50), 1)), Some((None, 2)), Some((Some(5), 3)), None]);
    }
}
