//! The domain types: a profile resolved, complete and within bounds.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{self, Deserializer, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::agents::{self, AgentAddress};
use super::steps::{StageText, StatusRange};
use super::units::{Rate, Size, Span};

/// One situation, from deployment to verdict. Serialized, it has the form of a profile file, with passwords
/// blanked out, so that it may go into a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Profile {
    /// Built-in name, or the file's name without its ending.
    #[serde(skip)]
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) deploy: Deploy,
    pub(crate) load: Load,
    #[serde(serialize_with = "criteria")]
    pub(crate) criteria: Vec<CriterionSpec>,
    /// What it was put together from, the top layer first.
    #[serde(skip)]
    pub(crate) sources: Vec<String>,
    /// What the reader should know about how it was resolved, such as criteria that fell away.
    #[serde(skip)]
    pub(crate) notes: Vec<String>,
}

/// One threshold, not yet understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CriterionSpec {
    pub(crate) metric: String,
    pub(crate) expression: String,
    /// End the run when it fails.
    pub(crate) abort_on_fail: bool,
    /// How long into the run it is not yet evaluated for that.
    pub(crate) delay_abort_eval: Duration,
    /// `file:line:column`, or the flag it came from.
    pub(crate) location: String,
}

/// Where the service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum DeployTarget {
    /// Processes on this host.
    Local,
}

/// Journal, cache and database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum Backend {
    /// In the process, on the local disk.
    Embedded,
    /// Redis Streams for the journal, Redis for the cache, MongoDB for the documents.
    RedisMongo,
}

/// What an acknowledged write has survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum Durability {
    /// It is on the device: survives a power cut.
    Fsync,
    /// It is with the operating system: survives the process.
    Os,
}

/// What to deploy, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Deploy {
    pub(crate) target: DeployTarget,
    pub(crate) backend: Backend,
    /// Port 0 takes any free one.
    pub(crate) listen: SocketAddr,
    #[serde(serialize_with = "url_without_password")]
    pub(crate) redis_url: Option<String>,
    #[serde(serialize_with = "url_without_password")]
    pub(crate) cache_url: Option<String>,
    #[serde(serialize_with = "url_without_password")]
    pub(crate) mongo_url: Option<String>,
    pub(crate) mongo_database: String,
    pub(crate) durability: Durability,
    /// Most database operations a second.
    #[serde(rename = "database_ops", serialize_with = "rate")]
    pub(crate) database_ops_per_s: u32,
    /// `None`: one for each core.
    pub(crate) api_threads: Option<u32>,
    pub(crate) worker: Worker,
    pub(crate) limits: Limits,
    #[serde(serialize_with = "span")]
    pub(crate) ready_timeout: Duration,
    #[serde(serialize_with = "span")]
    pub(crate) drain_timeout: Duration,
}

/// How the worker batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Worker {
    pub(crate) batch_max_writes: u32,
    #[serde(serialize_with = "size")]
    pub(crate) batch_max_bytes: u64,
    /// How long an incomplete batch waits for more.
    #[serde(serialize_with = "span")]
    pub(crate) linger: Duration,
}

/// What the API refuses, so that it stays up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Limits {
    #[serde(serialize_with = "size")]
    pub(crate) max_body_bytes: u64,
    #[serde(serialize_with = "span")]
    pub(crate) request_timeout: Duration,
    pub(crate) max_connections: u32,
    /// Connections that may wait to be accepted.
    pub(crate) backlog: u32,
    pub(crate) max_backlog_entries: u64,
    #[serde(serialize_with = "size")]
    pub(crate) max_backlog_bytes: u64,
}

/// What a user does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(crate) enum ScenarioKind {
    /// Transactions of the bundled service.
    Transactions,
    /// One request over and over.
    Request,
    /// Several requests, one after the other, over and over.
    Steps,
}

