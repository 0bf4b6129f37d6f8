//! The criteria of a profile as they are written: for each metric a list of thresholds, each a text or k6's
//! long form. What the texts mean is not known here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::setting::{Merge, Setting};
use super::units::Span;

/// Thresholds by metric; `null` takes an inherited list away.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CriteriaLayer(pub(crate) BTreeMap<String, Setting<Vec<Threshold>>>);

/// One threshold as written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Threshold {
    pub(crate) expression: String,
    pub(crate) abort_on_fail: bool,
    pub(crate) delay_abort_eval: Option<Span>,
}

/// k6's long form.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct LongForm {
    threshold: String,
    #[serde(default, rename = "abortOnFail")]
    abort_on_fail: bool,
    #[serde(default, rename = "delayAbortEval")]
    delay_abort_eval: Option<Span>,
}

impl Merge for Vec<Threshold> {}

impl Merge for CriteriaLayer {
    fn over(mut self, parent: Self) -> Self {
        for (metric, list) in parent.0 {
            self.0.entry(metric).or_insert(list);
        }
        self
    }
    fn sets(&self, path: &[&str]) -> bool {
        path.split_first()
            .is_some_and(|(metric, rest)| self.0.get(*metric).is_some_and(|list| list.sets(rest)))
    }
}

impl CriteriaLayer {
    /// Adds one threshold to those that this layer has for the metric.
    pub(crate) fn add(&mut self, metric: &str, expression: &str) {
        let threshold =
            Threshold { expression: expression.to_owned(), abort_on_fail: false, delay_abort_eval: None };
        self.0.entry(metric.to_owned()).or_default().section().push(threshold);
    }
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct ThresholdVisitor;
        impl<'de> Visitor<'de> for ThresholdVisitor {
            type Value = Threshold;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a threshold such as p(95)<500, or {threshold: p(95)<500, abortOnFail: true}")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Threshold, E> {
                Ok(Threshold { expression: text.to_owned(), abort_on_fail: false, delay_abort_eval: None })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Threshold, A::Error> {
                let long = LongForm::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Threshold {
                    expression: long.threshold,
                    abort_on_fail: long.abort_on_fail,
                    delay_abort_eval: long.delay_abort_eval,
                })
            }
        }
        input.deserialize_any(ThresholdVisitor)
    }
}

impl<'de> Deserialize<'de> for CriteriaLayer {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct CriteriaVisitor;
        impl<'de> Visitor<'de> for CriteriaVisitor {
            type Value = CriteriaLayer;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a map of metrics to lists of thresholds")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<CriteriaLayer, A::Error> {
                let mut criteria = BTreeMap::new();
                while let Some(metric) = map.next_key::<String>()? {
                    let list = map.next_value()?;
                    if criteria.insert(metric.clone(), list).is_some() {
                        return Err(de::Error::custom(format!("duplicate field `{metric}`")));
                    }
                }
                Ok(CriteriaLayer(criteria))
            }
        }
        input.deserialize_map(CriteriaVisitor)
    }
}

impl JsonSchema for CriteriaLayer {
    fn schema_name() -> Cow<'static, str> {
        "CriteriaLayer".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let threshold = generator.subschema_for::<Threshold>();
        json_schema!({
            "type": "object",
            "description": "For each metric a list of thresholds; null takes an inherited list away.",
            "additionalProperties": { "type": ["array", "null"], "items": threshold },
        })
    }
}

impl JsonSchema for Threshold {
    fn schema_name() -> Cow<'static, str> {
        "Threshold".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let delay = generator.subschema_for::<Span>();
        json_schema!({
            "description": "A threshold in k6's grammar, such as p(95)<500; times in ms.",
            "oneOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "required": ["threshold"],
                    "additionalProperties": false,
                    "properties": {
                        "threshold": { "type": "string" },
                        "abortOnFail": { "type": "boolean", "description": "End the run when it fails." },
                        "delayAbortEval": delay,
                    },
                },
            ],
        })
    }
}
