//! Tests of the response parser: framing tables, any split, any bytes.

use std::fs;

use proptest::prelude::*;

use super::super::response_splits::{self, Parsed as Outcome};
use super::*;

/// What a parse yields: `(status, body bytes, keep-alive, bytes behind the end)`, or `None` while incomplete.
type Parsed = Option<(u16, u64, bool, usize)>;

fn parse(pieces: &[&[u8]], to_head: bool, close: bool) -> Result<Parsed, Malformed> {
    let mut parser = ResponseParser::new();
    parser.reset(to_head, None);
    let (mut complete, mut memo) = (None, HeadMemo::default());
    for piece in pieces {
        match (complete, parser.feed(piece, &mut memo)?) {
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
    let (mut parser, mut memo) = (ResponseParser::new(), HeadMemo::default());
    for (text, status) in [
        ("HTTP/1.1 500 Oops\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx", 500),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
    ] {
        assert_eq!(parser.feed(text.as_bytes(), &mut memo), Ok(Fed::Complete { rest: 0 }));
        assert_eq!((parser.status(), parser.keep_alive()), (status, status == 200));
        parser.reset(false, None);
    }
}

/// A change to the bytes of a response, as a faulty server, or one that means harm, would make it.
#[derive(Clone, Debug)]
enum Mutation {
    Replace(usize, u8),
    Insert(usize, u8),
    Remove(usize, usize),
    /// Repeats a stretch behind itself, so often.
    Repeat(usize, usize, usize),
    /// Goes on with another response from there.
    Splice(usize, usize),
}

impl Mutation {
    fn any() -> impl Strategy<Value = Self> {
        // What the grammar is made of does more harm than any byte.
        let byte = || prop_oneof![any::<u8>(), prop::sample::select(b"\r\n :;,0129afAF\0\x80".to_vec())];
        let at = || 0usize..400;
        prop_oneof![
            (at(), byte()).prop_map(|(at, byte)| Self::Replace(at, byte)),
            (at(), byte()).prop_map(|(at, byte)| Self::Insert(at, byte)),
            (at(), 1usize..20).prop_map(|(at, count)| Self::Remove(at, count)),
            (at(), 1usize..40, 1usize..50).prop_map(|(at, count, times)| Self::Repeat(at, count, times)),
            (at(), 0usize..20).prop_map(|(at, which)| Self::Splice(at, which)),
        ]
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        let at = |at: usize, bytes: &[u8]| at % (bytes.len() + 1);
        match *self {
            Self::Replace(from, byte) => {
                let from = at(from, bytes);
                bytes.get_mut(from).into_iter().for_each(|old| *old = byte);
            }
            Self::Insert(from, byte) => bytes.insert(at(from, bytes), byte),
            Self::Remove(from, count) => {
                let from = at(from, bytes);
                bytes.drain(from..(from + count).min(bytes.len()));
            }
            Self::Repeat(from, count, times) => {
                let from = at(from, bytes);
                let stretch = bytes[from..(from + count).min(bytes.len())].repeat(times);
                bytes.splice(from..from, stretch);
            }
            Self::Splice(from, which) => {
                bytes.truncate(at(from, bytes));
                bytes.extend_from_slice(responses()[which].0.as_bytes());
            }
        }
    }
}

proptest! {
    // Most mutations meet the body, where nothing is parsed: many cases for a few seconds' worth of trying.
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn mutated_responses_parse_alike_however_they_are_split(
        which in 0usize..20,
        mutations in prop::collection::vec(Mutation::any(), 1..6),
        cuts in prop::collection::vec(0usize..1000, 0..12),
        to_head: bool,
        close: bool,
    ) {
        let mut bytes = responses()[which].0.as_bytes().to_vec();
        mutations.iter().for_each(|mutation| mutation.apply(&mut bytes));
        let whole = parse(&[&bytes], to_head, close);
        if let Ok(Some((status, body, _, rest))) = whole {
            prop_assert!((200..1000).contains(&status));
            prop_assert!(body as usize + rest <= bytes.len());
        }
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(parse(&pieces, to_head, close), whole);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(parse(&single, to_head, close), whole);
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
        let (mut parser, mut memo) = (ResponseParser::new(), HeadMemo::default());
        parser.reset(to_head, None);
        let text = responses()[prefix].0.as_bytes();
        let mut failed = parser.feed(&text[..keep.min(text.len())], &mut memo).is_err();
        for piece in pieces {
            if failed {
                break;
            }
            failed = parser.feed(&piece, &mut memo).is_err();
            prop_assert!(parser.buffered() <= 2 * MAX_HEAD_BYTES);
        }
        parser.close();
    }
}

/// What a response comes to, fed in one piece: `None` if it is malformed, else whether it is complete, its status, whether
/// the connection persists, and the length of its body.
fn outcome(text: &[u8], to_head: bool, memo: &mut HeadMemo) -> Option<(Fed, u16, bool, u64)> {
    let mut parser = ResponseParser::new();
    parser.reset(to_head, None);
    let fed = parser.feed(text, memo).ok()?;
    Some((fed, parser.status(), parser.keep_alive(), parser.body_bytes()))
}

proptest! {
    #[test]
    fn what_was_remembered_of_other_responses_changes_nothing(
        picks in prop::collection::vec((0usize..20, any::<bool>(), prop::option::of(Mutation::any())), 1..30),
    ) {
        let mut memo = HeadMemo::default();
        for (which, to_head, mutation) in picks {
            let mut bytes = responses()[which].0.as_bytes().to_vec();
            if let Some(mutation) = mutation {
                mutation.apply(&mut bytes);
            }
            for _ in 0..2 {
                let alone = outcome(&bytes, to_head, &mut HeadMemo::default());
                prop_assert_eq!(outcome(&bytes, to_head, &mut memo), alone);
            }
        }
    }
}

#[test]
fn the_last_head_is_remembered_and_no_other() {
    let (one, other) = (responses()[0].0, "HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n");
    let mut memo = HeadMemo::default();
    assert!(memo.recall(one.as_bytes()).is_none());
    outcome(one.as_bytes(), false, &mut memo);
    let length = one.find("\r\n\r\n").unwrap() + 4;
    assert!(memo.recall(one.as_bytes()).is_some_and(|(head, end)| (head.status, end) == (200, length)));
    assert!(memo.recall(&one.as_bytes()[..length - 1]).is_none());
    outcome(other.as_bytes(), false, &mut memo);
    assert!(memo.recall(one.as_bytes()).is_none() && memo.recall(other.as_bytes()).is_some());
    // One that is long is parsed each time.
    outcome(format!("HTTP/1.1 204 No\r\nA: {}\r\n\r\n", "b".repeat(1024)).as_bytes(), false, &mut memo);
    assert!(memo.recall(other.as_bytes()).is_none());
}

#[test]
fn a_body_is_searched_however_it_is_framed_and_cut() {
    let bodies = [
        "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhay needle!",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhay ne\r\n5\r\nedle!\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhay needle!",
    ];
    for (text, length) in bodies.into_iter().flat_map(|text| (1..12).map(move |length| (text, length))) {
        for (wanted, found) in [("needle", true), ("noodle", false), ("200", false)] {
            let needle = std::sync::Arc::new(Needle::new(wanted));
            let mut parser = ResponseParser::new();
            parser.reset(false, Some(needle));
            for piece in text.as_bytes().chunks(length) {
                parser.feed(piece, &mut HeadMemo::default()).unwrap();
            }
            assert_eq!(parser.body_has(), found, "{wanted} in {text:?} by {length}");
        }
    }
}

/// What the fuzzer starts from. A file is named by what becomes of it.
#[test]
fn the_fuzzers_corpus_parses_alike_however_it_is_split() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/response");
    let mut kinds = std::collections::BTreeMap::<&str, u32>::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = match response_splits::check(&fs::read(&path).unwrap()) {
            Outcome::Whole { .. } => "whole",
            Outcome::Partial => "part",
            Outcome::Malformed(_) => "bad",
        };
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(kind), "{name} is {kind}");
        *kinds.entry(kind).or_default() += 1;
    }
    assert!(kinds.len() == 3 && kinds.values().all(|count| *count >= 5), "{kinds:?}");
}

#[test]
fn cookies_are_collected_of_the_final_head_alone() {
    let text = b"HTTP/1.1 103 Early\r\nSet-Cookie: interim=1\r\n\r\n\
        HTTP/1.1 404 No\r\nSET-COOKIE: a=1\r\nX: Set-Cookie: no=1\r\nset-cookie:  b=2 \r\nContent-Length: 0\r\n\r\n";
    let found = |parser: &ResponseParser| {
        parser.cookies().map(|cookies| cookies.iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let mut parser = ResponseParser::new();
    parser.reset(false, None);
    parser.feed(text, &mut HeadMemo::default()).unwrap();
    assert_eq!(found(&parser), None, "unless they are asked for");
    for _ in 0..2 {
        parser.reset(false, None);
        parser.collect_cookies();
        parser.feed(text, &mut HeadMemo::default()).unwrap();
        assert_eq!(found(&parser).unwrap(), ["a=1", "b=2"]);
    }
}
