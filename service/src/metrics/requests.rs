//! Requests by status, and their times by operation and class of status. All series are made when the router is
//! built, so that counting a request is an index and a few atomic additions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;

use super::histogram::{Histogram, SECONDS};

/// The statuses that HTTP has.
const STATUSES: std::ops::Range<u16> = 100..600;
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// The labels of what no route took.
const UNMATCHED: &str = "unmatched";

/// A method of a route, as the router knows it.
#[derive(Debug)]
struct Operation {
    method: String,
    route: String,
    /// By [`CLASSES`].
    times: [Histogram; CLASSES.len()],
}

impl Operation {
    fn new(method: &str, route: &str) -> Self {
        let times = std::array::from_fn(|_| Histogram::new(&SECONDS));
        Self { method: method.to_owned(), route: route.to_owned(), times }
    }
}

/// See the module.
pub struct Requests {
    by_status: Box<[AtomicU64]>,
    operations: OnceLock<Box<[Operation]>>,
    unmatched: Operation,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.by_status()).finish()
    }
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            by_status: STATUSES.map(|_| AtomicU64::new(0)).collect(),
            operations: OnceLock::new(),
            unmatched: Operation::new(UNMATCHED, UNMATCHED),
        }
    }
}

impl Requests {
    /// Names the operations (method and route) that are told apart. Once: a second call changes nothing.
    pub fn distinguish<'a>(&self, operations: impl Iterator<Item = (&'a str, &'a str)>) {
        self.operations
            .get_or_init(|| operations.map(|(method, route)| Operation::new(method, route)).collect());
    }

    /// Counts one that was answered. `route` is what the router matched, if it matched.
    pub fn answered(&self, method: &str, route: Option<&str>, status: u16, took: Duration) {
        if let Some(count) =
            status.checked_sub(STATUSES.start).and_then(|at| self.by_status.get(usize::from(at)))
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
        // A dozen short comparisons, most of which end at the length, cost less than a hash.
        let known = route.and_then(|route| {
            let operations = self.operations.get()?;
            operations.iter().find(|known| known.method == method && known.route == route)
        });
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        known.unwrap_or(&self.unmatched).times[class].observe_time(took);
    }

    /// As far as there were any.
    #[must_use]
    pub fn by_status(&self) -> BTreeMap<u16, u64> {
        let counts = self.by_status.iter().map(|count| count.load(Ordering::Relaxed));
        STATUSES.zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut counters = encoder.encode_descriptor(
            "http_requests",
            "Requests answered, by `status`.",
            None,
            MetricType::Counter,
        )?;
        for (status, count) in self.by_status() {
            ConstCounter::new(count).encode(counters.encode_family(&[("status", status)])?)?;
        }
        let mut histograms = encoder.encode_descriptor(
            "http_request_duration",
            "Time to answer a request, by `method`, `route` (its template) and class of `status`; without series that never counted.",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        let operations = self.operations.get().into_iter().flatten().chain([&self.unmatched]);
        for Operation { method, route, times } in operations {
            for (class, times) in CLASSES.iter().zip(times).filter(|(_, times)| times.count() > 0) {
                let labels = [("method", method.as_str()), ("route", route.as_str()), ("status", *class)];
                times.encode(histograms.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_for_its_operation_and_what_nobody_knows_for_none() {
        let requests = Requests::default();
        requests.distinguish([("GET", "/a"), ("PUT", "/a")].into_iter());
        let took = Duration::from_millis(1);
        requests.answered("PUT", Some("/a"), 202, took);
        requests.answered("PUT", Some("/a"), 503, took);
        // Anything may come as a method, and must not become a series.
        for (method, route) in [("BREW", Some("/a")), ("GET", None), ("GET", Some("/b"))] {
            requests.answered(method, route, 404, took);
        }
        requests.answered("GET", None, 999, took);
        assert_eq!(requests.by_status(), BTreeMap::from([(202, 1), (404, 3), (503, 1)]));
        let known = requests.operations.get().unwrap();
        let counts = |operation: &Operation| operation.times.each_ref().map(Histogram::count);
        assert_eq!(counts(&known[0]), [0; 5]);
        assert_eq!(counts(&known[1]), [0, 1, 0, 0, 1]);
        assert_eq!(counts(&requests.unmatched), [0, 0, 0, 3, 1]);
    }
}
