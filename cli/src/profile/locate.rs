//! Where in a profile's text a key's value stands, for errors that show only after the layers are merged.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Marks the error that is the answer, among errors that are not.
const FOUND: &str = "\u{1}found";

/// Line and column, both from 1, of the value at `path`: keys, and places in lists from 0. `None` if the text
/// has no such value.
pub(super) fn locate(text: &str, path: &[&str]) -> Option<(usize, usize)> {
    let error = Locate { path }.deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    error.to_string().contains(FOUND).then_some(())?;
    error.location().map(|at| (at.line(), at.column()))
}

/// Walks down the path and raises an error at its end: the parser puts its mark on it.
struct Locate<'a> {
    path: &'a [&'a str],
}

impl<'de> DeserializeSeed<'de> for Locate<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        match self.path.split_first() {
            None => input.deserialize_any(Raise),
            Some((key, rest)) => input.deserialize_any(Walk { key, rest }),
        }
    }
}

/// Accepts nothing, so any value is an error at its own place.
struct Raise;

impl Visitor<'_> for Raise {
    type Value = ();
    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(FOUND)
    }
}

struct Walk<'a> {
    key: &'a str,
    rest: &'a [&'a str],
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();
    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a map or a list")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == self.key {
                map.next_value_seed(Locate { path: self.rest })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let place = self.key.parse().unwrap_or(usize::MAX);
        for _ in 0..place {
            if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        list.next_element_seed(Locate { path: self.rest })?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_value_of_a_key() {
        let text = "# why\nload:\n  vus: 5\n  url:\ncriteria:\n  http_reqs: [count>1, {threshold: rate>2}]\n";
        for (path, expected) in [
            (&["load", "vus"][..], Some((3, 8))),
            (&["load"], Some((3, 3))),
            (&["criteria", "http_reqs", "1"], Some((6, 24))),
            (&["criteria", "http_reqs", "2"], None),
            (&["load", "missing"], None),
            (&["load", "vus", "deeper"], None),
            (&["missing"], None),
        ] {
            assert_eq!(locate(text, path), expected, "{path:?}");
        }
        assert_eq!(locate(text, &["load", "url"]).map(|(line, _)| line), Some(4));
        assert_eq!(locate("a: [", &["a", "b"]), None);
    }
}
