//! Sets of ports, as `net.ipv4.ip_local_reserved_ports` has them.

use std::fmt;

/// Ports as the kernel writes them: single ones and ranges, with commas between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// `None` for anything but ports and ranges from the lower to the higher; nothing is the empty set.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut ranges = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
            (low <= high).then(|| ranges.push((low, high)))?;
        }
        Some(Self::merged(ranges))
    }

    /// The ports of either.
    pub(crate) fn union(&self, other: &Self) -> Self {
        Self::merged(self.0.iter().chain(&other.0).copied().collect())
    }

    /// The ports that are not in the other.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for (low, high) in self.0.iter().map(|(low, high)| (u32::from(*low), u32::from(*high))) {
            // The ranges are in order, so each begins after those that were cut out.
            let mut from = low;
            for (cut_low, cut_high) in other.0.iter().map(|(low, high)| (u32::from(*low), u32::from(*high))) {
                if cut_low > from && from <= high {
                    left.push((from, high.min(cut_low - 1)));
                }
                from = from.max(cut_high + 1);
            }
            if from <= high {
                left.push((from, high));
            }
        }
        let port = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        Self::merged(left.into_iter().map(|(low, high)| (port(low), port(high))).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn merged(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (low, high) in ranges {
            match merged.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        Self(merged)
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (low, high)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match low == high {
                true => write!(out, "{comma}{low}")?,
                false => write!(out, "{comma}{low}-{high}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_cut_out_of_others() {
        for (from, cut, left) in [
            ("1-10", "", "1-10"),
            ("1-10", "3-4,8", "1-2,5-7,9-10"),
            ("1-10,20-30", "5-25", "1-4,26-30"),
            ("5-6", "1-2", "5-6"),
            ("5-6", "8-9", "5-6"),
            ("5-6", "1-65535", ""),
            ("60000-65535", "61000-65535", "60000-60999"),
        ] {
            let (from, cut) = (PortSet::parse(from).unwrap(), PortSet::parse(cut).unwrap());
            assert_eq!(from.without(&cut).to_string(), left);
        }
    }

    #[test]
    fn ports_unite_as_the_kernel_writes_them() {
        for (left, right, both) in [
            ("", "6379", "6379"),
            ("6379,27017", "6379", "6379,27017"),
            ("30000-32767", "32768-40000,5", "5,30000-40000"),
            ("1-65535", "80", "1-65535"),
        ] {
            let (left, right) = (PortSet::parse(left).unwrap(), PortSet::parse(right).unwrap());
            assert_eq!(left.union(&right).to_string(), both);
        }
        for text in ["x", "9-1", "70000", "1-", "-1"] {
            assert!(PortSet::parse(text).is_none(), "{text}");
        }
    }
}
