//! What texts in a profile may hold. Each check gives what was expected.

use std::net::SocketAddr;

/// Largest request body, in bytes.
const MAX_BODY_BYTES: usize = 1 << 20;

pub(super) fn address(text: &str) -> Result<(), String> {
    text.parse::<SocketAddr>().map(drop).map_err(|_| "an address and port such as 127.0.0.1:8080".to_owned())
}

/// A URL with one of the schemes and a host; what follows is the client's business.
pub(super) fn url(text: &str, schemes: &[&str]) -> Result<(), String> {
    let expected = || format!("a URL such as {}://host:port", schemes[0]);
    let (scheme, rest) = text.split_once("://").ok_or_else(expected)?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let clean = text.chars().all(|c| !c.is_whitespace() && !c.is_control());
    (schemes.contains(&scheme) && !host.is_empty() && clean).then_some(()).ok_or_else(expected)
}

/// The name of a database or a collection.
pub(super) fn name(text: &str, longest: usize) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (!text.is_empty() && text.len() <= longest && text.bytes().all(allowed))
        .then_some(())
        .ok_or_else(|| format!("1 to {longest} letters, digits, `_` or `-`"))
}

pub(super) fn method(text: &str) -> Result<(), String> {
    (!text.is_empty() && text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_uppercase()))
        .then_some(())
        .ok_or_else(|| "an HTTP method such as GET".to_owned())
}

/// A header that cannot break out of its line (RFC 9110, 5.1 and 5.5).
pub(super) fn header(name: &str, value: &str) -> Result<(), String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || name.len() > 256 || !name.bytes().all(token) {
        return Err("a header name of letters, digits and -".to_owned());
    }
    if value.len() > 8192 || value.chars().any(|c| c.is_control() && c != '\t') {
        return Err("a header value on one line, up to 8192 bytes".to_owned());
    }
    Ok(())
}

pub(super) fn body(text: &str) -> Result<(), String> {
    (text.len() <= MAX_BODY_BYTES).then_some(()).ok_or_else(|| format!("at most {MAX_BODY_BYTES} bytes"))
}
