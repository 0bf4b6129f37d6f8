//! `/proc/diskstats`: what each block device did.

use serde::Serialize;

/// Devices kept, the busiest first.
const MAX_DISKS: usize = 16;

/// Since the machine started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Disk {
    pub(crate) name: String,
    /// `MAJOR:MINOR`, as cgroups name it.
    pub(crate) device: String,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    /// Time with at least one request under way, in ms.
    pub(crate) busy_ms: u64,
    /// Unknown before kernel 5.5.
    pub(crate) flushes: Option<u64>,
}

/// Devices that did anything at all; a line that cannot be read is left out. Lines have 14 columns, 18 since
/// kernel 4.18 (discards) and 20 since 5.5 (flushes), the first 14 alike (`Documentation/admin-guide/iostats.rst`).
pub(super) fn parse(text: &str) -> Vec<Disk> {
    let mut disks: Vec<Disk> =
        text.lines().filter_map(disk).filter(|disk| disk.reads > 0 || disk.writes > 0).collect();
    disks.sort_by_key(|disk| std::cmp::Reverse(disk.reads.saturating_add(disk.writes)));
    disks.truncate(MAX_DISKS);
    disks.sort_by(|one, other| one.name.cmp(&other.name));
    disks
}

fn disk(line: &str) -> Option<Disk> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let count = |place: usize| fields.get(place)?.parse::<u64>().ok();
    Some(Disk {
        device: format!("{}:{}", count(0)?, count(1)?),
        name: (*fields.get(2)?).to_owned(),
        reads: count(3)?,
        writes: count(7)?,
        busy_ms: count(12)?,
        flushes: count(18),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kernels_columns_are_read() {
        let text = "   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0\n\
             8       0 sda 10 1 80 4 20 2 160 8 0 12 16\n\
             259       0 nvme0n1 11 1 80 4 21 2 160 8 0 13 16 0 0 0 0\n\
             254       0 vda 12 1 80 4 22 2 160 8 0 14 16 5 0 40 1 77 3\n\
             8 1 sdb 1 1\n";
        let found = parse(text);
        let row = |disk: &Disk| {
            (disk.name.clone(), disk.device.clone(), disk.reads, disk.writes, disk.busy_ms, disk.flushes)
        };
        let expected = [
            ("nvme0n1", "259:0", 11, 21, 13, None),
            ("sda", "8:0", 10, 20, 12, None),
            ("vda", "254:0", 12, 22, 14, Some(77)),
        ]
        .map(|(name, device, reads, writes, busy, flushes)| {
            (name.to_owned(), device.to_owned(), reads, writes, busy, flushes)
        });
        assert_eq!(found.iter().map(row).collect::<Vec<_>>(), expected);
    }

    proptest! {
        #[test]
        fn any_text_gives_a_bounded_answer(text in "([0-9a-z ]{0,60}\n){0,40}") {
            prop_assert!(parse(&text).len() <= MAX_DISKS);
        }
    }
}
