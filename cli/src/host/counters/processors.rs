//! `/proc/stat`: what the machine's processors spent their time on.

use serde::Serialize;

/// In ticks (`USER_HZ`, 10 ms) over all processors since the machine started.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Processors {
    /// Of any kind, idle time too.
    pub(crate) total: Option<u64>,
    /// Neither idle, nor waiting for a disk, nor taken by the hypervisor.
    pub(crate) busy: Option<u64>,
    /// Taken by the hypervisor.
    pub(crate) stolen: Option<u64>,
    /// Of `busy`, in interrupts from the network and the like.
    pub(crate) soft_interrupts: Option<u64>,
    pub(crate) count: Option<u64>,
    /// Share of the time since the last reading for which the busiest processor was busy, 0 to 1.
    pub(crate) busiest: Option<f64>,
    /// Each processor's number, busy and total time.
    #[serde(skip)]
    pub(super) each: Vec<(u32, u64, u64)>,
}

/// Ticks over which a share is worth telling: a fifth of a second.
const MIN_TICKS: u64 = 20;

/// What the processors had done at the last reading.
#[derive(Debug, Default)]
pub(super) struct Busiest {
    before: Vec<(u32, u64, u64)>,
}

impl Busiest {
    /// The busiest processor's share since the last reading that was long enough ago. One that went away or came
    /// meanwhile is left out.
    pub(super) fn since(&mut self, now: &Processors) -> Option<f64> {
        let steps: Vec<(u64, u64)> = (now.each.iter())
            .filter_map(|(processor, busy, total)| {
                let (_, busy_before, total_before) =
                    self.before.iter().find(|(before, ..)| before == processor)?;
                Some((busy.saturating_sub(*busy_before), total.saturating_sub(*total_before)))
            })
            .collect();
        let longest = steps.iter().map(|(_, total)| *total).max().unwrap_or(0);
        if longest < MIN_TICKS && !steps.is_empty() {
            return None;
        }
        self.before.clone_from(&now.each);
        #[expect(clippy::cast_precision_loss, reason = "ticks between two readings stay below 2^53")]
        let shares = (steps.into_iter())
            .filter(|(_, total)| *total >= MIN_TICKS)
            .map(|(busy, total)| busy.min(total) as f64 / total as f64);
        shares.reduce(f64::max)
    }
}

impl Processors {
    pub(super) fn parse(text: &str) -> Self {
        let rows = || text.lines().filter_map(|line| line.strip_prefix("cpu"));
        let Some(all) = rows().find_map(|line| line.strip_prefix(' ')) else {
            return Self::default();
        };
        // user nice system idle iowait irq softirq steal guest guest_nice (proc_stat(5)). The time of guests is
        // already in that of users.
        let fields = |line: &str| -> Vec<Option<u64>> {
            line.split_whitespace().take(8).map(|field| field.parse().ok()).collect()
        };
        let all = fields(all);
        let one = |line: &str| {
            let (number, rest) = line.split_once(' ')?;
            let fields = fields(rest);
            Some((number.parse().ok()?, add(&fields, BUSY)?, add(&fields, TOTAL)?))
        };
        let each: Vec<(u32, u64, u64)> = rows().filter_map(one).collect();
        let count = rows().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count();
        Self {
            total: add(&all, TOTAL),
            busy: add(&all, BUSY),
            stolen: all.get(7).copied().flatten(),
            soft_interrupts: all.get(6).copied().flatten(),
            count: u64::try_from(count).ok().filter(|count| *count > 0),
            busiest: None,
            each,
        }
    }
}

/// Places of the times that make up the total, and those of them that are busy.
const TOTAL: &[usize] = &[0, 1, 2, 3, 4, 5, 6, 7];
const BUSY: &[usize] = &[0, 1, 2, 5, 6];

fn add(fields: &[Option<u64>], places: &[usize]) -> Option<u64> {
    places.iter().try_fold(0_u64, |sum, place| Some(sum.wrapping_add(fields.get(*place).copied().flatten()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn time_is_split_and_steal_is_not_busy() {
        let text = "cpu  100 10 20 500 30 1 2 7 50 0\ncpu0 50 5 10 250 15 0 1 3 25 0\ncpu1 50 5 10 250 15 1 1 4 25 0\n\
                    intr 1 2 3\nctxt 5\n";
        let expected = Processors {
            total: Some(670),
            busy: Some(133),
            stolen: Some(7),
            soft_interrupts: Some(2),
            count: Some(2),
            busiest: None,
            each: vec![(0, 66, 334), (1, 67, 336)],
        };
        assert_eq!(Processors::parse(text), expected);
        let old = Processors::parse("cpu  1 2 3 4\n");
        assert_eq!((old.total, old.stolen), (None, None), "columns are missing");
        assert_eq!(Processors::parse("intr 1\n"), Processors::default());
    }

    #[test]
    fn the_busiest_processor_is_told_since_the_last_reading() {
        let at = |each: &[(u32, u64, u64)]| Processors { each: each.to_vec(), ..Processors::default() };
        let mut busiest = Busiest::default();
        assert_eq!(busiest.since(&at(&[(0, 10, 100), (1, 10, 100)])), None, "nothing to compare with");
        assert_eq!(busiest.since(&at(&[(0, 20, 200), (1, 100, 200)])), Some(0.9));
        assert_eq!(busiest.since(&at(&[(0, 22, 202), (1, 100, 202)])), None, "too short, and not forgotten");
        assert_eq!(busiest.since(&at(&[(0, 70, 300), (1, 100, 300), (2, 100, 100)])), Some(0.5));
        // Processor 1 was switched off, and its counters start anew.
        assert_eq!(busiest.since(&at(&[(0, 80, 400), (1, 5, 50), (2, 130, 200)])), Some(0.3));
        assert_eq!(busiest.since(&Processors::default()), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,300}") {
            prop_assert_eq!(Processors::parse(&format!("cpu  {text}")).count, None);
        }

        #[test]
        fn the_parts_are_within_the_whole(ticks in proptest::collection::vec(any::<u32>(), 8..11)) {
            let text: Vec<String> = ticks.iter().map(u32::to_string).collect();
            let found = Processors::parse(&format!("cpu  {}", text.join(" ")));
            prop_assert!(found.busy.unwrap() + found.stolen.unwrap() <= found.total.unwrap());
        }
    }
}
