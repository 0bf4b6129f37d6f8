//! The URL of a Redis or MongoDB server, which may hold a password: it is printed without, wherever it is printed.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serializer};

/// Longer ones are none: a replica set of fifty members fits.
const MAX_FILE_BYTES: u64 = 16 << 10;
/// What stands for a password.
const HIDDEN: &str = "***";

/// A URL with its credentials. Wiped from memory when it is dropped.
#[derive(Clone)]
pub struct ServerUrl(SecretString);

impl ServerUrl {
    /// From a file with nothing else in it, as a mounted secret is one; space around it does not count.
    ///
    /// # Errors
    /// The file cannot be read, or holds no URL; what it holds is not repeated.
    pub fn read(file: &Path) -> Result<Self, String> {
        let shown = file.display();
        let mut text = String::new();
        File::open(file)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
            .map_err(|error| format!("cannot read {shown}: {error}"))?;
        let url = Self::from(text.trim());
        let plain = |c: char| !c.is_whitespace() && !c.is_control();
        if text.len() as u64 > MAX_FILE_BYTES
            || !url.expose().contains("://")
            || !url.expose().chars().all(plain)
        {
            return Err(format!(
                "{shown} does not hold one URL on one line, such as redis://user:password@host:6379 (a password's special \
                 characters are written as %XX)"
            ));
        }
        Ok(url)
    }

    /// With its password.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// `text` without the password, as it is written in the URL and as it is meant. Drivers are not trusted to keep it.
    #[must_use]
    pub fn hide_in(&self, text: &str) -> String {
        hide(text, self.expose())
    }
}

impl From<&str> for ServerUrl {
    fn from(url: &str) -> Self {
        Self(url.into())
    }
}

impl From<String> for ServerUrl {
    fn from(url: String) -> Self {
        Self(url.into())
    }
}

/// As it was written. There is no `Serialize`: see [`expose_to`].
impl<'de> Deserialize<'de> for ServerUrl {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input).map(Self::from)
    }
}

/// Writes the URL with its password, into a record that only its owner can read.
///
/// # Errors
/// Those of the output.
pub fn expose_to<S: Serializer>(url: &Option<ServerUrl>, output: S) -> Result<S::Ok, S::Error> {
    match url {
        Some(url) => output.serialize_some(url.expose()),
        None => output.serialize_none(),
    }
}

impl PartialEq for ServerUrl {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for ServerUrl {}

impl fmt::Display for ServerUrl {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        output.write_str(&blank(self.expose()))
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(output, "{:?}", blank(self.expose()))
    }
}

/// The URL without its password, for who has it as text.
#[must_use]
pub fn blank(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // Not a URL; but what stands before an @ may be meant as a password.
        return url.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, host)| format!("{HIDDEN}@{host}"));
    };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // The last @ of the authority: a password may hold one itself. If a password holds a slash, there is no @
    // before it, so the last @ of all counts.
    let at = rest[..authority_end].rfind('@').or_else(|| rest.rfind('@'));
    let user = at.and_then(|at| rest[..at].split_once(':').map(|(user, _)| user));
    match (at, user) {
        (Some(at), Some(user)) => format!("{scheme}://{user}:{HIDDEN}{}", &rest[at..]),
        _ => url.to_owned(),
    }
}

/// `text` without the password of `url`.
#[must_use]
pub fn hide(text: &str, url: &str) -> String {
    let Some(written) = password(url) else { return text.to_owned() };
    let mut text = text.replace(written, HIDDEN);
    let meant = unescape(written);
    if let Some(meant) = meant.filter(|meant| !meant.is_empty()) {
        text = text.replace(&meant, HIDDEN);
    }
    text
}

/// What stands between the first `:` and the last `@` of the part with the hosts. A password with an unescaped `/`
/// would end there; so anything up to the last `@` counts.
fn password(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (credentials, _) = rest.rsplit_once('@')?;
    let (_, password) = credentials.split_once(':')?;
    (!password.is_empty()).then_some(password)
}

/// `%XX` as the byte that it stands for; `None` if that gives no text.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = (first == b'%').then(|| after.get(..2)).flatten();
        let byte = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_way_of_printing_shows_the_password() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("redis://:secret@h:6379/0", "redis://:***@h:6379/0"),
            ("redis://u:se@cret@h", "redis://u:***@h"),
            ("mongodb://u:se/cret@h:1/db?a=b", "mongodb://u:***@h:1/db?a=b"),
            ("mongodb://u@h", "mongodb://u@h"),
            ("nonsense", "nonsense"),
            ("user:secret@host", "***@host"),
        ] {
            let url = ServerUrl::from(url);
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("{shown:?}"));
        }
    }

    #[test]
    fn a_password_is_hidden_in_messages_however_it_is_written() {
        for (text, url, expected) in [
            ("cannot use s3cret here", "redis://u:s3cret@h:1", "cannot use *** here"),
            ("p@ss and p%40ss", "mongodb://u:p%40ss@h,h2/db", "*** and ***"),
            ("a/b", "redis://:a/b@h", "***"),
            ("a+b", "redis://:a+b@h", "***"),
            ("a%zb", "redis://:a%zb@h", "***"),
            ("nothing", "redis://h:1", "nothing"),
            ("nothing", "redis://u@h:1", "nothing"),
            ("nothing", "junk", "nothing"),
        ] {
            assert_eq!(ServerUrl::from(url).hide_in(text), expected, "{url}");
        }
    }

    #[test]
    fn a_file_holds_one_url() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("url");
        std::fs::write(&file, "\n redis://u:p@h:1\n").unwrap();
        assert_eq!(ServerUrl::read(&file).unwrap().expose(), "redis://u:p@h:1");
        let long = format!("redis://{}", "s3cret".repeat(5000));
        for text in ["", "s3cret", "redis://u:s3cret@h\nredis://u:s3cret@h2", "redis://u:s3 cret@h", &long] {
            std::fs::write(&file, text).unwrap();
            let error = ServerUrl::read(&file).unwrap_err();
            assert!(error.contains("url does not hold one URL") && !error.contains("s3"), "{error}");
        }
        assert!(ServerUrl::read(&dir.path().join("none")).unwrap_err().contains("cannot read"));
    }

    proptest! {
        #[test]
        fn no_plain_password_is_left(password in "[a-zA-Z0-9!$*._~-]{4,20}", before in "[ ]{0,3}", after in "[ ]{0,3}") {
            let url = ServerUrl::from(format!("redis://user:{password}@host:6379"));
            prop_assume!(!"redis://user:***@host:6379".contains(&password));
            for text in [url.hide_in(&format!("{before}{password}{after}")), url.to_string(), format!("{url:?}")] {
                prop_assert!(!text.contains(&password), "{}", text);
            }
        }
        #[test]
        fn any_text_is_taken_without_a_panic(text in "\\PC{0,60}", url in "[a-z:/@%é0-9]{0,30}") {
            let url = ServerUrl::from(url);
            let _ = (url.hide_in(&text), url.to_string());
        }
    }
}
