//! What the rules of the findings saw while watching, beyond what the rows say already.

use super::row::{Row, Unit};
use crate::host::counters::Series;
use crate::host::findings::{Attribution, Evidence, attribute};

fn found(series: &Series) -> Attribution {
    attribute(Evidence { series, latency: &[], measured_from_ms: 0, disk_cap: None })
}

/// All of it in a sentence.
pub(crate) fn summary(series: &Series) -> String {
    found(series).summary()
}

/// Adds a warning for each finding whose counter has no row yet.
pub(super) fn add(rows: &mut Vec<Row>, series: &Series) {
    for finding in found(series).findings {
        if rows.iter().any(|row| row.counter == finding.counter) {
            continue;
        }
        let mut row = Row::of(finding.resource.name(), finding.counter, Unit::Count)
            .values(Some(finding.after), finding.limit)
            .warn(finding.message);
        (row.tune, row.deploy, row.advice) = (finding.tune, finding.deploy, finding.advice);
        rows.push(row);
    }
}
