//! What is wrong with a profile, where, and what to do about it.

use super::units::HELP;

/// An invalid profile: exit status 104.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}\nhelp: {help}")]
pub(crate) struct ProfileError {
    /// `file:line:column`, or the flag, or the name that was asked for.
    pub(crate) place: String,
    /// Key path and what was expected.
    pub(crate) message: String,
    /// What to do.
    pub(crate) help: String,
}

impl ProfileError {
    pub(super) fn new(place: impl Into<String>, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into(), help: help.into() }
    }

    /// Turns the parser's error into ours. The parser gives the place and the key path; what serde adds about
    /// its own types is said in the words of the others.
    pub(super) fn from_yaml(file: &str, error: &serde_yaml::Error) -> Self {
        let mut text = error.to_string();
        let mut place = file.to_owned();
        if let Some(at) = error.location() {
            place = format!("{file}:{}:{}", at.line(), at.column());
            let mark = format!(" at line {} column {}", at.line(), at.column());
            if let Some(without) = text.strip_suffix(&mark) {
                text.truncate(without.len());
            }
        }
        if let Some((message, help)) = text.split_once(HELP) {
            return Self::new(place, message, help);
        }
        let suggestion = suggest_from(&text);
        let message = plain_words(&text);
        Self::new(place, message, suggestion.unwrap_or_else(|| DEFAULT_HELP.to_owned()))
    }
}

const DEFAULT_HELP: &str =
    "every key is described in profiles/profile.schema.json and shown in profiles/default.yaml";

/// `invalid type: integer `5`, expected a string` → `expected a string, found integer `5``.
fn plain_words(text: &str) -> String {
    for marker in ["invalid type: ", "invalid value: "] {
        if let Some((path, rest)) = text.split_once(marker)
            && let Some((found, expected)) = rest.rsplit_once(", expected ")
        {
            let expected = if expected.starts_with("struct ") { "a section of keys" } else { expected };
            let found = if found == "unit value" { "nothing" } else { found };
            return format!("{path}expected {expected}, found {found}");
        }
    }
    text.replace("unknown field", "unknown key")
        .replace("unknown variant", "unknown value")
        .replace("duplicate field", "duplicate key")
        .replace("missing field", "missing key")
}

/// The advice for an unknown key or value: the nearest one of those that serde lists.
fn suggest_from(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("unknown field `").or_else(|| text.split_once("unknown variant `"))?;
    let (unknown, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2);
    nearest(unknown, known).map(|nearest| format!("did you mean `{nearest}`?"))
}

/// The nearest of the known words, if it is near enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::osa_distance(word, known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len().max(word.len()) / 3 + 1)
        .map(|(_, known)| known)
}
