//! Tests of the response parser: framing tables, any split, any bytes.

use proptest::prelude::*;

use super::*;

/// What a parse yields: `(status, body bytes, keep-alive, bytes behind the end)`, or `None` while incomplete.
type Parsed = Option<(u16, u64, bool, usize)>;

fn parse(pieces: &[&[u8]], to_head: bool, close: bool) -> Result<Parsed, Malformed> {
    let mut parser = ResponseParser::new();
    parser.reset(to_head);
    let mut complete = None;
    for piece in pieces {
        match (complete, parser.feed(piece)?) {
            (None, Fed::Complete { rest }) => complete = Some(rest),
            (Some(before), Fed::Complete { rest }) => complete = Some(before + rest),
            (_, Fed::More) => {}
        }
    }
    if complete.is_none() && close && parser.close() {
        complete = Some(0);
    }
    Ok(complete.map(|rest| (parser.status(), parser.body_bytes(), parser.keep_alive(), rest)))
}

/// Responses of every framing, with the result expected after the peer closes.
fn responses() -> Vec<(&'static str, Parsed)> {
    vec![
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Some((200, 5, true, 0))),
        ("HTTP/1.1 202 Accepted\r\ncontent-length:0\r\n\r\n", Some((202, 0, true, 0))),
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", Some((200, 2, true, 0))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: Close\r\n\r\nok", Some((200, 2, false, 0))),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Some((200, 2, false, 0))),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok", Some((200, 2, true, 0))),
        ("HTTP/1.1 200 OK\r\n\r\nuntil the end", Some((200, 13, false, 0))),
        ("HTTP/1.1 204 No Content\r\n\r\n", Some((204, 0, true, 0))),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", Some((304, 0, true, 0))),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            Some((200, 1, true, 0)),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;name=value\r\n0123456789\r\n0\r\n\r\n",
            Some((200, 15, true, 0)),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\nTrailer: t\r\nOther: u\r\n\r\n",
            Some((200, 1, true, 0)),
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nzzz", Some((200, 3, false, 0))),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Some((200, 0, false, 0)),
        ),
        ("HTTP/1.1 500 Oops\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nbad", Some((500, 3, true, 0))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxunasked", Some((200, 1, true, 7))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", None),
        ("HTTP/1.1 200 OK\r\nContent-Le", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell", None),
        ("", None),
    ]
}

#[test]
fn every_framing_parses() {
    for (text, expected) in responses() {
        assert_eq!(parse(&[text.as_bytes()], false, true), Ok(expected), "{text}");
    }
}

#[test]
fn responses_to_head_have_no_body() {
    let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(parse(&[text], true, false), Ok(Some((200, 0, true, 0))));
}

#[test]
fn malformed_responses_are_refused() {
    for text in [
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/2 200\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 099 Low\r\n\r\n",
        "HTTP/1.1 101 Switching\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11111111111111111\r\n",
    ] {
        assert!(parse(&[text.as_bytes()], false, false).is_err(), "{text}");
    }
}

#[test]
fn heads_and_trailers_are_limited() {
    let line = "X: 0123456789012345678901234567890123456789\r\n".repeat(3000);
    let head = format!("HTTP/1.1 200 OK\r\n{line}\r\n");
    let trailers = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{line}\r\n");
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(129));
    for text in [head, trailers, many] {
        assert!(parse(&[text.as_bytes()], false, false).is_err());
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(100).collect();
        assert!(parse(&pieces, false, false).is_err());
    }
}

#[test]
fn a_parser_is_reusable() {
    let mut parser = ResponseParser::new();
    for (text, status) in [
        ("HTTP/1.1 500 Oops\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx", 500),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
    ] {
        assert_eq!(parser.feed(text.as_bytes()), Ok(Fed::Complete { rest: 0 }));
        assert_eq!((parser.status(), parser.keep_alive()), (status, status == 200));
        parser.reset(false);
    }
}

proptest! {
    #[test]
    fn any_split_parses_alike(which in 0usize..20, cuts in prop::collection::vec(0usize..400, 0..12)) {
        let (text, expected) = responses()[which];
        let bytes = text.as_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(parse(&pieces, false, true), Ok(expected));
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(parse(&single, false, true), Ok(expected));
    }

    #[test]
    fn any_bytes_neither_panic_nor_grow(
        prefix in 0usize..20,
        keep in 0usize..200,
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
        to_head: bool,
    ) {
        let mut parser = ResponseParser::new();
    parser.reset(to_head);
        let text = responses()[prefix].0.as_bytes();
        let mut failed = parser.feed(&text[..keep.min(text.len())]).is_err();
        for piece in pieces {
            if failed {
                break;
            }
            failed = parser.feed(&piece).is_err();
            prop_assert!(parser.buffered() <= 2 * MAX_HEAD_BYTES);
        }
        parser.close();
    }
}
