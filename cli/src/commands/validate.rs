//! `scalekit validate`: judge a report again, from its file alone.

use super::{bench, options};
use crate::args::{Global, ValidateArgs};
use crate::criteria::{self, Spec};
use crate::exit::ExitStatus;
use crate::profile::{self, Layer};
use crate::report;

pub(super) fn validate(global: &Global, args: &ValidateArgs) -> anyhow::Result<ExitStatus> {
    let mut report = report::read(&args.report)?;
    let specs = specs(global, args, &report.criteria)?;
    let criteria = criteria::parse(&specs)?;
    report.criteria = specs;
    let verdict = report::judge(&mut report, &criteria);
    bench::print_report(global, &report, &args.report)?;
    Ok(ExitStatus::of(&verdict))
}

/// The report's own criteria, or those of a profile that was named; flags replace those of their metric.
fn specs(global: &Global, args: &ValidateArgs, own: &[Spec]) -> anyhow::Result<Vec<Spec>> {
    let mut specs = match &global.profile {
        // `-p` has a default, which here means: as the report was judged.
        name if name == crate::args::DEFAULT_PROFILE => own.to_vec(),
        name => profile::load(name, Layer::default())?.criteria.iter().map(options::spec).collect(),
    };
    let flags =
        args.thresholds.iter().map(|text| profile::threshold_flag(text)).collect::<Result<Vec<_>, _>>()?;
    specs.retain(|spec| flags.iter().all(|flag| flag.metric != spec.metric));
    specs.extend(flags.iter().map(options::spec));
    Ok(specs)
}
