//! What MongoDB's answers mean: for one document, for a command, for the store as a whole.

use bson::Document;
use bson::raw::RawDocumentBuf;
use mongodb::error::{Error, ErrorKind};

use crate::store::StoreError;

/// <https://www.mongodb.com/docs/manual/reference/error-codes/>
const DUPLICATE_KEY: i32 = 11000;

/// The server's state, not the document, is the matter: HostUnreachable, HostNotFound, LockTimeout,
/// LockBusy, MaxTimeMSExpired, StaleShardVersion, WriteConcernFailed, NetworkTimeout,
/// PrimarySteppedDown, WriteConflict, ReadConcernMajorityNotAvailableYet, ExceededMemoryLimit, StaleEpoch,
/// ShutdownInProgress, NotYetInitialized, ExceededTimeLimit, TransactionTooOld,
/// IngressRequestRateLimitExceeded, SocketException, NotWritablePrimary, InterruptedAtShutdown, Interrupted,
/// InterruptedDueToReplStateChange, StaleConfig, NotPrimaryNoSecondaryOk, NotPrimaryOrSecondary, OutOfDiskSpace.
const TRANSIENT: [i32; 28] = [
    6, 7, 24, 46, 50, 63, 64, 89, 91, 94, 112, 134, 146, 150, 189, 225, 262, 462, 9001, 10058, 10107, 11600,
    11601, 11602, 13388, 13435, 13436, 14031,
];

/// Of these, the ones that say that it took too long or has too much to do: LockTimeout, MaxTimeMSExpired,
/// WriteConcernFailed (a time-out), NetworkTimeout, ExceededMemoryLimit, ExceededTimeLimit,
/// IngressRequestRateLimitExceeded.
const OVERLOAD: [i32; 7] = [24, 50, 64, 89, 146, 262, 462];

/// What a server adds that turns work away, whatever the code is.
const OVERLOAD_LABEL: &str = "SystemOverloadedError";

/// The server does not let this client, whatever it writes, until its owner mends that: UserNotFound, Unauthorized,
/// AuthenticationFailed, ReauthenticationRequired, AtlasError (over a quota, among others).
const NOT_ALLOWED: [i32; 5] = [11, 13, 18, 391, 8000];

/// A command fails as a whole for one of its documents: BadValue, FailedToParse, TypeMismatch, Overflow,
/// InvalidLength, InvalidBSON, DollarPrefixedFieldName, InvalidIdField, EmptyFieldName, DottedFieldName,
/// ImmutableField, DocumentValidationFailure, BSONObjectTooLarge, and size checks without a name.
const DOCUMENT: [i32; 15] = [2, 9, 14, 15, 16, 22, 52, 53, 56, 57, 66, 121, 10334, 17419, 17420];

/// A command fails for its collection, now and later: InvalidNamespace, CommandNotSupportedOnView.
const NAMESPACE: [i32; 2] = [73, 166];

/// What became of one statement of a write command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// Something is stored under this `_id`.
    DuplicateId,
    Refused(String),
}

/// Why a whole command failed.
#[derive(Debug)]
pub(super) enum CommandError {
    Store(StoreError),
    /// Some document of it cannot be taken, for this reason.
    Document(String),
    /// No document can ever be written there, for this reason.
    Namespace(String),
}

impl CommandError {
    /// For commands that carry no documents.
    pub(super) fn into_store(self) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Document(reason) | Self::Namespace(reason) => StoreError::Failed(reason),
        }
    }
}

pub(super) fn classify(error: &Error) -> CommandError {
    let message = error.kind.to_string();
    match &*error.kind {
        ErrorKind::Command(command) => {
            let message = reason(command.code, &command.message);
            if DOCUMENT.contains(&command.code) {
                CommandError::Document(message)
            } else if NAMESPACE.contains(&command.code) {
                CommandError::Namespace(message)
            } else if error.contains_label(OVERLOAD_LABEL) {
                CommandError::Store(StoreError::Overloaded(message))
            } else if is_of_the_server(command.code) {
                CommandError::Store(waiting(command.code, message))
            } else {
                CommandError::Store(StoreError::Failed(message))
            }
        }
        // The driver refuses what is larger than the server's limit before it is sent.
        ErrorKind::InvalidArgument { .. } | ErrorKind::Bson(_) | ErrorKind::BsonSerialization(_) => {
            CommandError::Document(message)
        }
        ErrorKind::InvalidResponse { .. } => CommandError::Store(StoreError::Failed(message)),
        _ => CommandError::Store(StoreError::Unavailable(message)),
    }
}

/// The outcome of each of a command's `statements`.
pub(super) fn outcomes(reply: &Document, statements: usize) -> Result<Vec<Outcome>, StoreError> {
    if let Ok(error) = reply.get_document("writeConcernError") {
        let message = format!("the write concern was not met: {}", reason(code(error), message(error)));
        return Err(waiting(code(error), message));
    }
    let mut outcomes = vec![Outcome::Done; statements];
    let errors = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
    for error in errors.iter().filter_map(bson::Bson::as_document) {
        let place = number(error, "index").and_then(|index| usize::try_from(index).ok());
        let Some(outcome) = place.and_then(|place| outcomes.get_mut(place)) else {
            return Err(StoreError::Failed(format!("the server names a write that was not sent: {error}")));
        };
        let code = code(error);
        *outcome = match code {
            DUPLICATE_KEY if is_id_collision(error) => Outcome::DuplicateId,
            code if is_of_the_server(code) => {
                return Err(waiting(code, reason(code, message(error))));
            }
            code => Outcome::Refused(reason(code, message(error))),
        };
    }
    // Each statement concerns exactly one document, so the counts must add up: a reply that says less is not
    // a promise that all are stored.
    let done = outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count();
    if number(reply, "n").and_then(|n| usize::try_from(n).ok()) != Some(done) {
        return Err(StoreError::Unavailable(format!(
            "the server reports {:?} documents written, expected {done} of {statements}",
            reply.get("n")
        )));
    }
    Ok(outcomes)
}

