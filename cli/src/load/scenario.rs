//! What each user sends, as bytes: made once, before the start.

use super::outcome::Acknowledgement;
use super::plan::{PlanError, Scenario, Target};
use super::transactions::{self, Transactions};

const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;
const USER_AGENT: &str = concat!("User-Agent: scalekit/", env!("CARGO_PKG_VERSION"), "\r\n");
/// Headers that frame the request or the connection, which the generator sets from what it really sends.
const RESERVED_HEADERS: [&str; 4] = ["content-length", "transfer-encoding", "upgrade", "expect"];

/// One thread's source of request bytes.
#[derive(Clone, Debug)]
pub(super) struct RequestSource {
    kind: Kind,
    to_head: bool,
    acknowledgement: Acknowledgement,
}

#[derive(Clone, Debug)]
enum Kind {
    Fixed(Vec<u8>),
    Transactions(Box<Transactions>),
}

impl RequestSource {
    /// Expects a scenario that passed [`check`].
    pub(super) fn new(scenario: &Scenario, target: &Target) -> Self {
        match scenario {
            Scenario::Request { method, headers, body } => Self {
                kind: Kind::Fixed(fixed(target, method, headers, body)),
                to_head: method == "HEAD",
                acknowledgement: Acknowledgement::Success,
            },
            Scenario::Transactions { run, items, item_collection, write_collection, reads, writes } => Self {
                kind: Kind::Transactions(Box::new(Transactions::new(
                    &head(target, "POST", &transactions::path(target)),
                    &transactions::Shape {
                        run,
                        items: *items,
                        item_collection,
                        write_collection,
                        reads: *reads,
                        writes: *writes,
                    },
                ))),
                to_head: false,
                acknowledgement: Acknowledgement::Accepted,
            },
        }
    }

    /// The request that a user sends as its `sequence`th. The same arguments give the same bytes, so that an
    /// interrupted send can be continued from a buffer that others have used meanwhile.
    pub(super) fn render(&mut self, user: u32, sequence: u32) -> &[u8] {
        match &mut self.kind {
            Kind::Fixed(bytes) => bytes,
            Kind::Transactions(transactions) => transactions.render(user, sequence),
        }
    }

    pub(super) fn to_head(&self) -> bool {
        self.to_head
    }

    pub(super) fn acknowledgement(&self) -> Acknowledgement {
        self.acknowledgement
    }
}

/// Checks a scenario for what would make broken requests.
pub(super) fn check(scenario: &Scenario, target: &Target) -> Result<(), PlanError> {
    match scenario {
        Scenario::Request { method, headers, body } => {
            if !is_token(method) || method == "CONNECT" {
                return Err(PlanError::invalid(
                    "the method",
                    format!("\"{method}\""),
                    "an HTTP method, such as GET",
                ));
            }
            if body.len() > MAX_REQUEST_BYTES {
                return Err(PlanError::invalid("the body's size", body.len(), "at most 64 MiB"));
            }
            headers.iter().try_for_each(|(name, value)| check_header(name, value))
        }
        Scenario::Transactions { run, items, item_collection, write_collection, reads, writes } => {
            let (reads, writes) = (*reads, *writes);
            transactions::Shape { run, items: *items, item_collection, write_collection, reads, writes }
                .check(target)
        }
    }
}

fn check_header(name: &str, value: &str) -> Result<(), PlanError> {
    if !is_token(name) {
        return Err(PlanError::invalid(
            "a header's name",
            format!("\"{name}\""),
            "letters, digits and dashes",
        ));
    }
    if RESERVED_HEADERS.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
        return Err(PlanError::invalid("a header", name, "another one: scalekit frames its requests itself"));
    }
    if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(PlanError::invalid("a header's value", format!("{value:?}"), "no control characters"));
    }
    Ok(())
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let special = b"!#$%&'*+-.^_`|~";
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || special.contains(&byte))
}

/// The request line and the headers that every request has.
fn head(target: &Target, method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{USER_AGENT}", target.authority)
}

fn fixed(target: &Target, method: &str, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let given = |name: &str| headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
    let mut text = format!("{method} {} HTTP/1.1\r\n", target.path);
    if !given("host") {
        text += &format!("Host: {}\r\n", target.authority);
    }
    if !given("user-agent") {
        text += USER_AGENT;
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    text += "\r\n";
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, headers: &[(&str, &str)], body: &str) -> Scenario {
        let headers = headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        Scenario::Request { method: method.into(), headers, body: body.into() }
    }

    fn rendered(scenario: &Scenario) -> String {
        let target = Target::parse("http://127.0.0.1:8080/a?b").unwrap();
        check(scenario, &target).unwrap();
        let mut source = RequestSource::new(scenario, &target);
        String::from_utf8(source.render(3, 4).to_vec()).unwrap()
    }

    #[test]
    fn requests_are_framed() {
        assert_eq!(
            rendered(&request("GET", &[], "")),
            format!("GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n{USER_AGENT}\r\n")
        );
        assert_eq!(
            rendered(&request("POST", &[("host", "x"), ("User-Agent", "y"), ("X-A", "b c")], "body")),
            "POST /a?b HTTP/1.1\r\nhost: x\r\nUser-Agent: y\r\nX-A: b c\r\nContent-Length: 4\r\n\r\nbody"
        );
        assert!(rendered(&request("PUT", &[], "")).ends_with("Content-Length: 0\r\n\r\n"));
    }

    #[test]
    fn only_a_head_request_has_no_body_in_the_response() {
        let target = Target::parse("http://127.0.0.1/").unwrap();
        assert!(RequestSource::new(&request("HEAD", &[], ""), &target).to_head());
        assert!(!RequestSource::new(&request("GET", &[], ""), &target).to_head());
    }

    #[test]
    fn broken_requests_are_refused() {
        let target = Target::parse("http://127.0.0.1/").unwrap();
        for (scenario, part) in [
            (request("", &[], ""), "the method"),
            (request("GE T", &[], ""), "the method"),
            (request("CONNECT", &[], ""), "the method"),
            (request("GET", &[("a b", "c")], ""), "header's name"),
            (request("GET", &[("a", "b\r\nc: d")], ""), "header's value"),
            (request("GET", &[("Content-LENGTH", "3")], ""), "frames its requests itself"),
        ] {
            let error = check(&scenario, &target).unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
