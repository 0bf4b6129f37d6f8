//! The variable parts of a path, with axum's refusals turned into problem documents.

use axum::extract::FromRequestParts;
use axum::extract::path::Path as Extracted;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// The decoded parts; a path that is not UTF-8 once decoded is malformed.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Extracted::from_request_parts(parts, state).await {
            Ok(Extracted(value)) => Ok(Self(value)),
            Err(rejected) => Err(ApiError::malformed(rejected.body_text())),
        }
    }
}
