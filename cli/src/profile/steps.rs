//! Stages and steps as a profile writes them.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

use super::layer::Headers;
use super::setting::{Merge, Setting};
use super::units::{HELP, Span};

/// `30s:100`: in 30 s to 100 users; `30s:100/s`: to 100 iterations a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StageText {
    pub(crate) duration: Duration,
    pub(crate) target: u32,
    pub(crate) is_rate: bool,
}

/// Why a stage or a status cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found:?}")]
pub(crate) struct StepError {
    expected: &'static str,
    found: String,
}

const STAGE: &str =
    "a stage such as 30s:100 (to 100 users in 30 s) or 30s:100/s (to 100 iterations a second)";
const STATUS: &str = "a status such as 200 or a range such as 200-299";

impl FromStr for StageText {
    type Err = StepError;

    fn from_str(text: &str) -> Result<Self, StepError> {
        let error = || StepError { expected: STAGE, found: text.to_owned() };
        let (duration, target) = text.split_once(':').ok_or_else(error)?;
        let (target, is_rate) = target.strip_suffix("/s").map_or((target, false), |rate| (rate, true));
        let Span(duration) = duration.parse().map_err(|_| error())?;
        if !target.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error());
        }
        Ok(Self { duration, target: target.parse().map_err(|_| error())?, is_rate })
    }
}

impl fmt::Display for StageText {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.is_rate { "/s" } else { "" };
        write!(out, "{}:{}{unit}", Span(self.duration), self.target)
    }
}

/// `200`, or `200-299`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatusRange(pub(crate) RangeInclusive<u16>);

impl FromStr for StatusRange {
    type Err = StepError;

    fn from_str(text: &str) -> Result<Self, StepError> {
        let error = || StepError { expected: STATUS, found: text.to_owned() };
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| text.parse().ok().filter(|status| (100..=999).contains(status));
        match (status(low), status(high)) {
            (Some(low), Some(high)) if low <= high => Ok(Self(low..=high)),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = (self.0.start(), self.0.end());
        if low == high { write!(out, "{low}") } else { write!(out, "{low}-{high}") }
    }
}

/// Texts in a profile; a status may also be a number.
macro_rules! written {
    ($name:ident, $expected:expr, $pattern:expr) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                struct TextVisitor;
                impl Visitor<'_> for TextVisitor {
                    type Value = $name;
                    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                        out.write_str($expected)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(|error| E::custom(format!("{error}{HELP}write it in this form")))
                    }
                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                }
                input.deserialize_any(TextVisitor)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
                output.collect_str(self)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": ["string", "integer"], "pattern": $pattern })
            }
        }
    };
}

written!(StageText, STAGE, r"^([0-9]+(\.[0-9]+)?(us|ms|s|m|h))+:[0-9]+(/s)?$");
written!(StatusRange, STATUS, r"^[0-9]{3}(-[0-9]{3})?$");

/// The stages of a run.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub(crate) struct Stages(pub(crate) Vec<StageText>);

/// The steps of an iteration.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub(crate) struct Steps(pub(crate) Vec<StepLayer>);

impl Merge for Stages {}
impl Merge for Steps {}

/// One request of an iteration. Path, header values and body may have variables: `${seq}`, `${vu}`, `${iter}`,
/// `${uuid}`, `${rand:1:100}`, `${data.COLUMN}`.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StepLayer {
    /// The name in the report; `step 1`, `step 2`… when left out.
    pub(crate) name: Setting<String>,
    /// HTTP method; `GET`, when left out.
    pub(crate) method: Setting<String>,
    /// Path and query below the URL's host, such as `/items/${rand:1:100}`; the URL's own, when left out.
    pub(crate) path: Setting<String>,
    /// Headers to send, by name.
    pub(crate) headers: Setting<Headers>,
    /// Body to send (up to 1 MiB).
    pub(crate) body: Setting<String>,
    /// What its response is expected to be; counted in `checks`.
    pub(crate) checks: Setting<ChecksLayer>,
    /// Pause before the next step (0s to 1h); none, when left out.
    pub(crate) think_time: Setting<Span>,
}

/// What a response is expected to be.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ChecksLayer {
    /// One of these statuses, each a number or a range such as `200-299`.
    pub(crate) status: Setting<Vec<StatusRange>>,
    /// A body with this text.
    pub(crate) body_contains: Setting<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_and_statuses_are_read_as_people_write_them() {
        let stage = |seconds, target, is_rate| {
            Some(StageText { duration: Duration::from_secs(seconds), target, is_rate })
        };
        for (text, expected) in [
            ("30s:100", stage(30, 100, false)),
            ("1m30s:0", stage(90, 0, false)),
            ("10s:5000/s", stage(10, 5000, true)),
            ("30:100", None),
            ("30s", None),
            ("30s:-1", None),
            ("30s:+1", None),
            ("30s:1e3", None),
            ("30s:", None),
            (":5", None),
        ] {
            let read = text.parse::<StageText>().ok();
            assert_eq!(read, expected, "{text}");
            if let Some(stage) = read {
                assert_eq!(stage.to_string().parse(), Ok(stage));
            }
        }
        for (text, expected) in [
            ("200", Some(200..=200)),
            ("200-299", Some(200..=299)),
            ("299-200", None),
            ("20", None),
            ("abc", None),
            ("1000", None),
        ] {
            assert_eq!(text.parse::<StatusRange>().ok().map(|range| range.0), expected, "{text}");
        }
    }
}
