//! `/proc/stat`: what the machine's processors spent their time on.

use serde::Serialize;

/// In ticks (`USER_HZ`, 10 ms) over all processors since the machine started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
}

impl Processors {
    pub(super) fn parse(text: &str) -> Self {
        let rows = || text.lines().filter_map(|line| line.strip_prefix("cpu"));
        let Some(all) = rows().find_map(|line| line.strip_prefix(' ')) else {
            return Self::default();
        };
        // user nice system idle iowait irq softirq steal guest guest_nice (proc_stat(5)). The time of guests is
        // already in that of users.
        let fields: Vec<Option<u64>> =
            all.split_whitespace().take(8).map(|field| field.parse().ok()).collect();
        let field = |place: usize| fields.get(place).copied().flatten();
        let add = |places: &[usize]| {
            places.iter().try_fold(0_u64, |sum, place| Some(sum.wrapping_add(field(*place)?)))
        };
        let count = rows().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count();
        Self {
            total: add(&[0, 1, 2, 3, 4, 5, 6, 7]),
            busy: add(&[0, 1, 2, 5, 6]),
            stolen: field(7),
            soft_interrupts: field(6),
            count: u64::try_from(count).ok().filter(|count| *count > 0),
        }
    }
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
        };
        assert_eq!(Processors::parse(text), expected);
        let old = Processors::parse("cpu  1 2 3 4\n");
        assert_eq!((old.total, old.stolen), (None, None), "columns are missing");
        assert_eq!(Processors::parse("intr 1\n"), Processors::default());
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
