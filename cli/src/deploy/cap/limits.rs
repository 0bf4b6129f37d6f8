//! The files of a control group that limit I/O operations: how a limit is written, and which one is there. Pure.

use scalekit_service::device_io::{Device, Hierarchy};

/// Operations a second that a group may do on one device. `None`: not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Limit {
    pub(crate) reads_per_s: Option<u64>,
    pub(crate) writes_per_s: Option<u64>,
}

impl Limit {
    /// So many of each.
    pub(super) fn both(per_second: u64) -> Self {
        Self { reads_per_s: Some(per_second), writes_per_s: Some(per_second) }
    }
}

/// With version 1 a group counts only where it has a limit; this one is above what any disk does.
pub(super) const NEVER_REACHED_PER_S: u64 = 4_000_000_000;

/// The files, and what to write into them, to bring a device to a limit.
pub(super) fn writes(hierarchy: Hierarchy, device: Device, limit: Limit) -> Vec<(&'static str, String)> {
    match hierarchy {
        Hierarchy::V2 => {
            let text = |limit: Option<u64>| limit.map_or_else(|| "max".to_owned(), |limit| limit.to_string());
            let (reads, writes) = (text(limit.reads_per_s), text(limit.writes_per_s));
            vec![("io.max", format!("{device} riops={reads} wiops={writes}"))]
        }
        Hierarchy::V1 => [V1_READS, V1_WRITES]
            .into_iter()
            .zip([limit.reads_per_s, limit.writes_per_s])
            // 0 takes a limit away.
            .map(|(file, limit)| (file, format!("{device} {}", limit.unwrap_or(0))))
            .collect(),
    }
}

/// The files that say which limits there are, in the order that [`read`] takes them.
pub(super) fn files(hierarchy: Hierarchy) -> &'static [&'static str] {
    match hierarchy {
        Hierarchy::V2 => &["io.max"],
        Hierarchy::V1 => &[V1_READS, V1_WRITES],
    }
}

const V1_READS: &str = "blkio.throttle.read_iops_device";
const V1_WRITES: &str = "blkio.throttle.write_iops_device";

/// What the files of a group say of one device. A device without a line has no limit.
pub(super) fn read(hierarchy: Hierarchy, texts: &[String], device: Device) -> Limit {
    let device = device.to_string();
    let line = |text: &str| {
        text.lines().find_map(|line| {
            let (of, rest) = line.trim().split_once(' ')?;
            (of == device).then(|| rest.to_owned())
        })
    };
    let text = |place: usize| texts.get(place).and_then(|text| line(text));
    match hierarchy {
        // `8:0 rbps=max wbps=max riops=100 wiops=100`
        Hierarchy::V2 => {
            let line = text(0).unwrap_or_default();
            let value = |key: &str| {
                let words = line.split_ascii_whitespace();
                words.filter_map(|word| word.split_once('=')).find(|(of, _)| *of == key)?.1.parse().ok()
            };
            Limit { reads_per_s: value("riops"), writes_per_s: value("wiops") }
        }
        Hierarchy::V1 => {
            let value = |place| text(place)?.trim().parse().ok();
            Limit { reads_per_s: value(0), writes_per_s: value(1) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_written_and_read_in_both_forms() {
        let device: Device = "8:16".parse().unwrap();
        let limit = Limit::both(100);
        assert_eq!(writes(Hierarchy::V2, device, limit), [("io.max", "8:16 riops=100 wiops=100".to_owned())]);
        assert_eq!(
            writes(Hierarchy::V2, device, Limit::default()),
            [("io.max", "8:16 riops=max wiops=max".to_owned())]
        );
        assert_eq!(
            writes(Hierarchy::V1, device, Limit { reads_per_s: None, writes_per_s: Some(7) }),
            [(V1_READS, "8:16 0".to_owned()), (V1_WRITES, "8:16 7".to_owned())]
        );
        let text = "8:0 rbps=max wbps=max riops=max wiops=5\n8:16 rbps=1 wbps=max riops=100 wiops=100\n";
        assert_eq!(read(Hierarchy::V2, &[text.to_owned()], device), limit);
        let other = Limit { reads_per_s: None, writes_per_s: Some(5) };
        assert_eq!(read(Hierarchy::V2, &[text.to_owned()], "8:0".parse().unwrap()), other);
        let texts = ["8:1 9\n8:16 100\n".to_owned(), "8:16 100\n".to_owned()];
        assert_eq!(read(Hierarchy::V1, &texts, device), limit);
        for hierarchy in [Hierarchy::V1, Hierarchy::V2] {
            assert_eq!(read(hierarchy, &[], device), Limit::default());
            assert_eq!(read(hierarchy, &["8:16".into(), "8:16 x\n".into()], device), Limit::default());
        }
    }
}
