//! `/v1/dead-letters`: what the database refused for good, looked at, put back or given up. The same for every journal.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::App;
use super::accept::admit;
use super::decode;
use super::error::ApiError;
use super::openapi;
use super::path::Path;
use crate::cache::{AcceptedWrite, CacheChange};
use crate::contract::{Dropped, Letter, LetterPage, Replayed, WriteOp};
use crate::journal::{
    DeadLetters, JournalError, KeptLetter, LetterId, Replay, Request, RequestWrite, codec, now_ms,
};
use crate::operation::{Change, Position};

/// Letters in a page when nobody asks for fewer, and at the most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// Letters, with their payloads, that are read at once.
const READ: usize = 32;
/// Letters that one request looks through for those of a collection.
const LOOK_THROUGH: usize = 10_000;

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// The `next` of the page before.
    #[param(pattern = r"^\d+-\d+$")]
    after: Option<String>,
    /// Most letters in the page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Only those of this collection.
    #[param(max_length = 120)]
    collection: Option<String>,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplayQuery {
    /// Write over whatever is there now, instead of giving way to what was written since.
    #[serde(default)]
    as_new: bool,
}

#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "the handlers take it from the path themselves")]
pub(super) struct LetterPath {
    /// The letter's id, or the operation id of its write.
    #[param(example = "0.1795000000000.0.0.0", min_length = 1, max_length = 256)]
    id: String,
}

/// What the database refused for good
///
/// Oldest first. Dead letters are never evicted; each stays until it is replayed or given up.
#[utoipa::path(
    get,
    path = "/v1/dead-letters",
    operation_id = "list_dead_letters",
    tag = "dead letters",
    params(ListQuery),
    responses((status = 200, description = "A page, without the documents", body = LetterPage), openapi::LetterListProblems),
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(ListQuery { after, limit, collection }) = query.map_err(malformed)?;
    let limit = limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ApiError::malformed(format!("`limit` is {limit}, expected 1 to {MAX_PAGE}")));
    }
    let mut after = after.map_or(Ok(Position::default()), |text| position(&text))?;
    if let Some(collection) = &collection {
        decode::collection_name(collection).map_err(decode::Invalid::into_error)?;
    }
    let dead = dead_letters(&app)?;
    let mut letters = Vec::new();
    let mut seen = 0;
    let next = loop {
        let wanted = (limit - letters.len()).min(READ);
        if wanted == 0 || seen >= LOOK_THROUGH {
            break Some(after.to_string());
        }
        let page = dead.page(after, wanted).await?;
        let is_last = page.len() < wanted;
        seen += page.len();
        for kept in page {
            after = kept.at;
            let letter = Read::new(kept);
            if collection.as_deref().is_none_or(|wanted| letter.collection() == Some(wanted)) {
                letters.push(letter.outline());
            }
        }
        if is_last {
            break None;
        }
    };
    Ok(axum::Json(LetterPage { letters, next }).into_response())
}

/// One dead letter with its document
#[utoipa::path(
    get,
    path = "/v1/dead-letters/{id}",
    operation_id = "read_dead_letter",
    tag = "dead letters",
    params(LetterPath),
    responses((status = 200, description = "The whole letter", body = Letter), openapi::LetterProblems),
)]
pub(super) async fn show(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let letter = Read::new(find(dead_letters(&app)?, &id).await?);
    Ok(axum::Json(letter.whole()).into_response())
}

/// Puts a dead letter back into the journal
///
/// It keeps its operation id, so it is one write however often it is replayed, and its version: a document that was
/// written since stays as it is, and the status of the replay is `superseded`. Other letters of the same request to the
/// same document go with it.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/{id}/replay",
    operation_id = "replay_dead_letter",
    tag = "dead letters",
    params(LetterPath, ReplayQuery),
    responses((status = 202, description = "Durable in the journal as `durability` says, and no dead letter any more", body = Replayed), openapi::ReplayProblems),
)]
pub(super) async fn replay(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    query: Result<Query<ReplayQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(ReplayQuery { as_new }) = query.map_err(malformed)?;
    dead_letters(&app)?;
    // What it holds is not known yet.
    let permit = admit(&app, 0)?;
    let limit = app.limits.request_timeout;
    // To its end, even if the client goes away: what is in the journal must show in the cache.
    let replaying = tokio::spawn(async move {
        let replayed = put_back(&app, &id, as_new).await;
        drop(permit);
        replayed
    });
    match tokio::time::timeout(limit, replaying).await {
        Ok(Ok(replayed)) => Ok((StatusCode::ACCEPTED, axum::Json(replayed?)).into_response()),
        Ok(Err(error)) => Err(ApiError::unavailable(format!("the replay broke off: {error}"))),
        Err(_) => Err(ApiError::outcome_unknown("the journal did not answer in time")),
    }
}

/// Gives a dead letter up
///
/// Nobody can bring it back.
#[utoipa::path(
    delete,
    path = "/v1/dead-letters/{id}",
    operation_id = "drop_dead_letter",
    tag = "dead letters",
    params(LetterPath),
    responses((status = 200, description = "It is gone", body = Dropped), openapi::LetterProblems),
)]
pub(super) async fn drop_letter(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let dead = dead_letters(&app)?;
    let id = find(dead, &name).await?.letter.id();
    if !dead.drop_letter(id).await? {
        return Err(unknown(&name));
    }
    Ok(axum::Json(Dropped { id: id.to_string() }).into_response())
}

fn malformed(rejected: QueryRejection) -> ApiError {
    ApiError::malformed(rejected.body_text())
}

