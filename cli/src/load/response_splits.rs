//! What must hold of the response parser whatever a server sends: how the bytes are cut up makes no difference. Shared
//! by the tests and by the fuzz target (`cli/fuzz`), which includes this file.

use std::sync::Arc;

use super::check::Needle;
use super::response::{Fed, Malformed, ResponseParser};

/// Of one connection, which the peer closes in the end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    Whole {
        status: u16,
        keep_alive: bool,
        body_has: bool,
        cookies: Vec<String>,
        /// Bytes behind the end.
        rest: usize,
    },
    /// The response is not complete, and its end is not the connection's.
    Partial,
    Malformed(Malformed),
}

/// Checks that the bytes parse alike whole, byte by byte and in pieces in between; gives what they are.
pub(super) fn check(bytes: &[u8]) -> Parsed {
    check_as(bytes, true);
    check_as(bytes, false)
}

fn check_as(bytes: &[u8], to_head: bool) -> Parsed {
    let whole = parse(bytes, bytes.len().max(1), to_head);
    if let Parsed::Whole { status, rest, .. } = whole {
        assert!((200..1000).contains(&status) && rest <= bytes.len(), "{status}, {rest} left over");
    }
    for piece in [1, 2, 3, 7, 61] {
        assert_eq!(parse(bytes, piece, to_head), whole, "in pieces of {piece}, to HEAD: {to_head}");
    }
    whole
}

fn parse(bytes: &[u8], piece: usize, to_head: bool) -> Parsed {
    let mut parser = ResponseParser::new();
    parser.reset(to_head, Some(Arc::new(Needle::new("needle"))));
    parser.collect_cookies();
    let mut fed = 0;
    for piece in bytes.chunks(piece) {
        fed += piece.len();
        match parser.feed(piece) {
            Ok(Fed::More) => {}
            Ok(Fed::Complete { rest }) => return complete(&parser, rest + bytes.len() - fed),
            Err(malformed) => return Parsed::Malformed(malformed),
        }
    }
    if parser.close() { complete(&parser, 0) } else { Parsed::Partial }
}

fn complete(parser: &ResponseParser, rest: usize) -> Parsed {
    let cookies =
        parser.cookies().into_iter().flat_map(|cookies| cookies.iter().map(str::to_owned)).collect();
    let (status, keep_alive, body_has) = (parser.status(), parser.keep_alive(), parser.body_has());
    Parsed::Whole { status, keep_alive, body_has, cookies, rest }
}
