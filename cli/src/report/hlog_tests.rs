//! What was written comes back, whole or not at all.

use std::time::{Duration, UNIX_EPOCH};

use hdrhistogram::serialization::interval_log::Tag;
use proptest::prelude::*;

use super::super::fixture::histogram;
use super::super::hlog::IntervalLog;
use super::*;

/// A log of these seconds, `(µs, samples)` each.
fn log(seconds: &[Vec<(u64, u64)>]) -> Vec<u8> {
    let start = UNIX_EPOCH + Duration::from_millis(1_795_446_181_250);
    let mut log = IntervalLog::begin(Vec::new(), start).unwrap();
    for (at, samples) in (0..).zip(seconds) {
        let (at, length) = (Duration::from_secs(at), Duration::from_secs(1));
        log.add(Tag::new(MERGED).unwrap(), at, length, &histogram(samples)).unwrap();
        log.add(Tag::new("http_req_duration").unwrap(), at, length, &histogram(&[(7, 1)])).unwrap();
    }
    log.into_inner()
}

#[test]
fn the_head_is_as_java_writes_it() {
    let text = String::from_utf8(log(&[vec![(1_500, 2)], vec![]])).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 8, "{text}");
    assert_eq!(lines[0], format!("#[Logged with scalekit {}]", env!("CARGO_PKG_VERSION")));
    assert_eq!(lines[1], "#[Histogram log format version 1.3]");
    assert_eq!(lines[2], "#[StartTime: 1795446181.250 (seconds since epoch), Mon Nov 23 15:03:01 UTC 2026]");
    assert_eq!(
        lines[3],
        r#""StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram""#
    );
    assert!(lines[4].starts_with("Tag=http_req_total_duration,0.000,1.000,1.500,HISTFAAA"), "{text}");
    assert!(lines[5].starts_with("Tag=http_req_duration,0.000,1.000,0.007,HISTFAAA"), "{text}");
    assert!(lines[6].starts_with("Tag=http_req_total_duration,1.000,1.000,0.000,HISTFAAA"), "{text}");
}

#[test]
fn wherever_it_is_cut_a_log_is_damaged_or_holds_fewer_requests() {
    let whole = log(&[vec![(1_000, 3)], vec![(2_000_000, 4)]]);
    for cut in 0..whole.len() {
        let found = merge(&whole[..cut]).map(|merged| merged.map_or(0, |merged| merged.len()));
        // The last line is of another metric.
        let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
        match found {
            Err(MergeError::Damaged { line, .. }) => assert!(line as usize <= lines + 1, "cut at {cut}"),
            Err(MergeError::Io(error)) => panic!("{error}"),
            Ok(count) => assert!(count < 7 || lines == 7, "cut at {cut}"),
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latency.hlog");
    assert!(matches!(read_log(&path, 7), Err(LogError::NotFound(_))));
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(read_log(&path, 7).unwrap().unwrap().len(), 7);
    let error = read_log(&path, 8).unwrap_err().to_string();
    assert!(error.contains("latency.hlog: the interval log holds 7 of the 8 requests"), "{error}");
}

#[test]
fn what_is_wrong_with_a_log_is_said() {
    let whole = String::from_utf8(log(&[vec![(1_000, 3)]])).unwrap();
    let (head, encoded) = whole.split_once("HISTFAAA").unwrap();
    let encoded = encoded.lines().next().unwrap();
    // A valid stream in which the histogram claims a payload of 4 GB.
    let huge = {
        let mut plain = Vec::new();
        ZlibDecoder::new(&BASE64.decode(format!("HISTFAAA{encoded}")).unwrap()[8..])
            .read_to_end(&mut plain)
            .unwrap();
        plain[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        let mut packed = vec![0; COMPRESSED_HEADER];
        flate2::read::ZlibEncoder::new(plain.as_slice(), flate2::Compression::fast())
            .read_to_end(&mut packed)
            .unwrap();
        BASE64.encode(packed)
    };
    for (text, line, expected) in [
        (String::new(), 1, "ends early"),
        ("{\"schema_version\":1}\n".to_owned(), 1, "no line of an interval log"),
        (whole.replace("version 1.3", "version 2.0"), 5, "no version of the format"),
        (format!("{head}HISTF?AA\n"), 5, "not Base64"),
        (format!("{head}HISTFAAA\n"), 5, "ends early"),
        (
            format!("{head}HISTFAAA{}\n", &encoded[..encoded.len() / 2 / 4 * 4]),
            5,
            "not a compressed histogram",
        ),
        (format!("{head}{huge}\n"), 5, "not a histogram of the length"),
        (format!("{whole}Tag=x,1.000\n"), 7, "no line of an interval log"),
        (format!("{whole}#{}\n", "x".repeat(2 << 20)), 7, "too long"),
    ] {
        match merge(text.as_bytes()) {
            Err(MergeError::Damaged { line: at, what }) => {
                assert!(at == line && what.contains(expected), "{at}: {what}, expected {line}: {expected}");
            }
            other => panic!("{other:?}, expected {expected}"),
        }
    }
}

proptest! {
    // Each case fills and packs histograms of 140 KB.
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn merged_intervals_equal_the_whole(
        seconds in prop::collection::vec(prop::collection::vec((0u64..60_000_000, 1u64..50), 0..30), 1..8),
    ) {
        let merged = merge(log(&seconds).as_slice()).unwrap().unwrap();
        let samples: Vec<_> = seconds.concat();
        prop_assert_eq!(&merged, &histogram(&samples));
        // Against an exact sort.
        let mut sorted: Vec<u64> =
            samples.iter().flat_map(|(value, count)| std::iter::repeat_n(*value, *count as usize)).collect();
        sorted.sort_unstable();
        prop_assert_eq!(merged.len(), sorted.len() as u64);
        for quantile in [0.5, 0.95, 0.99, 1.0] {
            let rank = ((quantile * sorted.len() as f64).ceil() as usize).max(1);
            if let Some(exact) = sorted.get(rank - 1) {
                let found = merged.value_at_quantile(quantile);
                prop_assert!(found.abs_diff(*exact) <= exact / 1000, "{}: {} for {}", quantile, found, exact);
            }
        }
    }

    #[test]
    fn no_damage_makes_it_panic(place in 0usize..10_000, byte in any::<u8>()) {
        let mut log = log(&[vec![(1_000, 3), (2_000, 1)], vec![(5, 1)]]);
        let place = place % log.len();
        log[place] = byte;
        if let Ok(Some(merged)) = merge(log.as_slice()) {
            prop_assert!(merged.len() < 1 << 40);
        }
    }
}
