//! Profiles: YAML in, one typed, bounded and consistent `Profile` out. YAML is known here and nowhere else.
//!
//! Each layer (built-in, file, command line) is read from its own text into a partial, strict struct, so that
//! an error names file, line, column and key; then the layers are merged, resolved and checked.

mod agents;
mod contradictions;
mod error;
mod files;
mod formula;
mod host;
mod host_layer;
mod http_version;
mod in_cluster;
mod kubernetes;
mod kubernetes_layer;
mod layer;
mod locate;
mod model;
mod named;
mod ports;
mod resolve;
mod servers;
mod setting;
mod source;
mod steps;
#[cfg(test)]
mod tests;
mod text;
mod thresholds;
mod types;
mod units;
mod written;

pub(crate) use agents::AgentAddress;
pub(crate) use error::ProfileError;
pub(crate) use formula::{Formulas, NoValue, Variables};
pub(crate) use host::{Host, HugePages, HugePagesSpec, Limit, Reasons, Wanted, is_key, is_module};
#[cfg(test)]
pub(crate) use host::{ProcessLimits, Sysctl};
pub(crate) use http_version::HttpVersion;
pub(crate) use kubernetes::{CpuClass, Kubernetes, Memory, Monitor, NodeTuning, TrafficPath};
pub(crate) use layer::{Headers, Layer};
pub(crate) use ports::PortSet;
pub(crate) use servers::Servers;
pub(crate) use steps::{StageText, Stages};
pub(crate) use types::{
    Backend, CriterionSpec, DatabaseCap, Deploy, DeployMode, DeployTarget, Durability, Load, Profile,
    ScenarioKind, StepSpec,
};
pub(crate) use units::{Rate, Whole};

/// Loads a profile: a built-in name or a file (which wins), over what it extends, under the command line's
/// `overrides`.
///
/// # Errors
/// Anything unreadable, unknown, out of bounds or contradictory; all of it is exit status 104.
pub(crate) fn load(name_or_path: &str, overrides: Layer) -> Result<Profile, ProfileError> {
    let (name, mut sources) = source::chain(name_or_path)?;
    sources.insert(0, source::Source::flags(overrides));
    let mut profile = resolve::resolve(name, &sources)?;
    contradictions::check(&resolve::Resolver { sources: &sources }, &mut profile)?;
    // The command line is a source only when it says something.
    if sources[0].layer == Layer::default() {
        profile.sources.remove(0);
    }
    Ok(profile)
}

/// The built-in profiles.
#[cfg(test)]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    source::BUILT_IN.iter().map(|(name, _)| *name)
}

/// The text of a built-in profile, comments and all.
#[cfg(test)]
pub(crate) fn built_in(name: &str) -> Option<&'static str> {
    source::BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The JSON schema of a profile file.
#[cfg(test)]
pub(crate) fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Layer);
    schema.insert("title".to_owned(), "scalekit profile".into());
    schema.to_value()
}

/// Takes `METRIC=EXPR`, as in `--threshold http_req_duration='p(95)<500'`, apart.
///
/// # Errors
/// When there is no `=` or nothing before it.
pub(crate) fn threshold_flag(text: &str) -> Result<CriterionSpec, ProfileError> {
    let (metric, expression) =
        text.split_once('=').filter(|(metric, _)| !metric.trim().is_empty()).ok_or_else(|| {
            let message = format!("expected METRIC=EXPR, found {text:?}");
            ProfileError::new("--threshold", message, "write, for example, 'http_req_duration=p(95)<500'")
        })?;
    Ok(CriterionSpec {
        metric: metric.trim().to_owned(),
        expression: expression.trim().to_owned(),
        abort_on_fail: false,
        delay_abort_eval: std::time::Duration::ZERO,
        location: "--threshold".to_owned(),
    })
}

/// A quantity given with a flag, such as `--duration 30s`.
///
/// # Errors
/// What was expected instead.
pub(crate) fn quantity_flag<T: std::str::FromStr<Err = units::UnitError>>(
    flag: &str,
    text: &str,
) -> Result<T, ProfileError> {
    text.parse().map_err(|error: units::UnitError| {
        ProfileError::new(flag, error.to_string(), "write it with its unit")
    })
}

/// Any other flag that cannot be understood.
pub(crate) fn flag_error(flag: &str, message: impl Into<String>, help: impl Into<String>) -> ProfileError {
    ProfileError::new(flag, message, help)
}
