//! The control plane: asks the processes of a service for their counters, and seeds its documents. Never on
//! the path that is measured.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use http::StatusCode;
use scalekit_service::contract::{AuditPage, Stats};
use tokio_util::sync::CancellationToken;

use super::access::Entry;
use super::http::Http;
use crate::deploy::Role;

/// How often the backlog is looked at while it drains.
const DRAIN_POLL: Duration = Duration::from_millis(100);
/// A seed that is turned away for want of room is sent again for this long.
const SEED_PATIENCE: Duration = Duration::from_secs(30);

/// A service under test: its API first, then its other processes.
#[derive(Clone)]
pub(super) struct Service {
    http: Http,
    pub(super) roles: Vec<Role>,
}

/// How a wait for an empty journal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    Empty,
    TimedOut { left: u64 },
    Abandoned,
}

impl Service {
    /// # Errors
    /// Authorities that cannot be used.
    pub(super) fn new(roles: Vec<Role>, entry: &Entry) -> anyhow::Result<Self> {
        Ok(Self { http: entry.http()?, roles })
    }

    fn api(&self) -> &str {
        self.roles.first().map_or("", |role| role.url.trim_end_matches('/'))
    }

    /// The counters of every process, by its role.
    pub(super) async fn stats(&self) -> anyhow::Result<BTreeMap<String, Stats>> {
        let mut all = BTreeMap::new();
        for role in &self.roles {
            let url = format!("{}/v1/stats", role.url.trim_end_matches('/'));
            let reply = self.http.get(&url).await?;
            let stats = reply.success().with_context(|| format!("GET {url}"))?.json();
            all.insert(
                role.name.clone(),
                stats.with_context(|| format!("{url} gave no counters of scalekit's service"))?,
            );
        }
        Ok(all)
    }

    /// Sends the requests that create the documents which the load reads.
    pub(super) async fn seed(
        &self,
        bodies: impl Iterator<Item = String>,
        stop: impl Fn() -> bool,
    ) -> anyhow::Result<()> {
        let url = format!("{}/v1/transactions", self.api());
        for body in bodies {
            let deadline = tokio::time::Instant::now() + SEED_PATIENCE;
            loop {
                if stop() {
                    return Ok(());
                }
                let reply = self.http.post(&url, body.clone()).await?;
                match reply.status {
                    StatusCode::ACCEPTED => break,
                    // The token's own rate is a bound of the seed, too.
                    StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
                        if tokio::time::Instant::now() < deadline =>
                    {
                        tokio::time::sleep(DRAIN_POLL).await;
                    }
                    status => {
                        let detail = reply.detail();
                        bail!("POST {url} gave {status}{detail}; the documents to read could not be created");
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits until the journal is empty: everything that was acknowledged is stored then, or a dead letter.
    /// A process that does not answer may be on its way back, so only the end of the patience makes it an error.
    pub(super) async fn drain(
        &self,
        patience: Duration,
        abandon: &CancellationToken,
    ) -> anyhow::Result<Drained> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let stats = tokio::select! {
                stats = self.stats() => stats,
                () = abandon.cancelled() => return Ok(Drained::Abandoned),
            };
            let is_over = tokio::time::Instant::now() >= deadline;
            match stats {
                Ok(stats) => {
                    let first = stats.into_values().next().ok_or_else(|| anyhow!("no process to ask"))?;
                    let journal = first.journal;
                    if journal.reachable && journal.backlog_entries == 0 {
                        return Ok(Drained::Empty);
                    }
                    if is_over {
                        return Ok(Drained::TimedOut { left: journal.backlog_entries });
                    }
                }
                Err(error) if is_over => return Err(error),
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(DRAIN_POLL) => {}
                () = abandon.cancelled() => return Ok(Drained::Abandoned),
            }
        }
    }

    /// One page of what the store holds.
    pub(super) async fn audit_page(
        &self,
        collection: &str,
        op_prefix: &str,
        after: Option<&str>,
    ) -> anyhow::Result<AuditPage> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("op_prefix", op_prefix);
        after.map(|after| query.append_pair("after", after));
        let url = format!("{}/v1/audit/{collection}?{}", self.api(), query.finish());
        let reply = self.http.get(&url).await?;
        let page = reply.success().with_context(|| format!("GET {url}"))?.json();
        page.with_context(|| format!("{url} gave no page of an audit"))
    }
}
