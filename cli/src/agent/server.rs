//! The agent: a small HTTP server that carries out one plan at a time for whoever has the token.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::clock::Clocks;
use super::http::{Refusal, accept, parse};
use super::protocol::{
    About, Assigned, Assignment, MAX_ASSIGNMENT_BYTES, MAX_WATCHED, Progress, Reading, Stage, Start, VERSION,
    VERSION_HEADER,
};
use super::run::Run;
use super::token::Token;

/// A coordinator asks once a second; one that has not for this long is lost, and its load with it.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// The same before the start, when it may wait for other agents, and after the end, when it may be busy with them.
const PATIENCE: Duration = Duration::from_secs(60);
const WATCH: Duration = Duration::from_millis(200);
/// For checking a plan and setting it up.
const SETUP_TIMEOUT: Duration = Duration::from_secs(30);
/// For a run to end once it is told to.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole request; a large recording over a slow line is the longest.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Who the agent is and whom it obeys.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The machine's name, for reports.
    pub(crate) name: String,
    /// `None`: everybody who can connect is obeyed.
    pub(crate) token: Option<Token>,
}

struct Agent {
    settings: Settings,
    clocks: Clocks,
    current: Mutex<Option<Arc<Run>>>,
}

type Shared = State<Arc<Agent>>;

/// Serves until `stop`; a run under way is ended then, and its coordinator may still fetch what there is.
pub(crate) async fn serve(listener: TcpListener, settings: Settings, stop: CancellationToken) {
    let agent = Arc::new(Agent { settings, clocks: Clocks::start(), current: Mutex::default() });
    let router = router(Arc::clone(&agent));
    let accepting = tokio::spawn(accept(listener, router));
    stop.cancelled().await;
    if let Some(run) = agent.run() {
        run.stop();
        let collected = async {
            while agent.run().is_some() {
                tokio::time::sleep(WATCH).await;
            }
        };
        // A coordinator that asks once a second has learnt of it by then.
        let _ = tokio::time::timeout(STOP_TIMEOUT, collected).await;
    }
    accepting.abort();
}

fn router(agent: Arc<Agent>) -> Router {
    Router::new()
        .route("/v1/agent", get(about))
        .route("/v1/clock", get(clock))
        .route("/v1/runs", post(assign))
        .route("/v1/runs/{run}", get(progress).delete(forget))
        .route("/v1/runs/{run}/start", post(start))
        .route("/v1/runs/{run}/stop", post(stop))
        .route("/v1/runs/{run}/recording", get(recording))
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "an agent has no such route"))
        .layer(DefaultBodyLimit::max(MAX_ASSIGNMENT_BYTES))
        .layer(from_fn_with_state(Arc::clone(&agent), guard))
        .with_state(agent)
}

/// Nothing of a request is looked at before this has let it through.
async fn guard(State(agent): Shared, request: Request, next: Next) -> Response {
    let mut response = match agent.admit(request.headers()) {
        Err(refusal) => refusal.into_response(),
        Ok(()) => match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response(),
        },
    };
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response.headers_mut().insert(VERSION_HEADER, HeaderValue::from_static(VERSION));
    response
}

async fn about(State(agent): Shared) -> Json<About> {
    let state = if agent.run().is_some() { "busy" } else { "idle" };
    Json(About { version: VERSION.into(), name: agent.settings.name.clone(), state: state.into() })
}

async fn clock(State(agent): Shared) -> Json<Reading> {
    Json(agent.clocks.read())
}

async fn assign(
    State(agent): Shared,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Assigned>), Refusal> {
    let assignment: Assignment = parse(body)?;
    if let Some(watched) = assignment.watched.as_ref().filter(|watched| watched.len() > MAX_WATCHED) {
        let reason = format!("{} trends to watch are named, at most {MAX_WATCHED} can be", watched.len());
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, reason));
    }
    let id = format!("{:016x}", fastrand::u64(..));
    let run = agent.take(id, assignment)?;
    tracing::info!(run = run.id, "setting up");
    tokio::spawn(watch(Arc::clone(&agent), Arc::clone(&run)));
    let is_set_up = run.reached(|stage| *stage != Stage::Preparing);
    let stage = tokio::time::timeout(SETUP_TIMEOUT, is_set_up).await;
    match stage {
        Ok(Stage::Failed(reason)) => {
            agent.release(&run);
            Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, reason))
        }
        Ok(_) => Ok((StatusCode::CREATED, Json(Assigned { run: run.id.clone(), threads: run.threads }))),
        Err(_) => {
            run.stop();
            agent.release(&run);
            let reason = format!("the run was not set up within {} s", SETUP_TIMEOUT.as_secs());
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, reason))
        }
    }
}

