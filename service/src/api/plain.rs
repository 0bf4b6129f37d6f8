//! Plain JSON in one pass: no escapes, no repeated names, nothing that may be extended JSON. Most bodies are like that, and
//! serde's way, which looks at documents twice, was a fifth of what a request cost. Whatever is not plain, or is wrong,
//! is `None` here, and for serde to read or to refuse; so this never says what is wrong, and what it does
//! read, it reads as serde does.

use super::elements::{close, element, integer, kind, open, text};

/// Objects and lists in each other. serde takes 128.
const MAX_DEPTH: usize = 32;
/// Fields of an object that are compared one by one for repetitions.
const MAX_FIELDS: usize = 64;
/// Digits of an integer that certainly fits 64 bits.
const MAX_DIGITS: usize = 18;

/// A place in a text.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// `None` if it is no UTF-8.
    pub(super) fn new(text: &'a [u8]) -> Option<Self> {
        Some(Self { text: std::str::from_utf8(text).ok()?, at: 0 })
    }

    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.bytes().get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Takes this byte, if it is next.
    fn takes(&mut self, wanted: u8) -> bool {
        let is_next = self.peek() == Some(wanted);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, wanted: u8) -> Option<()> {
        self.takes(wanted).then_some(())
    }

    /// That nothing is left.
    pub(super) fn end(mut self) -> Option<()> {
        self.peek().is_none().then_some(())
    }

    /// A text without escapes.
    pub(super) fn string(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let from = self.at;
        let length = self.bytes()[from..].iter().position(|byte| matches!(byte, b'"' | b'\\' | ..0x20))?;
        self.at = from + length;
        // It ends at an ASCII character, so between characters.
        let text = &self.text[from..self.at];
        // Not by `expect`, which would pass over a line break.
        self.next_is(b"\"").then_some(())?;
        self.at += 1;
        Some(text)
    }

    /// Gives each field's name to `field`, which takes the value.
    pub(super) fn object(&mut self, mut field: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.takes(b'}') {
            return Some(());
        }
        loop {
            let name = self.string()?;
            self.expect(b':')?;
            field(self, name)?;
            if !self.takes(b',') {
                return self.expect(b'}');
            }
        }
    }

    /// Has `item` take one item after the other.
    pub(super) fn list(&mut self, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.expect(b'[')?;
        if self.takes(b']') {
            return Some(());
        }
        loop {
            item(self)?;
            if !self.takes(b',') {
                return self.expect(b']');
            }
        }
    }

    /// A document without these fields as BSON, and its text.
    pub(super) fn document(&mut self, reserved: &[&str]) -> Option<(Vec<u8>, &'a str)> {
        self.peek()?;
        let from = self.at;
        let mut out = Vec::with_capacity(256);
        self.fields(&mut out, MAX_DEPTH, reserved)?;
        Some((out, &self.text[from..self.at]))
    }

    fn fields(&mut self, out: &mut Vec<u8>, depth: usize, reserved: &[&str]) -> Option<()> {
        let start = open(out);
        let mut names = [""; MAX_FIELDS];
        let mut count = 0;
        self.object(|cursor, name| {
            let is_new = !names[..count].contains(&name);
            // `$` may begin extended JSON.
            if !is_new || name.starts_with('$') || reserved.contains(&name) {
                return None;
            }
            *names.get_mut(count)? = name;
            count += 1;
            let at = element(out, name);
            cursor.value(out, at, depth)
        })?;
        close(out, start)
    }

    /// Takes a value and completes the element at `at`.
    fn value(&mut self, out: &mut Vec<u8>, at: usize, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match self.peek()? {
            b'"' => {
                let string = self.string()?;
                text(out, at, string)
            }
            b'{' => {
                out[at] = kind::DOCUMENT;
                self.fields(out, depth, &[])
            }
            b'[' => {
                out[at] = kind::ARRAY;
                let start = open(out);
                let mut place = 0_usize;
                self.list(|cursor| {
                    let at = match place {
                        0..10 => element(out, &"0123456789"[place..=place]),
                        _ => element(out, &place.to_string()),
                    };
                    place += 1;
                    cursor.value(out, at, depth)
                })?;
                close(out, start)
            }
            b't' => self.word("true", out, at, kind::BOOLEAN, &[1]),
            b'f' => self.word("false", out, at, kind::BOOLEAN, &[0]),
            b'n' => self.word("null", out, at, kind::NULL, &[]),
            _ => self.number(out, at),
        }
    }

    fn word(&mut self, word: &str, out: &mut Vec<u8>, at: usize, kind: u8, bytes: &[u8]) -> Option<()> {
        self.bytes()[self.at..].starts_with(word.as_bytes()).then_some(())?;
        self.at += word.len();
        out[at] = kind;
        out.extend_from_slice(bytes);
        Some(())
    }

    fn digits(&mut self) -> usize {
        let count = self.bytes()[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn next_is(&self, any: &[u8]) -> bool {
        self.bytes().get(self.at).is_some_and(|byte| any.contains(byte))
    }

    fn number(&mut self, out: &mut Vec<u8>, at: usize) -> Option<()> {
        let from = self.at;
        self.at += usize::from(self.next_is(b"-"));
        let leads_with_zero = self.next_is(b"0");
        let digits = self.digits();
        if digits == 0 || digits > MAX_DIGITS || (leads_with_zero && digits > 1) {
            return None;
        }
        let mut is_whole = true;
        if self.next_is(b".") {
            self.at += 1;
            is_whole = false;
            (self.digits() > 0).then_some(())?;
        }
        if self.next_is(b"eE") {
            self.at += 1;
            is_whole = false;
            self.at += usize::from(self.next_is(b"+-"));
            (self.digits() > 0).then_some(())?;
        }
        let text = &self.text[from..self.at];
        if !is_whole {
            let value = text.parse::<f64>().ok().filter(|value| value.is_finite())?;
            out[at] = kind::DOUBLE;
            out.extend_from_slice(&value.to_le_bytes());
            return Some(());
        }
        if text == "-0" {
            // Which has no integer.
            return None;
        }
        integer(out, at, text.parse().ok()?);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::transcode;
    use proptest::prelude::*;
    use serde_json::json;

    const RESERVED: [&str; 2] = ["_id", "_sk"];

    fn plain(text: &str) -> Option<Vec<u8>> {
        let mut cursor = Cursor::new(text.as_bytes())?;
        let (bytes, its_text) = cursor.document(&RESERVED)?;
        cursor.end()?;
        assert_eq!(its_text, text.trim_ascii());
        Some(bytes)
    }

    /// What is read here is what serde reads.
    fn agrees(text: &str) -> bool {
        let Some(bytes) = plain(text) else { return false };
        let other = transcode::document(text, &RESERVED).unwrap();
        assert_eq!((bytes.as_slice(), other.reserved), (other.document.as_bytes(), None), "{text}");
        true
    }

    #[test]
    fn what_is_plain_is_read_as_serde_reads_it() {
        for text in [
            "{}",
            " { \"a\" : 1 , \"b\" : [ ] , \"c\" : { } } ",
            r#"{"a":-1,"b":2147483647,"c":2147483648,"d":-2147483649,"e":999999999999999999,"f":0,"g":-5}"#,
            r#"{"a":1.5,"b":-0.0,"c":1e3,"d":1E-7,"e":0.1,"f":12.50,"g":1.7976931348623157e308,"h":5e-324,"i":2.5E+10}"#,
            r#"{"t":true,"f":false,"n":null,"s":"","ü":"日本 ü"}"#,
            r#"{"l":[1,"two",[3,{"four":4}],null,0,0,0,0,0,0,0,0],"o":{"_id":1,"p":{"q":[{}]}}}"#,
        ] {
            assert!(agrees(text), "{text}");
        }
    }

    #[test]
    fn what_is_not_plain_or_wrong_is_left_to_serde() {
        let deep = format!("{}{}", r#"{"a":"#.repeat(40), "}".repeat(40));
        let wide = serde_json::Map::from_iter((0..65).map(|n| (format!("f{n}"), json!(n))));
        for text in [
            "",
            "[]",
            "1",
            "{",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1} x",
            "{\"a\":[1,]}",
            "{\"a\":[1 2]}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":.5}",
            "{\"a\":1e}",
            "{\"a\":+1}",
            "{\"a\":-}",
            "{\"a\":-0}",
            "{\"a\":1e400}",
            "{\"a\":9223372036854775807}",
            "{\"a\":tru}",
            "{\"a\":nul}",
            "{\"a\":truex}",
            "{\"a\":\"\\n\"}",
            "{\"a\":\"\n\"}",
            "{\"a\\u0041\":1}",
            "{\"a\":1,\"a\":2}",
            "{\"$a\":1}",
            "{\"a\":{\"$date\":0}}",
            "{\"_id\":1}",
            "{\"_sk\":1}",
            "{a:1}",
            "{\"a\":'b'}",
            "{\"a\":\"b}",
            &deep,
            &json!(wide).to_string(),
        ] {
            assert_eq!(plain(text), None, "{text}");
        }
        assert!(Cursor::new(b"{\"a\":\"\xff\"}").is_none());
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|value| json!(value)),
            any::<i64>().prop_map(|value| json!(value)),
            any::<i16>().prop_map(|value| json!(value)),
            any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(|value| json!(value)),
            "[a-zü\"$]{0,8}".prop_map(|value| json!(value)),
        ];
        leaf.prop_recursive(4, 48, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..14).prop_map(|items| json!(items)),
                proptest::collection::btree_map("[a-zü]{0,4}", inner, 0..6).prop_map(|fields| json!(fields)),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_document_is_read_as_serde_reads_it_or_left_to_it(
            fields in proptest::collection::btree_map("[a-zü]{0,4}", any_json(), 0..8),
            is_pretty in any::<bool>(),
        ) {
            let document = json!(fields);
            agrees(&if is_pretty { format!("{document:#}") } else { document.to_string() });
        }

        #[test]
        fn arbitrary_text_never_panics_and_is_never_read_otherwise(text in "[ {}\\[\\]:,\"a$0-9.eE+-]{0,40}") {
            agrees(&text);
            agrees(&format!("{{\"a\":{text}}}"));
        }
    }
}
