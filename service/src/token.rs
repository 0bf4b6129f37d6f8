//! Bearer tokens (RFC 6750) as they are kept: a file of names and SHA-256 hashes, never of the tokens themselves.
//!
//! One fast hash is enough, since what it is made of has 256 random bits: there is nothing to guess, and a slow
//! hash would cost each new connection what the whole request does not.

use std::fmt::Write as _;
use std::num::NonZeroU32;

use sha2::{Digest as _, Sha256};

/// What new tokens begin with, so that scanners for leaked secrets know them.
const PREFIX: &str = "scalekit_";
/// Of a token, at random.
pub const RANDOM_BYTES: usize = 32;
/// Each is compared with what a client sends, so there must be an end to them.
const MAX_TOKENS: usize = 1000;
const MAX_NAME_BYTES: usize = 64;
/// Requests a second.
const MAX_RATE: u32 = 10_000_000;
const ALGORITHM: &str = "sha256:";

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenLine {
    pub name: String,
    pub hash: TokenHash,
    /// Requests a second; `None`: no limit of its own.
    pub rate: Option<NonZeroU32>,
}

/// The token that these random bytes make.
#[must_use]
pub fn encode(random: &[u8; RANDOM_BYTES]) -> String {
    format!("{PREFIX}{}", hex(random))
}

/// What is kept of a token.
#[must_use]
pub fn hash(token: &[u8]) -> TokenHash {
    Sha256::digest(token).into()
}

/// The file's line for a new token.
///
/// # Errors
/// A name or a rate that the file could not have; says what was expected.
pub fn line(name: &str, token: &str, rate: Option<&str>) -> Result<String, String> {
    // A space in it would make it two words of the line.
    check_name(name)?;
    let line = format!("{name}  {ALGORITHM}{}", hex(&hash(token.as_bytes())));
    let line = rate.map_or_else(|| line.clone(), |rate| format!("{line}  {rate}"));
    parse_line(&line).map(|_| line)
}

/// Reads the file's text: `NAME  sha256:HEX  [RATE]` a line; empty lines and those that begin with `#` do not count.
///
/// # Errors
/// The first bad line, as `LINE: what is wrong with it`; or that there is no token.
pub fn parse(text: &str) -> Result<Vec<TokenLine>, String> {
    let mut tokens: Vec<TokenLine> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |problem: String| format!("{}: {problem}", index + 1);
        let token = parse_line(line).map_err(at)?;
        if tokens.iter().any(|known| known.name == token.name) {
            return Err(at(format!(
                "the name {:?} is there already; name each token differently",
                token.name
            )));
        }
        if tokens.iter().any(|known| known.hash == token.hash) {
            return Err(at("this token is there already under another name; make one for each".to_owned()));
        }
        if tokens.len() == MAX_TOKENS {
            return Err(at(format!("more than {MAX_TOKENS} tokens; take out those that nobody uses")));
        }
        tokens.push(token);
    }
    if tokens.is_empty() {
        return Err("1: there is no token in it; make one with `scalekit token new NAME`".to_owned());
    }
    Ok(tokens)
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    Err(format!("expected a name of 1 to {MAX_NAME_BYTES} letters, digits, `-`, `_` or `.` first"))
}

fn parse_line(line: &str) -> Result<TokenLine, String> {
    let mut words = line.split_ascii_whitespace();
    let (name, kept, rate) =
        (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next());
    check_name(name)?;
    if let Some(more) = words.next() {
        return Err(format!("expected `NAME  sha256:HEX  [RATE]`, found {more:?} after that"));
    }
    // What stands there may be the token itself, so it is not repeated.
    let hash = kept.strip_prefix(ALGORITHM).and_then(unhex).ok_or_else(|| {
        format!(
            "expected {ALGORITHM} and 64 hexadecimal digits after the name {name:?}; `scalekit token new {name}` \
             prints such a line"
        )
    })?;
    let rate = rate.map(parse_rate).transpose()?;
    Ok(TokenLine { name: name.to_owned(), hash, rate })
}

