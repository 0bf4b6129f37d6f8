//! One look at Redis and MongoDB, for who has no runtime.

use std::thread;

use scalekit_service::server_url::ServerUrl;

use super::mongo::{self, MongoFacts, MongoReader, Refused};
use super::redis::{RedisFacts, RedisReader};
use super::{MongoUrl, RedisUrl, Watch};

/// One server and what it said, or why it said nothing.
#[derive(Clone, Debug)]
pub(crate) struct Source<T> {
    /// What it is for, where there are several.
    pub(crate) name: Option<&'static str>,
    pub(crate) facts: Result<T, String>,
}

/// All that were asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readings {
    pub(crate) redis: Vec<Source<RedisFacts>>,
    pub(crate) mongo: Option<Source<MongoFacts>>,
}

/// Asks each server once.
pub(crate) fn read(redis: &[RedisUrl], mongo: Option<&MongoUrl>) -> Readings {
    let asked = blocking(async {
        let mut readings = Readings::default();
        for url in redis {
            let facts = match RedisReader::new(url) {
                Ok(mut reader) => reader.read().await,
                Err(error) => Err(error),
            };
            readings.redis.push(Source { name: url.name, facts });
        }
        if let Some(url) = mongo {
            readings.mongo = Some(Source { name: None, facts: MongoReader::new(url).read().await });
        }
        readings
    });
    asked.unwrap_or_else(|problem| Readings {
        redis: redis.iter().map(|url| Source { name: url.name, facts: Err(problem.clone()) }).collect(),
        mongo: mongo.map(|_| Source { name: None, facts: Err(problem.clone()) }),
    })
}

/// Whether this is a URL of MongoDB. That its hosts cannot be looked up now says nothing against it.
///
/// # Errors
/// What is wrong with it; its credentials are not repeated.
pub(crate) fn check_mongo_url(url: &ServerUrl) -> Result<(), String> {
    blocking(async {
        match mongo::options(url).await {
            Err(Refused::NotFound(_)) | Ok(_) => Ok(()),
            Err(Refused::Invalid(problem)) => Err(problem),
        }
    })?
}

/// Runs on a thread of its own, so that it can be called from any.
fn blocking<T: Send>(work: impl Future<Output = T> + Send) -> Result<T, String> {
    let failed = || "the thread that asks the servers ended early".to_owned();
    thread::scope(|scope| {
        let thread = scope.spawn(|| Ok(Watch::runtime()?.block_on(work)));
        thread.join().map_err(|_| failed())?
    })
}
