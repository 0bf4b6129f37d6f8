//! The proof of who the users are, sent with every request and shown nowhere.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A value of the Authorization header. It travels to agents with the plan.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Authorization(String);

impl Authorization {
    /// Of a bearer token.
    ///
    /// # Errors
    /// What it may consist of (RFC 6750, section 2.1); the token is not repeated.
    pub(crate) fn bearer(token: &str) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if token.is_empty() || !token.bytes().all(plain) {
            return Err("expected letters, digits and - . _ ~ + / = only".to_owned());
        }
        Ok(Self(format!("Bearer {token}")))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        output.write_str("Authorization(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_cannot_break_out_of_its_header_nor_be_printed() {
        let good = Authorization::bearer("scalekit_0123+/=._~-").unwrap();
        assert_eq!(good.expose(), "Bearer scalekit_0123+/=._~-");
        assert!(!format!("{good:?}").contains("0123"));
        for bad in ["", "a b", "a\r\nX: y", "${vu}", "ü"] {
            assert!(Authorization::bearer(bad).is_err(), "{bad}");
        }
    }
}