fn parse_rate(text: &str) -> Result<NonZeroU32, String> {
    let number = text.strip_suffix("/s").and_then(|number| number.parse().ok());
    number.filter(|rate| *rate <= NonZeroU32::new(MAX_RATE).unwrap_or(NonZeroU32::MAX)).ok_or_else(|| {
        format!("expected requests a second from 1/s to {MAX_RATE}/s, such as 500/s, found {text:?}")
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<TokenHash> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hash_is_sha_256() {
        // FIPS 180-4's example.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&hash(b"abc")), expected);
        assert_eq!(unhex(expected), Some(hash(b"abc")));
        assert!(encode(&[0xab; 32]).starts_with("scalekit_abab") && encode(&[0; 32]).len() == 73);
    }

    #[test]
    fn a_file_is_read() {
        let (one, two) =
            (line("ci", "token-one", Some("500/s")).unwrap(), line("ops.1", "token-two", None).unwrap());
        let tokens = parse(&format!("# who\n\n{one}\r\n  {two}\n")).unwrap();
        assert_eq!(
            tokens,
            [
                TokenLine { name: "ci".into(), hash: hash(b"token-one"), rate: NonZeroU32::new(500) },
                TokenLine { name: "ops.1".into(), hash: hash(b"token-two"), rate: None },
            ]
        );
        assert!(!format!("{one}{two}").contains("token-"));
    }

    #[test]
    fn a_bad_line_is_named_and_what_may_be_a_token_is_not_repeated() {
        let good = line("ci", "token-one", None).unwrap();
        let same = line("other", "token-one", None).unwrap();
        let hash = good.split_once("  ").unwrap().1.to_owned();
        for (text, parts) in [
            (String::new(), ["1:", "scalekit token new"]),
            ("# only this\n".into(), ["1:", "no token"]),
            ("\nci\n".into(), ["2:", "sha256:"]),
            ("ci scalekit_0123secret".into(), ["1:", "prints such a line"]),
            ("ci sha256:0123secret".into(), ["1:", "64 hexadecimal"]),
            (format!("ci {hash}0"), ["1:", "64 hexadecimal"]),
            (format!("ci {}", &hash[..hash.len() - 1]), ["1:", "64 hexadecimal"]),
            (format!("c/i {hash}"), ["1:", "a name"]),
            (format!("{good}\n{good}"), ["2:", "\"ci\" is there already"]),
            (format!("{good}\n{same}"), ["2:", "another name"]),
            (format!("{good} 0/s"), ["1:", "\"0/s\""]),
            (format!("{good} 500"), ["1:", "500/s"]),
            (format!("{good} 10000001/s"), ["1:", "10000000/s"]),
            (format!("{good} 5/s more"), ["1:", "\"more\""]),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{text:?}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let many: String =
            (0..=1000).map(|n| line(&format!("t{n}"), &format!("{n}"), None).unwrap() + "\n").collect();
        assert!(parse(&many).unwrap_err().starts_with("1001: more than 1000"));
        assert!(line("no name", "t", None).is_err() && line("n", "t", Some("fast")).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[a-z0-9 :#/\n]{0,200}|\\PC{0,80}") {
            let _ = parse(&text);
        }
        #[test]
        fn what_is_written_is_read(name in "[a-zA-Z0-9._-]{1,64}", token in "[!-~]{1,80}", rate in proptest::option::of(1u32..=10_000_000)) {
            let text = rate.map(|rate| format!("{rate}/s"));
            let read = parse(&line(&name, &token, text.as_deref()).unwrap()).unwrap();
            prop_assert_eq!(read, [TokenLine { name, hash: hash(token.as_bytes()), rate: rate.and_then(NonZeroU32::new) }]);
        }
    }
}
