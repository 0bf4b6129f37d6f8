//! How a resolved profile is written: as a profile file would say it, with secrets blanked out.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::steps::StatusRange;
use super::types::CriterionSpec;
use super::units::{Rate, Size, Span};

pub(super) fn span<S: Serializer>(duration: &Duration, output: S) -> Result<S::Ok, S::Error> {
    Span(*duration).serialize(output)
}

pub(super) fn size<S: Serializer>(bytes: &u64, output: S) -> Result<S::Ok, S::Error> {
    Size(*bytes).serialize(output)
}

pub(super) fn optional_span<S: Serializer>(
    duration: &Option<Duration>,
    output: S,
) -> Result<S::Ok, S::Error> {
    duration.map(Span).serialize(output)
}

pub(super) fn optional_rate<S: Serializer>(per_second: &Option<u32>, output: S) -> Result<S::Ok, S::Error> {
    per_second.map(|rate| Rate(u64::from(rate))).serialize(output)
}

pub(super) fn statuses<S: Serializer>(ranges: &[RangeInclusive<u16>], output: S) -> Result<S::Ok, S::Error> {
    output.collect_seq(ranges.iter().cloned().map(StatusRange))
}

pub(super) fn rate<S: Serializer>(per_second: &u32, output: S) -> Result<S::Ok, S::Error> {
    Rate(u64::from(*per_second)).serialize(output)
}

pub(super) fn url_without_password<S: Serializer>(
    url: &Option<String>,
    output: S,
) -> Result<S::Ok, S::Error> {
    url.as_deref().map(blank_password).serialize(output)
}

/// `redis://user:secret@host` → `redis://user:***@host`.
fn blank_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // The last @ of the authority: a password may hold one itself. If a password holds a slash, there is no @
    // before it, so the last @ of all counts.
    let at = rest[..authority_end].rfind('@').or_else(|| rest.rfind('@'));
    let user = at.and_then(|at| rest[..at].split_once(':').map(|(user, _)| user));
    match (at, user) {
        (Some(at), Some(user)) => format!("{scheme}://{user}:***{}", &rest[at..]),
        _ => url.to_owned(),
    }
}

/// Headers that prove who one is; their values stay out of reports.
const SECRET_HEADERS: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-api-key"];

pub(super) fn headers_without_secrets<S: Serializer>(
    headers: &[(String, String)],
    output: S,
) -> Result<S::Ok, S::Error> {
    let mut map = output.serialize_map(Some(headers.len()))?;
    for (name, value) in headers {
        let secret = SECRET_HEADERS.iter().any(|secret| name.eq_ignore_ascii_case(secret));
        map.serialize_entry(name, if secret { "***" } else { value })?;
    }
    map.end()
}

pub(super) fn criteria<S: Serializer>(specs: &[CriterionSpec], output: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct LongForm<'a> {
        threshold: &'a str,
        abort_on_fail: bool,
        delay_abort_eval: Span,
    }
    let mut by_metric = std::collections::BTreeMap::<&str, Vec<LongForm<'_>>>::new();
    for spec in specs {
        by_metric.entry(&spec.metric).or_default().push(LongForm {
            threshold: &spec.expression,
            abort_on_fail: spec.abort_on_fail,
            delay_abort_eval: Span(spec.delay_abort_eval),
        });
    }
    by_metric.serialize(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_blanked() {
        for (url, blanked) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("redis://:secret@h:6379/0", "redis://:***@h:6379/0"),
            ("redis://u:se@cret@h", "redis://u:***@h"),
            ("mongodb://u:se/cret@h:1/db?a=b", "mongodb://u:***@h:1/db?a=b"),
            ("mongodb://u@h", "mongodb://u@h"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(blank_password(url), blanked);
        }
    }
}
