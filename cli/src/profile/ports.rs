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
