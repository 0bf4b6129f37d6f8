//! Reads the counters of Redis and MongoDB once a second, on a thread of its own, into a series like the host's.

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::mongo::{MongoFacts, MongoReader};
use super::redis::{RedisFacts, RedisReader};
use super::{MongoUrl, RedisUrl};
use crate::host::counters::{Figure, Series, processor_time};

const INTERVAL: Duration = Duration::from_secs(1);
/// Samples kept: half an hour of seconds; a longer run has fewer a minute.
const MAX_SAMPLES: usize = 1800;
/// The first sample of servers that do not answer takes no longer than this.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);

/// Samples until it is stopped. Dropping it stops it too.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: CancellationToken,
    thread: Option<JoinHandle<Series>>,
}

impl Watch {
    /// Returns when the first sample, the state before, is taken. Servers that do not answer are asked again each
    /// second; why they did not is in the series' problems.
    ///
    /// Gauges: `redis.connected_clients`, `redis.max_clients`, `redis.used_memory`, `redis.max_memory` (bytes; none
    /// without a limit), `mongo.connections_current`, `mongo.connections_max`, `mongo.cache_used_bytes`,
    /// `mongo.cache_max_bytes`. Counters: `redis.rejected_connections`, `redis.aof_delayed_fsync`,
    /// `redis.evicted_keys`, `mongo.cache_application_evictions`. Of several Redis each has its name in brackets.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(redis: Vec<RedisUrl>, mongo: Option<MongoUrl>) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (first, taken) = mpsc::sync_channel(1);
        let thread =
            thread::Builder::new().name("backend-counters".to_owned()).spawn(
                move || match Self::runtime() {
                    Ok(runtime) => runtime.block_on(watch(&redis, mongo.as_ref(), &first, &stopped)),
                    Err(problem) => Series { problems: vec![problem], ..Series::default() },
                },
            )?;
        // A thread that is gone will not take any.
        let _ = taken.recv_timeout(FIRST_TIMEOUT);
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Takes a last sample and ends the thread: a few seconds at most, where a server hangs.
    pub(crate) fn stop(mut self) -> Series {
        self.join()
    }

    fn join(&mut self) -> Series {
        self.stop.cancel();
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }

    /// A runtime of the calling thread alone.
    pub(super) fn runtime() -> Result<Runtime, String> {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| format!("cannot start a runtime to ask Redis and MongoDB: {error}"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.join();
    }
}

async fn watch(
    redis: &[RedisUrl],
    mongo: Option<&MongoUrl>,
    first: &mpsc::SyncSender<()>,
    stopped: &CancellationToken,
) -> Series {
    let (started, own_time) = (Instant::now(), processor_time());
    let mut series = Series::default();
    let mut readers = Readers::new(redis, mongo, &mut series);
    let mut due = started;
    loop {
        let is_last = stopped.is_cancelled();
        let at = started.elapsed();
        let figures = readers.figures(&mut series).await;
        series.sample(at, figures, MAX_SAMPLES);
        // Nobody waits for those after the first.
        let _ = first.try_send(());
        if is_last {
            break;
        }
        // Seconds that were missed, while a server did not answer, are not made up for.
        due = (due + INTERVAL).max(Instant::now());
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            () = stopped.cancelled() => {}
        }
    }
    series.cost_ms = processor_time().saturating_sub(own_time).as_secs_f64() * 1000.0;
    series.duration_ms = started.elapsed().as_secs_f64() * 1000.0;
    series
}

struct Readers {
    redis: Vec<RedisReader>,
    mongo: Option<MongoReader>,
}

impl Readers {
    fn new(redis: &[RedisUrl], mongo: Option<&MongoUrl>, series: &mut Series) -> Self {
        let mut readers = Self { redis: Vec::new(), mongo: mongo.map(MongoReader::new) };
        for url in redis {
            match RedisReader::new(url) {
                Ok(reader) => readers.redis.push(reader),
                Err(problem) => series.problem(problem),
            }
        }
        readers
    }

    /// All numbers; those of a server that did not answer are unknown.
    async fn figures(&mut self, series: &mut Series) -> Vec<Figure> {
        let mut figures = Vec::new();
        for reader in &mut self.redis {
            let facts = reader.read().await.unwrap_or_else(|problem| {
                series.problem(problem);
                RedisFacts::default()
            });
            figures.extend(facts.figures(reader.name));
        }
        if let Some(reader) = &mut self.mongo {
            let facts = reader.read().await.unwrap_or_else(|problem| {
                series.problem(problem);
                MongoFacts::default()
            });
            figures.extend(facts.figures());
        }
        figures
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
