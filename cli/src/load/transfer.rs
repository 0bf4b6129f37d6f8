//! Histograms on their way from machine to machine: HdrHistogram's V2 encoding in base64, which loses nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::{Deserializer as Decoder, Serializer as _, V2SerializeError, V2Serializer};
use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize as _, Deserializer, Serializer, de, ser};

use super::trends::{DIGITS, HIGHEST_MICROS};

/// The V2 header: cookie, payload length, offset, digits (4 bytes each), lowest, highest, ratio (8 bytes each).
/// <https://github.com/HdrHistogram/HdrHistogram/blob/master/src/main/java/org/HdrHistogram/AbstractHistogram.java>
const HEADER_BYTES: usize = 40;

pub(super) fn serialize<T: Counter, S: Serializer>(
    histogram: &Histogram<T>,
    output: S,
) -> Result<S::Ok, S::Error> {
    output.serialize_str(&encode(histogram).map_err(ser::Error::custom)?)
}

pub(super) fn deserialize<'de, T: Counter, D: Deserializer<'de>>(input: D) -> Result<Histogram<T>, D::Error> {
    decode(&String::deserialize(input)?).map_err(de::Error::custom)
}

fn encode<T: Counter>(histogram: &Histogram<T>) -> Result<String, V2SerializeError> {
    let mut bytes = Vec::new();
    V2Serializer::new().serialize(histogram, &mut bytes).map(|_| STANDARD.encode(&bytes))
}

/// Takes only histograms of our own bounds: others could not be added to ours, and may ask for any memory.
fn decode<T: Counter>(text: &str) -> Result<Histogram<T>, String> {
    let bytes = STANDARD.decode(text).map_err(|error| format!("a histogram is no base64: {error}"))?;
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    let highest = |at: usize| Some((u64::from(number(at)?) << 32) | u64::from(number(at + 4)?));
    let payload = bytes.len().checked_sub(HEADER_BYTES).and_then(|length| u32::try_from(length).ok());
    let is_ours = payload.is_some()
        && number(4) == payload
        && number(12) == Some(u32::from(DIGITS))
        && highest(16) == Some(1)
        && highest(24) == Some(HIGHEST_MICROS);
    if !is_ours {
        return Err(format!("expected a histogram from 1 to {HIGHEST_MICROS} of {DIGITS} digits"));
    }
    Decoder::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|error| format!("a histogram cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn histogram<T: Counter>(digits: u8, values: &[u64]) -> Histogram<T> {
        let mut histogram = Histogram::new_with_bounds(1, HIGHEST_MICROS, digits).unwrap();
        values.iter().for_each(|value| histogram.saturating_record(*value));
        histogram
    }

    #[test]
    fn what_is_not_one_of_ours_is_refused() {
        let sound = encode(&histogram::<u64>(3, &[5, 70])).unwrap();
        assert!(decode::<u64>(&sound).is_ok());
        let coarse = encode(&histogram::<u64>(2, &[5])).unwrap();
        let wide = Histogram::<u64>::new_with_bounds(1, u64::MAX / 2, 3).unwrap();
        let mut huge = STANDARD.decode(&sound).unwrap();
        huge[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        let mut cut = STANDARD.decode(&sound).unwrap();
        cut.truncate(20);
        for text in [
            "",
            "?",
            "AAAA",
            &coarse,
            &encode(&wide).unwrap(),
            &STANDARD.encode(&huge),
            &STANDARD.encode(&cut),
        ] {
            assert!(decode::<u64>(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost(values in prop::collection::vec(0..HIGHEST_MICROS * 2, 0..80)) {
            let fine = histogram::<u64>(DIGITS, &values);
            prop_assert!(decode::<u64>(&encode(&fine).unwrap()).unwrap() == fine);
            let narrow = histogram::<u32>(DIGITS, &values);
            prop_assert!(decode::<u32>(&encode(&narrow).unwrap()).unwrap() == narrow);
        }

        #[test]
        fn noise_is_an_error_or_a_histogram(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut framed = STANDARD.decode(encode(&histogram::<u64>(3, &[5])).unwrap()).unwrap();
            framed.truncate(HEADER_BYTES);
            framed[4..8].copy_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
            framed.extend(&bytes);
            if let Ok(histogram) = decode::<u64>(&STANDARD.encode(&framed)) {
                prop_assert!(histogram.high() == HIGHEST_MICROS);
            }
        }
    }
}
