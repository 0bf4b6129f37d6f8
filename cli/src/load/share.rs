//! Which users are whose. They are dealt out in turn, as cards are, first to machines and then to threads: so each
//! part is like the whole, and a user has one number, one place in the ids and one start wherever it runs.

use serde::{Deserialize, Serialize};

use super::plan::PlanError;

/// The numbers `first`, `first + step`, `first + 2 * step`… of something that is dealt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(super) first: u32,
    pub(super) step: u32,
}

impl Share {
    pub(crate) const ALL: Self = Self { first: 0, step: 1 };

    /// The `index`th of `of` parts of this share. The parts are disjoint and together the whole.
    pub(super) fn part(self, index: u32, of: u32) -> Self {
        let first = self.first.saturating_add(index.saturating_mul(self.step));
        Self { first, step: self.step.saturating_mul(of) }
    }

    /// Its numbers below `total`.
    pub(super) fn of(self, total: u32) -> impl ExactSizeIterator<Item = u32> {
        (self.first.min(total)..total).step_by(self.step.max(1) as usize)
    }

    /// How many there are below `total`.
    pub(super) fn count(self, total: u32) -> u32 {
        // No more than `total`.
        self.among(total.into()) as u32
    }

    /// The same of more than there can be users.
    pub(super) fn among(self, total: u64) -> u64 {
        total.saturating_sub(self.first.into()).div_ceil(self.step.max(1).into())
    }

    /// A share may come from another machine, so it is looked at like any other input.
    pub(super) fn check(self, users: u32) -> Result<(), PlanError> {
        if self.step == 0 || self.first >= self.step {
            let given = format!("{} of {}", self.first, self.step);
            return Err(PlanError::invalid("the share of the users", given, "a number below the second"));
        }
        if self.count(users) == 0 {
            let expected = format!("at most one machine a user, {users}");
            return Err(PlanError::invalid("the number of machines", self.step, expected));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn users_are_dealt_out_in_turn() {
        let of = |share: Share| share.of(7).collect::<Vec<_>>();
        assert_eq!(of(Share::ALL), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(of(Share::ALL.part(1, 3)), [1, 4]);
        // The second of two threads of the second of three machines.
        assert_eq!(of(Share::ALL.part(1, 3).part(1, 2)), [4]);
        assert_eq!(of(Share::ALL.part(7, 8)), Vec::<u32>::new());
    }

    #[test]
    fn a_share_of_nothing_and_one_that_cannot_be_are_refused() {
        assert!(Share::ALL.check(1).is_ok());
        assert!(Share::ALL.part(2, 3).check(3).is_ok());
        for (share, users, part) in [
            (Share::ALL.part(2, 3), 2, "the number of machines is 3; expected at most one machine a user, 2"),
            (Share { first: 0, step: 0 }, 5, "0 of 0"),
            (Share { first: 3, step: 3 }, 5, "3 of 3"),
        ] {
            let error = share.check(users).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    proptest! {
        #[test]
        fn parts_of_parts_are_the_whole(total in 0u32..500, machines in 1u32..12, threads in 1u32..5) {
            let mut seen: Vec<u32> = (0..machines)
                .flat_map(|machine| (0..threads).map(move |thread| (machine, thread)))
                .flat_map(|(machine, thread)| Share::ALL.part(machine, machines).part(thread, threads).of(total))
                .collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..total).collect::<Vec<_>>());
            let counts: Vec<u32> = (0..machines).map(|m| Share::ALL.part(m, machines).count(total)).collect();
            prop_assert_eq!(counts.iter().sum::<u32>(), total);
            prop_assert_eq!(counts[0] as usize, Share::ALL.part(0, machines).of(total).len());
            let (most, least) = (counts.iter().max().unwrap(), counts.iter().min().unwrap());
            prop_assert!(most - least <= 1);
        }
    }
}
