//! What must hold of the response parser whatever a server sends: how the bytes are cut up makes no difference. Shared
//! by the tests and by the fuzz target (`cli/fuzz`), which includes this file.

use std::sync::Arc;

use super::check::Needle;
use super::head::HeadMemo;
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
    let mut memo = HeadMemo::default();
    let mut parse = |piece, cookies| parse(bytes, piece, to_head, cookies, &mut memo);
    let whole = parse(bytes.len().max(1), true);
    // Those that do not ask for cookies may go by what is remembered of the head.
    let once = parse(bytes.len().max(1), false);
    assert_eq!(parse(bytes.len().max(1), false), once, "the second time, to HEAD: {to_head}");
    assert_eq!(without_cookies(&whole), once, "to HEAD: {to_head}");
    if let Parsed::Whole { status, rest, .. } = whole {
        assert!((200..1000).contains(&status) && rest <= bytes.len(), "{status}, {rest} left over");
    }
    for piece in [1, 2, 3, 7, 61] {
        assert_eq!(parse(piece, true), whole, "in pieces of {piece}, to HEAD: {to_head}");
    }
    whole
}

fn without_cookies(parsed: &Parsed) -> Parsed {
    match *parsed {
        Parsed::Whole { status, keep_alive, body_has, cookies: _, rest } => {
            Parsed::Whole { status, keep_alive, body_has, cookies: Vec::new(), rest }
        }
        Parsed::Partial => Parsed::Partial,
        Parsed::Malformed(malformed) => Parsed::Malformed(malformed),
    }
}

fn parse(bytes: &[u8], piece: usize, to_head: bool, cookies: bool, memo: &mut HeadMemo) -> Parsed {
    let mut parser = ResponseParser::new();
    parser.reset(to_head, Some(Arc::new(Needle::new("needle"))));
    if cookies {
        parser.collect_cookies();
    }
    let mut fed = 0;
    for piece in bytes.chunks(piece) {
        fed += piece.len();
        match parser.feed(piece, memo) {
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
