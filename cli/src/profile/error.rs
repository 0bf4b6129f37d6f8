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
            // The parser's own errors have it in their midst, those of values at their end.
            text = text.replacen(&mark, "", 1);
        }
        if let Some((message, help)) = text.split_once(HELP) {
            return Self::new(place, message, help);
        }
        Self::new(place, plain_words(&text), advice(&text))
    }
}

/// What to do about an error of the parser.
fn advice(text: &str) -> String {
    if let Some(suggestion) = suggest_from(text) {
        return suggestion;
    }
    // What the scanner and the parser of YAML itself complain about.
    let malformed =
        text.contains("while scanning") || text.contains("while parsing") || text.contains("did not find");
    let advice = if malformed {
        "correct the YAML: indent with spaces, close what is opened, quote texts that hold `: ` or `#`"
    } else if text.contains("duplicate field") {
        "keep one of the two"
    } else {
        "every key is described in profiles/profile.schema.json and shown in profiles/default.yaml"
    };
    advice.to_owned()
}

/// `invalid type: integer `5`, expected a string` → `expected a string, found integer `5``.
fn plain_words(text: &str) -> String {
    for marker in ["invalid type: ", "invalid value: "] {
        if let Some((path, rest)) = text.split_once(marker)
            && let Some((found, expected)) = rest.rsplit_once(", expected ")
        {
            let expected = match expected {
                "a sequence" => "a list",
                _ if expected.starts_with("struct ") => "a section of keys",
                _ => expected,
            };
            let found = match found {
                "unit value" => "nothing",
                "sequence" => "a list",
                "map" => "a section of keys",
                _ => found,
            };
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
