//! What was promised: for each user, the fate of each of its requests in order, run-length encoded, so that
//! memory grows with changes of fate and not with requests. The audit compares it with the database.

use serde::{Deserialize, Serialize};

/// What the sender may believe about a request's writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// Promised to be kept: missing from the database, it is lost.
    Acknowledged,
    /// Said not to be accepted.
    Refused,
    /// No answer that settles it; it may be there or not.
    Unknown,
    /// Nothing of it left this machine.
    NotSent,
}

impl Fate {
    const ALL: [Self; 4] = [Self::Acknowledged, Self::Refused, Self::Unknown, Self::NotSent];
}

/// So many requests in a row with one fate, packed: the fate in the two lowest bits, the count above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Run(u32);

impl Run {
    const MAX_COUNT: u32 = u32::MAX >> 2;

    fn one(fate: Fate) -> Self {
        Self(1 << 2 | fate as u32)
    }

    fn fate(self) -> Fate {
        Fate::ALL[(self.0 & 3) as usize]
    }

    fn count(self) -> u32 {
        self.0 >> 2
    }
}

/// One user's fates, by its sequence numbers from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct UserLedger {
    runs: Vec<Run>,
}

impl UserLedger {
    /// Appends the fate of the user's next request.
    pub(super) fn push(&mut self, fate: Fate) {
        match self.runs.last_mut() {
            Some(run) if run.fate() == fate && run.count() < Run::MAX_COUNT => run.0 += 1 << 2,
            _ => self.runs.push(Run::one(fate)),
        }
    }
}

/// How many requests met each fate.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FateTotals {
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) not_sent: u64,
}

/// The fates of all requests of a run, warm-up included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Ledger {
    users: Vec<UserLedger>,
}

impl Ledger {
    /// `users[i]` is the ledger of the user with the global index `i`.
    pub(super) fn new(users: Vec<UserLedger>) -> Self {
        Self { users }
    }

    /// Undoes the dealing out of users in turn: `parts[i]` has the users `i`, `i + parts.len()`…
    pub(super) fn dealt(users: u32, parts: Vec<Vec<UserLedger>>) -> Self {
        let mut parts: Vec<_> = parts.into_iter().map(Vec::into_iter).collect();
        let count = parts.len().max(1);
        Self::new((0..users as usize).filter_map(|user| parts.get_mut(user % count)?.next()).collect())
    }

    /// The same for the ledgers of machines that shared the users.
    pub(crate) fn united(parts: Vec<Self>) -> Self {
        let users = parts.iter().fold(0, |users: u32, part| users.saturating_add(part.users()));
        Self::dealt(users, parts.into_iter().map(|part| part.users).collect())
    }

    /// A ledger of these fates, user by user.
    #[cfg(test)]
    pub(crate) fn of(users: &[&[Fate]]) -> Self {
        let ledger = |fates: &&[Fate]| {
            let mut user = UserLedger::default();
            fates.iter().for_each(|fate| user.push(*fate));
            user
        };
        Self::new(users.iter().map(ledger).collect())
    }

    /// The fate of a user's request; `None` if there was no such request.
    #[cfg(test)]
    pub(crate) fn fate(&self, user: u32, sequence: u32) -> Option<Fate> {
        let mut before = 0u64;
        for (fate, count) in self.runs(user) {
            before += u64::from(count);
            if u64::from(sequence) < before {
                return Some(fate);
            }
        }
        None
    }

    /// Number of users, whether or not they sent anything.
    pub(crate) fn users(&self) -> u32 {
        u32::try_from(self.users.len()).unwrap_or(u32::MAX)
    }

    /// A user's fates as `(fate, how many in a row)`, in the order of its sequence numbers.
    pub(crate) fn runs(&self, user: u32) -> impl Iterator<Item = (Fate, u32)> {
        let runs = self.users.get(user as usize).map_or(&[][..], |user| &user.runs);
        runs.iter().map(|run| (run.fate(), run.count()))
    }

