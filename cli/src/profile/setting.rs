//! One key of a profile layer: left alone, reset, or set; and how a layer goes over another.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};

/// What a layer says about one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Setting<T> {
    /// Nothing: the layer below decides.
    #[default]
    Inherit,
    /// `null`: whatever the layers below say, the default holds.
    Reset,
    /// This value.
    To(T),
}

/// How a value of a layer goes over the same one of the layer below. A leaf replaces it.
pub(crate) trait Merge: Sized {
    /// This layer's value over the parent's.
    fn over(self, parent: Self) -> Self {
        let _ = parent;
        self
    }
    /// Fills what is not set from the defaults.
    fn fall_back(self, default: Self) -> Self {
        let _ = default;
        self
    }
    /// Whether this layer says anything about the key at `path` (relative to this value).
    fn sets(&self, path: &[&str]) -> bool {
        let _ = path;
        true
    }
}

impl<T: Merge> Merge for Setting<T> {
    fn over(self, parent: Self) -> Self {
        match (self, parent) {
            (Self::Inherit, parent) => parent,
            (Self::To(child), Self::To(parent)) => Self::To(child.over(parent)),
            (child, _) => child,
        }
    }

    fn fall_back(self, default: Self) -> Self {
        match (self, default) {
            (Self::To(value), Self::To(default)) => Self::To(value.fall_back(default)),
            (Self::To(value), _) => Self::To(value),
            (_, default) => default,
        }
    }

    fn sets(&self, path: &[&str]) -> bool {
        match self {
            Self::Inherit => false,
            Self::Reset => true,
            Self::To(value) => path.is_empty() || value.sets(path),
        }
    }
}

impl<T> Setting<T> {
    /// The value, if one is set.
    pub(crate) fn value(&self) -> Option<&T> {
        match self {
            Self::To(value) => Some(value),
            Self::Inherit | Self::Reset => None,
        }
    }
}

impl<T: Default> Setting<T> {
    /// A section to set keys in; created when the layer has none yet.
    pub(crate) fn section(&mut self) -> &mut T {
        if !matches!(self, Self::To(_)) {
            *self = Self::To(T::default());
        }
        match self {
            Self::To(value) => value,
            Self::Inherit | Self::Reset => unreachable!("set just above"),
        }
    }
}

/// A flag that was not given leaves the key alone.
impl<T> From<Option<T>> for Setting<T> {
    fn from(flag: Option<T>) -> Self {
        flag.map_or(Self::Inherit, Self::To)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Setting<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(input)?.map_or(Self::Reset, Self::To))
    }
}

impl<T: JsonSchema> JsonSchema for Setting<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        Option::<T>::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Option::<T>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Merge for u8 {}

    #[test]
    fn a_child_goes_over_its_parent_and_null_resets() {
        use Setting::{Inherit, Reset, To};
        for (child, parent, merged, resolved) in [
            (Inherit, Inherit, Inherit, To(9)),
            (Inherit, To(1), To(1), To(1)),
            (Reset, To(1), Reset, To(9)),
            (To(2), To(1), To(2), To(2)),
            (To(2), Reset, To(2), To(2)),
            (Inherit, Reset, Reset, To(9)),
        ] {
            let over = child.clone().over(parent.clone());
            assert_eq!(over, merged, "{child:?} over {parent:?}");
            assert_eq!(over.fall_back(To(9)), resolved, "{child:?} over {parent:?}");
        }
    }
}
