//! Who may ask: a bearer token, compared by its hash, remembered by the connection that it came on.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use axum::http::{HeaderMap, header};
use secrecy::{ExposeSecret as _, SecretSlice};
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};

use super::error::ApiError;
use super::rate::RateLimit;
use super::reload::{self, Reload};
use crate::token::{self, TokenHash, TokenLine};

/// A thousand tokens of the longest lines are a fifth of it.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Longer ones are not looked at. A hash of so many bytes takes some 20 µs.
const MAX_HEADER_BYTES: usize = 4096;
/// Probes, which have no token and tell nothing.
const OPEN_TO_ALL: [&str; 2] = ["/healthz", "/readyz"];

/// The tokens of the process, as the file has them now.
pub(crate) struct Guard {
    file: PathBuf,
    tokens: RwLock<Arc<[Arc<Known>]>>,
    /// Counts the changes: a token that a connection has shown is worth something until the next one.
    generation: AtomicU64,
}

/// One token.
struct Known {
    line: TokenLine,
    limit: Option<RateLimit>,
}

impl Guard {
    /// # Errors
    /// The file cannot be read, or a line of it is none: `FILE:LINE: what is wrong`.
    pub(crate) fn open(file: &Path) -> Result<Self, String> {
        let guard =
            Self { file: file.to_owned(), tokens: RwLock::new(Arc::new([])), generation: AtomicU64::new(0) };
        guard.reload()?;
        Ok(guard)
    }

    fn tokens(&self) -> Arc<[Arc<Known>]> {
        Arc::clone(&self.tokens.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Compares with every token, so that the time it takes says nothing.
    fn find(&self, hash: &TokenHash) -> Option<Arc<Known>> {
        let tokens = self.tokens();
        let mut found = u32::MAX;
        for (index, known) in tokens.iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            found.conditional_assign(&index, known.line.hash.ct_eq(hash));
        }
        tokens.get(found as usize).cloned()
    }
}

impl Reload for Guard {
    fn files(&self) -> Vec<PathBuf> {
        vec![self.file.clone()]
    }

