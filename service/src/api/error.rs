//! What a client is told when a request fails: RFC 9457 problem documents.
//!
//! Every error means that nothing was accepted, but for 504, which leaves the outcome open, and in direct mode 500:
//! some of the request's writes are stored, and the detail says which. Else 500 means that a person has to mend something
//! before a retry can be of use; 503 passes.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::admission::Refusal;
use crate::contract::Problem;
use crate::direct::DirectError;
use crate::journal::JournalError;

/// Seconds after which a client may try again while something is away: any of these, so that not all come back together.
const RETRY_UNREACHABLE_SECONDS: RangeInclusive<u32> = 1..=3;

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    detail: String,
    retry_after_seconds: Option<u32>,
    /// What proof of who one is would do, for a 401.
    challenge: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), retry_after_seconds: None, challenge: None }
    }

    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Well-formed, but not what the contract allows.
    pub(super) fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(super) fn method_not_allowed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, detail)
    }

    pub(super) fn too_large(limit_bytes: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is larger than {limit_bytes} bytes, the limit here"),
        )
    }

    pub(super) fn request_timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")
    }

    pub(super) fn unauthorized(detail: impl Into<String>, challenge: &'static str) -> Self {
        Self { challenge: Some(challenge), ..Self::new(StatusCode::UNAUTHORIZED, detail) }
    }

    pub(super) fn too_many_requests(detail: impl Into<String>, wait: Duration) -> Self {
        Self {
            retry_after_seconds: Some(whole_seconds(wait)),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, detail)
        }
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        Self { retry_after_seconds: Some(fastrand::u32(RETRY_UNREACHABLE_SECONDS)), ..error }
    }

    /// The service is set up wrongly, which no retry will mend.
    fn misfit(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    }

    pub(super) fn outcome_unknown(detail: &str) -> Self {
        let detail = format!(
            "the write may or may not have been accepted ({detail}); send it again with the same Idempotency-Key to settle it"
        );
        Self::new(StatusCode::GATEWAY_TIMEOUT, detail)
    }
}

/// As a header has it: never earlier than asked for, and never at once.
fn whole_seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_secs_f64().ceil() as u64).unwrap_or(u32::MAX).max(1)
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, refusal.detail);
        Self { retry_after_seconds: Some(whole_seconds(refusal.retry_after)), ..error }
    }
}

impl From<DirectError> for ApiError {
    fn from(error: DirectError) -> Self {
        let detail = error.to_string();
        match error {
            DirectError::Unavailable(_) => Self::unavailable(detail),
            DirectError::Refused { .. } => Self::unprocessable(detail),
            DirectError::Partly { .. } => Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail),
            DirectError::Unknown { .. } => Self::new(StatusCode::GATEWAY_TIMEOUT, detail),
        }
    }
}

impl From<JournalError> for ApiError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Unavailable(_) | JournalError::Full(_) => Self::unavailable(error.to_string()),
            JournalError::Failed(_) => Self::misfit(error.to_string()),
            JournalError::Invalid(reason) => Self::unprocessable(reason),
            JournalError::Reused => Self::unprocessable(
                "this Idempotency-Key was used for another request within the last minutes; a retry must send the same body, and another request needs a key of its own",
            ),
            JournalError::Unknown(reason) => Self::outcome_unknown(&reason),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem {
            kind: "about:blank".into(),
            title: self.status.canonical_reason().unwrap_or("Error").into(),
            status: self.status.as_u16(),
            detail: self.detail,
        };
        // Plain strings and a number always serialize.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response =
            (self.status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}
