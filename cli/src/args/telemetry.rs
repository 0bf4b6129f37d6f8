//! What a process of the service tells of itself: its log and its traces.

use clap::{Args, ValueEnum};

use scalekit_service::telemetry::DEFAULT_RATIO;

#[derive(Clone, Debug, Args)]
pub(crate) struct TelemetryArgs {
    /// Lines of the log, on stderr
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Send traces to this OpenTelemetry collector, such as http://127.0.0.1:4318; without the flag
    /// OTEL_EXPORTER_OTLP_ENDPOINT is asked, then the profile
    #[arg(long, value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
    /// Of the requests that come without a `traceparent`, the part that is traced (0 to 1)
    #[arg(long, value_name = "RATIO", default_value_t = DEFAULT_RATIO, value_parser = ratio)]
    pub(crate) trace_ratio: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    /// One object a line
    Json,
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "a number from 0 to 1, such as 0.01".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_between_nothing_and_all() {
        for (text, expected) in [("0", Some(0.0)), ("0.01", Some(0.01)), ("1", Some(1.0))] {
            assert_eq!(ratio(text).ok(), expected, "{text}");
        }
        for text in ["-0.1", "1.1", "NaN", "inf", "", "1%"] {
            assert!(ratio(text).is_err(), "{text}");
        }
    }
}
