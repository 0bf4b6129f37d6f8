//! Figures for people: few digits, the fitting unit, no trailing zeros.

/// Milliseconds as `850µs`, `73.39ms`, `1.2s`, `2m05s`.
pub(super) fn millis(ms: f64) -> String {
    match ms {
        _ if ms == 0.0 => "0s".to_owned(),
        _ if ms.abs() < 1.0 => format!("{}µs", decimal(ms * 1000.0)),
        _ if ms.abs() < 1000.0 => format!("{}ms", decimal(ms)),
        _ if ms.abs() < 60_000.0 => format!("{}s", decimal(ms / 1000.0)),
        _ => {
            let seconds = (ms / 1000.0).round();
            format!("{}m{:02}s", (seconds / 60.0).trunc(), seconds % 60.0)
        }
    }
}

/// Bytes as `41 MB`, decimal as k6 has them.
pub(super) fn bytes(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["B", "kB", "MB", "GB"] {
        if value.abs() < 1000.0 {
            return format!("{} {unit}", decimal(value));
        }
        value /= 1000.0;
    }
    format!("{} TB", decimal(value))
}

/// Memory as `15.6 GiB`.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub(super) fn gibibytes(bytes: u64) -> String {
    format!("{} GiB", decimal(bytes as f64 / f64::from(1_u32 << 30)))
}

/// A share as `0.21%`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

/// Up to two digits after the point.
pub(super) fn decimal(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A count as it is.
pub(super) fn count(count: u64) -> String {
    count.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_for_people() {
        for (ms, text) in [
            (0.0, "0s"),
            (0.85, "850µs"),
            (9.2, "9.2ms"),
            (73.394, "73.39ms"),
            (1200.0, "1.2s"),
            (125_000.0, "2m05s"),
            (59_999.9, "60s"),
        ] {
            assert_eq!(millis(ms), text);
        }
        assert_eq!(bytes(41_200_000.0), "41.2 MB");
        assert_eq!(bytes(999.0), "999 B");
        assert_eq!(gibibytes(16 << 30), "16 GiB");
        assert_eq!(percent(0.00216), "0.22%");
        assert_eq!(decimal(100.0), "100");
        assert_eq!(decimal(0.0), "0");
    }
}
