//! MongoDB: the answer to `serverStatus`.
//!
//! <https://www.mongodb.com/docs/manual/reference/command/serverStatus/>

use std::time::Duration;

use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{ClientOptions, Tls};

use scalekit_service::server_url::ServerUrl;

use super::MongoUrl;
use crate::host::counters::{Figure, Kind};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Looking up hosts, choosing a server, and the command itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// What the programs of MongoDB call themselves in `process`.
const PROCESSES: [&str; 2] = ["mongod", "mongos"];

/// What the server tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MongoFacts {
    pub(crate) connections_current: Option<u64>,
    /// Current and available ones.
    pub(crate) connections_max: Option<u64>,
    /// Bytes of WiredTiger's cache.
    pub(crate) cache_used: Option<u64>,
    pub(crate) cache_max: Option<u64>,
    /// Pages that threads which serve clients had to evict.
    pub(crate) cache_application_evictions: Option<u64>,
}

impl MongoFacts {
    /// Fields vary by version, and servers that only speak the protocol lack most. Such a one may say that no
    /// connection is available and mean that it does not count them: that is no limit.
    pub(super) fn parse(status: &Document) -> Self {
        let current = number(status, &["connections", "current"]);
        let process = status.get_str("process").unwrap_or_default();
        let is_mongo = PROCESSES.iter().any(|name| process.contains(name));
        let available =
            number(status, &["connections", "available"]).filter(|available| is_mongo || *available > 0);
        let cache = |name: &str| number(status, &["wiredTiger", "cache", name]);
        Self {
            connections_current: current,
            connections_max: current.zip(available).and_then(|(one, other)| one.checked_add(other)),
            cache_used: cache("bytes currently in the cache"),
            cache_max: cache("maximum bytes configured"),
            // Renamed in WiredTiger 2.9; the first counted those of changed pages only.
            cache_application_evictions: cache("pages evicted by application threads")
                .or_else(|| cache("modified pages evicted by application threads")),
        }
    }

    /// As named numbers.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let figure = |name: &str, kind, value| Figure::count(name.to_owned(), kind, value);
        vec![
            figure("mongo.connections_current", Kind::Gauge, self.connections_current),
            figure("mongo.connections_max", Kind::Gauge, self.connections_max),
            figure("mongo.cache_used_bytes", Kind::Gauge, self.cache_used),
            figure("mongo.cache_max_bytes", Kind::Gauge, self.cache_max),
            figure("mongo.cache_application_evictions", Kind::Counter, self.cache_application_evictions),
        ]
    }
}

/// A number of any of BSON's types that is not below 0.
fn number(status: &Document, path: &[&str]) -> Option<u64> {
    let (last, parts) = path.split_last()?;
    let part = parts.iter().try_fold(status, |part, name| part.get_document(name).ok())?;
    match part.get(last)? {
        Bson::Int32(value) => u64::try_from(*value).ok(),
        Bson::Int64(value) => u64::try_from(*value).ok(),
        // Exact up to 2^53, which no counter here comes near.
        Bson::Double(value) if (0.0..9e15).contains(value) => Some(*value as u64),
        _ => None,
    }
}

/// The cause in the driver's description of its whole view, which varies from one time to the next.
fn said(text: &str) -> String {
    let cause = text.split_once("Error: Kind: ").and_then(|(_, rest)| rest.split_once(", labels"));
    cause.map_or(text, |(cause, _)| cause).to_owned()
}

/// One server or replica set.
pub(super) struct MongoReader {
    at: MongoUrl,
    /// Without credentials.
    hosts: String,
    client: Option<Client>,
}

/// Understands the URL; hosts of `mongodb+srv` are looked up.
///
/// # Errors
/// A URL that is none; the driver quotes what it does not like, which may be the password.
pub(super) async fn options(url: &ServerUrl) -> Result<ClientOptions, Refused> {
    let not_found = |why: &str| Refused::NotFound(format!("the hosts of the MongoDB URL {why}"));
    match tokio::time::timeout(ANSWER_TIMEOUT, ClientOptions::parse(url.expose())).await {
        Ok(Ok(options)) => Ok(options),
        Err(_) => Err(not_found("could not be looked up in time")),
        Ok(Err(error)) if matches!(*error.kind, ErrorKind::DnsResolve { .. }) => {
            Err(not_found("cannot be looked up"))
        }
        Ok(Err(error)) => {
            let detail = if url.expose().contains('@') { String::new() } else { format!(": {}", error.kind) };
            Err(Refused::Invalid(format!(
                "cannot use the MongoDB URL (expected mongodb://[user:password@]HOST:PORT/...){detail}"
            )))
        }
    }
}

/// A URL that gave no hosts to ask, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is none.
    Invalid(String),
    /// Its hosts are not known now; they may be later.
    NotFound(String),
}

impl MongoReader {
    pub(super) fn new(at: &MongoUrl) -> Self {
        Self { at: at.clone(), hosts: String::new(), client: None }
    }

