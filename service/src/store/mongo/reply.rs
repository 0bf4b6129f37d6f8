//! What MongoDB's answers mean: for one document, for a command, for the store as a whole.

use bson::Document;
use bson::raw::RawDocumentBuf;
use mongodb::error::{Error, ErrorKind};

use super::codes::{DUPLICATE_KEY, Fault, fault};
use crate::store::StoreError;

/// What became of one statement of a write command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// Something is stored under this `_id`.
    DuplicateId,
    Refused(String),
}

/// Why a whole command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CommandError {
    Store(StoreError),
    /// Some document of it cannot be taken, for this reason.
    Document(String),
    /// No document can ever be written there, for this reason.
    Namespace(String),
    /// Nobody knows yet whose fault it is.
    Unknown(String),
}

impl CommandError {
    /// For commands that carry no documents.
    pub(super) fn into_store(self) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Document(reason) | Self::Namespace(reason) | Self::Unknown(reason) => {
                StoreError::Failed(reason)
            }
        }
    }

    fn of(fault: Fault, reason: String) -> Self {
        match fault {
            Fault::Server | Fault::NotAllowed => Self::Store(StoreError::Unavailable(reason)),
            Fault::Slow => Self::Store(StoreError::TimedOut(reason)),
            Fault::Overload => Self::Store(StoreError::Overloaded(reason)),
            Fault::Document => Self::Document(reason),
            Fault::Namespace => Self::Namespace(reason),
            Fault::Unknown => Self::Unknown(reason),
        }
    }
}

pub(super) fn classify(error: &Error) -> CommandError {
    let message = error.kind.to_string();
    match &*error.kind {
        ErrorKind::Command(command) => CommandError::of(
            fault(command.code, |label| error.contains_label(label)),
            reason(command.code, &command.message),
        ),
        // The driver refuses what is larger than the server's limit before it is sent.
        ErrorKind::InvalidArgument { .. } | ErrorKind::Bson(_) | ErrorKind::BsonSerialization(_) => {
            CommandError::Document(message)
        }
        ErrorKind::InvalidResponse { .. } => CommandError::Unknown(message),
        ErrorKind::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            CommandError::Store(StoreError::TimedOut(message))
        }
        _ => CommandError::Store(StoreError::Unavailable(message)),
    }
}

/// The outcome of each of a command's `statements`. One error that is not a document's is an error of all: what was
/// stored is found again when they are delivered once more.
pub(super) fn outcomes(reply: &Document, statements: usize) -> Result<Vec<Outcome>, CommandError> {
    let labels = reply.get_array("errorLabels").map(Vec::as_slice).unwrap_or_default();
    let has_label = |label: &str| labels.iter().any(|known| known.as_str() == Some(label));
    if let Ok(error) = reply.get_document("writeConcernError") {
        let reason = format!("the write concern was not met: {}", reason(code(error), message(error)));
        // It is never a document's.
        return Err(CommandError::Store(match fault(code(error), has_label) {
            Fault::Slow => StoreError::TimedOut(reason),
            Fault::Overload => StoreError::Overloaded(reason),
            _ => StoreError::Unavailable(reason),
        }));
    }
    let mut outcomes = vec![Outcome::Done; statements];
    let errors = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
    let mut unknown = None;
    for error in errors.iter().filter_map(bson::Bson::as_document) {
        let place = number(error, "index").and_then(|index| usize::try_from(index).ok());
        let Some(outcome) = place.and_then(|place| outcomes.get_mut(place)) else {
            return Err(CommandError::Unknown(format!(
                "the server names a write that was not sent: {error}"
            )));
        };
        let code = code(error);
        let reason = reason(code, message(error));
        *outcome = match fault(code, has_label) {
            _ if code == DUPLICATE_KEY && is_id_collision(error) => Outcome::DuplicateId,
            Fault::Document | Fault::Namespace => Outcome::Refused(reason),
            // What waits goes before what is in doubt.
            Fault::Unknown => {
                unknown.get_or_insert(reason);
                continue;
            }
            fault => return Err(CommandError::of(fault, reason)),
        };
    }
    if let Some(reason) = unknown {
        return Err(CommandError::Unknown(reason));
    }
    // Each statement concerns exactly one document, so the counts must add up: a reply that says less is not
    // a promise that all are stored.
    let done = outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count();
    if number(reply, "n").and_then(|n| usize::try_from(n).ok()) != Some(done) {
        return Err(CommandError::Store(StoreError::Unavailable(format!(
            "the server reports {:?} documents written, expected {done} of {statements}",
            reply.get("n")
        ))));
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
        let concern = |code: i32| doc! { "code": code, "errmsg": "it did not come to that" };
        let unavailable = |reply: Document| (reply, "cannot be reached");
        let table = [
            (doc! { "ok": 1, "n": 2, "writeConcernError": concern(64) }, "in time"),
            unavailable(doc! { "ok": 1, "n": 2, "writeConcernError": concern(91) }),
            unavailable(doc! { "ok": 1, "n": 2, "writeConcernError": concern(100) }),
            // Codes that would be a document's, or that nobody knows: still all must wait.
            unavailable(doc! { "ok": 1, "n": 2, "writeConcernError": concern(2) }),
            unavailable(doc! { "ok": 1, "n": 2, "writeConcernError": concern(4711) }),
            unavailable(doc! { "ok": 1, "n": 1 }),
            unavailable(doc! { "ok": 1, "n": 3 }),
            unavailable(doc! { "ok": 1 }),
            unavailable(
                doc! { "ok": 1, "n": 1, "writeErrors": [{ "index": 0, "code": 10107, "errmsg": "not primary" }] },
            ),
            // An error of the server's goes before one of a document's, and before one that nobody knows.
            unavailable(doc! { "ok": 1, "n": 0, "writeErrors": [
                { "index": 0, "code": 4711, "errmsg": "?" },
                { "index": 1, "code": 14031, "errmsg": "no space left" },
            ] }),
            (
                doc! { "ok": 1, "n": 1, "writeErrors": [{ "index": 0, "code": 50, "errmsg": "too slow" }] },
                "in time",
            ),
            (
                doc! {
                    "ok": 1, "n": 1, "errorLabels": ["SystemOverloadedError"],
                    "writeErrors": [{ "index": 0, "code": 4711, "errmsg": "too much" }],
                },
                "overloaded",
            ),
        ];
        for (reply, expected) in table {
            match outcomes(&reply, 2).unwrap_err() {
                CommandError::Store(error) => {
                    assert!(error.to_string().contains(expected), "{reply}: {error}")
                }
                error => panic!("{reply}: {error:?}"),
            }
        }
        for unknown in [
            doc! { "ok": 1, "n": 1, "writeErrors": [{ "index": 2, "code": 121 }] },
            doc! { "ok": 1, "n": 1, "writeErrors": [{ "index": 1, "code": 4711, "errmsg": "?" }] },
        ] {
            assert!(matches!(outcomes(&unknown, 2), Err(CommandError::Unknown(_))), "{unknown}");
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
