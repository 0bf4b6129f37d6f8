//! Values of host settings as arithmetic of users, memory and cores, such as `max(4096, 2 * users)`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

/// Longest formula, in bytes; it also bounds how deep one nests.
const MAX_BYTES: usize = 200;
/// Most values of one key; the kernel's longest has four.
const MAX_VALUES: usize = 8;
const EXPECTED: &str = "a whole number, or a formula of users, ram (bytes), cores, + - * / min() max()";

/// What formulas are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variables {
    pub(crate) users: u64,
    /// Bytes.
    pub(crate) ram: u64,
    pub(crate) cores: u64,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Formula {
    text: String,
    node: Node,
}

/// The values of a key: one, or several that the kernel keeps on one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Formulas(pub(crate) Vec<Formula>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Number(u64),
    Users,
    Ram,
    Cores,
    Min(Box<Node>, Box<Node>),
    Max(Box<Node>, Box<Node>),
    Binary(char, Box<Node>, Box<Node>),
}

/// A formula that has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} has no value between 0 and 2^64 (users={1}, ram={2}, cores={3})")]
pub(crate) struct NoValue(String, u64, u64, u64);

impl Formula {
    /// Its value; a division rounds down.
    ///
    /// # Errors
    /// A division by zero, or a value that is negative or beyond 64 bits on the way.
    pub(crate) fn value(&self, of: Variables) -> Result<u64, NoValue> {
        self.node.value(of).ok_or_else(|| NoValue(self.text.clone(), of.users, of.ram, of.cores))
    }
}

impl Node {
    fn value(&self, of: Variables) -> Option<u64> {
        Some(match self {
            Self::Number(number) => *number,
            Self::Users => of.users,
            Self::Ram => of.ram,
            Self::Cores => of.cores,
            Self::Min(left, right) => left.value(of)?.min(right.value(of)?),
            Self::Max(left, right) => left.value(of)?.max(right.value(of)?),
            Self::Binary(operator, left, right) => {
                let (left, right) = (left.value(of)?, right.value(of)?);
                match operator {
                    '+' => left.checked_add(right)?,
                    '-' => left.checked_sub(right)?,
                    '*' => left.checked_mul(right)?,
                    _ => left.checked_div(right)?,
                }
            }
        })
    }
}

impl std::str::FromStr for Formula {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected {EXPECTED}, found {text:?}");
        if text.len() > MAX_BYTES {
            return Err(format!("expected at most {MAX_BYTES} bytes of formula, found {}", text.len()));
        }
        let mut parser = Parser { rest: text };
        let node = parser.sum().ok_or_else(expected)?;
        parser.rest.trim().is_empty().then_some(()).ok_or_else(expected)?;
        Ok(Self { text: text.trim().to_owned(), node })
    }
}

/// Recursive descent: sums of products of atoms.
struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn take(&mut self, any: &[char]) -> Option<char> {
        let rest = self.rest.trim_start();
        let first = rest.chars().next().filter(|c| any.contains(c))?;
        self.rest = &rest[first.len_utf8()..];
        Some(first)
    }

    fn word(&mut self) -> &str {
        let rest = self.rest.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        self.rest = rest;
        word
    }

    fn sum(&mut self) -> Option<Node> {
        let mut node = self.product()?;
        while let Some(operator) = self.take(&['+', '-']) {
            node = Node::Binary(operator, Box::new(node), Box::new(self.product()?));
        }
        Some(node)
    }

    fn product(&mut self) -> Option<Node> {
        let mut node = self.atom()?;
        while let Some(operator) = self.take(&['*', '/']) {
            node = Node::Binary(operator, Box::new(node), Box::new(self.atom()?));
        }
        Some(node)
    }

    fn atom(&mut self) -> Option<Node> {
        if self.take(&['(']).is_some() {
            let node = self.sum()?;
            return self.take(&[')']).map(|_| node);
        }
        let word = self.word().to_owned();
        match word.as_str() {
            "users" => Some(Node::Users),
            "ram" => Some(Node::Ram),
            "cores" => Some(Node::Cores),
            "min" | "max" => {
                self.take(&['('])?;
                let left = Box::new(self.sum()?);
                self.take(&[','])?;
                let right = Box::new(self.sum()?);
                self.take(&[')'])?;
                Some(if word == "min" { Node::Min(left, right) } else { Node::Max(left, right) })
            }
            digits => digits.parse().ok().map(Node::Number),
        }
    }
}

impl fmt::Display for Formula {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl Serialize for Formula {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        match self.node {
            Node::Number(number) => output.serialize_u64(number),
            _ => output.serialize_str(&self.text),
        }
    }
}

impl Serialize for Formulas {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(output),
            several => output.collect_seq(several),
        }
    }
}

struct FormulasVisitor;

impl<'de> Visitor<'de> for FormulasVisitor {
    type Value = Formulas;
    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{EXPECTED}; or a list of them")
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Formulas, E> {
        Ok(Formulas(vec![Formula { text: number.to_string(), node: Node::Number(number) }]))
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Formulas, E> {
        text.parse().map(|formula| Formulas(vec![formula])).map_err(E::custom)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Formulas, A::Error> {
        let mut values = Vec::new();
        while let Some(Formulas(value)) = list.next_element()? {
            values.extend(value);
            if values.len() > MAX_VALUES {
                return Err(de::Error::custom(format!("expected at most {MAX_VALUES} values")));
            }
        }
        if values.is_empty() {
            return Err(de::Error::custom("expected at least one value"));
        }
        Ok(Formulas(values))
    }
}

impl<'de> Deserialize<'de> for Formulas {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(FormulasVisitor)
    }
}

impl JsonSchema for Formulas {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Formulas".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = serde_json::json!([
            { "type": "integer", "minimum": 0 },
            { "type": "string", "pattern": r"^[ 0-9a-z()+*/,-]+$", "maxLength": MAX_BYTES },
        ]);
        json_schema!({ "anyOf": [
            one[0], one[1], { "type": "array", "minItems": 1, "maxItems": MAX_VALUES, "items": { "anyOf": one } },
        ] })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OF: Variables = Variables { users: 10_000, ram: 8 << 30, cores: 4 };

    #[test]
    fn formulas_have_the_value_that_arithmetic_gives_them() {
        for (text, value) in [
            ("5", Some(5)),
            ("2 * users + 1024", Some(21_024)),
            ("1024+users*2", Some(21_024)),
            ("(1 + 2) * cores", Some(12)),
            ("10 - 4 - 3", Some(3)),
            ("max(4096, min(users * 2, 65535))", Some(20_000)),
            ("ram / 16384", Some(524_288)),
            ("users / 0", None),
            ("1 - users", None),
            ("ram * ram", None),
        ] {
            let formula: Formula = text.parse().unwrap();
            assert_eq!(formula.value(OF).ok(), value, "{text}");
        }
        for text in
            ["", "usres", "1 +", "(1", "max(1)", "1 2", "-1", "1.5", "users users", "99999999999999999999"]
        {
            assert!(text.parse::<Formula>().is_err(), "{text}");
        }
        assert!("1+".repeat(200).parse::<Formula>().is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ 0-9a-z()+*/,-]{0,240}", users: u64, ram: u64, cores: u64) {
            if let Ok(formula) = text.parse::<Formula>() {
                let _ = formula.value(Variables { users, ram, cores });
            }
        }
    }
}