async fn start(
    State(agent): Shared,
    Path(run): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Refusal> {
    let run = agent.find(&run)?;
    let Start { at_nanos } = parse(body)?;
    let Some(moment) = agent.clocks.moment(at_nanos) else {
        let reason = "the instant to start at has passed; the line to this agent is too slow, or stalled";
        return Err(Refusal::new(StatusCode::CONFLICT, reason));
    };
    if run.stage() != Stage::Ready || !run.begin_at(moment) {
        return Err(Refusal::new(StatusCode::CONFLICT, "the run was started before, or has ended"));
    }
    tracing::info!(run = run.id, "starting");
    Ok(StatusCode::NO_CONTENT)
}

/// What a coordinator has seen already.
#[derive(Deserialize)]
struct Seen {
    #[serde(default)]
    from: u64,
    #[serde(default)]
    figures: u64,
}

async fn progress(
    State(agent): Shared,
    Path(run): Path<String>,
    Query(Seen { from, figures }): Query<Seen>,
) -> Result<Json<Progress>, Refusal> {
    Ok(Json(agent.find(&run)?.progress(from, figures)))
}

async fn stop(State(agent): Shared, Path(run): Path<String>) -> Result<StatusCode, Refusal> {
    agent.find(&run)?.stop();
    Ok(StatusCode::NO_CONTENT)
}

async fn recording(State(agent): Shared, Path(run): Path<String>) -> Result<Response, Refusal> {
    let bytes = agent.find(&run)?.recording().ok_or_else(|| {
        Refusal::new(StatusCode::CONFLICT, "there is no recording: the run has not ended, or it failed")
    })?;
    Ok(([(header::CONTENT_TYPE, "application/json")], bytes).into_response())
}

async fn forget(State(agent): Shared, Path(run): Path<String>) -> Result<StatusCode, Refusal> {
    let run = agent.find(&run)?;
    run.stop();
    if tokio::time::timeout(STOP_TIMEOUT, run.reached(Stage::is_over)).await.is_err() {
        return Err(Refusal::new(StatusCode::CONFLICT, "the run does not end"));
    }
    agent.release(&run);
    Ok(StatusCode::NO_CONTENT)
}

/// Ends a run that nobody asks for any more, and makes room for the next.
async fn watch(agent: Arc<Agent>, run: Arc<Run>) {
    loop {
        tokio::time::sleep(WATCH).await;
        if !agent.run().is_some_and(|current| Arc::ptr_eq(&current, &run)) {
            return;
        }
        let is_over = run.stage().is_over();
        let patience = if run.is_started() && !is_over { LOST_AFTER } else { PATIENCE };
        if run.silence() < patience {
            continue;
        }
        tracing::warn!(run = run.id, "nobody has asked for {patience:?}: the run is given up");
        run.stop();
        run.reached(Stage::is_over).await;
        agent.release(&run);
        return;
    }
}

impl Agent {
    /// Whether the sender has the token, and speaks this version.
    fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let authorization = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        if self.settings.token.as_ref().is_some_and(|token| !token.is_in(authorization)) {
            let reason =
                "this agent wants the token that it was started with (--token-file), and got none or another";
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, reason));
        }
        let version = headers.get(VERSION_HEADER).map(HeaderValue::as_bytes);
        if version != Some(VERSION.as_bytes()) {
            let theirs = version.map_or_else(|| "none".into(), String::from_utf8_lossy);
            let reason = format!(
                "this agent speaks version {VERSION}, and was asked in {theirs}; run one version everywhere"
            );
            return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, reason));
        }
        Ok(())
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Run>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) -> Option<Arc<Run>> {
        self.current().clone()
    }

    /// Begins a run if there is none.
    fn take(&self, id: String, assignment: Assignment) -> Result<Arc<Run>, Refusal> {
        let mut current = self.current();
        if current.is_some() {
            let reason = "this agent is busy with another run; wait for its end";
            return Err(Refusal::new(StatusCode::CONFLICT, reason));
        }
        let run = Run::spawn(id, assignment).map_err(|error| {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("no thread can be started: {error}"))
        })?;
        Ok(Arc::clone(current.insert(run)))
    }

    fn find(&self, id: &str) -> Result<Arc<Run>, Refusal> {
        self.run().filter(|run| run.id == id).ok_or_else(|| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "there is no such run; it may have been given up, or the agent restarted",
            )
        })
    }

    fn release(&self, run: &Arc<Run>) {
        if self.current().take_if(|current| Arc::ptr_eq(current, run)).is_some() {
            tracing::info!(run = run.id, "idle again");
        }
    }
}