/// The protocol that users speak. In YAML also as the numbers that `1.1` and `2` are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    /// What the server picks over TLS, HTTP/1.1 without.
    Auto,
    Http1,
    Http2,
}

impl HttpVersion {
    pub(crate) const EXPECTED: &str = "auto, 1.1 or 2";

    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "1.1" => Some(Self::Http1),
            "2" => Some(Self::Http2),
            _ => None,
        }
    }
}

impl Serialize for HttpVersion {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        output.serialize_str(match self {
            Self::Auto => "auto",
            Self::Http1 => "1.1",
            Self::Http2 => "2",
        })
    }
}

impl<'de> Deserialize<'de> for HttpVersion {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct VersionVisitor;
        impl Visitor<'_> for VersionVisitor {
            type Value = HttpVersion;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(HttpVersion::EXPECTED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<HttpVersion, E> {
                HttpVersion::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<HttpVersion, E> {
                HttpVersion::parse(&number.to_string())
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<HttpVersion, E> {
                HttpVersion::parse(&number.to_string())
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Float(number), &self))
            }
        }
        input.deserialize_any(VersionVisitor)
    }
}

impl JsonSchema for HttpVersion {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "HttpVersion".into()
    }
    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "enum": ["auto", "1.1", "2", 1.1, 2] })
    }
}

/// What users trust over TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TlsSpec {
    /// A PEM file of certificate authorities, beside the usual ones.
    pub(crate) ca: Option<String>,
    pub(crate) insecure_skip_verify: bool,
}

/// The scenario `transactions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TransactionsSpec {
    /// Documents that exist before the run.
    pub(crate) items: u32,
    pub(crate) reads: u32,
    pub(crate) writes: u32,
    pub(crate) item_collection: String,
    pub(crate) write_collection: String,
}

/// The scenario `request`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RequestSpec {
    pub(crate) method: String,
    #[serde(serialize_with = "headers_without_secrets")]
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Option<String>,
}

/// One request of the scenario `steps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct StepSpec {
    pub(crate) name: String,
    /// Path and query; `None`: those of the URL.
    pub(crate) path: Option<String>,
    #[serde(flatten)]
    pub(crate) request: RequestSpec,
    /// Statuses that pass its check; empty: no check.
    #[serde(serialize_with = "statuses")]
    pub(crate) status: Vec<RangeInclusive<u16>>,
    /// What a body must have to pass its check.
    pub(crate) body_contains: Option<String>,
    /// Before the next step.
    #[serde(serialize_with = "span")]
    pub(crate) think_time: Duration,
}

/// What load to put on the service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Load {
    /// `None`: the deployed service.
    #[serde(serialize_with = "url_without_password")]
    pub(crate) url: Option<String>,
    pub(crate) scenario: ScenarioKind,
    pub(crate) transactions: TransactionsSpec,
    pub(crate) request: RequestSpec,
    pub(crate) steps: Vec<StepSpec>,
    /// A CSV file.
    pub(crate) data: Option<PathBuf>,
    pub(crate) http: HttpVersion,
    /// A user keeps its connection from one request to the next.
    pub(crate) connection_reuse: bool,
    /// Where the users connect from, in turn; empty: the kernel chooses.
    pub(crate) local_ips: Vec<IpAddr>,
    pub(crate) tls: TlsSpec,
    /// With stages of users the most; with a rate, as many as can be busy at once.
    pub(crate) vus: u32,
    /// Open model: iterations a second; with stages the highest.
    #[serde(rename = "rate", serialize_with = "optional_rate")]
    pub(crate) rate_per_s: Option<u32>,
    /// Closed model with a schedule.
    #[serde(serialize_with = "optional_span")]
    pub(crate) pacing: Option<Duration>,
    pub(crate) stages: Vec<StageText>,
    pub(crate) iterations: Option<u64>,
    pub(crate) seed: u64,
    #[serde(serialize_with = "span")]
    pub(crate) think_time: Duration,
    #[serde(serialize_with = "span")]
    pub(crate) warmup: Duration,
    #[serde(serialize_with = "span")]
    pub(crate) duration: Duration,
    #[serde(serialize_with = "span")]
    pub(crate) timeout: Duration,
    /// The machines that make the load; none: this one.
    #[serde(serialize_with = "agents::serialize")]
    pub(crate) agents: Vec<AgentAddress>,
    /// `None`: chosen from the cores.
    pub(crate) threads: Option<u32>,
}

