//! Quantities as people write them: `800ms`, `100/s`, `4MiB`. A bare number is refused, since nobody can tell
//! what it counts.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// Separates the message of an error from the advice that goes with it, inside the one text that a
/// deserializer error can carry.
pub(super) const HELP: &str = "\nhelp: ";

/// Longest time that can be written; bounds what is added up later.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

const TIME_UNITS: [(&str, u64); 5] =
    [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)];

const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A duration: `800ms`, `30s`, `6m30s`, `2h`; units `us`, `ms`, `s`, `m`, `h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

/// A rate in whole operations a second, written `100/s` or `6000/min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate(pub(crate) u64);

/// A size in bytes, written `4MiB`, `512KiB`, `8MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

/// A whole number, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole(pub(crate) u64);

/// Why a quantity cannot be read: what was expected instead.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found:?}")]
pub(crate) struct UnitError {
    expected: &'static str,
    found: String,
}

/// What the quantities share: how they are described in errors and in the schema.
trait Written: FromStr + Sized {
    const EXPECTED: &'static str;
    const PATTERN: &'static str;
    /// Advice for a bare number `n`.
    fn units(number: &str) -> String;
}

impl Written for Span {
    const EXPECTED: &'static str = "a duration such as 800ms or 30s";
    const PATTERN: &'static str = r"^([0-9]+(\.[0-9]+)?(us|ms|s|m|h))+$";
    fn units(number: &str) -> String {
        format!("the unit is missing: write {number}ms, {number}s, {number}m or {number}h")
    }
}

impl Written for Rate {
    const EXPECTED: &'static str = "a rate such as 100/s or 6000/min";
    const PATTERN: &'static str = r"^[0-9]+/(s|min)$";
    fn units(number: &str) -> String {
        format!("the unit is missing: write {number}/s or {number}/min")
    }
}

impl Written for Size {
    const EXPECTED: &'static str = "a size such as 4MiB, 512KiB or 8MB";
    const PATTERN: &'static str = r"^[0-9]+(B|kB|MB|GB|KiB|MiB|GiB)$";
    fn units(number: &str) -> String {
        format!("the unit is missing: write {number}B, {number}KiB, {number}MiB or {number}MB")
    }
}

fn refused<T: Written>(text: &str) -> UnitError {
    UnitError { expected: T::EXPECTED, found: text.to_owned() }
}

impl FromStr for Span {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || refused::<Self>(text);
        let mut nanos: u128 = 0;
        let mut rest = text;
        while !rest.is_empty() || text.is_empty() {
            let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
            let (number, after) = rest.split_at(number_end);
            let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_end);
            let (_, unit) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
            let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
            if fraction.is_empty() || fraction.len() > 9 {
                return Err(error());
            }
            let whole: u64 = whole.parse().map_err(|_| error())?;
            let digits: u64 = fraction.parse().map_err(|_| error())?;
            let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| error())?);
            // At most 2^64 x 2^42, so it cannot overflow; the sum is bounded right after.
            nanos += u128::from(whole) * u128::from(*unit) + u128::from(digits) * u128::from(*unit) / scale;
            if nanos > LONGEST.as_nanos() {
                return Err(error());
            }
            rest = after;
        }
        u64::try_from(nanos).map(|nanos| Self(Duration::from_nanos(nanos))).map_err(|_| error())
    }
}

impl FromStr for Rate {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || refused::<Self>(text);
        let (number, unit) = text.split_once('/').ok_or_else(error)?;
        let number: u64 = digits(number).ok_or_else(error)?;
        match unit {
            "s" => Ok(Self(number)),
            "min" if number.is_multiple_of(60) => Ok(Self(number / 60)),
            "min" => Err(UnitError {
                expected: "a whole number of operations a second (a multiple of 60/min)",
                found: text.to_owned(),
            }),
            _ => Err(error()),
        }
    }
}

impl FromStr for Size {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || refused::<Self>(text);
        let end = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let (number, unit) = text.split_at(end);
        let (_, unit) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
        digits(number).and_then(|number| number.checked_mul(*unit)).map(Self).ok_or_else(error)
    }
}

/// Plain digits only: `u64::from_str` would take a sign as well.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut nanos = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        if nanos < 1_000 {
            return out.write_str("0s");
        }
        for (name, unit) in TIME_UNITS {
            if nanos >= unit {
                write!(out, "{}{name}", nanos / unit)?;
                nanos %= unit;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/s", self.0)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = SIZE_UNITS[..3].iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        match binary {
            Some((name, unit)) => write!(out, "{}{name}", self.0 / unit),
            None => write!(out, "{}B", self.0),
        }
    }
}

impl fmt::Display for Whole {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

/// Reads any [`Written`] quantity; numbers get the advice to name a unit.
struct WrittenVisitor<T>(std::marker::PhantomData<T>);

impl<T: Written> Visitor<'_> for WrittenVisitor<T>
where
    T::Err: fmt::Display,
{
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(T::EXPECTED)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|error| match text.parse::<f64>() {
            Ok(_) => E::custom(format!("{error}{HELP}{}", T::units(text))),
            Err(_) => E::custom(error),
        })
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        Err(E::custom(format!(
            "expected {}, found {number}{HELP}{}",
            T::EXPECTED,
            T::units(&number.to_string())
        )))
    }
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        Err(E::custom(format!("expected {}, found {number}", T::EXPECTED)))
    }
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        Err(E::custom(format!(
            "expected {}, found {number}{HELP}{}",
            T::EXPECTED,
            T::units(&number.to_string())
        )))
    }
}

struct WholeVisitor;

impl Visitor<'_> for WholeVisitor {
    type Value = Whole;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a whole number")
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Whole, E> {
        Ok(Whole(number))
    }
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Whole, E> {
        u64::try_from(number)
            .map(Whole)
            .map_err(|_| E::custom(format!("expected a whole number, found {number}")))
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(WholeVisitor)
    }
}

impl JsonSchema for Whole {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Whole".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0 })
    }
}

macro_rules! written {
    ($($type:ident)*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                input.deserialize_any(WrittenVisitor(std::marker::PhantomData))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
                output.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": <$type as Written>::PATTERN })
            }
        }
    )*};
}

written!(Span Rate Size);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, micros) in [
            ("800ms", 800_000),
            ("30s", 30_000_000),
            ("6m30s", 390_000_000),
            ("2h", 7_200_000_000),
            ("1.5s", 1_500_000),
            ("0s", 0),
            ("250us", 250),
        ] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_micros(micros))), "{text}");
        }
        for text in
            ["", "800", "s", "1,5s", "-1s", "1 s", "1d", "1..5s", "1.s", "9999999999h", "5sec", "1e3s"]
        {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn rates_and_sizes_as_people_write_them() {
        assert_eq!("100/s".parse(), Ok(Rate(100)));
        assert_eq!("6000/min".parse(), Ok(Rate(100)));
        for text in ["100", "90/min", "/s", "+1/s", "1.5/s", "100/h", ""] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        assert_eq!("4MiB".parse(), Ok(Size(4 << 20)));
        assert_eq!("512KiB".parse(), Ok(Size(512 << 10)));
        assert_eq!("8MB".parse(), Ok(Size(8_000_000)));
        for text in ["4", "MiB", "4 MiB", "4mib", "99999999999999GiB", "-1B", ""] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(micros in 0_u64..86_400_000_000, bytes in 0_u64..1 << 50) {
            let span = Span(Duration::from_micros(micros));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,24}") {
            let _ = (text.parse::<Span>(), text.parse::<Rate>(), text.parse::<Size>());
        }
    }
}
