//! The secret that coordinator and agents share.

use std::fmt;

use subtle::ConstantTimeEq as _;

/// Shorter ones can be guessed.
const MIN_BYTES: usize = 16;
const MAX_BYTES: usize = 4096;

/// A bearer token (RFC 6750).
#[derive(Clone)]
pub(crate) struct Token(String);

impl Token {
    /// Takes what stands in a token file; space around it does not count.
    ///
    /// # Errors
    /// What is wrong with it; the token itself is not named.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let token = text.trim();
        if !(MIN_BYTES..=MAX_BYTES).contains(&token.len()) {
            return Err(format!("expected {MIN_BYTES} to {MAX_BYTES} characters, found {}", token.len()));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("expected one line of visible ASCII characters".to_owned());
        }
        Ok(Self(token.to_owned()))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// The value of the Authorization header.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether an Authorization header has it; how long that takes tells its length at most.
    pub(super) fn is_in(&self, header: Option<&[u8]>) -> bool {
        header.is_some_and(|header| self.header().as_bytes().ct_eq(header).into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        output.write_str("Token(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_is_taken() {
        let token = Token::parse(" 0123456789abcdef\n").unwrap();
        assert!(token.is_in(Some(b"Bearer 0123456789abcdef")));
        for wrong in [&b"Bearer 0123456789abcdeg"[..], b"0123456789abcdef", b"Bearer ", b"", b"\xff"] {
            assert!(!token.is_in(Some(wrong)));
        }
        assert!(!token.is_in(None));
        assert!(!format!("{token:?}").contains("0123"));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for (text, part) in [
            ("", "found 0"),
            ("short", "found 5"),
            ("two lines of a\nfile are not one", "one line"),
            ("0123456789abcdefü", "visible ASCII"),
        ] {
            assert!(Token::parse(text).unwrap_err().contains(part), "{text}");
        }
    }
}
