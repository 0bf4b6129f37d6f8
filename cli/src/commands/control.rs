//! The control plane: asks the processes of a service for their counters, and seeds its documents. Never on
//! the path that is measured.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use reqwest::{Client, StatusCode};
use scalekit_service::contract::{AuditPage, Problem, Stats};
use tokio_util::sync::CancellationToken;

use crate::deploy::Role;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often the backlog is looked at while it drains.
const DRAIN_POLL: Duration = Duration::from_millis(100);
/// A seed that is turned away for want of room is sent again for this long.
const SEED_PATIENCE: Duration = Duration::from_secs(30);

/// A service under test: its API first, then its other processes.
#[derive(Clone)]
pub(super) struct Service {
    client: Client,
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
    pub(super) fn new(roles: Vec<Role>) -> anyhow::Result<Self> {
        let client = Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT).build();
        Ok(Self { client: client.context("cannot set up the HTTP client")?, roles })
    }

    fn api(&self) -> &str {
        self.roles.first().map_or("", |role| role.url.trim_end_matches('/'))
    }

    /// The counters of every process, by its role.
    pub(super) async fn stats(&self) -> anyhow::Result<BTreeMap<String, Stats>> {
        let mut all = BTreeMap::new();
        for role in &self.roles {
            let url = format!("{}/v1/stats", role.url.trim_end_matches('/'));
            let response = self.client.get(&url).send().await.with_context(|| format!("GET {url}"))?;
            let stats = response.error_for_status().with_context(|| format!("GET {url}"))?.json().await;
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
                let request =
                    self.client.post(&url).header("content-type", "application/json").body(body.clone());
                let response = request.send().await.with_context(|| format!("POST {url}"))?;
                match response.status() {
                    StatusCode::ACCEPTED => break,
                    StatusCode::SERVICE_UNAVAILABLE if tokio::time::Instant::now() < deadline => {
                        tokio::time::sleep(DRAIN_POLL).await;
                    }
                    status => {
                        let detail = response
                            .json::<Problem>()
                            .await
                            .map_or_else(|_| String::new(), |problem| format!(": {}", problem.detail));
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
        let url = format!("{}/v1/audit/{collection}", self.api());
        let mut query = vec![("op_prefix", op_prefix)];
        query.extend(after.map(|after| ("after", after)));
        let response =
            self.client.get(&url).query(&query).send().await.with_context(|| format!("GET {url}"))?;
        let page = response.error_for_status().with_context(|| format!("GET {url}"))?.json().await;
        page.with_context(|| format!("{url} gave no page of an audit"))
    }
}