fn span<S: Serializer>(duration: &Duration, output: S) -> Result<S::Ok, S::Error> {
    Span(*duration).serialize(output)
}

fn size<S: Serializer>(bytes: &u64, output: S) -> Result<S::Ok, S::Error> {
    Size(*bytes).serialize(output)
}

fn optional_span<S: Serializer>(duration: &Option<Duration>, output: S) -> Result<S::Ok, S::Error> {
    duration.map(Span).serialize(output)
}

fn optional_rate<S: Serializer>(per_second: &Option<u32>, output: S) -> Result<S::Ok, S::Error> {
    per_second.map(|rate| Rate(u64::from(rate))).serialize(output)
}

fn statuses<S: Serializer>(ranges: &[RangeInclusive<u16>], output: S) -> Result<S::Ok, S::Error> {
    output.collect_seq(ranges.iter().cloned().map(StatusRange))
}

fn rate<S: Serializer>(per_second: &u32, output: S) -> Result<S::Ok, S::Error> {
    Rate(u64::from(*per_second)).serialize(output)
}

fn url_without_password<S: Serializer>(url: &Option<String>, output: S) -> Result<S::Ok, S::Error> {
    url.as_deref().map(blank_password).serialize(output)
}

/// `redis://user:secret@host` → `redis://user:***@host`.
fn blank_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // The last @ of the authority: a password may hold one itself. If a password holds a slash, there is no @
    // before it, so the last @ of all counts.
    let at = rest[..authority_end].rfind('@').or_else(|| rest.rfind('@'));
    let user = at.and_then(|at| rest[..at].split_once(':').map(|(user, _)| user));
    match (at, user) {
        (Some(at), Some(user)) => format!("{scheme}://{user}:***{}", &rest[at..]),
        _ => url.to_owned(),
    }
}

/// Headers that prove who one is; their values stay out of reports.
const SECRET_HEADERS: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-api-key"];

fn headers_without_secrets<S: Serializer>(
    headers: &[(String, String)],
    output: S,
) -> Result<S::Ok, S::Error> {
    let mut map = output.serialize_map(Some(headers.len()))?;
    for (name, value) in headers {
        let secret = SECRET_HEADERS.iter().any(|secret| name.eq_ignore_ascii_case(secret));
        map.serialize_entry(name, if secret { "***" } else { value })?;
    }
    map.end()
}

fn criteria<S: Serializer>(specs: &[CriterionSpec], output: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct LongForm<'a> {
        threshold: &'a str,
        abort_on_fail: bool,
        delay_abort_eval: Span,
    }
    let mut by_metric = std::collections::BTreeMap::<&str, Vec<LongForm<'_>>>::new();
    for spec in specs {
        by_metric.entry(&spec.metric).or_default().push(LongForm {
            threshold: &spec.expression,
            abort_on_fail: spec.abort_on_fail,
            delay_abort_eval: Span(spec.delay_abort_eval),
        });
    }
    by_metric.serialize(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_blanked() {
        for (url, blanked) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("redis://:secret@h:6379/0", "redis://:***@h:6379/0"),
            ("redis://u:se@cret@h", "redis://u:***@h"),
            ("mongodb://u:se/cret@h:1/db?a=b", "mongodb://u:***@h:1/db?a=b"),
            ("mongodb://u@h", "mongodb://u@h"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(blank_password(url), blanked);
        }
    }
}