fn position(text: &str) -> Result<Position, ApiError> {
    let parts = text.split_once('-').and_then(|(ms, seq)| Some((ms.parse().ok()?, seq.parse().ok()?)));
    let (ms, seq) = parts
        .ok_or_else(|| ApiError::malformed(format!("`after` is {text:?}, expected the `next` of a page")))?;
    Ok(Position { ms, seq })
}

fn dead_letters(app: &App) -> Result<&dyn DeadLetters, ApiError> {
    app.journal.dead_letters().ok_or_else(|| {
        ApiError::unprocessable(
            "there are no dead letters in direct mode: who sends a write that the database refuses is told at once",
        )
    })
}

fn unknown(name: &str) -> ApiError {
    ApiError::not_found(format!(
        "there is no dead letter {name}; if there was one, it was replayed or dropped, and GET /v1/writes/{{write_id}} tells where its request stands"
    ))
}

/// By the letter's id, the operation id of its write, or the `write_id` of a request that has one letter.
async fn find(dead: &dyn DeadLetters, name: &str) -> Result<KeptLetter, ApiError> {
    let found = match name.parse::<LetterId>() {
        Ok(id) => match dead.letter(id).await? {
            None if id.place.is_none() => {
                let mut letters = dead.of_request(id.write).await?;
                letters.pop().filter(|_| letters.is_empty())
            }
            found => found,
        },
        Err(()) => dead.by_operation(name).await?,
    };
    found.ok_or_else(|| unknown(name))
}

async fn put_back(app: &App, name: &str, as_new: bool) -> Result<Replayed, ApiError> {
    let dead = dead_letters(app)?;
    let asked = Read::new(find(dead, name).await?);
    let id = asked.kept.letter.id();
    let key = match &asked.write {
        Ok(write) => write.key.clone(),
        Err(error) => {
            return Err(ApiError::unprocessable(format!(
                "{id} cannot be replayed, since this build cannot read it: {error}"
            )));
        }
    };
    let request_op_id = asked.kept.letter.op_id.rsplit_once('-').map(|(request, _)| request.to_owned());
    let Some(op_id) = request_op_id else {
        return Err(ApiError::unprocessable(format!("{id} cannot be replayed: it has no operation id")));
    };
    let (mut ids, mut places, mut writes, mut times) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for kept in dead.of_request(id.write).await? {
        let letter = Read::new(kept);
        let letter_id = letter.kept.letter.id();
        let (Ok(write), Some(place)) = (letter.write, letter_id.place) else { continue };
        if write.key == key {
            times = times.max(letter.kept.times);
            ids.push(letter_id);
            places.push(place);
            writes.push(write);
        }
    }
    if !ids.contains(&id) {
        // Somebody else was faster.
        return Err(unknown(name));
    }
    let replay = Some(Box::new(Replay { origin: id.write, as_new, times }));
    let visible: Vec<Change> = writes.iter().map(|write| write.change.clone()).filter(|_| as_new).collect();
    let request =
        Request { op_id: op_id.into(), at_ms: now_ms(), writes, places: Some(places.into()), replay };
    let appended = dead.replay(&ids, request).await.map_err(|error| {
        app.metrics.journal_append_failures.inc();
        match error {
            JournalError::Unknown(reason) => {
                JournalError::Unknown(format!("{reason}; the dead letter is gone if it was"))
            }
            certain => certain,
        }
    })?;
    let Some(appended) = appended else { return Err(unknown(name)) };
    if !appended.repeated {
        app.metrics.journal_appended.inc();
        let version = appended.ids.first().position.version();
        let visible = visible.into_iter().map(|change| {
            let change_seen = CacheChange::new(&change, change.json());
            AcceptedWrite { key: key.clone(), version, change: change_seen }
        });
        if let Err(error) = app.cache.accepted(visible.collect()).await {
            app.metrics.cache_errors.inc();
            tracing::warn!(%error, "a replayed dead letter is not in the cache");
        }
    }
    Ok(Replayed {
        letters: ids.iter().map(ToString::to_string).collect(),
        write_id: appended.ids.to_string(),
        durability: app.journal.durability(),
    })
}

/// A letter, and its write if it can be read.
struct Read {
    kept: KeptLetter,
    write: Result<RequestWrite, String>,
}

impl Read {
    fn new(kept: KeptLetter) -> Self {
        let write = match kept.letter.op_id.is_empty() {
            // A whole entry, which is why it is here.
            true => Err(kept.letter.reason.clone()),
            false => codec::decode_write(&kept.letter.payload),
        };
        Self { kept, write }
    }

    fn collection(&self) -> Option<&str> {
        self.write.as_ref().ok().map(|write| write.key.collection())
    }

    fn outline(&self) -> Letter {
        let KeptLetter { at, last_ms, times, letter } = &self.kept;
        let write = self.write.as_ref().ok();
        let op: Option<WriteOp> = write.map(|write| write.change.op());
        Letter {
            id: letter.id().to_string(),
            write_id: letter.write_id.to_string(),
            op_id: Some(letter.op_id.clone()).filter(|op_id| !op_id.is_empty()),
            collection: self.collection().map(str::to_owned),
            document_id: write.map(|write| write.key.id().to_owned()),
            op,
            reason: letter.reason.clone(),
            first_ms: at.ms,
            last_ms: *last_ms,
            times: *times,
            bytes: letter.payload.len() as u64,
            document: None,
            payload: None,
        }
    }

    fn whole(&self) -> Letter {
        let mut whole = self.outline();
        match &self.write {
            // What was JSON once is JSON again.
            Ok(write) => {
                whole.document = write.change.json().and_then(|json| serde_json::from_slice(&json).ok())
            }
            Err(_) => whole.payload = Some(hex(&self.kept.letter.payload)),
        }
        whole
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // A string takes whatever is written.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
