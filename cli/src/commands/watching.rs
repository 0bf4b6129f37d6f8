//! Samples the host of the service while the load lasts, and says what its counters do.

use std::cmp::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::subject::Subject;
use crate::backends::{MongoUrl, RedisUrl, Watch};
use crate::deploy::Deployment;
use crate::host::counters::{Column, Kind, Sampler, Series};
use crate::host::findings::{self, Attribution, DiskCap, Latency, attribute};
use crate::load::Recording;
use crate::report::{
    Chosen, CounterDelta, CounterKind, CounterSeverity, Counters, Evidence, Finding, LatencyKnee, Report,
    SampledProcess, UnknownResource, rfc3339,
};
use crate::root::Root;

/// Redis and MongoDB behind a service.
#[derive(Clone, Default)]
pub(super) struct Servers {
    redis: Vec<RedisUrl>,
    mongo: Option<MongoUrl>,
}

impl Servers {
    /// Those of a deployment.
    pub(super) fn deployed(deployment: &Deployment) -> Self {
        let (journal, cache) = (deployment.redis_url.as_ref(), deployment.cache_url.as_ref());
        let authorities = deployment.authorities();
        // The service was started with these URLs, and so they are some.
        let redis = RedisUrl::of(journal, cache, authorities.as_ref()).unwrap_or_default();
        let mongo = deployment.mongo_url.clone().map(|url| MongoUrl { url, authorities });
        Self { redis, mongo }
    }
}

/// Sampling that goes on.
pub(super) struct Watching {
    sampler: Sampler,
    /// Of Redis and MongoDB.
    backends: Option<Watch>,
    since: Instant,
    process: SampledProcess,
}

/// What was sampled.
pub(super) struct Watched {
    series: Series,
    since: Instant,
    process: SampledProcess,
}

impl Watching {
    /// Returns when the state before the load is known. `None`, with a warning, if it cannot be. `makes_load`: this
    /// process does, and not agents.
    pub(super) async fn start(subject: Subject, servers: Servers, makes_load: bool) -> Option<Self> {
        // It may take a moment to list all sockets, and longer to ask a server that does not answer.
        tokio::task::spawn_blocking(move || Self::started(subject, servers, makes_load)).await.ok()?
    }

    fn started(subject: Subject, servers: Servers, makes_load: bool) -> Option<Self> {
        let Subject { pid, chosen, why } = subject;
        let name = Root::host().known(format!("/proc/{pid}/comm")).map(|name| name.trim().to_owned());
        let since = Instant::now();
        let own = (makes_load || chosen == Chosen::Generator).then(std::process::id);
        let Servers { redis, mongo } = servers;
        let has_servers = !redis.is_empty() || mongo.is_some();
        let process = SampledProcess { pid, name, chosen, why };
        let started = Sampler::start_beside(Root::host(), pid, own).and_then(|sampler| {
            let backends = has_servers.then(|| Watch::start(redis, mongo)).transpose()?;
            Ok(Self { sampler, backends, since, process })
        });
        started.inspect_err(|error| tracing::warn!(%error, "the counters of the host cannot be sampled")).ok()
    }

    /// Takes the last sample.
    pub(super) async fn finish(self) -> Option<Watched> {
        let Self { sampler, backends, since, process } = self;
        let stop = move || {
            let mut series = sampler.stop();
            if let Some(backends) = backends {
                series.merge(backends.stop());
            }
            series
        };
        let series = tokio::task::spawn_blocking(stop).await;
        series.ok().map(|series| Watched { series, since, process })
    }
}

impl Watched {
    /// Puts the counters, and what they say, into the report of a load that began then.
    pub(super) fn report(self, report: &mut Report, recording: &Recording, began: Instant) {
        let Self { mut series, since, process } = self;
        let began = began.saturating_duration_since(since);
        series.merge(own_failures(recording, &series, began));
        let measured_from = began + recording.warmup;
        let measured_from_ms = i64::try_from(measured_from.as_millis()).unwrap_or(i64::MAX);
        let latency: Vec<Latency> = report
            .series
            .iter()
            .map(|second| Latency { at_s: second.at_s, p99_ms: second.total_ms_p99 })
            .collect();
        let disk_cap: Option<&DiskCap> = None;
        let found =
            attribute(findings::Evidence { series: &series, latency: &latency, measured_from_ms, disk_cap });
        report.counters = Some(counters(process, measured_from_ms, &series, &found));
        // What is in the way comes before what was noticed.
        report.findings.splice(..0, found.findings.into_iter().map(finding));
    }
}

/// What the generator could not even try, of a load that began so long after the first sample.
fn own_failures(recording: &Recording, of: &Series, began: Duration) -> Series {
    let column = |count, since: Option<Duration>| Column {
        kind: Kind::Counter,
        values: rising_since(&of.at_ms, since.map(|since| began + since), count),
    };
    let counters = [
        ("generator.no_free_port", recording.no_free_port, recording.no_free_port_since),
        ("generator.too_many_files", recording.too_many_files, recording.too_many_files_since),
    ];
    Series {
        started_unix_ms: of.started_unix_ms,
        at_ms: of.at_ms.clone(),
        counters: counters.map(|(name, count, since)| (name.to_owned(), column(count, since))).into(),
        ..Series::default()
    }
}

