//! `.hlog`: HdrHistogram's interval log, written second by second while a run lasts. The form is that of Java's
//! `HistogramLogWriter`, version 1.3, with tags and compressed V2 histograms.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::serialization::interval_log::Tag;
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializeError, V2DeflateSerializer};
use hdrhistogram::{Counter, Histogram};

use super::time::java_date;

/// Writes one log. Whatever the length of the log, it holds one encoded interval, less than 1 MB.
pub(crate) struct IntervalLog<W> {
    output: W,
    serializer: V2DeflateSerializer,
    encoded: Vec<u8>,
    text: String,
}

impl<W: Write> IntervalLog<W> {
    /// Begins a log whose intervals count from `start`.
    pub(crate) fn begin(mut output: W, start: SystemTime) -> io::Result<Self> {
        let seconds = start.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        writeln!(output, "#[Logged with scalekit {}]", env!("CARGO_PKG_VERSION"))?;
        writeln!(output, "#[Histogram log format version 1.3]")?;
        writeln!(output, "#[StartTime: {seconds:.3} (seconds since epoch), {}]", java_date(start))?;
        writeln!(
            output,
            r#""StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram""#
        )?;
        Ok(Self { output, serializer: V2DeflateSerializer::new(), encoded: Vec::new(), text: String::new() })
    }

    /// Adds the interval of `length` that began `at` after the log's start: a histogram of µs, its maximum in ms.
    pub(crate) fn add<T: Counter>(
        &mut self,
        tag: Tag<'_>,
        at: Duration,
        length: Duration,
        histogram: &Histogram<T>,
    ) -> io::Result<()> {
        self.encoded.clear();
        self.serializer.serialize(histogram, &mut self.encoded).map_err(|error| match error {
            V2DeflateSerializeError::IoError(error) => error,
            error @ V2DeflateSerializeError::InternalSerializationError(_) => io::Error::other(error),
        })?;
        self.text.clear();
        BASE64.encode_string(&self.encoded, &mut self.text);
        let (at, length) = (at.as_secs_f64(), length.as_secs_f64());
        let max = super::distribution::ms(histogram.max());
        writeln!(self.output, "Tag={},{at:.3},{length:.3},{max:.3},{}", tag.as_str(), self.text)
    }

    pub(crate) fn into_inner(self) -> W {
        self.output
    }
}
