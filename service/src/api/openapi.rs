//! `/openapi.json`: the contract in the form of OpenAPI 3.1, generated from the handlers and the wire types. What
//! the handlers share of it is here.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response as HttpResponse};
use serde_json::json;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::PathItem;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr,
};
use utoipa::{IntoParams, IntoResponses, ToSchema};

use crate::contract::{Durability, Problem};

/// A JSON object of the client's own; `_id` and `_sk` are the service's.
#[derive(ToSchema)]
#[schema(value_type = Object, example = json!({"item": 7, "tags": ["new"]}))]
#[expect(dead_code, reason = "documents stay text; this is their description")]
pub(super) struct Document(serde_json::Value);

/// The answer to a transaction. The handler writes it around the texts of the documents.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the handler writes its text")]
pub(super) struct TransactionAnswer {
    /// Null if there was nothing to write.
    #[schema(required)]
    write_id: Option<String>,
    durability: Durability,
    /// In the order of the request; null where there is no document.
    reads: Vec<Option<Document>>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "the handlers read it from the headers themselves")]
pub(super) struct WriteHeaders {
    /// The id of the operation: 1 to 248 visible ASCII characters. A retry with it is one write, however often it
    /// is sent; with another body it is refused. Without one the service names the operation itself.
    #[param(
        rename = "Idempotency-Key",
        min_length = 1,
        max_length = 248,
        pattern = "^[ -~]+$",
        required = false
    )]
    idempotency_key: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "the handlers take it from the path themselves")]
pub(super) struct CollectionPath {
    /// Begins with a letter or digit; `audit`, `dead-letters`, `stats`, `transactions`, `writes` and what begins with
    /// `system.` are reserved.
    #[param(example = "orders", min_length = 1, max_length = 120, pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    collection: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "the handlers take it from the path themselves")]
pub(super) struct DocumentPath {
    /// Begins with a letter or digit; `audit`, `dead-letters`, `stats`, `transactions`, `writes` and what begins with
    /// `system.` are reserved.
    #[param(example = "orders", min_length = 1, max_length = 120, pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    collection: String,
    /// 1 to 256 bytes without control characters.
    #[param(example = "7", min_length = 1, max_length = 256)]
    id: String,
}

/// A problem: its status, what it says, an example of its `detail`, and whether it says when to try again.
type ProblemOf = (u16, &'static str, &'static str, bool);

const PROBLEMS: [ProblemOf; 11] = [
    (
        400,
        "Malformed: no JSON, no UTF-8, or no such parameter. Nothing was accepted",
        "the body: EOF while parsing an object at line 1 column 1",
        false,
    ),
    (
        401,
        "The token is missing or unknown, where the service asks for one. Nothing was accepted",
        "this service asks for a token",
        false,
    ),
    (404, "There is no such document, write, dead letter or route", "there is no document orders/7", false),
    (408, "The body did not arrive in time. Nothing was accepted", "the body did not arrive in time", false),
    (
        409,
        "The `Idempotency-Key` was used for another request. Nothing was accepted",
        "this Idempotency-Key belongs to another request",
        false,
    ),
    (
        413,
        "The body is too large. Nothing was accepted",
        "the body is larger than 1048576 bytes, the limit here",
        false,
    ),
    (
        422,
        "Well-formed, and not what the contract allows. Nothing was accepted",
        "writes[0]: `document` is missing",
        false,
    ),
    (
        429,
        "Too many requests from this client. Nothing was accepted",
        "more requests than this client may send",
        true,
    ),
    (
        500,
        "The service is not set up as the journal needs it, which a person has to mend: nothing was accepted. In direct mode, a part of the writes is stored, and the detail says which",
        "the journal failed: Redis at 10.0.0.5:6379: NOPERM (the user may not do this: give it the rights of profiles/redis.acl)",
        false,
    ),
    (
        503,
        "The journal or the database cannot be reached, or too much waits for the database. Nothing was accepted",
        "the journal cannot be reached: connection refused",
        true,
    ),
    (
        504,
        "The journal did not answer in time: the write may or may not have been accepted, and a retry with the same `Idempotency-Key` settles it",
        "the write may or may not have been accepted (the journal did not answer in time); send it again with the same Idempotency-Key to settle it",
        false,
    ),
];

fn problem_name(status: impl std::fmt::Display) -> String {
    format!("Problem{status}")
}

fn problem((status, description, detail, tells_when): ProblemOf) -> (String, Response) {
    let title = axum::http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let example = json!({"type": "about:blank", "title": title, "status": status, "detail": detail});
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(<Problem as ToSchema>::name())))
        .example(Some(example))
        .build();
    let mut response =
        ResponseBuilder::new().description(description).content("application/problem+json", content);
    if tells_when {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
        let header =
            HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds until a retry is worth it"));
        response = response.header("Retry-After", header.build());
    }
    (problem_name(status), response.build())
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident: [$($status:literal),+];)+) => {
        $($(#[$doc])*
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                [$($status),+]
                    .map(|status: u16| (status.to_string(), RefOr::Ref(Ref::from_response_name(problem_name(status)))))
                    .into()
            }
        })+
    };
}