/// The documents of a `find` reply, and whether they are all.
pub(super) fn batch(reply: &Document) -> Result<(Vec<RawDocumentBuf>, bool), StoreError> {
    let malformed = || StoreError::Failed("the server's answer to a find has no cursor".to_owned());
    let cursor = reply.get_document("cursor").map_err(|_| malformed())?;
    let documents = cursor.get_array("firstBatch").map_err(|_| malformed())?;
    let documents = documents
        .iter()
        .filter_map(bson::Bson::as_document)
        .map(RawDocumentBuf::try_from)
        .collect::<Result<_, _>>()
        .map_err(super::invalid_bson)?;
    Ok((documents, number(cursor, "id") == Some(0)))
}

/// Why writes have to wait.
fn waiting(code: i32, message: String) -> StoreError {
    if OVERLOAD.contains(&code) { StoreError::Overloaded(message) } else { StoreError::Unavailable(message) }
}

/// Whether the writes are to wait: nothing is wrong with them.
fn is_of_the_server(code: i32) -> bool {
    TRANSIENT.contains(&code) || NOT_ALLOWED.contains(&code)
}

/// Servers before 4.4 name the index in the message only.
fn is_id_collision(error: &Document) -> bool {
    match error.get_document("keyPattern") {
        Ok(pattern) => pattern.keys().eq(["_id"]),
        Err(_) => message(error).contains(" index: _id_ "),
    }
}

fn code(error: &Document) -> i32 {
    number(error, "code").and_then(|code| i32::try_from(code).ok()).unwrap_or(-1)
}

fn message(error: &Document) -> &str {
    error.get_str("errmsg").unwrap_or("no message")
}

fn reason(code: i32, message: &str) -> String {
    format!("MongoDB error {code}: {message}")
}

fn number(document: &Document, name: &str) -> Option<i64> {
    match document.get(name)? {
        bson::Bson::Int32(value) => Some(i64::from(*value)),
        bson::Bson::Int64(value) => Some(*value),
        // Exact for all that occur here: counts and codes.
        bson::Bson::Double(value) => Some(*value as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn each_document_has_its_own_outcome() {
        let reply = doc! { "ok": 1, "n": 2, "writeErrors": [
            { "index": 0, "code": 11000, "keyPattern": { "_id": 1 }, "errmsg": "dup" },
            { "index": 2, "code": 11000, "keyPattern": { "email": 1 }, "errmsg": "dup email" },
            { "index": 3, "code": 121, "errmsg": "Document failed validation" },
            { "index": 4, "code": 11000, "errmsg": "E11000 collection: a.b index: _id_ dup key: { _id: 1 }" },
        ]};
        let expected = [
            Outcome::DuplicateId,
            Outcome::Done,
            Outcome::Refused("MongoDB error 11000: dup email".into()),
            Outcome::Refused("MongoDB error 121: Document failed validation".into()),
            Outcome::DuplicateId,
            Outcome::Done,
        ];
        assert_eq!(outcomes(&reply, 6).unwrap(), expected);
    }

    #[test]
    fn nothing_is_taken_for_stored_when_the_answer_is_in_doubt() {
        let concern = doc! { "code": 64, "errmsg": "waiting for replication timed out" };
        let doubtful = [
            doc! { "ok": 1, "n": 2, "writeConcernError": concern },
            doc! { "ok": 1, "n": 1 },
            doc! { "ok": 1, "n": 3 },
            doc! { "ok": 1 },
            doc! { "ok": 1, "n": 1, "writeErrors": [{ "index": 0, "code": 10107, "errmsg": "not primary" }] },
        ];
        for reply in doubtful {
            let error = outcomes(&reply, 2).unwrap_err();
            assert!(!matches!(error, StoreError::Failed(_)), "{reply}: {error}");
        }
        let stray = doc! { "ok": 1, "n": 1, "writeErrors": [{ "index": 2, "code": 121 }] };
        assert!(matches!(outcomes(&stray, 2), Err(StoreError::Failed(_))));
    }

    #[test]
    fn what_took_too_long_is_told_from_what_is_away() {
        let reply =
            |code: i32| doc! { "ok": 1, "n": 1, "writeConcernError": { "code": code, "errmsg": "late" } };
        for code in OVERLOAD {
            assert!(is_of_the_server(code), "{code} is one of those that wait");
            assert!(matches!(outcomes(&reply(code), 1), Err(StoreError::Overloaded(_))), "{code}");
        }
        for code in [10107, 91, 13] {
            assert!(matches!(outcomes(&reply(code), 1), Err(StoreError::Unavailable(_))), "{code}");
        }
    }

    #[test]
    fn batches() {
        let reply = |id: i64| doc! { "cursor": { "id": id, "firstBatch": [{ "_id": "a" }] } };
        assert!(batch(&reply(0)).unwrap().1);
        let (documents, complete) = batch(&reply(7)).unwrap();
        assert_eq!((documents.len(), complete), (1, false));
        assert!(batch(&doc! { "ok": 1 }).is_err());
    }
}
