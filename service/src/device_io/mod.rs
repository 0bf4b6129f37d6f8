//! I/O operations of block devices: which disks a path is on, and how many operations they, or a control group on
//! them, have done. Texts of the kernel are parsed by pure functions; what is read is below a root, which is another in
//! tests.

mod disks;
mod group;
mod mounts;
mod place;

use std::fmt;
use std::str::FromStr;

pub use group::{Group, Hierarchy};
pub use place::{Disks, Kind, Place, PlaceError, ReadError};

/// A block device, as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

impl fmt::Display for Device {
    /// `MAJOR:MINOR`, as in `/sys/dev/block` and in the files of control groups.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.major, self.minor)
    }
}

/// It is not `MAJOR:MINOR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected MAJOR:MINOR")]
pub struct NotADevice;

impl FromStr for Device {
    type Err = NotADevice;

    fn from_str(text: &str) -> Result<Self, NotADevice> {
        let number = |text: &str| {
            // `parse` alone would take a sign.
            text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
        };
        let (major, minor) = text.split_once(':').ok_or(NotADevice)?;
        Ok(Self { major: number(major).ok_or(NotADevice)?, minor: number(minor).ok_or(NotADevice)? })
    }
}

/// Since the device, or the group, is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    pub reads: u64,
    pub writes: u64,
}

impl Operations {
    #[must_use]
    pub fn total(self) -> u64 {
        self.reads.saturating_add(self.writes)
    }
}

impl std::iter::Sum for Operations {
    fn sum<I: Iterator<Item = Self>>(each: I) -> Self {
        each.fold(Self::default(), |sum, one| Self {
            reads: sum.reads.saturating_add(one.reads),
            writes: sum.writes.saturating_add(one.writes),
        })
    }
}

#[cfg(test)]
mod live_tests;