problems! {
    /// Of routes that write.
    WriteProblems: [400, 401, 408, 409, 413, 422, 429, 500, 503, 504];
    /// Of reads of a document.
    ReadProblems: [400, 401, 404, 422, 429, 503];
    /// Of questions for a write.
    StatusProblems: [400, 401, 404, 429, 500, 503];
    /// Of the audit.
    AuditProblems: [400, 401, 422, 429, 503];
    /// Of lists of dead letters.
    LetterListProblems: [400, 401, 422, 429, 503];
    /// Of one dead letter.
    LetterProblems: [400, 401, 404, 422, 429, 503];
    /// Of replays.
    ReplayProblems: [400, 401, 404, 422, 429, 503, 504];
    /// Of readiness.
    ReadinessProblems: [503];
}

/// What no handler says: title, tags and the problems that they refer to.
fn preamble() -> OpenApi {
    let components = PROBLEMS
        .into_iter()
        .map(problem)
        .fold(ComponentsBuilder::new().schema_from::<Problem>(), |components, (name, response)| {
            components.response(name, response)
        });
    let tag = |name, description| TagBuilder::new().name(name).description(Some(description)).build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("scalekit write-behind service")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Writes are acknowledged once they are durable in a journal, are readable at once, and reach the database as fast as it allows. An error means that nothing was accepted; only 504 leaves that open.",
                ))
                .license(Some(LicenseBuilder::new().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0")).build()))
                .build(),
        )
        .tags(Some([
            tag("documents", "Documents and transactions"),
            tag("dead letters", "Writes that the database refused for good"),
            tag("audit", "What the database really holds"),
            tag("system", "Health, metrics, counters and this document"),
        ]))
        .components(Some(components.build()))
        .build()
}

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let mut whole = preamble();
    whole.merge(super::api_routes().into_openapi());
    whole.merge(super::system::routes().into_openapi());
    // Strings, numbers and maps with keys of text always serialize.
    serde_json::to_vec(&whole).unwrap_or_default().into()
});

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "system",
    responses((status = 200, description = "The contract as OpenAPI 3.1", body = Object)))]
pub(super) async fn document() -> HttpResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

/// Method and path of each operation that is documented.
pub(super) fn operations(document: &OpenApi) -> Vec<(&'static str, String)> {
    let mut operations = Vec::new();
    for (path, item) in &document.paths.paths {
        let PathItem { get, put, post, patch, delete, .. } = item;
        let methods = [("GET", get), ("PUT", put), ("POST", post), ("PATCH", patch), ("DELETE", delete)];
        operations.extend(
            methods
                .iter()
                .filter(|(_, operation)| operation.is_some())
                .map(|(name, _)| (*name, path.clone())),
        );
    }
    operations
}