    /// Asks; in at most a few seconds.
    ///
    /// # Errors
    /// Why there is no answer, without the password.
    pub(super) async fn read(&mut self) -> Result<MongoFacts, String> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let mut options = options(&self.at.url).await.map_err(|refused| match refused {
                    Refused::Invalid(why) | Refused::NotFound(why) => why,
                })?;
                if let (Some(authorities), Some(Tls::Enabled(tls))) = (&self.at.authorities, &mut options.tls)
                {
                    tls.ca_file_path.get_or_insert_with(|| authorities.file().to_owned());
                }
                let hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
                self.hosts = hosts.join(",");
                options.app_name = Some("scalekit".to_owned());
                options.max_pool_size = Some(1);
                options.connect_timeout = Some(CONNECT_TIMEOUT);
                options.server_selection_timeout = Some(ANSWER_TIMEOUT);
                let client = Client::with_options(options).map_err(|error| self.failed(&error))?;
                self.client.insert(client).clone()
            }
        };
        // The largest parts of the answer, of which nothing is needed.
        let command =
            doc! { "serverStatus": 1, "metrics": 0, "locks": 0, "repl": 0, "tcmalloc": 0, "transactions": 0 };
        let admin = client.database("admin");
        match tokio::time::timeout(ANSWER_TIMEOUT, admin.run_command(command)).await {
            Ok(Ok(status)) => Ok(MongoFacts::parse(&status)),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => {
                Err(format!("MongoDB at {}: no answer within {} s", self.hosts, ANSWER_TIMEOUT.as_secs()))
            }
        }
    }

    fn failed(&self, error: &Error) -> String {
        format!("MongoDB at {}: {}", self.hosts, self.at.url.hide_in(&said(&error.kind.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_server_is_read() {
        let v3_2 = doc! {
            "process": "mongod", "version": "3.2.22",
            "connections": { "current": 3, "available": 816, "totalCreated": 5_i64 },
            "wiredTiger": { "cache": {
                "bytes currently in the cache": 1000, "maximum bytes configured": 1_i64 << 33,
                "modified pages evicted by application threads": 2,
            } },
        };
        let v8_0 = doc! {
            "process": "mongod", "version": "8.0.4",
            "connections": { "current": 7, "available": 51_193, "active": 2, "exhaustIsMaster": 0 },
            "wiredTiger": { "cache": {
                "bytes currently in the cache": 5e9, "maximum bytes configured": 1_i64 << 33,
                "pages evicted by application threads": 11_i64,
            } },
        };
        let old = MongoFacts::parse(&v3_2);
        assert_eq!((old.connections_current, old.connections_max), (Some(3), Some(819)));
        assert_eq!((old.cache_used, old.cache_application_evictions), (Some(1000), Some(2)));
        let new = MongoFacts::parse(&v8_0);
        let expected = MongoFacts {
            connections_current: Some(7),
            connections_max: Some(51_200),
            cache_used: Some(5_000_000_000),
            cache_max: Some(1 << 33),
            cache_application_evictions: Some(11),
        };
        assert_eq!(new, expected);
    }

    #[test]
    fn the_cause_is_told_without_what_is_around_it() {
        let text = "Server selection timeout: No available servers. Topology: { Type: Unknown, Servers: [ { Address: \
                    h:1, Type: Unknown, Error: Kind: I/O error: Connection refused, labels: {\"x\"}, source: None } ] }";
        assert_eq!(said(text), "I/O error: Connection refused");
        assert_eq!(said("Command failed: not authorized"), "Command failed: not authorized");
    }

    #[test]
    fn what_a_server_lacks_is_unknown() {
        let other = doc! { "process": "other", "connections": { "current": 3, "available": 0 }, "ok": 1.0 };
        let found = MongoFacts::parse(&other);
        assert_eq!((found.connections_current, found.connections_max), (Some(3), None));
        assert_eq!((found.cache_used, found.cache_max), (None, None));
        let full = doc! { "process": "mongod", "connections": { "current": 819, "available": 0 } };
        assert_eq!(MongoFacts::parse(&full).connections_max, Some(819));
        assert_eq!(MongoFacts::parse(&doc! {}), MongoFacts::default());
        for odd in [doc! { "connections": 5 }, doc! { "connections": { "current": "many" } }] {
            assert_eq!(MongoFacts::parse(&odd), MongoFacts::default());
        }
        assert!(MongoFacts::default().figures().iter().all(|figure| figure.value.is_none()));
    }

    proptest! {
        #[test]
        fn any_number_is_read_without_a_panic(value in any::<f64>(), count in any::<i64>()) {
            let status = doc! { "connections": { "current": value, "available": count }, "process": "mongod" };
            let found = MongoFacts::parse(&status);
            prop_assert!(found.connections_max >= found.connections_current || found.connections_max.is_none());
        }
    }
}
