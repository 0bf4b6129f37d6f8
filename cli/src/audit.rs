//! The audit: every write that was acknowledged against what the store holds. Pure; pages are fed in.

use scalekit_service::contract::parse_write_operation_id;

use crate::load::{Fate, Ledger};

/// Ids shown of what is wrong.
const EXAMPLES: usize = 10;

/// Compares a run's ledger with the documents that the run left in the store.
pub(crate) struct Audit<'a> {
    run: &'a str,
    writes_per_request: usize,
    ledger: &'a Ledger,
    /// For each user one bit a write: seen in the store.
    seen: Vec<Vec<u64>>,
    duplicated: u64,
    /// In the store, but of no request that this run sent.
    strays: u64,
    examples: Vec<String>,
}

/// What came of it. All are counts of writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    pub(crate) acknowledged: u64,
    /// Acknowledged, and in the store.
    pub(crate) stored: u64,
    /// Acknowledged, and not in the store.
    pub(crate) lost: u64,
    /// In the store more than once; each copy beyond the first counts.
    pub(crate) duplicated: u64,
    /// The answer never came: may be stored or not.
    pub(crate) unknown: u64,
    pub(crate) unknown_stored: u64,
    /// In the store although the service said that it did not accept it, or nobody sent it.
    pub(crate) refused_stored: u64,
    /// Ids of some of what is wrong, each with what that is.
    pub(crate) examples: Vec<String>,
}

impl<'a> Audit<'a> {
    /// `run` is the prefix of the run's operation ids; each request made `writes_per_request` writes.
    pub(crate) fn new(run: &'a str, writes_per_request: u8, ledger: &'a Ledger) -> Self {
        let writes_per_request = usize::from(writes_per_request);
        let seen = (0..ledger.users())
            .map(|user| {
                let requests: usize = ledger.runs(user).map(|(_, count)| count as usize).sum();
                vec![0; (requests * writes_per_request).div_ceil(64)]
            })
            .collect();
        Self { run, writes_per_request, ledger, seen, duplicated: 0, strays: 0, examples: Vec::new() }
    }

    /// A document of the store: its id, and the write that it says it is from.
    pub(crate) fn found(&mut self, id: &str, op_id: &str) {
        let bit = parse_write_operation_id(self.run, op_id).and_then(|(sequence, user, place)| {
            let bits = self.seen.get_mut(user as usize)?;
            let index = (sequence as usize).checked_mul(self.writes_per_request)?.checked_add(place)?;
            let in_range = place < self.writes_per_request;
            bits.get_mut(index / 64).filter(|_| in_range).map(|word| (word, 1_u64 << (index % 64)))
        });
        match bit {
            None => {
                self.strays += 1;
                self.example("of no request", id);
            }
            Some((word, mask)) if *word & mask != 0 => {
                self.duplicated += 1;
                self.example("duplicated", id);
            }
            Some((word, mask)) => *word |= mask,
        }
    }

    fn example(&mut self, what: &str, id: &str) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(format!("{what}: {id}"));
        }
    }

    /// All pages are in: count.
    pub(crate) fn finish(mut self) -> Findings {
        let mut findings =
            Findings { duplicated: self.duplicated, refused_stored: self.strays, ..Findings::default() };
        let ledger = self.ledger;
        for (user, sequence, fate) in ledger.iter() {
            for place in 0..self.writes_per_request {
                let index = sequence as usize * self.writes_per_request + place;
                let stored = self.seen[user as usize][index / 64] & 1 << (index % 64) != 0;
                match (fate, stored) {
                    (Fate::Acknowledged, true) => findings.stored += 1,
                    (Fate::Acknowledged, false) => {
                        findings.lost += 1;
                        self.name_example("lost", sequence, user, place);
                    }
                    (Fate::Unknown, true) => findings.unknown_stored += 1,
                    (Fate::Refused | Fate::NotSent, true) => {
                        findings.refused_stored += 1;
                        self.name_example("not accepted, but stored", sequence, user, place);
                    }
                    (Fate::Unknown | Fate::Refused | Fate::NotSent, false) => {}
                }
                match fate {
                    Fate::Acknowledged => findings.acknowledged += 1,
                    Fate::Unknown => findings.unknown += 1,
                    Fate::Refused | Fate::NotSent => {}
                }
            }
        }
        findings.examples = self.examples;
        findings
    }

    fn name_example(&mut self, what: &str, sequence: u32, user: u32, place: usize) {
        use scalekit_service::contract::{operation_id, write_operation_id};
        let id = write_operation_id(&operation_id(self.run, sequence, user), place);
        self.example(what, &id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scalekit_service::contract::{operation_id, write_operation_id};

    fn ledger() -> Ledger {
        use Fate::{Acknowledged, NotSent, Refused, Unknown};
        Ledger::of(&[&[Acknowledged, Acknowledged, Unknown], &[Refused, Acknowledged, NotSent]])
    }

    fn id(sequence: u32, user: u32, place: usize) -> String {
        write_operation_id(&operation_id("run", sequence, user), place)
    }

    fn audit(documents: &[(&str, String)]) -> Findings {
        let ledger = ledger();
        let mut audit = Audit::new("run", 2, &ledger);
        for (id, op_id) in documents {
            audit.found(id, op_id);
        }
        audit.finish()
    }

    fn all_acknowledged() -> Vec<(&'static str, String)> {
        [(0, 0), (1, 0), (1, 1)]
            .into_iter()
            .flat_map(|(s, u)| [("a", id(s, u, 0)), ("a", id(s, u, 1))])
            .collect()
    }

    #[test]
    fn all_there_is_nothing_lost() {
        let findings = audit(&all_acknowledged());
        let expected = Findings { acknowledged: 6, stored: 6, unknown: 2, ..Findings::default() };
        assert_eq!(findings, expected);
    }

    #[test]
    fn each_fault_is_counted_and_named() {
        let mut documents = all_acknowledged();
        documents.remove(0);
        documents.push(("copy", id(1, 1, 1)));
        documents.push(("u", id(2, 0, 0)));
        documents.push(("r", id(0, 1, 1)));
        documents.push(("s", id(9, 9, 0)));
        documents.push(("p", id(0, 0, 7)));
        let findings = audit(&documents);
        assert_eq!((findings.stored, findings.lost, findings.duplicated), (5, 1, 1));
        assert_eq!((findings.unknown, findings.unknown_stored, findings.refused_stored), (2, 1, 3));
        for example in [&format!("lost: {}", id(0, 0, 0)), "duplicated: copy", "of no request: s"] {
            assert!(
                findings.examples.iter().any(|known| known == example),
                "{example}: {:?}",
                findings.examples
            );
        }
    }

    #[test]
    fn an_unknown_write_may_be_stored_but_not_twice() {
        let mut documents = all_acknowledged();
        documents.push(("u", id(2, 0, 0)));
        documents.push(("u2", id(2, 0, 0)));
        assert_eq!(audit(&documents).duplicated, 1);
    }

    #[test]
    fn an_empty_store_has_lost_everything() {
        let findings = audit(&[]);
        assert_eq!((findings.acknowledged, findings.lost), (6, 6));
        assert_eq!(findings.examples.len(), 6);
    }
}
