//! The control plane's HTTP client: keeps its connections, speaks TLS with the trust of the load, bounded in time
//! and size.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use scalekit_service::contract::Problem;
use serde::de::DeserializeOwned;

use crate::load::Authorization;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(30);
/// A page of the audit has ten thousand ids.
const MAX_ANSWER_BYTES: usize = 64 << 20;

#[derive(Clone)]
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    authorization: Option<HeaderValue>,
}

/// What came back.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    body: Bytes,
}

impl Http {
    pub(super) fn new(tls: ClientConfig, authorization: Option<&Authorization>) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        // The connector sets the protocols to offer by itself.
        let mut tls = tls;
        tls.alpn_protocols.clear();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let authorization = authorization.and_then(|authorization| {
            let mut value = HeaderValue::from_str(authorization.expose()).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Self { client: Client::builder(TokioExecutor::new()).build(connector), authorization }
    }

    pub(super) async fn get(&self, url: &str) -> anyhow::Result<Reply> {
        self.send(Method::GET, url, Bytes::new()).await
    }

    /// `body` is JSON.
    pub(super) async fn post(&self, url: &str, body: String) -> anyhow::Result<Reply> {
        self.send(Method::POST, url, body.into()).await
    }

    pub(super) async fn delete(&self, url: &str) -> anyhow::Result<Reply> {
        self.send(Method::DELETE, url, Bytes::new()).await
    }

    async fn send(&self, method: Method, url: &str, body: Bytes) -> anyhow::Result<Reply> {
        let what = format!("{method} {url}");
        let mut request = Request::builder().method(method).uri(url);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(body)).with_context(|| what.clone())?;
        let asking = async {
            let response = self.client.request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
            let body = body.await.map_err(|error| anyhow!("the answer cannot be read: {error}"))?;
            anyhow::Ok(Reply { status, body: body.to_bytes() })
        };
        match tokio::time::timeout(TIMEOUT, asking).await {
            Ok(reply) => reply.with_context(|| what.clone()),
            Err(_) => Err(anyhow!("{what}: no answer within {} s", TIMEOUT.as_secs())),
        }
    }
}

impl Reply {
    /// Itself, if it is a success.
    ///
    /// # Errors
    /// The status, and what the service says to it.
    pub(super) fn success(self) -> anyhow::Result<Self> {
        if self.status.is_success() {
            return Ok(self);
        }
        let hint = match self.status {
            StatusCode::UNAUTHORIZED => "\nhelp: give --service-token-file FILE with a token of the service",
            _ => "",
        };
        Err(anyhow!("the service answered {}{}{hint}", self.status, self.detail()))
    }

    /// What the service says to an error, after a colon.
    pub(super) fn detail(&self) -> String {
        serde_json::from_slice::<Problem>(&self.body)
            .map_or_else(|_| String::new(), |problem| format!(": {}", problem.detail))
    }

    pub(super) fn json<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.body)
    }
}
