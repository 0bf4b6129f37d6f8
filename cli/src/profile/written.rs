//! How a resolved profile is written: as a profile file would say it, with secrets blanked out.

use std::ops::RangeInclusive;
use std::time::Duration;

use scalekit_service::server_url::{self, ServerUrl};
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
    url: &Option<ServerUrl>,
    output: S,
) -> Result<S::Ok, S::Error> {
    url.as_ref().map(ToString::to_string).serialize(output)
}

pub(super) fn text_without_password<S: Serializer>(
    url: &Option<String>,
    output: S,
) -> Result<S::Ok, S::Error> {
    url.as_deref().map(server_url::blank).serialize(output)
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