/// A count of which its end and its first time are known: none before that, at least one then, all of them in the last
/// sample.
fn rising_since(at_ms: &[u64], first: Option<Duration>, count: u64) -> Vec<Option<f64>> {
    let Some(last) = at_ms.len().checked_sub(1) else { return Vec::new() };
    let is_there = |at_ms: &u64| first.is_some_and(|first| Duration::from_millis(*at_ms) >= first);
    // The first sample is from before the load.
    let first = at_ms.iter().position(is_there).unwrap_or(last).max(1);
    let value = |place: usize| {
        if place == last {
            return Some(count as f64);
        }
        match place.cmp(&first) {
            Ordering::Less => Some(0.0),
            Ordering::Equal => Some(1.0),
            Ordering::Greater => None,
        }
    };
    (0..=last).map(value).collect()
}

fn counters(
    process: SampledProcess,
    measured_from_ms: i64,
    series: &Series,
    found: &Attribution,
) -> Counters {
    let is_told = |name: &str, column: &Column| {
        let mut known = column.values.iter().flatten();
        let first = known.next();
        known.any(|value| Some(value) != first)
            || found.findings.iter().any(|finding| finding.counter == name)
    };
    let kind = |kind| match kind {
        Kind::Counter => CounterKind::Counter,
        Kind::Gauge => CounterKind::Gauge,
    };
    let deltas = series.deltas().into_iter().filter(|(_, delta)| delta.before.is_some());
    Counters {
        process,
        started_at: rfc3339(
            UNIX_EPOCH
                .checked_add(Duration::from_millis(series.started_unix_ms))
                .unwrap_or(SystemTime::UNIX_EPOCH),
        ),
        measured_from_ms,
        at_ms: series.at_ms.clone(),
        deltas: deltas
            .map(|(name, delta)| {
                (name, CounterDelta { kind: kind(delta.kind), before: delta.before, after: delta.after })
            })
            .collect(),
        series: series
            .counters
            .iter()
            .filter(|(name, column)| is_told(name, column))
            .map(|(name, column)| (name.clone(), column.values.clone()))
            .collect(),
        cost_share: series.cost_share(),
        left_out: series.left_out,
        knee: found.knee.map(|knee| LatencyKnee {
            at_s: knee.at_s,
            baseline_ms: knee.baseline_ms,
            p99_ms: knee.p99_ms,
        }),
        unknown: found
            .unknown
            .iter()
            .map(|unknown| UnknownResource {
                id: unknown.resource.id(),
                resource: unknown.resource.name().to_owned(),
                counters: unknown.counters.clone(),
            })
            .collect(),
        problems: series.problems.clone(),
    }
}

fn finding(found: findings::Finding) -> Finding {
    Finding {
        id: found.resource.id(),
        message: found.message,
        advice: found.advice,
        evidence: Some(Evidence {
            severity: match found.severity {
                findings::Severity::Error => CounterSeverity::Error,
                findings::Severity::Saturation => CounterSeverity::Saturation,
                findings::Severity::Utilisation => CounterSeverity::Utilisation,
            },
            counter: found.counter,
            before: found.before,
            after: found.after,
            limit: found.limit,
            at_s: found.at_s,
            before_knee: found.before_knee,
            tune: found.tune,
            deploy: found.deploy,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_rises_from_its_first_time_on() {
        let at_ms = [0, 1000, 2000, 3000];
        for (first_ms, count, expected) in [
            (None, 0, [Some(0.0), Some(0.0), Some(0.0), Some(0.0)]),
            (Some(1500), 9, [Some(0.0), Some(0.0), Some(1.0), Some(9.0)]),
            (Some(0), 9, [Some(0.0), Some(1.0), None, Some(9.0)]),
            (Some(2500), 9, [Some(0.0), Some(0.0), Some(0.0), Some(9.0)]),
            // Within the last moment.
            (Some(9000), 1, [Some(0.0), Some(0.0), Some(0.0), Some(1.0)]),
        ] {
            assert_eq!(
                rising_since(&at_ms, first_ms.map(Duration::from_millis), count),
                expected,
                "{first_ms:?}"
            );
        }
        assert_eq!(rising_since(&[], None, 0), []);
    }

    #[test]
    fn only_what_changed_or_was_found_is_in_the_series() {
        let column = |values: &[f64]| values.iter().map(|value| Some(*value)).collect::<Vec<_>>();
        let series = Series::of(
            3,
            &[
                ("files.max", Kind::Gauge, column(&[9.0, 9.0, 9.0])),
                ("files.open", Kind::Gauge, column(&[9.0, 9.0, 9.0])),
                ("cpu.total", Kind::Counter, column(&[1.0, 2.0, 3.0])),
                ("tcp.prunes", Kind::Counter, vec![None; 3]),
                ("sockets.tcp", Kind::Gauge, vec![None, Some(4.0), Some(4.0)]),
            ],
        );
        let latency = [];
        let evidence =
            findings::Evidence { series: &series, latency: &latency, measured_from_ms: 0, disk_cap: None };
        let found = attribute(evidence);
        let counters = counters(SampledProcess::default(), 0, &series, &found);
        assert_eq!(counters.series.keys().collect::<Vec<_>>(), ["cpu.total", "files.open"]);
        assert_eq!(
            counters.deltas.keys().collect::<Vec<_>>(),
            ["cpu.total", "files.max", "files.open", "sockets.tcp"]
        );
        assert!(
            counters.unknown.iter().any(|unknown| unknown.id == "accept-queue"),
            "{:?}",
            counters.unknown
        );
        let finding = finding(found.findings[0].clone());
        assert_eq!(
            (finding.id.as_str(), finding.evidence.unwrap().counter.as_str()),
            ("open-files", "files.open")
        );
    }
}
