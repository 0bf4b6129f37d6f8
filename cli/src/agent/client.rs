//! One agent as the coordinator sees it. Every answer is bounded in time and size.

use std::time::Duration;

use reqwest::{Method, StatusCode, header};
use scalekit_service::contract::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::clock::{Clocks, Offset, RoundTrip, offset};
use super::protocol::{
    About, Assigned, Assignment, MAX_ANSWER_BYTES, MAX_RECORDING_BYTES, Progress, Start, VERSION,
    VERSION_HEADER,
};
use super::token::Token;
use crate::load::Recording;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(5);
/// For setting up a run: more than the agent's own limit.
const SETUP_TIMEOUT: Duration = Duration::from_secs(40);
/// For fetching a recording: the agent's own limit for a request.
const RECORDING_TIMEOUT: Duration = Duration::from_secs(60);
/// Round trips by which clocks are compared; the quickest counts.
const ROUND_TRIPS: usize = 12;

/// Why an agent cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error(
        "the agent {address} cannot be reached: {reason}\nhelp: start `scalekit agent --listen {address}` there, or \
         correct --agents or load.agents"
    )]
    Unreachable { address: String, reason: String },
    #[error(
        "the agent {address} refuses the token\nhelp: give both sides the same file: --agents-token-file here, \
         --token-file there"
    )]
    Unauthorized { address: String },
    #[error(
        "the agent {address} is of version {theirs}, this is {VERSION}\nhelp: run one version everywhere"
    )]
    Version { address: String, theirs: String },
    #[error("the agent {address} refuses to {what}: {detail}")]
    Refused { address: String, what: &'static str, detail: String },
    #[error("the agent {address} gave no sound answer when asked to {what}: {reason}")]
    Answer { address: String, what: &'static str, reason: String },
}

impl AgentError {
    /// Whether the same request may succeed if it is made again.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// A connection to one agent.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    pub(super) address: String,
    token: Option<Token>,
}

/// What is asked for, and the bounds of the answer.
struct Question {
    what: &'static str,
    method: Method,
    path: String,
    timeout: Duration,
    most_bytes: usize,
}

impl Question {
    fn new(what: &'static str, method: Method, path: impl Into<String>) -> Self {
        Self { what, method, path: path.into(), timeout: TIMEOUT, most_bytes: MAX_ANSWER_BYTES }
    }
}

impl Client {
    pub(super) fn new(address: &str, token: Option<Token>) -> Result<Self, AgentError> {
        // A proxy on the way would only make clocks uncertain.
        let http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).no_proxy().tcp_nodelay(true);
        let http = http.build().map_err(|error| AgentError::Unreachable {
            address: address.to_owned(),
            reason: format!("no HTTP client: {error}"),
        })?;
        Ok(Self { http, address: address.to_owned(), token })
    }

    pub(super) async fn about(&self) -> Result<About, AgentError> {
        self.ask(Question::new("say who it is", Method::GET, "agent"), None::<&()>).await
    }

    /// How far the agent's clocks are from these.
    pub(super) async fn offset(&self, clocks: Clocks) -> Result<Offset, AgentError> {
        let mut trips = Vec::with_capacity(ROUND_TRIPS);
        for _ in 0..ROUND_TRIPS {
            let sent = clocks.read();
            let question = Question::new("read its clock", Method::GET, "clock");
            let theirs = self.ask(question, None::<&()>).await?;
            trips.push(RoundTrip { sent, theirs, received: clocks.read() });
        }
        Ok(offset(&trips).unwrap_or_default())
    }

    pub(super) async fn assign(&self, assignment: Assignment) -> Result<Assigned, AgentError> {
        let question = Question::new("take its part of the load", Method::POST, "runs");
        let question = Question { timeout: SETUP_TIMEOUT, ..question };
        self.ask(question, Some(&assignment)).await
    }

    pub(super) async fn start(&self, run: &str, at_nanos: i64, timeout: Duration) -> Result<(), AgentError> {
        let question = Question::new("start", Method::POST, format!("runs/{run}/start"));
        let question = Question { timeout, ..question };
        self.send(&question, Some(&Start { at_nanos })).await.map(drop)
    }

    /// `from`: the first second not yet seen; `figures`: the number of the running figures seen last.
    pub(super) async fn progress(&self, run: &str, from: u64, figures: u64) -> Result<Progress, AgentError> {
        let path = format!("runs/{run}?from={from}&figures={figures}");
        self.ask(Question::new("say how it gets on", Method::GET, path), None::<&()>).await
    }

    pub(super) async fn stop(&self, run: &str) -> Result<(), AgentError> {
        let question = Question::new("stop", Method::POST, format!("runs/{run}/stop"));
        self.send(&question, None::<&()>).await.map(drop)
    }

    pub(super) async fn recording(&self, run: &str) -> Result<Recording, AgentError> {
        let question =
            Question::new("hand over what it measured", Method::GET, format!("runs/{run}/recording"));
        let question = Question { timeout: RECORDING_TIMEOUT, most_bytes: MAX_RECORDING_BYTES, ..question };
        self.ask(question, None::<&()>).await
    }

    /// Ends the run if it has not ended, and leaves the agent idle.
    pub(super) async fn forget(&self, run: &str) -> Result<(), AgentError> {
        let question = Question::new("forget the run", Method::DELETE, format!("runs/{run}"));
        let question = Question { timeout: TIMEOUT * 2, ..question };
        self.send(&question, None::<&()>).await.map(drop)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        question: Question,
        body: Option<&impl Serialize>,
    ) -> Result<T, AgentError> {
        let bytes = self.send(&question, body).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.unsound(&question, error.to_string()))
    }

    /// Sends, and reads a bounded answer; anything but a success is an error.
    async fn send(&self, question: &Question, body: Option<&impl Serialize>) -> Result<Vec<u8>, AgentError> {
        let url = format!("http://{}/v1/{}", self.address, question.path);
        let mut request = self.http.request(question.method.clone(), url).timeout(question.timeout);
        request = request.header(VERSION_HEADER, VERSION);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token.header());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let (status, version) = (response.status(), response.headers().get(VERSION_HEADER).cloned());
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if bytes.len() + chunk.len() > question.most_bytes {
                let reason = format!("the answer is larger than {} bytes", question.most_bytes);
                return Err(self.unsound(question, reason));
            }
            bytes.extend_from_slice(&chunk);
        }
        let address = self.address.clone();
        match version {
            None => {
                return Err(
                    self.unsound(question, format!("{status} from something that is no agent of scalekit"))
                );
            }
            Some(version) if version != VERSION => {
                let theirs = String::from_utf8_lossy(version.as_bytes()).into_owned();
                return Err(AgentError::Version { address, theirs });
            }
            Some(_) => {}
        }
        if status.is_success() {
            return Ok(bytes);
        }
        if status == StatusCode::UNAUTHORIZED {
            return Err(AgentError::Unauthorized { address });
        }
        let detail = serde_json::from_slice::<Problem>(&bytes)
            .map_or_else(|_| status.to_string(), |problem| problem.detail);
        Err(AgentError::Refused { address, what: question.what, detail })
    }

    fn unreachable(&self, error: &reqwest::Error) -> AgentError {
        // The outer errors only say that a request failed.
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let reason = if error.is_timeout() { "no answer in time".to_owned() } else { cause.to_string() };
        AgentError::Unreachable { address: self.address.clone(), reason }
    }

    fn unsound(&self, question: &Question, reason: String) -> AgentError {
        AgentError::Answer { address: self.address.clone(), what: question.what, reason }
    }
}