    fn reload(&self) -> Result<(), String> {
        let bytes = reload::read(&self.file, MAX_FILE_BYTES)?;
        let shown = self.file.display();
        let text = std::str::from_utf8(&bytes).map_err(|_| format!("{shown}:1: expected text in UTF-8"))?;
        let lines = token::parse(text).map_err(|problem| format!("{shown}:{problem}"))?;
        let before = self.tokens();
        let known = |line: TokenLine| {
            // One that has not changed keeps its place in its second.
            before.iter().find(|known| known.line == line).cloned().unwrap_or_else(|| {
                let limit = line.rate.map(RateLimit::new);
                Arc::new(Known { line, limit })
            })
        };
        let tokens = lines.into_iter().map(known).collect();
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens;
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

/// One connection's dealings with the guard.
pub(super) struct Visitor {
    guard: Arc<Guard>,
    /// Its requests come one after the other; the lock is never waited for.
    last: Mutex<Option<Accepted>>,
}

/// What the connection showed last, so that it need not be hashed for each request.
struct Accepted {
    header: SecretSlice<u8>,
    generation: u64,
    known: Arc<Known>,
}

impl Visitor {
    pub(super) fn new(guard: Arc<Guard>) -> Self {
        Self { guard, last: Mutex::new(None) }
    }

    /// # Errors
    /// What the client is told instead of an answer.
    pub(super) fn admit(&self, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
        if OPEN_TO_ALL.contains(&path) {
            return Ok(());
        }
        let mut shown = headers.get_all(header::AUTHORIZATION).iter();
        let (shown, more) = (shown.next().map(|value| value.as_bytes()), shown.next().is_some());
        let known = match shown {
            Some(header) if !more => self.known(header)?,
            Some(_) => return Err(ApiError::unauthorized("more than one Authorization header", INVALID)),
            None => return Err(ApiError::unauthorized(format!("a token is needed: {SEND}"), ASK)),
        };
        let Some(limit) = &known.limit else { return Ok(()) };
        limit.take().map_err(|wait| {
            let detail =
                format!("the token {:?} may send {} requests a second", known.line.name, limit.per_second());
            ApiError::too_many_requests(detail, wait)
        })
    }

    fn known(&self, header: &[u8]) -> Result<Arc<Known>, ApiError> {
        // Read before the tokens are, so that a change meanwhile shows.
        let generation = self.guard.generation.load(Ordering::Acquire);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = &*last
            && last.generation == generation
            && bool::from(last.header.expose_secret().ct_eq(header))
        {
            return Ok(Arc::clone(&last.known));
        }
        let token =
            bearer(header).ok_or_else(|| ApiError::unauthorized(format!("expected {SEND}"), INVALID))?;
        let known = self.guard.find(&token::hash(token));
        *last = known.as_ref().map(|known| Accepted {
            header: header.to_vec().into(),
            generation,
            known: Arc::clone(known),
        });
        known.ok_or_else(|| ApiError::unauthorized("this token is not known here, or not any more", INVALID))
    }
}

const SEND: &str = "`Authorization: Bearer TOKEN`";
/// RFC 6750, section 3: without a token there is no error to name.
const ASK: &str = "Bearer realm=\"scalekit\"";
const INVALID: &str = "Bearer realm=\"scalekit\", error=\"invalid_token\"";

/// The token in the header. The scheme's name has no case (RFC 9110, section 11.1).
fn bearer(header: &[u8]) -> Option<&[u8]> {
    if header.len() > MAX_HEADER_BYTES {
        return None;
    }
    let (scheme, token) = header.split_at_checked(b"Bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, StatusCode};
    use axum::response::{IntoResponse as _, Response};

    use super::*;

    fn headers(authorization: &[&str]) -> HeaderMap {
        let value = |text: &&str| (header::AUTHORIZATION, HeaderValue::from_str(text).unwrap());
        authorization.iter().map(value).collect()
    }

    fn refused(visitor: &Visitor, authorization: &[&str]) -> Option<Response> {
        visitor.admit("/v1/stats", &headers(authorization)).err().map(ApiError::into_response)
    }

    fn guard(dir: &Path, lines: &[(&str, &str, Option<&str>)]) -> Arc<Guard> {
        let file = dir.join("tokens");
        write(&file, lines);
        Arc::new(Guard::open(&file).unwrap())
    }

    fn write(file: &Path, lines: &[(&str, &str, Option<&str>)]) {
        let line =
            |&(name, token, rate): &(&str, &str, Option<&str>)| token::line(name, token, rate).unwrap();
        std::fs::write(file, lines.iter().map(line).collect::<Vec<_>>().join("\n")).unwrap();
    }

    #[test]
    fn only_a_known_token_is_let_in() {
        let dir = tempfile::tempdir().unwrap();
        let guard = guard(dir.path(), &[("a", "first", None), ("b", "second", None), ("c", "third", None)]);
        for good in ["Bearer first", "bearer second", "BEARER third", "Bearer  first "] {
            // Twice on one connection: the second time it is remembered.
            let visitor = Visitor::new(Arc::clone(&guard));
            assert!(refused(&visitor, &[good]).is_none() && refused(&visitor, &[good]).is_none(), "{good}");
        }
        let long = format!("Bearer {}", "x".repeat(5000));
        for (bad, challenge) in [
            (&[][..], ASK),
            (&["Bearer fourth"], INVALID),
            (&["Bearer"], INVALID),
            (&["Bearer "], INVALID),
            (&["first"], INVALID),
            (&["Basic first"], INVALID),
            (&["Bearer firs"], INVALID),
            (&["Bearer first2"], INVALID),
            (&["Bearer first", "Bearer first"], INVALID),
            (&[long.as_str()], INVALID),
        ] {
            // On a connection of its own, and on one that has shown a good one.
            let known = Visitor::new(Arc::clone(&guard));
            assert!(refused(&known, &["Bearer first"]).is_none());
            for visitor in [Visitor::new(Arc::clone(&guard)), known] {
                let response = refused(&visitor, bad).unwrap_or_else(|| panic!("{bad:?} is let in"));
                assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
                assert_eq!(response.headers()[header::WWW_AUTHENTICATE], challenge);
                assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
            }
        }
        let visitor = Visitor::new(guard);
        for path in ["/healthz", "/readyz"] {
            assert!(visitor.admit(path, &headers(&[])).is_ok());
        }
        for path in ["/metrics", "/v1/stats", "/v1/transactions", "/", "/healthz/", "/v1/healthz", "/nowhere"]
        {
            assert!(visitor.admit(path, &headers(&[])).is_err(), "{path}");
        }
    }

    #[test]
    fn tokens_come_and_go_while_a_connection_stays() {
        let dir = tempfile::tempdir().unwrap();
        let guard = guard(dir.path(), &[("old", "old-token", None)]);
        let visitor = Visitor::new(Arc::clone(&guard));
        assert!(refused(&visitor, &["Bearer old-token"]).is_none());
        let file = dir.path().join("tokens");
        write(&file, &[("old", "old-token", None), ("new", "new-token", None)]);
        guard.reload().unwrap();
        assert!(refused(&visitor, &["Bearer old-token"]).is_none());
        assert!(refused(&visitor, &["Bearer new-token"]).is_none());
        // What cannot be understood changes nothing.
        for (text, part) in
            [("", "tokens:1: there is no token"), ("x", "tokens:1: "), ("\n\nnew z", "tokens:3: ")]
        {
            std::fs::write(&file, text).unwrap();
            let problem = guard.reload().unwrap_err();
            assert!(problem.contains(part), "{problem}");
            assert!(refused(&visitor, &["Bearer old-token"]).is_none());
        }
        assert!(refused(&visitor, &["Bearer old-token"]).is_none());
        write(&file, &[("new", "new-token", None)]);
        guard.reload().unwrap();
        assert_eq!(refused(&visitor, &["Bearer old-token"]).unwrap().status(), StatusCode::UNAUTHORIZED);
        assert!(refused(&visitor, &["Bearer new-token"]).is_none());
    }

    #[test]
    fn each_token_has_a_rate_of_its_own_which_no_reload_resets() {
        let dir = tempfile::tempdir().unwrap();
        let guard = guard(dir.path(), &[("slow", "slow-token", Some("1/s")), ("free", "free-token", None)]);
        let (one, two) = (Visitor::new(Arc::clone(&guard)), Visitor::new(Arc::clone(&guard)));
        assert!(refused(&one, &["Bearer slow-token"]).is_none());
        guard.reload().unwrap();
        // Another connection, the same token.
        let response = refused(&two, &["Bearer slow-token"]).unwrap();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        for _ in 0..1000 {
            assert!(refused(&two, &["Bearer free-token"]).is_none());
        }
    }
}
