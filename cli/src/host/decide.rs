//! What one value should become, given what it is and what is wanted.

use super::known::{self, Meaning};
use super::status::Status;
use crate::profile::{Formulas, NoValue, PortSet, Variables, Wanted};

/// What one value should become.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Stay(Status),
    Change(String),
}

/// What is wanted of a value, and whether it may be lowered for it.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(super) wanted: Resolved,
    pub(super) allow_lower: bool,
}

impl Wish {
    /// Whether more is not as good.
    pub(super) fn is_exact(&self) -> bool {
        matches!(self.wanted, Resolved::Equals(_))
    }
}

/// What is wanted, with numbers for formulas.
#[derive(Clone, Debug)]
pub(super) enum Resolved {
    AtLeast(Vec<u64>),
    Equals(Vec<u64>),
    Includes(PortSet),
}

impl Resolved {
    pub(super) fn new(wanted: &Wanted, variables: Variables) -> Result<Self, NoValue> {
        let values = |formulas: &Formulas| {
            formulas.0.iter().map(|one| one.value(variables)).collect::<Result<Vec<_>, _>>()
        };
        Ok(match wanted {
            Wanted::AtLeast(formulas) => Self::AtLeast(values(formulas)?),
            Wanted::Equals(formulas) => Self::Equals(values(formulas)?),
            Wanted::Includes(ports) => Self::Includes(PortSet::parse(ports).unwrap_or_default()),
        })
    }
}

impl std::fmt::Display for Resolved {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(values) | Self::Equals(values) => out.write_str(&joined(values)),
            Self::Includes(ports) => write!(out, "{ports}"),
        }
    }
}

pub(super) fn joined(values: &[u64]) -> String {
    values.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

pub(super) fn decide(key: &str, now: &str, wanted: &Resolved, allow_lower: bool) -> Decision {
    let refused = |reason: String| Decision::Stay(Status::Refused { reason });
    let (values, exact) = match wanted {
        Resolved::AtLeast(values) => (values, false),
        Resolved::Equals(values) => (values, true),
        Resolved::Includes(ports) => {
            let Some(held) = PortSet::parse(now) else {
                return refused(format!("{now:?} is no list of ports, which `includes` is about"));
            };
            let both = held.union(ports);
            return if both == held {
                Decision::Stay(Status::Already)
            } else {
                Decision::Change(both.to_string())
            };
        }
    };
    let held: Option<Vec<u64>> = now.split_whitespace().map(|word| word.parse().ok()).collect();
    let held = held.unwrap_or_default();
    if held.len() != values.len() {
        return refused(format!("the key holds {now:?}, the profile has {} values for it", values.len()));
    }
    let meaning = known::meaning_for(key, exact);
    let target = if exact && (meaning == Meaning::Choice || allow_lower) {
        values.clone()
    } else {
        raised(meaning, &held, values)
    };
    if let Some(reason) = known::folklore(key, &held, &target) {
        return refused(reason.to_owned());
    }
    if meaning == Meaning::Range && target.len() == 2 && target[0] >= target[1] {
        return refused("the first port must be below the last".to_owned());
    }
    match (target == held, held == *values) {
        (true, true) => Decision::Stay(Status::Already),
        (true, false) => Decision::Stay(Status::KeptHigher { equals: exact }),
        (false, _) => Decision::Change(joined(&target)),
    }
}

/// Each value raised, none lowered; a range widened at both ends.
fn raised(meaning: Meaning, held: &[u64], wanted: &[u64]) -> Vec<u64> {
    let pairs = held.iter().zip(wanted);
    match (meaning, held, wanted) {
        (Meaning::Range, [low, high], [wanted_low, wanted_high]) => {
            vec![*low.min(wanted_low), *high.max(wanted_high)]
        }
        _ => pairs.map(|(held, wanted)| *held.max(wanted)).collect(),
    }
}
