//! Sections of a profile by names that the profile chooses, merged name by name and key by key.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::setting::{Merge, Setting};

/// Sections by name; one that is `null` is taken away.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Named<T>(pub(super) BTreeMap<String, Setting<T>>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Merge> Merge for Named<T> {
    fn over(mut self, parent: Self) -> Self {
        for (name, below) in parent.0 {
            let above = self.0.remove(&name).unwrap_or_default();
            self.0.insert(name, above.over(below));
        }
        self
    }
    fn sets(&self, path: &[&str]) -> bool {
        path.split_first().is_some_and(|(name, rest)| self.0.get(*name).is_some_and(|item| item.sets(rest)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct NamedVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for NamedVisitor<T> {
            type Value = Named<T>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a map of names to sections")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut named = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let item = map.next_value()?;
                    if named.insert(name.clone(), item).is_some() {
                        return Err(de::Error::custom(format!("duplicate field `{name}`")));
                    }
                }
                Ok(Named(named))
            }
        }
        input.deserialize_map(NamedVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Named{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<Option<T>>();
        json_schema!({ "type": "object", "additionalProperties": item })
    }
}