    /// All requests as `(user, sequence, fate)`, user by user.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, u32, Fate)> {
        (0..self.users()).flat_map(|user| {
            self.runs(user)
                .flat_map(|(fate, count)| std::iter::repeat_n(fate, count as usize))
                .zip(0..)
                .map(move |(fate, sequence)| (user, sequence, fate))
        })
    }

    #[cfg(test)]
    pub(crate) fn totals(&self) -> FateTotals {
        let mut totals = FateTotals::default();
        for run in self.users.iter().flat_map(|user| &user.runs) {
            let total = match run.fate() {
                Fate::Acknowledged => &mut totals.acknowledged,
                Fate::Refused => &mut totals.refused,
                Fate::Unknown => &mut totals.unknown,
                Fate::NotSent => &mut totals.not_sent,
            };
            *total += u64::from(run.count());
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_fates_take_no_more_memory() {
        let mut user = UserLedger::default();
        for _ in 0..100_000 {
            user.push(Fate::Acknowledged);
        }
        assert_eq!(user.runs.len(), 1);
        assert_eq!(Ledger::new(vec![user]).fate(0, 99_999), Some(Fate::Acknowledged));
    }

    #[test]
    fn a_full_run_is_followed_by_another() {
        let mut user = UserLedger { runs: vec![Run(Run::MAX_COUNT << 2 | Fate::Refused as u32)] };
        user.push(Fate::Refused);
        assert_eq!(user.runs.len(), 2);
        let ledger = Ledger::new(vec![user]);
        assert_eq!(ledger.fate(0, Run::MAX_COUNT), Some(Fate::Refused));
        assert_eq!(ledger.fate(0, Run::MAX_COUNT + 1), None);
        assert_eq!(ledger.totals().refused, u64::from(Run::MAX_COUNT) + 1);
    }

    #[test]
    fn ledgers_return_to_the_order_of_users() {
        // Three threads or machines, seven users; user i has i requests.
        let ledger = |user: u32| {
            let mut ledger = UserLedger::default();
            (0..user).for_each(|_| ledger.push(Fate::Refused));
            ledger
        };
        let parts: Vec<Vec<_>> = (0..3).map(|part| (part..7).step_by(3).map(ledger).collect()).collect();
        let machines = parts.iter().cloned().map(Ledger::new).collect();
        let ledger = Ledger::dealt(7, parts);
        assert_eq!(ledger.users(), 7);
        for user in 0..7 {
            assert_eq!(ledger.runs(user).map(|(_, count)| count).sum::<u32>(), user);
        }
        assert_eq!(Ledger::united(machines), ledger);
    }

    #[test]
    fn a_ledger_travels_as_it_is() {
        let ledger =
            Ledger::of(&[&[Fate::Acknowledged, Fate::Acknowledged, Fate::Unknown], &[], &[Fate::NotSent]]);
        let text = serde_json::to_string(&ledger).unwrap();
        assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
        assert!(text.len() < 20, "{text}");
    }

    #[test]
    fn an_unknown_user_has_no_fates() {
        let ledger = Ledger::new(vec![UserLedger::default()]);
        assert_eq!((ledger.fate(0, 0), ledger.fate(1, 0), ledger.users()), (None, None, 1));
    }

    proptest! {
        #[test]
        fn behaves_like_a_plain_list(
            users in prop::collection::vec(prop::collection::vec((0usize..4, 1usize..6), 0..40), 0..5),
        ) {
            let plain: Vec<Vec<Fate>> = users
                .iter()
                .map(|runs| runs.iter().flat_map(|&(f, n)| std::iter::repeat_n(Fate::ALL[f], n)).collect())
                .collect();
            let ledger = Ledger::new(
                plain
                    .iter()
                    .map(|fates| {
                        let mut user = UserLedger::default();
                        fates.iter().for_each(|&fate| user.push(fate));
                        user
                    })
                    .collect(),
            );
            let mut listed = Vec::new();
            for (user, fates) in plain.iter().enumerate() {
                let user = u32::try_from(user).unwrap();
                for (sequence, &fate) in (0u32..).zip(fates) {
                    prop_assert_eq!(ledger.fate(user, sequence), Some(fate));
                    listed.push((user, sequence, fate));
                }
                prop_assert_eq!(ledger.fate(user, u32::try_from(fates.len()).unwrap()), None);
                let changes = 1 + fates.windows(2).filter(|pair| pair[0] != pair[1]).count();
                prop_assert!(ledger.runs(user).count() <= changes);
            }
            let count = |fate| listed.iter().filter(|(_, _, f)| *f == fate).count() as u64;
            prop_assert_eq!(ledger.totals(), FateTotals {
                acknowledged: count(Fate::Acknowledged),
                refused: count(Fate::Refused),
                unknown: count(Fate::Unknown),
                not_sent: count(Fate::NotSent),
            });
            prop_assert_eq!(ledger.iter().collect::<Vec<_>>(), listed);
        }
    }
}
