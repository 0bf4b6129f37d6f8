//! What a Redis server's refusals mean for whoever asked, by the code that they begin with. Nothing was accepted with any
//! of them: a server that answers so has not run the command.

use ::redis::RedisError;

use crate::journal::JournalError;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It passes by itself, or as soon as somebody mends the server: 503, try again.
    Passes,
    /// This service is set up wrongly for this server: 500, trying again is of no use.
    Misfit,
}

use Meaning::{Misfit, Passes};

/// The code, what becomes of requests, and what an operator can do.
const STATES: &[(&str, Meaning, &str)] = &[
    ("OOM", Passes, "its memory is full: raise `maxmemory`, or wait until the worker has stored more"),
    ("READONLY", Passes, "it is a replica now: wait for the failover, or let the URL name the primary"),
    ("LOADING", Passes, "it reads its files after a start: wait"),
    ("MISCONF", Passes, "it cannot write its files: look at its disk and its log"),
    ("BUSY", Passes, "a script keeps it: wait, or SCRIPT KILL"),
    ("NOREPLICAS", Passes, "too few replicas are connected for its `min-replicas-to-write`: bring them back"),
    ("CLUSTERDOWN", Passes, "its cluster lacks slots: look at CLUSTER INFO"),
    (
        "MASTERDOWN",
        Passes,
        "it is a replica whose primary is away: wait for the failover, or let the URL name the primary",
    ),
    ("TRYAGAIN", Passes, "its cluster is moving the slot: wait"),
    (
        "MOVED",
        Misfit,
        "the journal's slot belongs to another node of its cluster: let the URL name that node",
    ),
    ("ASK", Passes, "its cluster is moving the slot: wait"),
    ("CROSSSLOT", Misfit, "it is a proxy or cluster that does not know hash tags: use another server"),
    ("NOAUTH", Misfit, "it asks for a password: give the URL a user and a password"),
    (
        "WRONGPASS",
        Misfit,
        "it does not know the user, or not by this password: mend the URL, and restart the service",
    ),
    ("NOPERM", Misfit, "the user may not do this: give it the rights of profiles/redis.acl"),
    (
        "WRONGTYPE",
        Misfit,
        "a key of the journal holds something else: find out what wrote it, and move it away",
    ),
];

fn state(message: &str, code: Option<&str>) -> Option<(Meaning, &'static str)> {
    let known = STATES.iter().find(|(name, ..)| code == Some(name));
    // Within a script, an ACL speaks without its code.
    let within = || {
        let denied =
            message.contains("can't run this command") || message.contains("can't access at least one");
        STATES.iter().find(|(name, ..)| denied && *name == "NOPERM")
    };
    known.or_else(within).map(|(_, meaning, advice)| (*meaning, *advice))
}

fn of(text: String, state: Option<(Meaning, &'static str)>) -> JournalError {
    match state {
        Some((Passes, advice)) => JournalError::Unavailable(format!("{text} ({advice})")),
        Some((Misfit, advice)) => JournalError::Failed(format!("{text} ({advice})")),
        None => JournalError::Unavailable(text),
    }
}

/// The server answered that it did not do it.
pub(super) fn unavailable(address: &str, error: &RedisError) -> JournalError {
    let text = error.to_string();
    // The library's text has a name of its own for some codes.
    let code =
        error.code().filter(|code| !text.contains(code)).map_or(String::new(), |code| format!("{code} "));
    let state = state(&text, error.code());
    of(format!("Redis at {address}: {code}{text}"), state)
}

/// There is no connection; the reason has the server's code somewhere, if it answered.
pub(super) fn not_connected(reason: String) -> JournalError {
    // What the library makes of WRONGPASS.
    let code = if reason.contains("AuthenticationFailed") {
        Some("WRONGPASS")
    } else {
        let has = |code: &str| reason.split(|c: char| !c.is_ascii_uppercase()).any(|word| word == code);
        STATES.iter().map(|(code, ..)| *code).find(|code| has(code))
    };
    let state = state(&reason, code);
    of(reason, state)
}

#[cfg(test)]
mod tests {
    use ::redis::make_extension_error;

    use super::*;

    fn answered(code: &str, detail: &str) -> JournalError {
        unavailable("h:1", &make_extension_error(code.to_owned(), Some(detail.to_owned())))
    }

    /// Those that a single real server does not produce.
    #[test]
    fn states_of_a_cluster_and_what_nobody_knows() {
        for code in ["TRYAGAIN", "ASK", "CLUSTERDOWN", "SOMETHINGNEW"] {
            let error = answered(code, "3999 127.0.0.1:6381");
            assert!(matches!(&error, JournalError::Unavailable(why) if why.contains(code)), "{error:?}");
        }
        for code in ["MOVED", "CROSSSLOT", "WRONGTYPE"] {
            let error = answered(code, "3999 127.0.0.1:6381");
            assert!(matches!(&error, JournalError::Failed(why) if why.contains(code)), "{error:?}");
        }
    }
}
